"""What every tokenizer returns, and how a pair that is too long is cut."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int


@dataclass(frozen=True, eq=False)
class Encodings:
    """Token ids and segment ids of texts, one array of int32 a text."""

    tokens: list[Int[np.ndarray, "_"]]
    types: list[Int[np.ndarray, "_"]]

    def __len__(self) -> int:
        return len(self.tokens)


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
