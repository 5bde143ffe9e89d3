"""The vocabulary of a language model: boundaries, the unknown word, and words by count.

In a file it stands as bilm-tf reads it, a word a line.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int

from tl_jax.files.atomic import write_text
from tl_jax.files.errors import WeightsError

SENTENCE_BEGIN = "<S>"
SENTENCE_END = "</S>"
VOCABULARY = "vocabulary.txt"  # its name, beside a model's weights
UNKNOWN = "<UNK>"
SPECIALS = (SENTENCE_BEGIN, SENTENCE_END, UNKNOWN)
BEGIN_ID, END_ID, UNKNOWN_ID = range(len(SPECIALS))


def by_count(counts: Mapping[str, int]) -> list[str]:
    """Orders words by falling count, ties by spelling, without the special ones."""
    ranked = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return [word for word, _ in ranked if word not in SPECIALS]


def look_up(words: Sequence[str], numbers: Mapping[str, int]) -> Int[np.ndarray, "W 1"]:
    """The id of each word, or of <UNK>; one higher, as characters are, in their place.

    See `tl_jax.models.elmo_encoder.Elmo`.
    """
    ids = [numbers.get(word, UNKNOWN_ID) + 1 for word in words]
    return np.array(ids, np.int32).reshape(-1, 1)


def save_vocabulary(file: Path, words: Iterable[str]) -> None:
    """Writes a vocabulary."""
    write_text(file, "".join(f"{word}\n" for word in words))


def read_vocabulary(file: Path, size: int) -> tuple[str, ...]:
    """Reads the vocabulary that came with a model.

    Args:
      file: A word a line, the special ones first.
      size: Number of words that the model has.

    Raises:
      WeightsError: The file is missing, or holds no such vocabulary.
    """
    try:
        lines = file.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as problem:
        raise WeightsError(
            f"{file}: a biLM that looks words up needs its vocabulary beside its "
            f"weights, in UTF-8, a word a line: {problem}."
        ) from problem
    problems = []
    if tuple(lines[: len(SPECIALS)]) != SPECIALS:
        problems.append(f"the first three are not {', '.join(SPECIALS)}")
    if len(lines) != size:
        problems.append(f"{len(lines):,} words, and the options tell {size:,}")
    if len(set(lines)) < len(lines):
        problems.append("a word stands there twice")
    if problems:
        raise WeightsError(
            f"{file}: not the model's vocabulary ({'; '.join(problems)}). Take the one "
            "that came with the weights."
        )
    return tuple(lines)
