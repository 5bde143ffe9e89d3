"""Sub-words: strings → ids of WordPiece, BPE and Unigram vocabularies, in Rust."""

import json
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import tokenizers
from jaxtyping import Int
from tokenizers import processors

from tl_jax.files import atomic
from tl_jax.files.errors import DataError
from tl_jax.text.backends import (
    USUAL,
    bert_settings,
    declared_specials,
    find_file,
    from_json,
    from_vocabulary,
    is_text,
    lowers,
)
from tl_jax.text.encodings import Encodings, Framed, encode

Taken = TypeVar("Taken")
_CHUNK = 8192  # texts handed to Rust at once: its results are large


@dataclass(frozen=True)
class SpecialIds:
    """The ids of the five special pieces, as BERT names them ([CLS] may be <s>)."""

    pad: int
    unk: int
    cls: int
    sep: int
    mask: int


class Frame(NamedTuple):
    """What a tokenizer puts around one text, or around and between two.

    Attributes:
      gaps: Ids before the first text and after each.
      gap_types: Segment ids of those.
      text_types: Segment id of each text.
    """

    gaps: tuple[tuple[int, ...], ...]
    gap_types: tuple[tuple[int, ...], ...]
    text_types: tuple[int, ...]

    @property
    def size(self) -> int:
        """The number of ids in the gaps."""
        return sum(map(len, self.gaps))


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """A sub-word vocabulary with the rules by which a text is cut into its pieces.

    Attributes:
      backend: The Rust tokenizer, without truncation and padding.
      vocab_size: One more than the greatest id.
      special: Ids of [PAD], [UNK], [CLS], [SEP] and [MASK].
      uncased: True if the text is lower-cased first.
      single: What `frame` puts around one text.
      pair: What it puts around and between two.
    """

    backend: tokenizers.Tokenizer
    vocab_size: int
    special: SpecialIds
    uncased: bool
    single: Frame
    pair: Frame

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """The piece of each id; an empty string where none has it."""
        found = map(self.backend.id_to_token, range(self.vocab_size))
        return tuple(piece or "" for piece in found)

    @property
    def splits_hangul(self) -> bool:
        """True if it takes Hangul syllables apart, as stripping accents (NFD) does."""
        normalizer = self.backend.normalizer
        return normalizer is not None and "한" not in normalizer.normalize_str("한")

    def encode(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        *,
        max_length: int,
    ) -> Encodings:
        """Encodes texts or pairs, with special pieces and types as of `frame`.

        See :func:`tl_jax.text.encodings.encode`. Of an empty text they alone are left.
        """
        return encode(self, texts, pairs, max_length=max_length)

    def specials(self, *, pair: bool) -> int:
        """The number of ids that `frame` adds."""
        return self.pair.size if pair else self.single.size

    def frame(
        self, first: Int[np.ndarray, "_"], second: Int[np.ndarray, "_"] | None = None
    ) -> Framed:
        """Puts the special pieces where the vocabulary's own template has them.

        BERT's is ``[CLS] a [SEP]``, or ``[CLS] a [SEP] b [SEP]`` with types 0 and 1;
        RoBERTa's and XLM-R's ``<s> a </s>`` or ``<s> a </s></s> b </s>``, all types 0.
        """
        frame = self.single if second is None else self.pair
        texts = [first] if second is None else [first, second]
        tokens = [np.array(frame.gaps[0], np.int32)]
        types = [*frame.gap_types[0]]
        begins: list[int] = []
        for number, text in enumerate(texts):
            begins.append(len(types))
            tokens += [text, np.array(frame.gaps[number + 1], np.int32)]
            types += [frame.text_types[number]] * len(text)
            types += frame.gap_types[number + 1]
        begins.append(len(types))
        joined = np.concatenate(tokens, dtype=np.int32)
        return Framed(joined, np.array(types, np.int32), begins[0], begins[1])

    def pieces(self, texts: Sequence[str]) -> list[Int[np.ndarray, "_"]]:
        """Returns the ids of each text's pieces, with no special pieces around them."""
        return self._run(
            "encode_batch_fast", texts, lambda _, e: np.array(e.ids, np.int32)
        )

    def pieces_with_offsets(
        self, texts: Sequence[str]
    ) -> list[tuple[Int[np.ndarray, "_"], Int[np.ndarray, "_ 2"]]]:
        """Returns each text's ids, and first and one-past-last character of each.

        White space around a piece does not count, be it part of the piece or not; a
        piece of nothing else keeps what it has. Marks that were stripped, such as an
        accent behind its letter, count as the piece that they follow.
        """
        return self._run(
            "encode_batch",
            texts,
            lambda text, e: (np.array(e.ids, np.int32), _trimmed(text, e.offsets)),
        )

    def save(
        self, folder: Path, *, segments: bool = True, max_length: int | None = None
    ) -> None:
        """Writes tokenizer.json and tokenizer_config.json; for BERT's also vocab.txt.

        ``transformers.AutoTokenizer`` loads the folder and gives the same ids.

        Args:
          folder: Made if need be.
          segments: False for a model that reads no segment ids: transformers then
            makes none.
          max_length: Most tokens that the model has positions for, if it is known.
        """
        folder.mkdir(parents=True, exist_ok=True)
        state = json.loads(self.backend.to_str())
        names = {i: piece for piece, i in self.backend.get_vocab().items()}
        inputs = ["input_ids", "token_type_ids", "attention_mask"]
        config: dict[str, Any] = {
            f"{role}_token": names[i] for role, i in asdict(self.special).items()
        }
        config["model_input_names"] = inputs if segments else inputs[::2]
        if max_length is not None:
            config["model_max_length"] = max_length
        if self._is_berts(state):
            lines = [names.get(i, f"[gap{i}]") for i in range(self.vocab_size)]
            atomic.write_text(folder / "vocab.txt", "\n".join(lines) + "\n")
            settings = bert_settings(state["normalizer"])
            config |= {
                "tokenizer_class": "BertTokenizer",
                "do_lower_case": self.uncased,
                "strip_accents": settings.get("strip_accents"),
                "tokenize_chinese_chars": settings.get("handle_chinese_chars", True),
            }
        else:
            config["tokenizer_class"] = "PreTrainedTokenizerFast"
        atomic.write_json(folder / "tokenizer.json", state)
        atomic.write_json(folder / "tokenizer_config.json", config)

    def _is_berts(self, state: dict[str, Any]) -> bool:
        """True if transformers' BertTokenizer, which has its own parts, is as this."""
        parts = {
            part: state.get(part) or {} for part in ("normalizer", "pre_tokenizer")
        }
        cls, sep = (self.special.cls,), (self.special.sep,)
        return (
            state["model"].get("type") == "WordPiece"
            and state["model"].get("continuing_subword_prefix") == "##"
            and state["model"].get("max_input_chars_per_word") == 100
            and parts["normalizer"].get("type") == "BertNormalizer"
            and parts["normalizer"].get("clean_text") is True
            and parts["pre_tokenizer"].get("type") == "BertPreTokenizer"
            and self.single == Frame((cls, sep), ((0,), (0,)), (0,))
            and self.pair == Frame((cls, sep, sep), ((0,), (0,), (1,)), (0, 1))
        )

    def _run(
        self,
        method: str,
        texts: Sequence[str],
        take: Callable[[str, tokenizers.Encoding], Taken],
    ) -> list[Taken]:
        """Encodes some texts at a time, for encodings are large, and takes of each."""
        encode = {
            "encode_batch": self.backend.encode_batch,
            "encode_batch_fast": self.backend.encode_batch_fast,
        }[method]
        found: list[Taken] = []
        for start in range(0, len(texts), _CHUNK):
            chunk = list(texts[start : start + _CHUNK])
            try:
                encodings = encode(chunk, add_special_tokens=False)
            except (TypeError, UnicodeEncodeError) as error:
                bad = [start + i for i, t in enumerate(chunk) if not is_text(t)]
                raise DataError(
                    f"Text {bad[:10]} (from 0) cannot be tokenised, because it is no "
                    "string or holds half of a surrogate pair: mend or drop it."
                ) from error
            found += map(take, chunk, encodings)
        return found


def load_tokenizer(path: Path, *, lowercase: bool | None = None) -> Tokenizer:
    """Loads a tokenizer from a folder, a tokenizer.json or BERT's vocab.txt.

    A folder's tokenizer.json comes first, of whatever kind (WordPiece, BPE, Unigram);
    truncation and padding that are set in it are dropped. With a vocab.txt,
    ``do_lower_case``, ``strip_accents`` and ``tokenize_chinese_chars`` are read from
    the tokenizer_config.json beside it, and the pieces that were added later from that
    and added_tokens.json. Where it contradicts BERT's own tokenizer.json,
    ``do_lower_case`` counts, as in transformers.

    The special pieces are those that tokenizer_config.json or special_tokens_map.json
    beside the file names, else those of the file's own template, else those with one of
    the usual names. A WordPiece file without a template gets BERT's.

    Args:
      path: The folder or file.
      lowercase: Overrides the files, for WordPiece. Where none of them says, a
        vocab.txt is one of lower-cased text if none of its pieces has an upper-case
        letter, or Hangul, which lower-casing would take apart.

    Raises:
      DataError: The file is missing or broken, or lacks a special piece or a template.
      ConfigError: ``lowercase`` is given for another kind.
    """
    file = find_file(path)
    read = from_json if file.suffix == ".json" else from_vocabulary
    backend = read(file, lowercase)
    vocabulary = backend.get_vocab()
    single = _probe(backend, vocabulary, file, texts=1)
    special = _special_ids(file, vocabulary, single)
    if not single.size:
        _add_template(backend, vocabulary, special, file)
        single = _probe(backend, vocabulary, file, texts=1)
    return Tokenizer(
        backend,
        vocab_size=max(vocabulary.values()) + 1,
        special=special,
        uncased=lowers(json.loads(backend.to_str()).get("normalizer")),
        single=single,
        pair=_probe(backend, vocabulary, file, texts=2),
    )


def _probe(
    backend: tokenizers.Tokenizer, vocabulary: dict[str, int], file: Path, *, texts: int
) -> Frame:
    """Finds what the backend's post-processor puts around one text or two."""
    words = ("a", *vocabulary)
    try:
        word = next(
            (w for w in words if backend.encode(w, add_special_tokens=False)), ""
        )
        found = backend.encode(word, word) if texts == 2 else backend.encode(word)
    except Exception as error:  # of no narrower class in the Rust library
        raise DataError(f"{file}: it cannot read a word: {error}.") from error
    gaps, gap_types, text_types, last = [[]], [[]], [], None
    whose = zip(found.ids, found.type_ids, found.sequence_ids, strict=True)
    for token, kind, sequence in whose:
        if sequence is None:
            gaps[-1].append(token)
            gap_types[-1].append(kind)
        elif sequence != last:
            gaps.append([])
            gap_types.append([])
            text_types.append(kind)
            last = sequence
    known = set(vocabulary.values())
    strange = sorted({i for gap in gaps for i in gap} - known)
    if strange or len(text_types) != texts:
        what = f"ids {strange}, which no piece has" if strange else "not each text once"
        raise DataError(f"{file}: its template (post_processor) puts {what}. Mend it.")
    return Frame(
        tuple(map(tuple, gaps)), tuple(map(tuple, gap_types)), tuple(text_types)
    )


def _special_ids(file: Path, vocabulary: dict[str, int], single: Frame) -> SpecialIds:
    pieces = {i: piece for piece, i in vocabulary.items()}
    names = {
        role: next((name for name in usual if name in vocabulary), usual[0])
        for role, usual in USUAL.items()
    }
    before, after = single.gaps
    names |= {"cls": pieces[before[0]]} if before else {}
    names |= {"sep": pieces[after[-1]]} if after else {}
    names |= declared_specials(file)
    missing = [name for name in names.values() if name not in vocabulary]
    if missing:
        raise DataError(
            f"{file}: the vocabulary lacks {', '.join(missing)}. Name special "
            "pieces that are called otherwise in tokenizer_config.json beside it: "
            "cls_token, sep_token, pad_token, unk_token, mask_token."
        )
    return SpecialIds(**{role: vocabulary[name] for role, name in names.items()})


def _add_template(
    backend: tokenizers.Tokenizer,
    vocabulary: dict[str, int],
    special: SpecialIds,
    file: Path,
) -> None:
    kind = type(backend.model).__name__
    if kind != "WordPiece":
        raise DataError(
            f"{file}: nothing in it (post_processor) says which special pieces stand "
            f"around a text; a {kind} tokenizer needs that."
        )
    names = {i: piece for piece, i in vocabulary.items()}
    backend.post_processor = processors.BertProcessing(
        (names[special.sep], special.sep), (names[special.cls], special.cls)
    )


def _trimmed(text: str, offsets: list[tuple[int, int]]) -> Int[np.ndarray, "_ 2"]:
    """Moves both ends of each piece off white space, the last behind stripped marks."""
    found = np.array(offsets, np.int32).reshape(-1, 2)
    solid = np.flatnonzero([not character.isspace() for character in text])
    first, last = (
        np.searchsorted(solid, found[:, 0]),
        np.searchsorted(solid, found[:, 1]),
    )
    some = first < last
    found[some, 0] = solid[first[some]]
    found[some, 1] = solid[last[some] - 1] + 1
    return found if text.isascii() else _with_marks(text, found)


def _with_marks(text: str, offsets: Int[np.ndarray, "_ 2"]) -> Int[np.ndarray, "_ 2"]:
    """Moves the end of each piece behind marks that stand there and are in no piece."""
    found = offsets.copy()
    after = np.append(offsets[1:, 0], len(text))
    for piece in np.flatnonzero(offsets[:, 1] < after):
        begin, end = int(offsets[piece, 1]), int(after[piece])
        marks = (
            unicodedata.category(character)[0] == "M" for character in text[begin:end]
        )
        found[piece, 1] = begin + sum(takewhile(bool, marks))
    return found
