"""BERT's family from and to Hugging Face folders: config.json and safetensors.

Loading is strict: every tensor of the checkpoint is read, or left out by a name that
stands in `tl_jax.interop.bert_names`, or it is an error; so is every tensor that the
model needs and the checkpoint lacks. A pickle is never opened.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tl_jax.files.atomic import write_json, writing_folder
from tl_jax.files.errors import ConfigError, WeightsError, did_you_mean
from tl_jax.files.manifest import MANIFEST, verify_manifest, write_manifest
from tl_jax.interop.bert_config import (
    CONFIG,
    Dtype,
    Pooling,
    describe_head,
    make_head,
    read_config,
    read_head_config,
    write_config,
)
from tl_jax.interop.bert_names import (
    FAMILIES,
    Family,
    Tensor,
    encoder_tensors,
    full_name,
    head_tensors,
    is_buffer,
    is_head,
    plain_name,
)
from tl_jax.interop.tensor_files import (
    WEIGHTS,
    Entry,
    list_tensors,
    raise_all,
    read_floats,
    write_tensors,
)
from tl_jax.models.bert import Bert, BertConfig
from tl_jax.models.compose import (
    Model,
    Params,
    compose,
    flatten_paths,
    unflatten_paths,
)
from tl_jax.text.subwords import Tokenizer

_log = logging.getLogger(__name__)

_NO_POOLER = (
    "the checkpoint has no pooler. Do without one, by --pooling mean (in code "
    "pooling='mean' or 'none'), or draw it at random, by pooler_key=jax.random.key(0)."
)
_MEND = "Is config.json that of these weights? Fetch both again."


def has_pooler(folder: Path) -> bool:
    """True if an encoder's weights have a pooler, or what can stand for one."""
    config = read_config(folder)
    family = FAMILIES[config.model_type]
    return bool(_pooler_table(family, config, _entries(folder, family)))


def load_bert(
    folder: Path,
    *,
    pooling: Pooling = "pooler",
    dtype: Dtype = "float32",
    pooler_key: jax.Array | None = None,
) -> tuple[Bert, Params]:
    """Loads an encoder, whatever head the checkpoint has.

    The pooler is the checkpoint's own, or the dense layer on [CLS] of its sentence
    classifier (`tl_jax.interop.bert_names`).

    Args:
      folder: Holds config.json (of bert, electra, roberta, xlm-roberta or distilbert)
        and safetensors; a MANIFEST.json there is verified.
      pooling: As in `BertConfig`.
      dtype: Type of activations; the parameters come as float32.
      pooler_key: Draws a pooler where the checkpoint has none.

    Returns:
      The module and its parameters, as numpy arrays.

    Raises:
      WeightsError: The folder does not hold this encoder; every problem is named.
      IntegrityError: The files are not those of their manifest.
    """
    _verify(folder)
    config = read_config(folder, pooling=pooling, dtype=dtype)
    family = FAMILIES[config.model_type]
    entries = _entries(folder, family)
    table = _pooler_table(family, config, entries) if pooling == "pooler" else ""
    lacking = pooling == "pooler" and not table
    if lacking and pooler_key is None:
        raise WeightsError(f"{folder}: {_NO_POOLER}")
    leaves = _read(folder, family, entries, encoder_tensors(config, table))
    if lacking and pooler_key is not None:
        _log.warning("%s: no pooler there; it is drawn at random", folder)
        pooler = _pooler_tensors(config, family.poolers[0])
        leaves |= _draw(pooler, pooler_key, config.initializer_range)
    return Bert(config), unflatten_paths(leaves)["encoder"]


def load_bert_model(folder: Path, *, dtype: Dtype = "float32") -> tuple[Model, Params]:
    """Loads an encoder with the head that config.json names, ready to apply.

    Args:
      folder: As for `load_bert`.
      dtype: Type of activations; the parameters come as float32.

    Returns:
      The model and ``{"encoder": …, "head": …}``.

    Raises:
      WeightsError: As for `load_bert`; or there is no head that is known here.
      IntegrityError: The files are not those of their manifest.
    """
    _verify(folder)
    told = read_head_config(folder)
    encoder = read_config(folder, dtype=dtype)
    family = FAMILIES[encoder.model_type]
    kind = family.architectures.get(told.architecture)
    if kind is None or not kind.head:
        known = [name for name, other in family.architectures.items() if other.head]
        raise WeightsError(
            f"{folder / CONFIG}: architectures names {told.architecture!r}; a head is "
            f"known for {', '.join(known)}.{did_you_mean(told.architecture, known)} "
            "load_bert loads the encoder alone."
        )
    config = replace(encoder, pooling="pooler" if kind.pooler else "none")
    entries = _entries(folder, family)
    for copy, original in family.tied.items():
        if copy in entries and original not in entries:
            entries[original] = entries[copy]
    head = head_tensors(config, kind, len(told.labels))
    wanted = encoder_tensors(config, kind.pooler) | head
    leaves = _read(folder, family, entries, wanted)
    _check_ties(folder, family, entries, wanted, leaves)
    return compose(Bert(config), make_head(told, config)), unflatten_paths(leaves)


def save_bert(
    folder: Path,
    config: BertConfig,
    params: Mapping[str, Any],
    head: nn.Module | None = None,
    *,
    labels: tuple[str, ...] = (),
    tokenizer: Tokenizer | None = None,
) -> None:
    """Writes a folder that transformers' ``from_pretrained`` loads; all of it or none.

    Of an encoder alone it is a BertModel, or what ``config.model_type`` has for it.
    Token-level and masked-LM classes have no pooler there, nor have ElectraModel and
    DistilBertModel, so a pooler is left out with them.

    Args:
      folder: New or empty.
      config: The encoder's.
      params: ``{"encoder": …}``, with ``"head"`` if there is one.
      head: One of `tl_jax.models.heads`.
      labels: Names of the head's classes, by number; LABEL_0, LABEL_1, … if empty.
      tokenizer: Saved beside the weights.

    Raises:
      ConfigError: Hugging Face has no class for this, or ``folder`` is not empty.
      WeightsError: The parameters do not fit the config, or are not finite.
    """
    used = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    if used or folder.absolute() == Path.cwd():
        what = "not empty" if used else "the folder that you are in"
        raise ConfigError(f"{folder}: {what}. Choose a new folder to export to.")
    if tokenizer and tokenizer.vocab_size > config.vocab_size:
        sizes = f"{tokenizer.vocab_size} pieces, the model {config.vocab_size}"
        raise ConfigError(f"The tokenizer has {sizes}. Export those that fit together.")
    pad_id = tokenizer.special.pad if tokenizer else None
    told = describe_head(head, config, labels, pad_id)
    family = FAMILIES[config.model_type]
    kind = family.architectures[told.architecture]
    wanted = encoder_tensors(config, kind.pooler if config.pooling == "pooler" else "")
    wanted |= head_tensors(config, kind, len(told.labels))
    tensors = _rename(wanted, flatten_paths(params), drop_pooler=not kind.pooler)
    with writing_folder(folder) as fresh:
        write_json(fresh / CONFIG, write_config(config, told, pad_id=pad_id or 0))
        if kind.head:
            tensors = {full_name(name, family): x for name, x in tensors.items()}
        write_tensors(fresh / WEIGHTS, tensors)
        if tokenizer:
            tokenizer.save(
                fresh,
                segments=config.type_vocab_size > 1,
                max_length=config.max_positions,
            )
        write_manifest(fresh, {"architecture": told.architecture})


def _verify(folder: Path) -> None:
    """Verifies a manifest, but for one in the hub's cache, which holds links only."""
    manifest = folder / MANIFEST
    if manifest.is_file() and not manifest.is_symlink():
        verify_manifest(folder, extras=True)


def _pooler_tensors(config: BertConfig, table: str) -> dict[str, Tensor]:
    bare = encoder_tensors(config)
    named = encoder_tensors(config, table)
    return {name: tensor for name, tensor in named.items() if name not in bare}


def _pooler_table(
    family: Family, config: BertConfig, entries: Mapping[str, Entry]
) -> str:
    """Finds which of the family's poolers the checkpoint has, be it in part."""
    there = (
        table
        for table in family.poolers
        if _pooler_tensors(config, table).keys() & entries.keys()
    )
    return next(there, "")


def _entries(folder: Path, family: Family) -> dict[str, Entry]:
    """Lists the folder's tensors by plain names."""
    entries: dict[str, Entry] = {}
    problems: list[str] = []
    for name, entry in list_tensors(folder).items():
        plain = plain_name(name, family)
        if plain in entries:
            problems.append(f"{name}: stands there under another spelling too")
        entries[plain] = entry
    raise_all(f"{folder}: tensors that stand there twice", problems, _MEND)
    return entries


def _read(
    folder: Path,
    family: Family,
    entries: Mapping[str, Entry],
    wanted: Mapping[str, Tensor],
) -> dict[str, np.ndarray]:
    """Reads the wanted tensors by our paths, once all names and shapes are checked."""
    problems = [f"{name}: missing" for name in wanted.keys() - entries.keys()]
    left_out: list[str] = []
    for name, entry in entries.items():
        if name in wanted:
            problems += _misfits(name, entry, wanted[name])
        elif is_buffer(name) or is_head(name, family):
            left_out.append(name)
        else:
            near = did_you_mean(name, wanted.keys() - entries.keys())
            problems.append(f"{name}: not a tensor of this model.{near}")
    raise_all(f"{folder}: the weights do not fit the model", problems, _MEND)
    if left_out:
        _log.info("%s: left out by name: %s", folder, ", ".join(sorted(left_out)))
    leaves: dict[str, np.ndarray] = {}
    for name, tensor in wanted.items():
        value = read_floats(entries[name])
        if not np.isfinite(value).all():
            problems.append(f"{name}: holds NaN or infinity")
        kept = np.ascontiguousarray(value.T) if tensor.transposed else value
        leaves[tensor.path] = kept
    raise_all(f"{folder}: the weights are damaged", problems, "Fetch them again.")
    return leaves


def _misfits(name: str, entry: Entry, wanted: Tensor) -> list[str]:
    problems: list[str] = []
    if entry.shape != wanted.shape:
        problems.append(f"{name}: shape {entry.shape}, the config asks {wanted.shape}")
    if not entry.is_float:
        problems.append(f"{name}: dtype {entry.dtype}, not F32, F16 or BF16")
    return problems


def _check_ties(
    folder: Path,
    family: Family,
    entries: Mapping[str, Entry],
    wanted: Mapping[str, Tensor],
    leaves: Mapping[str, np.ndarray],
) -> None:
    """Raises if a tensor that is tied here has a copy with other values there."""
    problems: list[str] = []
    for copy, original in family.tied.items():
        if copy not in entries or original not in wanted:
            continue
        misfits = _misfits(copy, entries[copy], wanted[original])
        value = leaves[wanted[original].path]
        if misfits or not np.array_equal(read_floats(entries[copy]), value):
            problems.append(f"{copy}: differs from {original}, to which it is tied")
    mend = "Untied decoders are not supported; load_bert loads the encoder alone."
    raise_all(f"{folder}: the weights do not fit the model", problems, mend)


def _draw(
    tensors: Mapping[str, Tensor], key: jax.Array, stddev: float
) -> dict[str, np.ndarray]:
    """Draws kernels from BERT's truncated normal; biases are zero."""
    init = nn.initializers.truncated_normal(stddev)
    return {
        tensor.path: np.asarray(init(key, tensor.shape, jnp.float32))
        if tensor.transposed
        else np.zeros(tensor.shape, np.float32)
        for tensor in tensors.values()
    }


def _rename(
    wanted: Mapping[str, Tensor], leaves: dict[str, Any], *, drop_pooler: bool
) -> dict[str, np.ndarray]:
    """Gives our parameters Hugging Face's names, shapes and type, strictly."""
    if drop_pooler:
        leaves = {p: x for p, x in leaves.items() if not p.startswith("encoder/pooler")}
    by_path = {tensor.path: (name, tensor) for name, tensor in wanted.items()}
    problems = [f"{path}: missing" for path in by_path.keys() - leaves.keys()]
    problems += [f"{path}: not exported" for path in leaves.keys() - by_path.keys()]
    tensors: dict[str, np.ndarray] = {}
    for path in by_path.keys() & leaves.keys():
        name, tensor = by_path[path]
        value = np.asarray(leaves[path], np.float32)
        value = value.T if tensor.transposed else value
        if value.shape != tensor.shape:
            problems.append(f"{path}: {value.shape}, the config asks {tensor.shape}")
        elif not np.isfinite(value).all():
            problems.append(f"{path}: holds NaN or infinity")
        tensors[name] = value
    raise_all("The parameters do not fit the config", problems, "Nothing was written.")
    return tensors
