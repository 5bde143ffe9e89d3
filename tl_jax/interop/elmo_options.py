"""ELMo's options.json, of bilm-tf and AllenNLP, from and to our config."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tl_jax.interop.tensor_files import raise_all, read_small_json
from tl_jax.models.elmo import ElmoConfig

_MOST_FILTERS = 50


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
