"""Lays examples into rows by plain loops, apart from the package's own packing."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tl_jax.models.batch import Batch

GARBAGE = 3  # the token that stands at padding, so that reading it shows


class Example(NamedTuple):
    tokens: np.ndarray
    types: np.ndarray


def lay(
    examples: Sequence[Example],
    rows: Sequence[Sequence[int]],
    length: int,
    slots: int | None = None,
    gap: int = 0,
) -> Batch:
    """Puts the examples numbered in each row beside each other, ``gap`` apart."""
    slots = slots or max(1, *(len(row) for row in rows))
    tokens = np.full((len(rows), length), GARBAGE, np.int32)
    types, positions, example = (np.zeros_like(tokens) for _ in range(3))
    ids = np.full((len(rows), slots), -1, np.int32)
    for r, row in enumerate(rows):
        start = 0
        for slot, number in enumerate(row):
            size = len(examples[number].tokens)
            here = slice(start, start + size)
            tokens[r, here] = examples[number].tokens
            types[r, here] = examples[number].types
            positions[r, here] = np.arange(size)
            example[r, here] = slot + 1
            ids[r, slot] = number
            start += size + gap
        assert start - gap <= length
    return Batch(tokens, types, positions, example, ids, np.full_like(ids, 2))


def padded(examples: Sequence[Example], length: int) -> Batch:
    """One example a row."""
    return lay(examples, [[n] for n in range(len(examples))], length)


def token_values(values: np.ndarray, batch: Batch) -> dict[int, np.ndarray]:
    """Cuts ``[B, T, …]`` into the values of each example's tokens."""
    values = np.asarray(values)
    found = {}
    for r, row in enumerate(np.asarray(batch.ids)):
        for slot, number in enumerate(row):
            if number >= 0:
                found[int(number)] = values[r][np.asarray(batch.example[r]) == slot + 1]
    return found


def slot_values(values: np.ndarray, batch: Batch) -> dict[int, np.ndarray]:
    """Cuts ``[B, S, …]`` into the value of each example."""
    values = np.asarray(values)
    places = np.argwhere(np.asarray(batch.ids) >= 0)
    return {int(batch.ids[r, s]): values[r, s] for r, s in places}


def random_examples(
    lengths: Sequence[int], vocabulary: int, seed: int = 0
) -> list[Example]:
    """Draws examples; the second half of each is segment 1."""
    draw = np.random.default_rng(seed)
    return [
        Example(
            draw.integers(0, vocabulary, size).astype(np.int32),
            (np.arange(size) >= size // 2).astype(np.int32),
        )
        for size in lengths
    ]
