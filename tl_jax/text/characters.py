"""Words → the characters that ELMo reads, as bilm-tf and AllenNLP number them.

A character is a byte of UTF-8, 0 … 255; five marks follow. Ids are one higher, for 0 is
a character that is not there at all.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Int

from tl_jax.files.atomic import read_json, write_json
from tl_jax.files.errors import DataError
from tl_jax.models import elmo
from tl_jax.models.elmo import spell
from tl_jax.text.encodings import Framed
from tl_jax.text.vocabulary import SENTENCE_BEGIN, SENTENCE_END, look_up
from tl_jax.text.words import (
    SPECIALS,
    WordVocabulary,
    split_words,
    word_offsets,
)

Splits = Literal["words", "spaces"]
Spell = Callable[[Sequence[str]], Int[np.ndarray, "W C"]]

LENGTH = 50
_SENTENCE_MARKS = {SENTENCE_BEGIN: elmo.SENTENCE_BEGIN, SENTENCE_END: elmo.SENTENCE_END}
_SHOWN = 10
NO_WORDS = WordVocabulary(SPECIALS)
SPELLING_FILE, _VOCABULARY_FILE = "spelling.json", "words.json"
_UNKNOWN_ID, _SEPARATOR_ID = 0, 1  # as in `WordVocabulary`


def bounded(words: Sequence[str]) -> list[str]:
    """Puts the sentence boundaries around a sentence, as the biLM was trained.

    They are words like any other to the model; tasks give them no weight, as they give
    none to BERT's [CLS] and [SEP].
    """
    return [SENTENCE_BEGIN, *words, SENTENCE_END]


def word_characters(
    words: Sequence[str], *, length: int = LENGTH
) -> Int[np.ndarray, "W C"]:
    """Spells words: a mark, at most ``length`` − 2 bytes, a mark, and padding.

    ``<S>`` and ``</S>`` are one character each, in a text too.

    Raises:
      DataError: Some words cannot be encoded in UTF-8; the first of them are told.
    """
    spelt = np.zeros((len(words), length), np.int32)
    problems: list[str] = []
    for row, word in enumerate(words):
        try:
            spelt[row] = spell(_inside(word), length)
        except UnicodeEncodeError:
            problems.append(ascii(word))
    if problems:
        shown = ", ".join(problems[:_SHOWN])
        raise DataError(
            f"{len(problems)} words cannot be encoded in UTF-8: {shown}. They hold "
            "halves of surrogate pairs: decode the text again from its bytes."
        )
    return spelt


def _inside(word: str) -> Sequence[int]:
    mark = _SENTENCE_MARKS.get(word)
    return word.encode() if mark is None else [mark]


def speller(known: Sequence[str], length: int) -> Spell:
    """How words are made known to a biLM.

    Args:
      known: Its vocabulary, if it looks words up: `look_up`. Else it is empty and words
        are spelt: `word_characters`.
      length: Characters of a word.
    """
    if not known:
        return partial(word_characters, length=length)
    return partial(look_up, numbers={word: n for n, word in enumerate(known)})


class DistinctWords(NamedTuple):
    """The words of sentences, each of them once.

    Attributes:
      words: In the order in which they first occur.
      sentences: The places of each sentence's words among them.
    """

    words: tuple[str, ...]
    sentences: list[Int[np.ndarray, "_"]]


def distinct_words(sentences: Sequence[Sequence[str]]) -> DistinctWords:
    """Numbers the distinct words of sentences, so that each is spelt and read once."""
    numbers: dict[str, int] = {}
    indexed = [
        np.array([numbers.setdefault(word, len(numbers)) for word in words], np.int32)
        for words in sentences
    ]
    return DistinctWords(tuple(numbers), indexed)


class Spelling(NamedTuple):
    """What `SpeltWords.spell` makes of ids.

    Attributes:
      vectors: The id of each token's word vector.
      rows: Each token's row of the characters.
      characters: Of every distinct word among the ids.
    """

    vectors: Int[np.ndarray, " M"]
    rows: Int[np.ndarray, " M"]
    characters: Int[np.ndarray, "V C"]


@dataclass(frozen=True)
class SpeltWords:
    """Words that are read by their characters, so that none is unknown.

    The ids that it gives are places in the list of all words it was ever asked about,
    which grows; `spell` leads them back to characters, and to the ids of those that
    have a vector besides. It is a `TextEncoder`: a text has the ids of its words, and a
    pair a separator between them, which has no characters. Sentence boundaries are the
    model's (`models.elmo_encoder.read_sentences`).

    Attributes:
      vocabulary: The words that have a vector; it alone looks at their case.
      splits: How texts become words: ``words`` as `split_words` does, ``spaces`` at
        white space, for texts whose words were told apart before.
      length: Characters of a word, as in `word_characters`.
      known: The biLM's vocabulary, if it looks words up: ids then stand for characters.
    """

    vocabulary: WordVocabulary = NO_WORDS
    splits: Splits = "words"
    length: int = LENGTH
    known: tuple[str, ...] = field(default=(), repr=False)
    _met: dict[str, int] = field(default_factory=dict, repr=False, compare=False)

    def specials(self, *, pair: bool) -> int:
        """The number of ids that `frame` adds."""
        return self.vocabulary.specials(pair=pair)

    def pieces(self, texts: Sequence[str]) -> list[Int[np.ndarray, "_"]]:
        """Returns the ids of each text's words; ``<unk>`` for a text without any."""
        return [self._number(split(text, self.splits)) for text in texts]

    def pieces_with_offsets(
        self, texts: Sequence[str]
    ) -> list[tuple[Int[np.ndarray, "_"], Int[np.ndarray, "_ 2"]]]:
        """Returns each text's ids, and first and one-past-last character of each."""
        found = []
        for text, ids in zip(texts, self.pieces(texts), strict=True):
            offsets = (
                word_offsets(text, lowercase=False)
                if self.splits == "words"
                else [match.span() for match in re.finditer(r"\S+", text)]
            )
            found.append((ids, np.array(offsets or [(0, 0)], np.int32)))
        return found

    def frame(
        self, first: Int[np.ndarray, "_"], second: Int[np.ndarray, "_"] | None = None
    ) -> Framed:
        """Makes ``a``, or ``a <sep> b`` with types 0 (a and <sep>) and 1."""
        return self.vocabulary.frame(first, second)

    def spell(self, ids: Int[np.ndarray, " M"]) -> Spelling:
        """Leads ids back to words.

        Raises:
          DataError: A word cannot be encoded in UTF-8.
        """
        distinct, index = np.unique(ids, return_inverse=True)
        met = [*SPECIALS, *self._met]
        words = [met[i] for i in distinct]
        characters = self._spell(words)
        characters[distinct == _SEPARATOR_ID] = 0
        numbers, lowercase = self.vocabulary.numbers, self.vocabulary.lowercase
        keys = (vector_key(word, lowercase) for word in words)
        vectors = np.array([numbers.get(key, 0) for key in keys], np.int32)
        return Spelling(vectors[index], index, characters)

    @cached_property
    def _spell(self) -> Spell:
        return speller(self.known, self.length)

    def _number(self, words: Sequence[str]) -> Int[np.ndarray, "_"]:
        first = _SEPARATOR_ID + 1
        ids = [self._met.setdefault(w, len(self._met) + first) for w in words]
        return np.array(ids or [_UNKNOWN_ID], np.int32)

    def save(self, folder: Path) -> None:
        """Writes all but the words met into two files of a folder."""
        self.vocabulary.save(folder / _VOCABULARY_FILE)
        told = {"splits": self.splits, "length": self.length, "known": self.known}
        write_json(folder / SPELLING_FILE, told)

    @classmethod
    def load(cls, folder: Path) -> "SpeltWords":
        """Reads what `save` wrote.

        Raises:
          DataError: A file is missing, or is not what it should be.
        """
        told = read_json(folder / SPELLING_FILE)
        match told:
            case {"splits": "words" | "spaces" as splits, "length": int(length)}:
                vocabulary = WordVocabulary.load(folder / _VOCABULARY_FILE)
                known = tuple(map(str, told.get("known", ())))
                return cls(vocabulary, splits, length, known)
        raise DataError(
            f"{folder / SPELLING_FILE}: a JSON object with 'splits' (words or spaces) "
            "and 'length' is needed."
        )


def split(text: str, splits: Splits) -> list[str]:
    """Splits a text into words whose case is as it was; see `SpeltWords`."""
    return text.split() if splits == "spaces" else split_words(text, lowercase=False)


def vector_key(word: str, lowercase: bool) -> str:
    """How a word is looked up among those that have a vector."""
    word = unicodedata.normalize("NFC", word)
    return word.lower() if lowercase else word


def vector_words(
    texts: Iterable[str], splits: Splits, *, max_size: int, lowercase: bool = True
) -> WordVocabulary:
    """Collects the words of training texts that are to have a vector of their own.

    The most frequent come first, ties by spelling, as in `WordVocabulary.build`.
    """
    words = (word for text in texts for word in split(text, splits))
    counts = Counter(vector_key(word, lowercase) for word in words)
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    kept = [word for word in ranked if word not in SPECIALS]
    return WordVocabulary((*SPECIALS, *kept)[:max_size], lowercase)
