"""ELMo's biLM from and to the files of bilm-tf and AllenNLP: options.json and HDF5.

Loading is strict: every dataset of the file is read, or it is an error; so is every
dataset that the options call for and the file lacks. bilm-tf writes no softmax.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from tl_jax.files.atomic import write_json, writing
from tl_jax.files.errors import ConfigError, WeightsError, did_you_mean
from tl_jax.interop.elmo_options import read_options, write_options
from tl_jax.interop.tensor_files import raise_all
from tl_jax.models.compose import Params, flatten_paths, unflatten_paths
from tl_jax.models.elmo import DIRECTIONS, BiLm, ElmoConfig
from tl_jax.text.vocabulary import VOCABULARY, read_vocabulary

_MOST_DEPTH, _MOST_OBJECTS = 8, 10_000  # of an HDF5 file; the released have 6 and 40
_MEND = "Are the options those of these weights? Fetch both again."


class ElmoFiles(NamedTuple):
    """Where a biLM stands.

    Attributes:
      options: ``options.json``, or a name that ends so.
      weights: The HDF5 file.
    """

    options: Path
    weights: Path


def find_elmo(path: Path) -> ElmoFiles | None:
    """Finds the one biLM at or below a folder; None if there is none.

    Of several HDF5 files, those that hold no LSTM (features, say) are passed over.

    Raises:
      WeightsError: There are several files that may be meant, and all are listed; or a
        biLM's options without its weights, or these without it.
    """
    if not path.is_dir():
        return None
    options, weights = (
        sorted({file for name in names for file in path.rglob(name)})
        for names in (["*options*.json"], ["*.hdf5", "*.h5"])
    )
    if not weights and options and not any(path.rglob("config.json")):
        raise WeightsError(f"{options[0]}: the biLM's HDF5 file is not beside it.")
    if not options and any(_holds_lstm(file) for file in weights):
        raise WeightsError(f"{weights[0]}: the biLM's options.json is not beside it.")
    if not options or not weights:
        return None
    if len(weights) > 1:
        weights = [file for file in weights if _holds_lstm(file)] or weights
    if len(options) > 1 or len(weights) > 1:
        listed = "".join(f"\n  {file}" for file in (*options, *weights))
        raise WeightsError(
            f"{path}: one options.json and one HDF5 file are due. Name a folder that "
            f"holds no other ones; there are:{listed}"
        )
    return ElmoFiles(options[0], weights[0])


def _holds_lstm(file: Path) -> bool:
    try:
        with h5py.File(file, "r") as opened:
            return "RNN_0" in opened
    except OSError:
        return False


def known_words(options: Path, config: ElmoConfig) -> tuple[str, ...]:
    """The words that a biLM looks up, which stand beside its options.

    Returns:
      They in the order of their ids; none if words are read by their characters.

    Raises:
      WeightsError: There is no ``vocabulary.txt``, or it is not that of the biLM.
    """
    if config.input == "characters":
        return ()
    return read_vocabulary(options.parent / VOCABULARY, config.vocab_size)


def load_elmo(options: Path, weights: Path) -> tuple[BiLm, Params]:
    """Loads a biLM from ``options.json`` and ``weights.hdf5``.

    Returns:
      The module and its parameters, as numpy arrays of float32.

    Raises:
      WeightsError: The files do not hold this biLM; every problem is named.
    """
    config = read_options(options)
    if not weights.is_file():
        raise WeightsError(f"{weights}: there is no such file. Check the path.")
    try:
        with h5py.File(weights, "r") as file:
            leaves = _read(weights, file, _datasets(config))
    # What the library raises on a broken file is any of these.
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as problem:
        what = str(problem)[:200]
        raise WeightsError(
            f"{weights}: not an HDF5 file, or a broken one: {what}. Fetch it again."
        ) from problem
    return BiLm(config), unflatten_paths(leaves)


def save_elmo(
    options: Path, weights: Path, config: ElmoConfig, params: Mapping[str, Any]
) -> None:
    """Writes a biLM as bilm-tf does, so that AllenNLP loads it.

    Each file is written in full or not at all. AllenNLP itself knows character input
    and skip connections only. Words that are looked up have ``n_tokens_vocab`` among
    the options, and are to stand in ``vocabulary.txt`` beside them (`known_words`).

    Raises:
      WeightsError: The parameters do not fit the config, or are not finite.
      ConfigError: A number of characters that the format does not have.
    """
    if config.input == "characters" and config.num_characters != 261:
        raise ConfigError(
            f"num_characters is {config.num_characters}; ELMo's files hold 261."
        )
    datasets, leaves = _datasets(config), flatten_paths(params)
    arrays = _arrange(datasets, leaves)
    with writing(weights) as stream, h5py.File(stream.name, "w") as file:
        for name, value in arrays.items():
            file.create_dataset(name, data=value)
    write_json(options, write_options(config))


class _Dataset(NamedTuple):
    """A dataset of the file: what it is called here, and its shape there.

    Attributes:
      paths: Our leaves; it holds them one below the other.
      shape: Its shape. A convolution has a first axis of 1 that ours has not.
    """

    paths: tuple[str, ...]
    shape: tuple[int, ...]


def _datasets(config: ElmoConfig) -> dict[str, _Dataset]:
    """Lists the file's datasets by name."""
    c = config
    table: dict[str, _Dataset] = {}
    if c.input == "words":
        shape = c.vocab_size, c.projection_size
        table["embedding"] = _Dataset(("words/embedding",), shape)
    else:
        table |= dict(_character_datasets(c))
    gates = 4 * c.cell_size
    for way, direction in enumerate(DIRECTIONS):
        for layer in range(c.num_layers):
            ours = f"lstm_{layer}_{direction}"
            theirs = f"RNN_{way}/RNN/MultiRNNCell/Cell{layer}/LSTMCell"
            both = f"{ours}/kernel", f"{ours}/recurrent"
            shape = 2 * c.projection_size, gates
            table[f"{theirs}/W_0"] = _Dataset(both, shape)
            table[f"{theirs}/B"] = _Dataset((f"{ours}/bias",), (gates,))
            shape = c.cell_size, c.projection_size
            table[f"{theirs}/W_P_0"] = _Dataset((f"{ours}/projection",), shape)
    return table


def _character_datasets(config: ElmoConfig) -> Iterator[tuple[str, _Dataset]]:
    c = config
    shape = c.num_characters, c.character_size
    yield "char_embed", _Dataset(("characters/embedding/embedding",), shape)
    for index, (width, count) in enumerate(c.filters):
        ours = f"characters/convolution_{index}"
        shape = 1, width, c.character_size, count
        yield f"CNN/W_cnn_{index}", _Dataset((f"{ours}/kernel",), shape)
        yield f"CNN/b_cnn_{index}", _Dataset((f"{ours}/bias",), (count,))
    size = sum(count for _, count in c.filters)
    for index in range(c.num_highways):
        for gate in ("carry", "transform"):
            ours, theirs = f"characters/highway_{index}/{gate}", f"CNN_high_{index}"
            yield f"{theirs}/W_{gate}", _Dataset((f"{ours}/kernel",), (size, size))
            yield f"{theirs}/b_{gate}", _Dataset((f"{ours}/bias",), (size,))
    ours, shape = "characters/projection", (size, c.projection_size)
    yield "CNN_proj/W_proj", _Dataset((f"{ours}/kernel",), shape)
    yield "CNN_proj/b_proj", _Dataset((f"{ours}/bias",), shape[1:])


def _read(
    where: Path, file: h5py.File, wanted: Mapping[str, _Dataset]
) -> dict[str, np.ndarray]:
    """Reads the wanted datasets by our paths, once all names and shapes are checked."""
    found, problems = _walk(file)
    lacking = wanted.keys() - found.keys()
    problems += [f"{name}: missing" for name in lacking]
    for name, dataset in found.items():
        if name in wanted:
            problems += _misfits(name, dataset, wanted[name].shape)
        else:
            near = did_you_mean(name, lacking)
            problems.append(f"{name[:100]}: not a dataset of this model.{near}")
    raise_all(f"{where}: the weights do not fit the options", problems, _MEND)
    leaves: dict[str, np.ndarray] = {}
    for name, (paths, shape) in wanted.items():
        value = np.asarray(found[name][...], np.float32)
        if not np.isfinite(value).all():
            problems.append(f"{name}: holds NaN or infinity")
        value = value[0] if len(shape) == 4 else value
        leaves |= dict(zip(paths, np.split(value, len(paths)), strict=True))
    raise_all(f"{where}: the weights are damaged", problems, "Fetch them again.")
    return leaves


def _walk(file: h5py.File) -> tuple[dict[str, h5py.Dataset], list[str]]:
    """Lists the datasets by name, and what is no dataset of this file's own."""
    found: dict[str, h5py.Dataset] = {}
    problems: list[str] = []
    groups: list[tuple[str, h5py.Group]] = [("", file)]
    seen = 0
    while groups:
        prefix, group = groups.pop()
        for key in group:
            seen += 1
            name = f"{prefix}{key}"
            if seen > _MOST_OBJECTS or name.count("/") >= _MOST_DEPTH:
                problems.append("more, or deeper nested, objects than any real model's")
                return found, problems
            if not isinstance(group.get(key, getlink=True), h5py.HardLink):
                problems.append(f"{name[:100]}: a link, which is not followed")
                continue
            item = group[key]
            if isinstance(item, h5py.Group):
                groups.append((f"{name}/", item))
            elif isinstance(item, h5py.Dataset):
                found[name] = item
            else:
                problems.append(f"{name[:100]}: neither a group nor a dataset")
    return found, problems


def _misfits(name: str, dataset: h5py.Dataset, shape: tuple[int, ...]) -> list[str]:
    problems: list[str] = []
    if dataset.shape != shape:
        problems.append(f"{name}: shape {dataset.shape}, the options ask {shape}")
    if dataset.dtype.kind != "f" or dataset.dtype.itemsize > 4:
        problems.append(f"{name}: dtype {str(dataset.dtype)[:40]}, not float32")
    elif dataset.is_virtual or dataset.external:
        problems.append(f"{name}: its numbers stand in another file")
    elif dataset.id.get_storage_size() < math.prod(shape) * dataset.dtype.itemsize:
        problems.append(f"{name}: compressed, or not written in full")
    return problems


def _arrange(
    datasets: Mapping[str, _Dataset], leaves: dict[str, Any]
) -> dict[str, np.ndarray]:
    """Gives our parameters the file's names and shapes, strictly."""
    known = {path for dataset in datasets.values() for path in dataset.paths}
    problems = [f"{path}: missing" for path in known - leaves.keys()]
    problems += [f"{path}: not exported" for path in leaves.keys() - known]
    arrays: dict[str, np.ndarray] = {}
    for name, (paths, shape) in datasets.items():
        values = [np.asarray(leaves[p], np.float32) for p in paths if p in leaves]
        part = shape[1:] if len(shape) == 4 else (shape[0] // len(paths), *shape[1:])
        wrong = [p for p, x in zip(paths, values, strict=False) if x.shape != part]
        if len(values) < len(paths) or wrong:
            problems += [f"{path}: not {part}, which the config asks" for path in wrong]
            continue
        problems += [
            f"{path}: holds NaN or infinity"
            for path, value in zip(paths, values, strict=True)
            if not np.isfinite(value).all()
        ]
        arrays[name] = np.concatenate(values).reshape(shape)
    raise_all("The parameters do not fit the config", problems, "Nothing was written.")
    return arrays
