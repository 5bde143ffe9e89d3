"""WordPiece: strings → ids of a BERT vocabulary, by Hugging Face's Rust tokenizers."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from jaxtyping import Int
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from tl_jax.files import atomic
from tl_jax.files.errors import ConfigError, DataError
from tl_jax.text.encodings import Encodings, Framed, encode

SPECIALS = {
    "pad": "[PAD]",
    "unk": "[UNK]",
    "cls": "[CLS]",
    "sep": "[SEP]",
    "mask": "[MASK]",
}
HANGUL_LIMIT = 0.3  # above this share of Hangul an uncased vocabulary is refused
_MAX_BYTES = 64 * 2**20  # of a vocabulary file; real ones have up to about 20 MB
_CHUNK = 8192  # texts handed to Rust at once: its results are large
_HANGUL = re.compile("[\u1100-\u11ff\u3130-\u318f\ua960-\ua97f\uac00-\ud7ff]+")
_LETTERS = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True)
class SpecialIds:
    """The ids of the five special pieces."""

    pad: int
    unk: int
    cls: int
    sep: int
    mask: int


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """A WordPiece vocabulary with the rules by which a text is cut into its pieces.

    Attributes:
      backend: The Rust tokenizer, without truncation, padding or a template.
      vocab_size: One more than the greatest id.
      special: Ids of [PAD], [UNK], [CLS], [SEP] and [MASK].
      uncased: True if the text is lower-cased first (and accents are stripped).
    """

    backend: tokenizers.Tokenizer
    vocab_size: int
    special: SpecialIds
    uncased: bool

    def encode(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        *,
        max_length: int,
    ) -> Encodings:
        """Encodes ``[CLS] a [SEP]``, or ``[CLS] a [SEP] b [SEP]`` with types 0 and 1.

        See :func:`tl_jax.text.encodings.encode`. An empty text is ``[CLS] [SEP]``.
        """
        return encode(self, texts, pairs, max_length=max_length)

    def specials(self, *, pair: bool) -> int:
        """The number of ids that `frame` adds."""
        return 3 if pair else 2

    def frame(
        self, first: Int[np.ndarray, "_"], second: Int[np.ndarray, "_"] | None = None
    ) -> Framed:
        """Makes ``[CLS] a [SEP]``, or ``[CLS] a [SEP] b [SEP]`` with types 0 and 1."""
        sep = [self.special.sep]
        parts = [[self.special.cls], first, sep]
        if second is not None:
            parts += [second, sep]
        tokens = np.concatenate(parts, dtype=np.int32)
        begins = len(first) + 2
        types = (np.arange(len(tokens)) >= begins).astype(np.int32)
        return Framed(tokens, types, first=1, second=begins)

    def pieces(self, texts: Sequence[str]) -> list[Int[np.ndarray, "_"]]:
        """Returns the ids of each text's pieces, with no special pieces around them."""
        return [
            np.array(e.ids, np.int32) for e in self._run("encode_batch_fast", texts)
        ]

    def pieces_with_offsets(
        self, texts: Sequence[str]
    ) -> list[tuple[Int[np.ndarray, "_"], Int[np.ndarray, "_ 2"]]]:
        """Returns each text's ids, and first and one-past-last character of each."""
        return [
            (np.array(e.ids, np.int32), np.array(e.offsets, np.int32).reshape(-1, 2))
            for e in self._run("encode_batch", texts)
        ]

    def save(self, folder: Path) -> None:
        """Writes tokenizer.json, vocab.txt and tokenizer_config.json.

        ``transformers.AutoTokenizer`` loads the folder and gives the same ids.
        """
        folder.mkdir(parents=True, exist_ok=True)
        state = json.loads(self.backend.to_str())
        state["post_processor"] = json.loads(
            _bert_template(self.special).__getstate__()
        )
        by_id = {i: piece for piece, i in self.backend.get_vocab().items()}
        lines = [by_id.get(i, f"[gap{i}]") for i in range(self.vocab_size)]
        settings = _bert_settings(state.get("normalizer"))
        config = {
            "tokenizer_class": "BertTokenizer",
            "do_lower_case": self.uncased,
            "strip_accents": settings.get("strip_accents"),
            "tokenize_chinese_chars": settings.get("handle_chinese_chars", True),
            **{f"{name}_token": piece for name, piece in SPECIALS.items()},
        }
        atomic.write_json(folder / "tokenizer.json", state)
        atomic.write_text(folder / "vocab.txt", "\n".join(lines) + "\n")
        atomic.write_json(folder / "tokenizer_config.json", config)

    def _run(self, method: str, texts: Sequence[str]) -> list[tokenizers.Encoding]:
        encode = {
            "encode_batch": self.backend.encode_batch,
            "encode_batch_fast": self.backend.encode_batch_fast,
        }[method]
        found: list[tokenizers.Encoding] = []
        for start in range(0, len(texts), _CHUNK):
            chunk = list(texts[start : start + _CHUNK])
            try:
                found += encode(chunk, add_special_tokens=False)
            except (TypeError, UnicodeEncodeError) as error:
                bad = [start + i for i, t in enumerate(chunk) if not _is_text(t)]
                raise DataError(
                    f"Text {bad[:10]} (from 0) cannot be tokenised, because it is no "
                    "string or holds half of a surrogate pair: mend or drop it."
                ) from error
        return found


def load_tokenizer(path: Path, *, lowercase: bool | None = None) -> Tokenizer:
    """Loads a WordPiece tokenizer from a folder, a tokenizer.json or a vocab.txt.

    A folder's tokenizer.json comes first; truncation and padding that are set in it are
    dropped. With a vocab.txt, ``do_lower_case``, ``strip_accents`` and
    ``tokenize_chinese_chars`` are read from the tokenizer_config.json beside it.

    Args:
      path: The folder or file.
      lowercase: Overrides the files. A vocab.txt alone is taken as cased.

    Raises:
      DataError: The file is missing, broken, not WordPiece, or lacks a special piece.
    """
    file = _find(path)
    if file.suffix == ".json":
        backend = _from_json(file)
        if lowercase is not None:
            settings = _bert_settings(json.loads(backend.to_str()).get("normalizer"))
            backend.normalizer = _normalizer(settings, lowercase)
    else:
        backend = _from_vocabulary(file, lowercase)
    backend.no_truncation()
    backend.no_padding()
    vocabulary = backend.get_vocab()
    missing = [piece for piece in SPECIALS.values() if piece not in vocabulary]
    if missing:
        raise DataError(
            f"{file}: the vocabulary lacks {', '.join(missing)}. "
            "Only BERT's WordPiece vocabularies can be used."
        )
    return Tokenizer(
        backend,
        vocab_size=max(vocabulary.values()) + 1,
        special=SpecialIds(**{k: vocabulary[v] for k, v in SPECIALS.items()}),
        uncased=_lowers(json.loads(backend.to_str()).get("normalizer")),
    )


def hangul_share(texts: Sequence[str]) -> float:
    """Returns the share of the texts' letters that are Hangul; 0 without letters."""
    letters = sum(len(run) for text in texts for run in _LETTERS.findall(text))
    hangul = sum(len(run) for text in texts for run in _HANGUL.findall(text))
    return hangul / letters if letters else 0.0


def hangul_warning(tokenizer: Tokenizer, texts: Sequence[str]) -> str | None:
    """Says why an uncased vocabulary does not suit the texts, or None if all is well.

    An uncased vocabulary strips accents by NFD, which also takes each Hangul syllable
    apart into jamo that the vocabulary was not made for (google-research/bert#135).
    """
    if not tokenizer.uncased:
        return None
    share = hangul_share(texts)
    if share <= HANGUL_LIMIT:
        return None
    return (
        f"{share:.0%} of the letters are Hangul, and this vocabulary is uncased: it "
        "splits each syllable into jamo (NFD), so that most of the text is lost. Use a "
        "model with a cased or a Korean vocabulary (such as klue/bert-base)"
    )


def check_hangul(
    tokenizer: Tokenizer, texts: Sequence[str], *, allow_uncased: bool = False
) -> None:
    """Refuses an uncased vocabulary where over 30 % of the letters are Hangul.

    Raises:
      ConfigError: It is so, and ``allow_uncased`` is False.
    """
    warning = None if allow_uncased else hangul_warning(tokenizer, texts)
    if warning:
        raise ConfigError(f"{warning}, or pass --allow-uncased to go on as it is.")


def _find(path: Path) -> Path:
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


def _from_json(file: Path) -> tokenizers.Tokenizer:
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
    if kind != "WordPiece":
        raise DataError(f"{file}: holds a {kind} model; only WordPiece can be used.")
    return backend


def _from_vocabulary(file: Path, lowercase: bool | None) -> tokenizers.Tokenizer:
    config: dict[str, Any] = {}
    if (beside := file.with_name("tokenizer_config.json")).is_file():
        config = atomic.read_json(beside)
        if not isinstance(config, dict):
            raise DataError(f"{beside}: a JSON object is needed.")
    lines = [line.removesuffix("\r") for line in _read(file).split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    vocabulary = {piece: i for i, piece in enumerate(lines)}
    if SPECIALS["unk"] not in vocabulary:
        raise DataError(
            f"{file}: there is no line [UNK] among its {len(lines)}; "
            "is it a WordPiece vocabulary, one piece a line?"
        )
    backend = tokenizers.Tokenizer(
        models.WordPiece(
            vocabulary, unk_token=SPECIALS["unk"], max_input_chars_per_word=100
        )
    )
    lower = bool(config.get("do_lower_case", False)) if lowercase is None else lowercase
    settings = {
        "strip_accents": config.get("strip_accents"),
        "handle_chinese_chars": config.get("tokenize_chinese_chars", True),
    }
    backend.normalizer = _normalizer(settings, lower)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.add_special_tokens([p for p in SPECIALS.values() if p in vocabulary])
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


def _bert_settings(state: dict[str, Any] | None) -> dict[str, Any]:
    """Returns the BertNormalizer's settings in a tokenizer.json's normalizer."""
    if not state:
        return {}
    if state.get("type") == "Sequence":
        found = [_bert_settings(part) for part in state["normalizers"]]
        return next((part for part in found if part), {})
    return state if state.get("type") == "BertNormalizer" else {}


def _lowers(state: dict[str, Any] | None) -> bool:
    """True if a tokenizer.json's normalizer lower-cases."""
    if not state:
        return False
    if state.get("type") == "Sequence":
        return any(_lowers(part) for part in state["normalizers"])
    return state.get("type") == "Lowercase" or bool(state.get("lowercase"))


def _bert_template(special: SpecialIds) -> processors.BertProcessing:
    return processors.BertProcessing(
        (SPECIALS["sep"], special.sep), (SPECIALS["cls"], special.cls)
    )


def _is_text(text: object) -> bool:
    return isinstance(text, str) and not re.search("[\ud800-\udfff]", text)
