"""Tokenizer files: tokenizer.json of any kind or BERT's vocab.txt → Rust tokenizers."""

import json
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from tl_jax.files import atomic
from tl_jax.files.errors import ConfigError, DataError

# What the special pieces are called, in BERT's vocabularies and in RoBERTa's.
USUAL = {
    "pad": ("[PAD]", "<pad>"),
    "unk": ("[UNK]", "<unk>"),
    "cls": ("[CLS]", "<s>"),
    "sep": ("[SEP]", "</s>"),
    "mask": ("[MASK]", "<mask>"),
}
UNKNOWN = USUAL["unk"][0]
_MAX_BYTES = 64 * 2**20  # of a vocabulary file; real ones have up to about 20 MB


def declared_specials(file: Path) -> dict[str, str]:
    """Reads the names of special pieces, by role, from the files beside a tokenizer's.

    These are special_tokens_map.json and tokenizer_config.json; the latter decides.

    Raises:
      DataError: One of them is broken.
    """
    told: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        told |= _read_object(file.with_name(name))
    found: dict[str, str] = {}
    for role in USUAL:
        named = told.get(f"{role}_token")
        piece = named.get("content") if isinstance(named, dict) else named
        if isinstance(piece, str):
            found[role] = piece
        elif piece is not None:
            raise DataError(f"{file.parent}: {role}_token is no name: {piece!r:.40}.")
    return found


def find_file(path: Path) -> Path:
    """Finds a folder's tokenizer.json, else its vocab.txt; takes a file as such."""
    if path.is_file():
        return path
    for name in ("tokenizer.json", "vocab.txt"):
        if (path / name).is_file():
            return path / name
    raise DataError(
        f"{path}: there is no tokenizer here; a folder with tokenizer.json or "
        "vocab.txt, or one of these files, is needed."
    )


def _read(file: Path) -> str:
    try:
        size = file.stat().st_size
        if size > _MAX_BYTES:
            raise DataError(
                f"{file}: {size} bytes are too many for a vocabulary "
                f"(at most {_MAX_BYTES})."
            )
        return file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: byte {error.start} is not UTF-8.") from error


def from_json(file: Path, lowercase: bool | None) -> tokenizers.Tokenizer:
    """Reads a tokenizer.json of any kind; ``lowercase`` overrides a WordPiece's."""
    text = _read(file)
    try:
        backend = tokenizers.Tokenizer.from_str(text)
    except BaseException as error:  # a panic in Rust derives from BaseException
        if isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit)):
            raise
        raise DataError(
            f"{file}: not a tokenizer.json that can be used ({str(error)[:200]})."
        ) from error
    kind = type(backend.model).__name__
    if lowercase is not None:
        if kind != "WordPiece":
            raise ConfigError(
                f"{file}: holds a {kind} model, whose letter case is fixed; leave "
                "`lowercase` out."
            )
        settings = bert_settings(json.loads(backend.to_str()).get("normalizer"))
        backend.normalizer = _normalizer(settings, lowercase)
    backend.no_truncation()
    backend.no_padding()
    return backend


def from_vocabulary(file: Path, lowercase: bool | None) -> tokenizers.Tokenizer:
    """Builds BERT's WordPiece from a vocab.txt; ``lowercase`` overrides its config."""
    config = _read_object(file.with_name("tokenizer_config.json"))
    lines = [line.removesuffix("\r") for line in _read(file).split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    vocabulary = {piece: i for i, piece in enumerate(lines)}
    if UNKNOWN not in vocabulary:
        raise DataError(
            f"{file}: there is no line [UNK] among its {len(lines)}; "
            "is it a WordPiece vocabulary, one piece a line?"
        )
    backend = tokenizers.Tokenizer(
        models.WordPiece(vocabulary, unk_token=UNKNOWN, max_input_chars_per_word=100)
    )
    lower = bool(config.get("do_lower_case", False)) if lowercase is None else lowercase
    settings = {
        "strip_accents": config.get("strip_accents"),
        "handle_chinese_chars": config.get("tokenize_chinese_chars", True),
    }
    backend.normalizer = _normalizer(settings, lower)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.add_special_tokens([p for p, _ in USUAL.values() if p in vocabulary])
    return backend


def _normalizer(
    settings: dict[str, Any], lowercase: bool
) -> normalizers.BertNormalizer:
    accents = settings.get("strip_accents")
    return normalizers.BertNormalizer(
        clean_text=bool(settings.get("clean_text", True)),
        handle_chinese_chars=bool(settings.get("handle_chinese_chars", True)),
        strip_accents=None if accents is None else bool(accents),
        lowercase=lowercase,
    )


def bert_settings(state: dict[str, Any] | None) -> dict[str, Any]:
    """Returns the BertNormalizer's settings in a tokenizer.json's normalizer."""
    if not state:
        return {}
    if state.get("type") == "Sequence":
        found = [bert_settings(part) for part in state["normalizers"]]
        return next((part for part in found if part), {})
    return state if state.get("type") == "BertNormalizer" else {}


def lowers(state: dict[str, Any] | None) -> bool:
    """True if a tokenizer.json's normalizer lower-cases."""
    if not state:
        return False
    if state.get("type") == "Sequence":
        return any(lowers(part) for part in state["normalizers"])
    return state.get("type") == "Lowercase" or bool(state.get("lowercase"))


def _read_object(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    found = atomic.read_json(file)
    if not isinstance(found, dict):
        raise DataError(f"{file}: a JSON object is needed.")
    return found
