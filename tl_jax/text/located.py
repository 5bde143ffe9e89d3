"""A text and where its words stand in it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from tl_jax.text.words import word_offsets


class Located(NamedTuple):
    """A text with its words.

    Attributes:
      text: The text, as it was given.
      offsets: First and one-past-last character of each word.
    """

    text: str
    offsets: Int[np.ndarray, "_ 2"]

    @property
    def words(self) -> list[str]:
        """The words, as they stand in the text."""
        return [self.text[begin:end] for begin, end in self.offsets]

    def passage(self, begin: int, end: int) -> dict[str, Any]:
        """Tells of the words from ``begin`` on, before ``end``, as JSON can hold it.

        ``words`` and ``characters`` are first, and one past the last.
        """
        first, last = int(self.offsets[begin, 0]), int(self.offsets[end - 1, 1])
        return {
            "text": self.text[first:last],
            "words": [begin, end],
            "characters": [first, last],
        }


def locate(text: str, *, characters: bool = False) -> Located:
    """Cuts a raw text into the words of `split_words`, or into its characters."""
    if characters:
        found = [(place, place + 1) for place in range(len(text))]
    else:
        found = word_offsets(text, lowercase=False)
    return Located(text, np.array(found, np.int64).reshape(-1, 2))


def join(words: Sequence[str], between: str = " ") -> Located:
    """Makes a text of words; each stands where it stands in the joined text."""
    lengths = np.array([len(word) for word in words], np.int64)
    ends = np.cumsum(lengths + len(between)) - len(between)
    return Located(between.join(words), np.stack([ends - lengths, ends], axis=1))
