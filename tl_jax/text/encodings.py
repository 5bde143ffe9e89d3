"""What every tokenizer does and returns, and how a pair that is too long is cut."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from tl_jax.files.errors import ConfigError

Ids = Int[np.ndarray, "_"]


@dataclass(frozen=True, eq=False)
class Encodings:
    """Token ids and segment ids of texts, one array of int32 a text."""

    tokens: list[Ids]
    types: list[Ids]

    def __len__(self) -> int:
        return len(self.tokens)


class Framed(NamedTuple):
    """One text or pair between the special pieces that a model expects.

    Attributes:
      tokens: All ids.
      types: Segment ids.
      first: Where the ids of the first text begin.
      second: Where those of the second text begin; the end if there is none.
    """

    tokens: Ids
    types: Ids
    first: int
    second: int


@runtime_checkable
class TextEncoder(Protocol):
    """What turns strings into ids: a sub-word tokenizer or a word vocabulary."""

    def specials(self, *, pair: bool) -> int:
        """The number of ids that `frame` adds to one text, or to a pair."""
        ...

    def pieces(self, texts: Sequence[str]) -> list[Ids]:
        """Returns the ids of each text's pieces, with nothing around them."""
        ...

    def pieces_with_offsets(
        self, texts: Sequence[str]
    ) -> list[tuple[Ids, Int[np.ndarray, "_ 2"]]]:
        """Returns each text's ids, and first and one-past-last character of each."""
        ...

    def frame(self, first: Ids, second: Ids | None = None) -> Framed:
        """Puts the special pieces around the ids of a text or of a pair."""
        ...


def encode(
    encoder: TextEncoder,
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    *,
    max_length: int,
) -> Encodings:
    """Encodes texts, or pairs of texts, with the special pieces around them.

    What exceeds ``max_length`` is cut from the end, of the longer part first
    (:func:`cut_lengths`).

    Raises:
      ConfigError: ``max_length`` leaves no room for the special pieces and a text, or
        there are not as many pairs as texts, or one string is given for a list of them.
      DataError: A text cannot be encoded in UTF-8.
    """
    if isinstance(texts, str) or isinstance(pairs, str):
        raise ConfigError("Give a list of texts: a single one is [text].")
    extra = encoder.specials(pair=pairs is not None)
    room = max_length - extra
    if room < 1:
        raise ConfigError(
            f"max_length is {max_length}, but {extra} special pieces and a piece "
            f"of text need {extra + 1} or more."
        )
    firsts = encoder.pieces(texts)
    if pairs is None:
        framed = [encoder.frame(a[:room]) for a in firsts]
    elif len(pairs) != len(texts):
        raise ConfigError(f"There are {len(texts)} texts and {len(pairs)} pairs.")
    else:
        framed = []
        for a, b in zip(firsts, encoder.pieces(pairs), strict=True):
            kept_a, kept_b = cut_lengths(len(a), len(b), room)
            framed.append(encoder.frame(a[:kept_a], b[:kept_b]))
    return Encodings([f.tokens for f in framed], [f.types for f in framed])


def cut_lengths(first: int, second: int, room: int) -> tuple[int, int]:
    """Returns how many tokens of a pair's parts are kept in ``room`` tokens.

    Longest first, as BERT cuts: the longer part loses tokens until both fit; where both
    are cut to halves of an odd room, the part that was longer (the second, if they were
    equal) keeps the odd one, as in Hugging Face's Rust tokenizers.
    """
    if first + second <= room:
        return first, second
    short, long = min(first, second), max(first, second)
    if short + short < room:
        long = room - short
    else:
        short, long = room // 2, room - room // 2
    return (long, short) if first > second else (short, long)
