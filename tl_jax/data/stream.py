"""Position is one integer: the batch of step n is a pure function of (seed, n)."""

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import grain
import numpy as np
from jaxtyping import Int

from tl_jax.data.examples import Examples
from tl_jax.data.packing import COMPILE_STEPS, USUAL_STEPS, Layout, fit, pack, place
from tl_jax.files.errors import ConfigError, DataError
from tl_jax.models.batch import Batch

Item = TypeVar("Item")


@dataclass(frozen=True, eq=False)
class TrainingStream:
    """Batches of examples for training, by random access.

    Every epoch is a permutation of its own, drawn from the seed; its last step takes
    the examples that are left, so that each is seen exactly once an epoch. Which
    examples are in a step does not depend on the layout or the number of devices.

    Attributes:
      examples: The store.
      batch_size: Examples a step.
      layout: How a step's examples are laid into rows; it is fitted to the examples
        (``packing.fit``) where it leaves something open.
      seed: Keys the order of the examples; 0 … 2**32 - 1.
      rows_multiple_of: Rows ``B`` are a multiple of it (devices × accumulation).
      epochs: Passes that will be taken, if known: a short run takes fewer shapes.
    """

    examples: Examples
    batch_size: int
    layout: Layout
    seed: int
    rows_multiple_of: int = 1
    epochs: int | None = None

    def __post_init__(self) -> None:
        if not len(self.examples):
            raise DataError("There are no examples to train on.")
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
        return -(-len(self.examples) // self.batch_size)

    @cached_property
    def fitted_layout(self) -> Layout:
        """The layout in use."""
        steps = USUAL_STEPS
        if self.epochs is not None:
            steps = self.epochs * self.steps_per_epoch
        return fit(
            self.layout,
            self.examples.lengths,
            self.batch_size,
            total_steps=steps,
            rows_multiple_of=self.rows_multiple_of,
        )

    @cached_property
    def _order(self) -> "grain.MapDataset[int]":
        """Entry ``epoch · N + i`` is the i-th example of the epoch."""
        numbers = grain.MapDataset.range(len(self.examples)).seed(self.seed)
        return numbers.shuffle().repeat()

    def epoch(self, step: int) -> int:
        """Returns the epoch, from 0, that a step belongs to."""
        return step // self.steps_per_epoch

    def indices(self, step: int) -> Int[np.ndarray, "n"]:
        """Returns the places in the store of the examples of a step, counted from 0."""
        if step < 0:
            raise ConfigError(f"Steps are counted from 0; there is no step {step}.")
        epoch, within = divmod(step, self.steps_per_epoch)
        count = len(self.examples)
        start = within * self.batch_size
        stop = min(start + self.batch_size, count)
        order = self._order
        return np.array([order[epoch * count + i] for i in range(start, stop)])

    def batch(self, step: int) -> Batch:
        """Returns the batch of a step, counted from 0, as numpy arrays."""
        return pack(
            self.examples,
            self.indices(step),
            self.fitted_layout,
            epochs=self.epoch(step),
            batch_size=self.batch_size,
            rows_multiple_of=self.rows_multiple_of,
        )


def evaluation_batches(
    examples: Examples,
    batch_size: int,
    layout: Layout,
    *,
    rows_multiple_of: int = 1,
) -> Iterator[Batch]:
    """Yields every example exactly once, in an order that is cheap to compute.

    Padded: from the longest to the shortest, so that a batch's examples are of nearly
    one length. Packed: the sorted examples are dealt like cards, so that all batches
    have the same mix of lengths and one shape, or a few where there are many batches.
    ``batch.ids`` says where an example's outcome belongs.
    """
    lengths = examples.lengths
    order = np.argsort(-lengths, kind="stable")
    count = -(-len(order) // batch_size)
    if layout.packed:
        groups = [order[k::count] for k in range(count)]
        layout = _even(
            layout, [lengths[g] for g in groups], batch_size, rows_multiple_of
        )
    else:
        groups = [order[k * batch_size :][:batch_size] for k in range(count)]
    for group in groups:
        yield pack(
            examples,
            group,
            layout,
            batch_size=batch_size,
            rows_multiple_of=rows_multiple_of,
        )


def _even(
    layout: Layout,
    groups: list[Int[np.ndarray, "_"]],
    batch_size: int,
    rows_multiple_of: int,
) -> Layout:
    """Chooses the fewest rows so that rows and compilations together cost least."""
    if not groups:
        return layout
    layout = fit(layout, np.concatenate(groups), batch_size)
    width = layout.widths[0]
    needed = [
        int(place(g, width, layout.slots(width))[0].max()) + 1
        for g in groups
        if g.max() <= width
    ]

    def cost(fewest: int) -> float:
        option = replace(layout, fewest_rows=fewest)
        counts = option.row_counts(width, batch_size, rows_multiple_of)
        rows = [next(c for c in counts if c >= n) for n in needed]
        return sum(rows) + COMPILE_STEPS * len(set(rows)) * float(np.mean(rows))

    fewest = min(sorted(set(needed)), key=cost, default=layout.fewest_rows)
    return replace(layout, fewest_rows=fewest)


def prefetch(
    batch_fn: Callable[[int], Item], start: int, stop: int, depth: int = 2
) -> Iterator[Item]:
    """Yields ``batch_fn(n)`` for n = start … stop-1, computed ahead by a thread.

    An exception of ``batch_fn`` is raised where its batch was due. The thread ends when
    the consumer closes the generator or drops it.

    Args:
      batch_fn: A pure function of the step.
      start: The first step.
      stop: One past the last step.
      depth: How many batches may wait.
    """
    ready: queue.Queue[tuple[Item | None, BaseException | None]] = queue.Queue(depth)
    stopped = threading.Event()

    def put(item: Item | None, error: BaseException | None) -> None:
        while not stopped.is_set():
            try:
                return ready.put((item, error), timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        for n in range(start, stop):
            if stopped.is_set():
                return
            try:
                item = batch_fn(n)
            except BaseException as error:
                return put(None, error)
            put(item, None)

    thread = threading.Thread(target=work, name="tl_jax-prefetch", daemon=True)
    thread.start()
    try:
        for _ in range(start, stop):
            item, error = ready.get()
            if error is not None:
                raise error
            yield item  # pyright: ignore[reportReturnType]
    finally:
        stopped.set()
        thread.join()
