"""Words → the characters that ELMo reads, as bilm-tf and AllenNLP number them.

A character is a byte of UTF-8, 0 … 255; five marks follow. Ids are one higher, for 0 is
a character that is not there at all.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from tl_jax.files.errors import DataError

SENTENCE_BEGIN = "<S>"
SENTENCE_END = "</S>"
LENGTH = 50
_SENTENCE_MARKS = {SENTENCE_BEGIN: 256, SENTENCE_END: 257}
_WORD_BEGIN, _WORD_END, _PADDING = 258, 259, 260
_SHOWN = 10


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
    spelt = np.full((len(words), length), _PADDING, np.int32)
    problems: list[str] = []
    for row, word in enumerate(words):
        try:
            inside = _inside(word)[: length - 2]
        except UnicodeEncodeError:
            problems.append(ascii(word))
            continue
        spelt[row, : len(inside) + 2] = [_WORD_BEGIN, *inside, _WORD_END]
    if problems:
        shown = ", ".join(problems[:_SHOWN])
        raise DataError(
            f"{len(problems)} words cannot be encoded in UTF-8: {shown}. They hold "
            "halves of surrogate pairs: decode the text again from its bytes."
        )
    return spelt + 1


def _inside(word: str) -> Sequence[int]:
    mark = _SENTENCE_MARKS.get(word)
    return word.encode() if mark is None else [mark]


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


def batch_characters(
    tokens: Int[np.ndarray, "B T"],
    mask: Bool[np.ndarray, "B T"],
    characters: Int[np.ndarray, "V C"],
    *,
    size: int,
) -> tuple[Int[np.ndarray, "W C"], Int[np.ndarray, "B T"]]:
    """Takes from a table the characters of the words that a batch holds.

    Args:
      tokens: Rows of the table.
      mask: True where a real token stands; what stands elsewhere is never read.
      characters: One row a word, from `word_characters`.
      size: Rows of the result, W, so that the batches of one run share a shape; those
        left over are 0. ``B·T`` is always enough.

    Returns:
      The characters, and for every token its row among them (0 at padding).

    Raises:
      DataError: There are more than ``size`` distinct words.
    """
    distinct, places = np.unique(tokens[mask], return_inverse=True)
    if len(distinct) > size:
        raise DataError(
            f"A batch holds {len(distinct)} distinct words, more than the {size} that "
            f"were planned for. Raise `size`; {tokens.size} is always enough."
        )
    rows = np.zeros((size, characters.shape[1]), np.int32)
    rows[: len(distinct)] = characters[distinct]
    index = np.zeros(tokens.shape, np.int32)
    index[mask] = places
    return rows, index
