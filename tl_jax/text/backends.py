"""Tokenizer files: tokenizer.json of any kind or BERT's vocab.txt → Rust tokenizers."""

import json
import re
from collections.abc import Iterable
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
# transformers' classes that heed `do_lower_case`, whatever tokenizer.json says.
_BERTS = ("BertTokenizer", "ElectraTokenizer", "DistilBertTokenizer")
_HANGUL = re.compile("[\uac00-\ud7a3]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_CONFIG = "tokenizer_config.json"
_HOW = ("single_word", "lstrip", "rstrip", "normalized", "special")  # of added pieces
_MAX_BYTES = 64 * 2**20  # of a vocabulary file; real ones have up to about 20 MB


def declared_specials(file: Path) -> dict[str, str]:
    """Reads the names of special pieces, by role, from the files beside a tokenizer's.

    These are special_tokens_map.json and tokenizer_config.json; the latter decides.

    Raises:
      DataError: One of them is broken.
    """
    told: dict[str, Any] = {}
    for name in ("special_tokens_map.json", _CONFIG):
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
    if lowercase is None and kind == "WordPiece":
        lowercase = _contradicted(file, json.loads(backend.to_str())["normalizer"])
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
    config = _read_object(file.with_name(_CONFIG))
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
    if lowercase is None:
        lowercase = bool(config.get("do_lower_case", _looks_uncased(vocabulary)))
    settings = {
        "strip_accents": config.get("strip_accents"),
        "handle_chinese_chars": config.get("tokenize_chinese_chars", True),
    }
    backend.normalizer = _normalizer(settings, lowercase)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.add_special_tokens([p for p, _ in USUAL.values() if p in vocabulary])
    _add_later_ones(backend, file, config)
    return backend


def _contradicted(file: Path, normalizer: dict[str, Any] | None) -> bool | None:
    """What `do_lower_case` beside BERT's tokenizer.json says, if it says otherwise."""
    config = _read_object(file.with_name(_CONFIG))
    declared = config.get("do_lower_case")
    kind = str(config.get("tokenizer_class") or _BERTS[0]).removesuffix("Fast")
    berts = (normalizer or {}).get("type") == "BertNormalizer" and kind in _BERTS
    if berts and isinstance(declared, bool) and declared != lowers(normalizer):
        return declared
    return None


def _looks_uncased(vocabulary: Iterable[str]) -> bool:
    """True for pieces of lower-cased text, if they know letters that have case."""
    pieces = "".join(p for p in vocabulary if not (p[:1] == "[" and p[-1:] == "]"))
    if _HANGUL.search(pieces):
        return False
    return pieces.lower() == pieces != pieces.upper()


def _add_later_ones(
    backend: tokenizers.Tokenizer, file: Path, config: dict[str, Any]
) -> None:
    """Adds the pieces that a vocab.txt lacks, from the files beside it.

    Raises:
      DataError: Their ids do not go on where those of the vocabulary end, or the files
        do not tell a piece and its id.
    """
    for number, told in _later_ones(file, config):
        piece = told["content"]
        if backend.id_to_token(number) == piece:
            continue
        how = {key: bool(told[key]) for key in _HOW if key in told}
        backend.add_tokens([tokenizers.AddedToken(piece, **how)])
        if backend.token_to_id(piece) != number:
            raise DataError(
                f"{file.parent}: {piece!r} is to be piece {number}, which "
                f"{file.name} does not lead up to. Have transformers write it again."
            )


def _later_ones(file: Path, config: dict[str, Any]) -> list[tuple[int, dict[str, Any]]]:
    """Lists added pieces by their ids; tokenizer_config.json overrides the other."""
    source = file.with_name("added_tokens.json")
    told: list[tuple[Path, Any, Any]] = [
        (source, number, {"content": piece})
        for piece, number in _read_object(source).items()
    ]
    source, name = file.with_name(_CONFIG), "added_tokens_decoder"
    declared = config.get(name) or {}
    if not isinstance(declared, dict):
        raise DataError(f"{source}: {name} must be an object of ids and pieces.")
    told += [(source, number, piece) for number, piece in declared.items()]
    later: dict[int, dict[str, Any]] = {}
    for source, number, piece in told:
        content = piece.get("content") if isinstance(piece, dict) else None
        if not (is_text(content) and re.fullmatch("[0-9]{1,9}", str(number))):
            raise DataError(
                f"{source}: an added piece needs a number and a string as its content; "
                f"here {number!r:.40} stands with {piece!r:.80}."
            )
        later[int(number)] = piece
    return sorted(later.items())


def is_text(value: object) -> bool:
    """True for a string without lone surrogates, as the Rust library takes them."""
    return isinstance(value, str) and not _SURROGATE.search(value)


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
    return atomic.read_object(file) if file.is_file() else {}
