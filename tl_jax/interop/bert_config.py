"""Hugging Face's config.json of BERT's family, read strictly and written."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import flax.linen as nn

from tl_jax.files.errors import ConfigError, did_you_mean
from tl_jax.interop.bert_names import FAMILIES
from tl_jax.interop.tensor_files import raise_all, read_small_json
from tl_jax.models.bert import BertConfig
from tl_jax.models.feed_forward import ACTIVATIONS
from tl_jax.models.heads import (
    Classify,
    MaskedLanguageModel,
    NextSentence,
    Pretrain,
    Span,
    Tag,
)

CONFIG = "config.json"
Pooling = Literal["pooler", "mean", "none"]
Dtype = Literal["float32", "bfloat16"]


class _Size(NamedTuple):
    """A whole number of config.json: our name, its limits, what stands for none."""

    field: str
    largest: int
    default: int | None = None
    smallest: int = 1


class _Fraction(NamedTuple):
    """A real number of config.json: our name, and the default of transformers."""

    field: str
    default: float


class _Layout(NamedTuple):
    """What the config.json of a model type holds.

    Attributes:
      sizes: Whole numbers by their names there.
      fractions: Real numbers by theirs.
      activation: The name of the activation.
      classifier_dropout: The name of the sentence classifier's dropout.
      fixed: Fields of ours that have one value, and no name there.
    """

    sizes: Mapping[str, _Size]
    fractions: Mapping[str, _Fraction]
    activation: str = "hidden_act"
    classifier_dropout: str = "classifier_dropout"
    fixed: Mapping[str, Any] = {}


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
_BERT = _Layout(_SIZES, _FRACTIONS)
_ELECTRA = _Layout(
    {**_SIZES, "embedding_size": _Size("embedding_size", 1 << 16)}, _FRACTIONS
)
# Its positions are counted from one more than the padding's id.
_ROBERTA = _Layout(
    {**_SIZES, "pad_token_id": _Size("position_offset", 1 << 16, 1, smallest=0)},
    _FRACTIONS,
)
_DISTILBERT = _Layout(
    {
        "vocab_size": _SIZES["vocab_size"],
        "dim": _SIZES["hidden_size"],
        "n_layers": _SIZES["num_hidden_layers"],
        "n_heads": _SIZES["num_attention_heads"],
        "hidden_dim": _SIZES["intermediate_size"],
        "max_position_embeddings": _SIZES["max_position_embeddings"],
    },
    {
        "dropout": _FRACTIONS["hidden_dropout_prob"],
        "attention_dropout": _FRACTIONS["attention_probs_dropout_prob"],
        "initializer_range": _FRACTIONS["initializer_range"],
    },
    activation="activation",
    classifier_dropout="seq_classif_dropout",
    fixed={"layer_norm_eps": 1e-12, "type_vocab_size": 0},
)
_LAYOUTS = {
    "bert": _BERT,
    "electra": _ELECTRA,
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "distilbert": _DISTILBERT,
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
    place: Path, *, pooling: Pooling = "pooler", dtype: Dtype = "float32"
) -> BertConfig:
    """Reads the encoder's sizes and choices from a ``config.json``.

    Args:
      place: The file, or a folder with it, as save_pretrained writes one.
      pooling: As in `BertConfig`; the file does not know it.
      dtype: As in `BertConfig`.

    Raises:
      WeightsError: It is not the config of a BERT that is understood here; all that is
        missing, out of range or unsupported is named.
    """
    file = place if place.is_file() else place / CONFIG
    raw = read_small_json(file)
    model_type = raw.get("model_type")
    known = isinstance(model_type, str) and model_type in _LAYOUTS
    layout = _LAYOUTS[str(model_type)] if known else _BERT
    problems = [*_unsupported(raw, layout), *_out_of_range(raw, layout)]
    mend = "Only encoders of BERT's family with absolute positions are understood."
    raise_all(f"{file}: not a config that fits", problems, mend)
    fields: dict[str, Any] = {
        row.field: raw.get(key, row.default) for key, row in layout.sizes.items()
    }
    for key, row in layout.fractions.items():
        fields[row.field] = float(raw.get(key, row.default))
    if "position_offset" in fields:
        fields["position_offset"] += 1
        fields["max_positions"] -= fields["position_offset"]
    if fields.get("embedding_size") == fields["hidden_size"]:
        fields["embedding_size"] = None
    return BertConfig(
        **fields,
        **layout.fixed,
        activation=raw[layout.activation],
        pooler_activation=FAMILIES[raw["model_type"]].pooler_activation,
        model_type=raw["model_type"],
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
        named = [""]
    labels = raw.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}
    if not _are_labels(labels):
        problems.append("id2label: not a table of names for 0, 1, 2, …")
    key, dropout = _head_dropout(raw, str(named[0]))
    if not _is_share(dropout):
        problems.append(f"{key}: {str(dropout)[:40]}, not in [0, 1)")
    raise_all(f"{folder / CONFIG}: not a config that fits", problems, "Mend the file.")
    names = tuple(labels[str(number)] for number in range(len(labels)))
    return HeadConfig(named[0], names, float(dropout))


def write_config(
    config: BertConfig, head: HeadConfig, *, pad_id: int = 0
) -> dict[str, Any]:
    """Returns the config.json from which transformers builds the same model."""
    layout = _LAYOUTS[config.model_type]
    told: dict[str, Any] = {"pad_token_id": pad_id}
    told |= {key: getattr(config, row.field) for key, row in layout.sizes.items()}
    told |= {key: getattr(config, row.field) for key, row in layout.fractions.items()}
    told["max_position_embeddings"] += config.position_offset
    if layout is _ROBERTA:
        told["pad_token_id"] -= 1
    if layout is _ELECTRA:
        told["embedding_size"] = config.embedding_width
    if layout is not _DISTILBERT:
        told["position_embedding_type"] = "absolute"
    if head.architecture.endswith("ForSequenceClassification"):
        # Else transformers' pipeline takes a single value for a logit.
        kind = "single_label_classification" if len(head.labels) > 1 else "regression"
        told["problem_type"] = kind
    return {
        "architectures": [head.architecture],
        "model_type": config.model_type,
        **told,
        layout.activation: config.activation,
        layout.classifier_dropout: head.dropout,
        "tie_word_embeddings": True,
        "dtype": "float32",
        "id2label": {str(n): label for n, label in enumerate(head.labels)},
        "label2id": {label: n for n, label in enumerate(head.labels)},
    }


def make_head(told: HeadConfig, config: BertConfig) -> nn.Module:
    """Makes the head of an architecture that is known here."""
    family = FAMILIES[config.model_type]
    activation = family.masked_lm_activation or config.activation
    language = activation, config.layer_norm_eps, config.initializer_range
    match told.architecture.removeprefix(family.name):
        case "ForSequenceClassification":
            return Classify(len(told.labels), told.dropout)
        case "ForTokenClassification":
            return Tag(len(told.labels), told.dropout)
        case "ForQuestionAnswering":
            return Span()
        case "ForMaskedLM":
            return MaskedLanguageModel(*language)
        case "ForNextSentencePrediction":
            return NextSentence()
    return Pretrain(*language)


def describe_head(
    head: nn.Module | None,
    config: BertConfig,
    labels: tuple[str, ...],
    pad_id: int | None = None,
) -> HeadConfig:
    """Finds Hugging Face's class for a head.

    Args:
      head: One of `tl_jax.models.heads`, or None for an encoder alone.
      config: The encoder's.
      labels: Names of the classes, by number; LABEL_0, LABEL_1, … if empty.
      pad_id: Of the tokenizer that is to stand beside the weights.

    Raises:
      ConfigError: There is none, or it computes something else; all that speaks
        against it is named.
    """
    family = FAMILIES[config.model_type]
    classes, dropout = 2, config.hidden_dropout
    match head:
        case None:
            end = "Model"
        case Classify():
            end, classes, dropout = (
                "ForSequenceClassification",
                head.classes,
                head.dropout,
            )
        case Tag():
            end, classes, dropout = "ForTokenClassification", head.classes, head.dropout
        case Span():
            end = "ForQuestionAnswering"
        case MaskedLanguageModel():
            end = "ForMaskedLM"
        case NextSentence():
            end = "ForNextSentencePrediction"
        case Pretrain():
            end = "ForPreTraining"
        case _:
            end = ""
    if end not in family.kinds:
        raise ConfigError(
            f"{type(head).__name__}: Hugging Face's {family.name} has no class with "
            "this head. Export the encoder alone: leave `head` out."
        )
    name, pooled = family.name + end, bool(family.kinds[end].pooler)
    problems = list(_unwritable(config, pad_id))
    if head is not None and pooled and config.pooling != "pooler":
        problems.append(f"{name} reads the pooler; `pooling` is {config.pooling!r}")
    elif pooled and config.pooler_activation != family.pooler_activation:
        told = f"{family.pooler_activation}, not {config.pooler_activation}"
        problems.append(f"{name} has a pooler with {told}")
    if isinstance(head, MaskedLanguageModel | Pretrain):
        activation = family.masked_lm_activation or config.activation
        if (head.activation, head.layer_norm_eps) != (
            activation,
            config.layer_norm_eps,
        ):
            problems.append(
                f"the head's activation or ε is not {activation}, "
                f"{config.layer_norm_eps}, as {name}'s"
            )
    if labels and (len(set(labels)) != len(labels) or len(labels) != classes):
        problems.append(f"{len(labels)} labels for {classes} classes, or doubles")
    if problems:
        listed = "; ".join(problems)
        raise ConfigError(f"This model cannot be exported: {listed}. Mend its config.")
    names = labels or tuple(f"LABEL_{number}" for number in range(classes))
    return HeadConfig(name, names, dropout)


def _head_dropout(raw: dict[str, Any], architecture: str) -> tuple[str, Any]:
    """Finds the dropout of the head's input, and its name there."""
    if raw.get("model_type") == "distilbert":
        if architecture.endswith("ForSequenceClassification"):
            key = _DISTILBERT.classifier_dropout
            return key, raw.get(key, 0.2)
        return "dropout", raw.get("dropout", 0.1)
    own = raw.get(_BERT.classifier_dropout)
    dropout = raw.get("hidden_dropout_prob", 0.1) if own is None else own
    return _BERT.classifier_dropout, dropout


def _unsupported(raw: dict[str, Any], layout: _Layout) -> Iterator[str]:
    plain = {"position_embedding_type": "absolute"}
    plain |= {"is_decoder": False, "add_cross_attention": False, "pruned_heads": {}}
    for key, value in plain.items():
        if raw.get(key, value) != value:
            yield f"{key}: {str(raw[key])[:40]!r}; only {value!r} is supported"
    found = raw.get("model_type", "missing")
    if not isinstance(found, str) or found not in _LAYOUTS:
        near = did_you_mean(str(found)[:40], _LAYOUTS)
        known = ", ".join(_LAYOUTS)
        yield f"model_type: {str(found)[:40]!r} is none of {known}.{near}"
    activation = raw.get(layout.activation)
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        near = did_you_mean(str(activation)[:40], ACTIVATIONS)
        known = ", ".join(ACTIVATIONS)
        shown = f"{str(activation)[:40]!r} is none of {known}"
        yield f"{layout.activation}: {shown}.{near}"


def _out_of_range(raw: dict[str, Any], layout: _Layout) -> Iterator[str]:
    sound: dict[str, int] = {}
    names = {row.field: key for key, row in layout.sizes.items()}
    for key, row in layout.sizes.items():
        value = raw.get(key, row.default)
        limits = f"{row.smallest}…{row.largest}"
        if value is None:
            yield f"{key}: missing"
        elif type(value) is not int or not row.smallest <= value <= row.largest:
            yield f"{key}: {str(value)[:40]}, not a whole number in {limits}"
        else:
            sound[row.field] = value
    for key, row in layout.fractions.items():
        if not _is_share(value := raw.get(key, row.default)):
            yield f"{key}: {str(value)[:40]}, not a number in [0, 1)"
    width, heads = sound.get("hidden_size"), sound.get("num_heads")
    if width and heads and width % heads:
        told = f"{heads} does not divide {names['hidden_size']} {width}"
        yield f"{names['num_heads']}: {told}"
    pad, rows = sound.get("position_offset"), sound.get("max_positions")
    if pad is not None and rows is not None and rows < pad + 2:
        told = f"{rows} leave no position after those of pad_token_id {pad}"
        yield f"{names['max_positions']}: {told}"


def _unwritable(config: BertConfig, pad_id: int | None) -> Iterator[str]:
    """Says what of an encoder its model type's config.json cannot tell."""
    layout = _LAYOUTS[config.model_type]
    kind = f"model_type {config.model_type!r}"
    for field, value in layout.fixed.items():
        if (found := getattr(config, field)) != value:
            yield f"{kind} has {field} {value}, not {found}"
    if "type_vocab_size" not in layout.fixed and not config.type_vocab_size:
        yield f"{kind} has at least one segment"
    if layout is not _ELECTRA and config.embedding_width != config.hidden_size:
        yield f"{kind} projects no embeddings; `embedding_size` differs from the width"
    offset = config.position_offset
    if layout is not _ROBERTA:
        if offset:
            yield f"{kind} has `position_offset` 0, not {offset}"
    elif offset < 1:
        yield f"{kind} has a `position_offset` of 1 or more"
    elif pad_id is not None and pad_id != offset - 1:
        yield f"`position_offset` {offset} is not that of the tokenizer's pad, {pad_id}"


def _is_share(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < 1


def _are_labels(labels: Any) -> bool:
    if not isinstance(labels, dict) or len(labels) > _MOST_LABELS:
        return False
    names: Sequence[Any] = list(labels.values())
    numbers = {str(number) for number in range(len(labels))}
    return labels.keys() == numbers and all(type(name) is str for name in names)
