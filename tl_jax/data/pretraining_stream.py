"""Masked batches of prepared documents, step by step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import grain
import jax
import numpy as np
from jaxtyping import Int

from tl_jax.data.examples import Examples
from tl_jax.data.masking import Masking, at_most, mask
from tl_jax.data.packing import Layout, pack
from tl_jax.data.shards import Prepared
from tl_jax.files.errors import ConfigError
from tl_jax.models.batch import Batch
from tl_jax.text.encodings import Framed


@dataclass(frozen=True, eq=False)
class PretrainingStream:
    """Masked batches of prepared rows, by random access; all of one shape.

    Every epoch is a permutation of the rows. What is in step n is a function of
    (seed, n); the masks of an example depend on (seed, epoch, example) alone.

    Attributes:
      prepared: The examples in their rows.
      frame: Puts special pieces around texts (`Tokenizer.frame`).
      masking: What is masked.
      batch_size: Rows a step; the last one of an epoch has what is left.
      seed: Keys the order; 0 … 2**32 - 1.
      rows_multiple_of: Empty rows bring ``B`` to a multiple of it (devices ×
        accumulation).
      part: Number of the part of each step's rows that is made: one of ``parts``, which
        several processes make of one step.
      parts: Number of parts, all of one shape; divides ``rows_multiple_of``.
    """

    prepared: Prepared
    frame: Callable[..., Framed]
    masking: Masking
    batch_size: int
    seed: int
    rows_multiple_of: int = 1
    part: int = 0
    parts: int = 1

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.rows_multiple_of < 1:
            raise ConfigError(
                "batch_size and rows_multiple_of must be 1 or more: "
                f"they are {self.batch_size} and {self.rows_multiple_of}."
            )
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"The seed must be 0 … 2**32 - 1; it is {self.seed}.")

    @property
    def steps_per_epoch(self) -> int:
        """Steps an epoch, the last and smaller one included."""
        return -(-self._count // self.batch_size)

    @property
    def _count(self) -> int:
        return len(self.prepared.rows) - 1

    @cached_property
    def _order(self) -> "grain.MapDataset[int]":
        """Entry ``epoch · rows + i`` is the i-th row of the epoch."""
        numbers = grain.MapDataset.range(self._count).seed(self.seed)
        return numbers.shuffle().repeat()

    def rows(self, step: int) -> list[Int[np.ndarray, "_"]]:
        """Returns the examples' numbers of a step, counted from 0, row by row."""
        epoch, within = divmod(step, self.steps_per_epoch)
        start = within * self.batch_size
        stop = min(start + self.batch_size, self._count)
        first = epoch * self._count
        chosen = np.array([self._order[first + i] for i in range(start, stop)])
        bounds, packed = self.prepared.rows, self.prepared.packed
        return [np.asarray(packed[bounds[n] : bounds[n + 1]]) for n in chosen]

    def batch(self, step: int) -> Batch:
        """Returns the masked batch of a step, as numpy arrays."""
        rows = self.rows(step)
        own = rows[self.part :: self.parts]
        height = -(-self.batch_size // self.rows_multiple_of) * self.rows_multiple_of
        epoch = step // self.steps_per_epoch
        # A part without rows has the shapes of a row that it then leaves out.
        laid = own or rows[:1]
        examples = self.prepared.read(np.concatenate(laid), self.frame)
        counts = [len(row) for row in laid]
        width = self.prepared.row_length
        batch = lay(examples, counts, width, height // self.parts, epoch)
        return mask(
            batch if own else nothing_like(batch), self.masking, self._room(rows)
        )

    def _room(self, rows: list[Int[np.ndarray, "_"]]) -> int:
        """Most tokens chosen of a row, which all parts must have room for."""
        if self.parts == 1:
            return 0
        return max(
            int(at_most(self.prepared.lengths(row, self.frame), self.masking).sum())
            for row in rows
        )


def lay(
    examples: Examples, counts: Sequence[int], width: int, height: int, epoch: int
) -> Batch:
    """Lays examples into rows that are told: as many as ``counts`` says into each.

    Returns:
      A batch of ``[height, width]``; what is left of it are empty rows.
    """
    layout = Layout(max_length=width, narrowest=width, fewest_rows=1)
    ends = np.cumsum(counts)
    laid = [
        pack(examples, np.arange(end - count, end), layout, epochs=epoch)
        for end, count in zip(ends, counts, strict=True)
    ]
    laid += [nothing_like(laid[0])] * (height - len(laid))
    return jax.tree.map(lambda *parts: np.concatenate(parts), *laid)


def nothing_like(batch: Batch) -> Batch:
    """A batch of the same shape without examples."""
    empty = jax.tree.map(np.zeros_like, batch)
    return replace(empty, ids=np.full_like(batch.ids, -1))
