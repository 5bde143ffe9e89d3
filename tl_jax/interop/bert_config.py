"""Hugging Face's config.json of a BERT, read strictly and written."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tl_jax.files.errors import did_you_mean
from tl_jax.interop.tensor_files import raise_all, read_small_json
from tl_jax.models.bert import BertConfig
from tl_jax.models.feed_forward import ACTIVATIONS

CONFIG = "config.json"
Pooling = Literal["pooler", "mean", "none"]
Dtype = Literal["float32", "bfloat16"]


class _Size(NamedTuple):
    """A whole number of config.json: our name, its limit, what stands for none."""

    field: str
    largest: int
    default: int | None = None


class _Fraction(NamedTuple):
    """A real number of config.json: our name, and the default of transformers."""

    field: str
    default: float


# The limits are far above any real model; they keep a hostile file cheap.
_SIZES = {
    "vocab_size": _Size("vocab_size", 1 << 24),
    "hidden_size": _Size("hidden_size", 1 << 16),
    "num_hidden_layers": _Size("num_layers", 400),
    "num_attention_heads": _Size("num_heads", 1 << 12),
    "intermediate_size": _Size("intermediate_size", 1 << 18),
    "max_position_embeddings": _Size("max_positions", 1 << 20, 512),
    "type_vocab_size": _Size("type_vocab_size", 1 << 10, 2),
}
_FRACTIONS = {
    "hidden_dropout_prob": _Fraction("hidden_dropout", 0.1),
    "attention_probs_dropout_prob": _Fraction("attention_dropout", 0.1),
    "layer_norm_eps": _Fraction("layer_norm_eps", 1e-12),
    "initializer_range": _Fraction("initializer_range", 0.02),
}
_MOST_LABELS = 1 << 16


class HeadConfig(NamedTuple):
    """What config.json says about the head.

    Attributes:
      architecture: Hugging Face's class; "" if none is named.
      labels: Names of the classes, by number.
      dropout: Of the classifier's input.
    """

    architecture: str
    labels: tuple[str, ...]
    dropout: float


def read_config(
    folder: Path, *, pooling: Pooling = "pooler", dtype: Dtype = "float32"
) -> BertConfig:
    """Reads the encoder's sizes and choices from ``folder/config.json``.

    Args:
      folder: As save_pretrained writes it.
      pooling: As in `BertConfig`; the file does not know it.
      dtype: As in `BertConfig`.

    Raises:
      WeightsError: It is not the config of a BERT that is understood here; all that is
        missing, out of range or unsupported is named.
    """
    raw = read_small_json(folder / CONFIG)
    problems = [*_unsupported(raw), *_out_of_range(raw)]
    mend = "Only BERT encoders with absolute positions are understood."
    raise_all(f"{folder / CONFIG}: not a config that fits", problems, mend)
    fields: dict[str, Any] = {
        row.field: raw.get(key, row.default) for key, row in _SIZES.items()
    }
    for key, row in _FRACTIONS.items():
        fields[row.field] = float(raw.get(key, row.default))
    return BertConfig(
        **fields,
        activation=raw["hidden_act"],
        pooling=pooling,
        dtype=dtype,
    )


def read_head_config(folder: Path) -> HeadConfig:
    """Reads the head's class, labels and dropout from ``folder/config.json``.

    Raises:
      WeightsError: The labels are not numbered 0, 1, 2, …, or a value is of another
        type.
    """
    raw = read_small_json(folder / CONFIG)
    problems: list[str] = []
    named = raw.get("architectures") or [""]
    if not isinstance(named, list) or len(named) != 1 or type(named[0]) is not str:
        problems.append("architectures: not a list of one name")
    labels = raw.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}
    if not _are_labels(labels):
        problems.append("id2label: not a table of names for 0, 1, 2, …")
    dropout = raw.get("classifier_dropout")
    dropout = raw.get("hidden_dropout_prob", 0.1) if dropout is None else dropout
    if not _is_share(dropout):
        problems.append(f"classifier_dropout: {str(dropout)[:40]}, not in [0, 1)")
    raise_all(f"{folder / CONFIG}: not a config that fits", problems, "Mend the file.")
    names = tuple(labels[str(number)] for number in range(len(labels)))
    return HeadConfig(named[0], names, float(dropout))


def write_config(
    config: BertConfig, head: HeadConfig, *, pad_id: int = 0
) -> dict[str, Any]:
    """Returns the config.json from which transformers builds the same model."""
    sizes = {key: getattr(config, row.field) for key, row in _SIZES.items()}
    fractions = {key: getattr(config, row.field) for key, row in _FRACTIONS.items()}
    return {
        "architectures": [head.architecture],
        "model_type": "bert",
        **sizes,
        **fractions,
        "hidden_act": config.activation,
        "position_embedding_type": "absolute",
        "classifier_dropout": head.dropout,
        "pad_token_id": pad_id,
        "tie_word_embeddings": True,
        "dtype": "float32",
        "id2label": {str(n): label for n, label in enumerate(head.labels)},
        "label2id": {label: n for n, label in enumerate(head.labels)},
    }


def _unsupported(raw: dict[str, Any]) -> Iterator[str]:
    plain = {"position_embedding_type": "absolute"}
    plain |= {"is_decoder": False, "add_cross_attention": False, "pruned_heads": {}}
    for key, value in plain.items():
        if raw.get(key, value) != value:
            yield f"{key}: {str(raw[key])[:40]!r}; only {value!r} is supported"
    if raw.get("model_type") != "bert":
        found = str(raw.get("model_type", "missing"))[:40]
        yield f"model_type: {found!r}; only 'bert' is supported"
    activation = raw.get("hidden_act")
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        near = did_you_mean(str(activation)[:40], ACTIVATIONS)
        known = ", ".join(ACTIVATIONS)
        yield f"hidden_act: {str(activation)[:40]!r} is none of {known}.{near}"


def _out_of_range(raw: dict[str, Any]) -> Iterator[str]:
    for key, row in _SIZES.items():
        value = raw.get(key, row.default)
        if value is None:
            yield f"{key}: missing"
        elif type(value) is not int or not 1 <= value <= row.largest:
            yield f"{key}: {str(value)[:40]}, not a whole number in 1…{row.largest}"
    for key, row in _FRACTIONS.items():
        if not _is_share(value := raw.get(key, row.default)):
            yield f"{key}: {str(value)[:40]}, not a number in [0, 1)"
    width, heads = raw.get("hidden_size"), raw.get("num_attention_heads")
    if type(width) is int and type(heads) is int and heads > 0 and width % heads:
        yield f"num_attention_heads: {heads} does not divide hidden_size {width}"


def _is_share(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < 1


def _are_labels(labels: Any) -> bool:
    if not isinstance(labels, dict) or len(labels) > _MOST_LABELS:
        return False
    names: Sequence[Any] = list(labels.values())
    numbers = {str(number) for number in range(len(labels))}
    return labels.keys() == numbers and all(type(name) is str for name in names)
