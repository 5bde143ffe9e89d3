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
from tl_jax.interop.tensor_files import raise_all, read_small_json
from tl_jax.models.compose import Params, flatten_paths, unflatten_paths
from tl_jax.models.elmo import DIRECTIONS, BiLm, ElmoConfig

_MOST_DEPTH, _MOST_OBJECTS = 8, 10_000  # of an HDF5 file; the released have 6 and 40
_MOST_FILTERS = 50
_MEND = "Are the options those of these weights? Fetch both again."


class _Size(NamedTuple):
    """A whole number of the options: where it stands, our name, its limits."""

    section: str
    key: str
    field: str
    least: int
    largest: int
    default: int | None = None


# The limits are far above any real model; they keep a hostile file cheap.
_LSTM_SIZES = (
    _Size("lstm", "projection_dim", "projection_size", 1, 1 << 14),
    _Size("lstm", "dim", "cell_size", 1, 1 << 16),
    _Size("lstm", "n_layers", "num_layers", 1, 100, 1),
)
_CNN_SIZES = (
    _Size("char_cnn", "n_highway", "num_highways", 0, 100, 0),
    _Size("char_cnn", "max_characters_per_token", "max_characters", 3, 1000),
)
_CLIPS = {"cell_clip": "cell_clip", "proj_clip": "projection_clip"}


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
      WeightsError: There are several files that may be meant; all are listed.
    """
    if not path.is_dir():
        return None
    options, weights = (
        sorted({file for name in names for file in path.rglob(name)})
        for names in (["*options.json"], ["*.hdf5", "*.h5"])
    )
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
    and skip connections only.

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


def read_options(file: Path) -> ElmoConfig:
    """Reads bilm-tf's options; those of training are left out.

    Raises:
      WeightsError: They are not those of a biLM that is understood here; all that is
        missing, out of range or unsupported is named.
    """
    raw = read_small_json(file)
    lstm: Any = raw.get("lstm")
    cnn: Any = raw.get("char_cnn")
    characters = cnn is not None
    sections = {"lstm": lstm, "char_cnn": cnn} if characters else {"lstm": lstm}
    problems = [
        f"{name}: missing, or no table of its own"
        for name, section in sections.items()
        if not isinstance(section, dict)
    ]
    fields: dict[str, Any] = {"input": "characters" if characters else "words"}
    if not problems:
        sizes = _LSTM_SIZES + (_CNN_SIZES if characters else ())
        problems += [*_read_sizes(sections, sizes, fields), *_read_lstm(lstm, fields)]
        if characters:
            problems += _read_cnn(cnn, fields)
        else:
            size = _Size("", "n_tokens_vocab", "vocab_size", 1, 1 << 24)
            problems += _read_sizes({"": raw}, (size,), fields)
    if raw.get("bidirectional", True) is not True:
        problems.append("bidirectional: only true is supported")
    mend = "Restore the file: it must be the one that came with the weights."
    raise_all(f"{file}: not options that fit", problems, mend)
    return ElmoConfig(**fields)


def write_options(config: ElmoConfig) -> dict[str, Any]:
    """Returns the options.json of which `read_options` makes the config."""
    c = config
    clips = {key: getattr(c, field) for key, field in _CLIPS.items()}
    lstm: dict[str, Any] = {row.key: getattr(c, row.field) for row in _LSTM_SIZES}
    lstm |= clips | {"use_skip_connections": c.use_skip_connections}
    shared = {"bidirectional": True, "dropout": c.dropout, "lstm": lstm}
    if c.input == "words":
        return shared | {"n_tokens_vocab": c.vocab_size}
    cnn: dict[str, Any] = {row.key: getattr(c, row.field) for row in _CNN_SIZES}
    cnn |= {
        "activation": c.activation,
        "embedding": {"dim": c.character_size},
        "filters": [list(pair) for pair in c.filters],
        "n_characters": c.num_characters + 1,
    }
    return shared | {"char_cnn": cnn}


def _read_sizes(
    sections: Mapping[str, Any], sizes: tuple[_Size, ...], fields: dict[str, Any]
) -> Iterator[str]:
    for row in sizes:
        value = sections[row.section].get(row.key, row.default)
        fields[row.field] = value
        where = f"{row.section}.{row.key}".lstrip(".")
        if value is None:
            yield f"{where}: missing"
        elif type(value) is not int or not row.least <= value <= row.largest:
            told = f"not a whole number in {row.least}…{row.largest}"
            yield f"{where}: {str(value)[:40]}, {told}"


def _read_lstm(lstm: dict[str, Any], fields: dict[str, Any]) -> Iterator[str]:
    for key, field in _CLIPS.items():
        value = lstm.get(key)
        if value is not None and not _is_positive(value):
            yield f"lstm.{key}: {str(value)[:40]}, neither null nor a positive number"
            continue
        fields[field] = None if value is None else float(value)
    skip = fields["use_skip_connections"] = lstm.get("use_skip_connections", False)
    if type(skip) is not bool:
        yield f"lstm.use_skip_connections: {str(skip)[:40]}, neither true nor false"


def _read_cnn(cnn: dict[str, Any], fields: dict[str, Any]) -> Iterator[str]:
    embedding: Any = cnn.get("embedding")
    filters: Any = cnn.get("filters")
    size = embedding.get("dim") if isinstance(embedding, dict) else None
    fields["character_size"] = size
    if not _is_size(size, 1 << 12):
        yield f"char_cnn.embedding.dim: {str(size)[:40]}, not a size"
    longest = fields["max_characters"]
    if not _are_filters(filters, longest if type(longest) is int else 0):
        yield "char_cnn.filters: not pairs [width, number] no wider than a word"
    else:
        fields["filters"] = tuple((width, count) for width, count in filters)
    fields["activation"] = cnn.get("activation")
    if fields["activation"] not in ("relu", "tanh"):
        yield f"char_cnn.activation: {str(fields['activation'])[:40]}, not relu or tanh"
    # bilm-tf trains with 261; whoever loads the model adds the one that is not there.
    if cnn.get("n_characters") not in (261, 262):
        told = str(cnn.get("n_characters"))[:40]
        yield f"char_cnn.n_characters: {told}, not 261 or 262"


def _is_size(value: Any, largest: int) -> bool:
    return type(value) is int and 1 <= value <= largest


def _is_positive(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value < 1e6


def _are_filters(filters: Any, longest: int) -> bool:
    return (
        isinstance(filters, list)
        and 0 < len(filters) <= _MOST_FILTERS
        and all(isinstance(pair, list) and len(pair) == 2 for pair in filters)
        and all(_is_size(w, longest) and _is_size(n, 1 << 14) for w, n in filters)
    )


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
