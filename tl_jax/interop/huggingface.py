"""BERT from and to a Hugging Face folder: config.json and safetensors, never pickle.

Loading is strict: every tensor of the checkpoint is read, or left out by a name that
stands in `tl_jax.interop.bert_names`, or it is an error; so is every tensor that the
model needs and the checkpoint lacks.
"""

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tl_jax.files.atomic import sync_folder, temporary_path, write_json
from tl_jax.files.errors import ConfigError, WeightsError, did_you_mean
from tl_jax.files.manifest import MANIFEST, verify_manifest, write_manifest
from tl_jax.interop.bert_config import (
    CONFIG,
    Dtype,
    HeadConfig,
    Pooling,
    read_config,
    read_head_config,
    write_config,
)
from tl_jax.interop.bert_names import (
    TIED,
    Tensor,
    architectures,
    encoder_tensors,
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
from tl_jax.models.heads import (
    Classify,
    MaskedLanguageModel,
    NextSentence,
    Pretrain,
    Span,
    Tag,
)
from tl_jax.text.wordpiece import Tokenizer

_log = logging.getLogger(__name__)

_NO_POOLER = (
    "the checkpoint has no pooler. Pass pooling='mean' (or 'none') to do without one, "
    "or pooler_key=jax.random.key(0) to draw it at random."
)
_MEND = "Is config.json that of these weights? Fetch both again."


def load_bert(
    folder: Path,
    *,
    pooling: Pooling = "pooler",
    dtype: Dtype = "float32",
    pooler_key: jax.Array | None = None,
) -> tuple[Bert, Params]:
    """Loads an encoder, whatever head the checkpoint has.

    Args:
      folder: Holds config.json and safetensors; a MANIFEST.json there is verified.
      pooling: As in `BertConfig`.
      dtype: Type of activations; the parameters come as float32.
      pooler_key: Draws a pooler where the checkpoint has none.

    Returns:
      The module and its parameters, as numpy arrays.

    Raises:
      WeightsError: The folder does not hold this BERT; every problem is named.
      IntegrityError: The files are not those of their manifest.
    """
    _verify(folder)
    config = read_config(folder, pooling=pooling, dtype=dtype)
    entries = _entries(folder)
    pooler = encoder_tensors(config, pooler=True)
    pooler = {name: tensor for name, tensor in pooler.items() if "pooler" in name}
    lacking = pooling == "pooler" and not pooler.keys() & entries.keys()
    if lacking and pooler_key is None:
        raise WeightsError(f"{folder}: {_NO_POOLER}")
    wanted = encoder_tensors(config, pooler=pooling == "pooler" and not lacking)
    leaves = _read(folder, entries, wanted)
    if lacking and pooler_key is not None:
        _log.warning("%s: no pooler there; it is drawn at random", folder)
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
    kind = architectures().get(told.architecture)
    if kind is None or not kind.head:
        known = [name for name, other in architectures().items() if other.head]
        raise WeightsError(
            f"{folder / CONFIG}: architectures names {told.architecture!r}; a head is "
            f"known for {', '.join(known)}.{did_you_mean(told.architecture, known)} "
            "load_bert loads the encoder alone."
        )
    pooling: Pooling = "pooler" if kind.pooler else "none"
    config = read_config(folder, pooling=pooling, dtype=dtype)
    entries = _entries(folder)
    for copy, original in TIED.items():
        if copy in entries and original not in entries:
            entries[original] = entries[copy]
    head = head_tensors(config, kind, len(told.labels))
    wanted = encoder_tensors(config, pooler=kind.pooler) | head
    leaves = _read(folder, entries, wanted)
    _check_ties(folder, entries, wanted, leaves)
    return compose(Bert(config), _make_head(told, config)), unflatten_paths(leaves)


def read_labels(folder: Path) -> tuple[str, ...]:
    """Reads the names of the classes, by number, from ``folder/config.json``."""
    return read_head_config(folder).labels


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

    Of an encoder alone it is a BertModel. Token-level and masked-LM classes have no
    pooler there, so a pooler is left out with them.

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
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder}: not empty. Choose a new folder to export to.")
    if tokenizer and tokenizer.vocab_size > config.vocab_size:
        sizes = f"{tokenizer.vocab_size} pieces, the model {config.vocab_size}"
        raise ConfigError(f"The tokenizer has {sizes}. Export those that fit together.")
    told = _describe(head, config, labels)
    kind = architectures()[told.architecture]
    pooler = kind.pooler and config.pooling == "pooler"
    wanted = encoder_tensors(config, pooler=pooler)
    wanted |= head_tensors(config, kind, len(told.labels))
    tensors = _rename(wanted, flatten_paths(params), drop_pooler=not kind.pooler)
    pad_id = tokenizer.special.pad if tokenizer else 0
    fresh = temporary_path(folder)
    try:
        fresh.mkdir(parents=True)
        write_json(fresh / CONFIG, write_config(config, told, pad_id=pad_id))
        prefix = "bert." if kind.head else ""
        named = {_full_name(name, prefix): x for name, x in tensors.items()}
        write_tensors(fresh / WEIGHTS, named)
        if tokenizer:
            tokenizer.save(fresh)
        write_manifest(fresh, {"architecture": told.architecture})
        fresh.replace(folder)
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _verify(folder: Path) -> None:
    if (folder / MANIFEST).is_file():
        verify_manifest(folder)


def _entries(folder: Path) -> dict[str, Entry]:
    """Lists the folder's tensors by plain names."""
    entries: dict[str, Entry] = {}
    problems: list[str] = []
    for name, entry in list_tensors(folder).items():
        plain = plain_name(name)
        if plain in entries:
            problems.append(f"{name}: stands there under another spelling too")
        entries[plain] = entry
    raise_all(f"{folder}: tensors that stand there twice", problems, _MEND)
    return entries


def _read(
    folder: Path, entries: Mapping[str, Entry], wanted: Mapping[str, Tensor]
) -> dict[str, np.ndarray]:
    """Reads the wanted tensors by our paths, once all names and shapes are checked."""
    problems = [f"{name}: missing" for name in wanted.keys() - entries.keys()]
    left_out: list[str] = []
    for name, entry in entries.items():
        if name in wanted:
            problems += _misfits(name, entry, wanted[name])
        elif is_buffer(name) or is_head(name):
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
    entries: Mapping[str, Entry],
    wanted: Mapping[str, Tensor],
    leaves: Mapping[str, np.ndarray],
) -> None:
    """Raises if a tensor that is tied here has a copy with other values there."""
    problems: list[str] = []
    for copy, original in TIED.items():
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


def _make_head(told: HeadConfig, config: BertConfig) -> nn.Module:
    language = config.activation, config.layer_norm_eps, config.initializer_range
    match told.architecture:
        case "BertForSequenceClassification":
            return Classify(len(told.labels), told.dropout)
        case "BertForTokenClassification":
            return Tag(len(told.labels), told.dropout)
        case "BertForQuestionAnswering":
            return Span()
        case "BertForMaskedLM":
            return MaskedLanguageModel(*language)
        case "BertForNextSentencePrediction":
            return NextSentence()
    return Pretrain(*language)


def _describe(
    head: nn.Module | None, config: BertConfig, labels: tuple[str, ...]
) -> HeadConfig:
    """Finds Hugging Face's class for a head, and gathers what speaks against it."""
    problems: list[str] = []
    classes, dropout = 2, config.hidden_dropout
    match head:
        case None:
            name = "BertModel"
        case Classify():
            name, classes = "BertForSequenceClassification", head.classes
            dropout = head.dropout
        case Tag():
            name, classes = "BertForTokenClassification", head.classes
            dropout = head.dropout
        case Span():
            name = "BertForQuestionAnswering"
        case MaskedLanguageModel():
            name = "BertForMaskedLM"
        case NextSentence():
            name = "BertForNextSentencePrediction"
        case Pretrain():
            name = "BertForPreTraining"
        case _:
            raise ConfigError(
                f"{type(head).__name__}: Hugging Face's BERT has no class with this "
                "head. Export the encoder alone: leave `head` out."
            )
    if head is not None and architectures()[name].pooler and config.pooling != "pooler":
        problems.append(f"{name} reads the pooler; `pooling` is {config.pooling!r}")
    if isinstance(head, MaskedLanguageModel | Pretrain):
        theirs = config.activation, config.layer_norm_eps
        if (head.activation, head.layer_norm_eps) != theirs:
            problems.append("the head's activation or ε is not the encoder's")
    if labels and (len(set(labels)) != len(labels) or len(labels) != classes):
        problems.append(f"{len(labels)} labels for {classes} classes, or doubles")
    if problems:
        listed = "; ".join(problems)
        raise ConfigError(f"This model cannot be exported: {listed}. Mend its config.")
    names = labels or tuple(f"LABEL_{number}" for number in range(classes))
    return HeadConfig(name, names, dropout)


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


def _full_name(name: str, prefix: str) -> str:
    inside = name.startswith(("embeddings.", "encoder.", "pooler."))
    return prefix + name if inside else name
