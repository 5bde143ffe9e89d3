"""Examples → rows of a few fixed shapes; packed is the general case.

A row of a packed batch holds several examples end to end, so that little of the
computation is spent on padding. A new shape costs a compilation (5–10 s, as much as
some thirty steps of a small model on two cores), so both sides of ``[B, T]`` come from
short ladders that ``fit`` anchors at what the examples need.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from tl_jax.data.examples import Examples, TokenInputs, ranges, spans, weights_of
from tl_jax.files.errors import ConfigError, DataError
from tl_jax.models.batch import Batch

WIDTHS = (32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
SLOT_TOKENS = 4  # a packed row of T tokens has T / 4 slots; 8 left short texts no room
COMPILE_STEPS = 30  # one compilation costs about as much time as 30 steps
USUAL_STEPS = 1000  # of a run whose length is not told


@dataclass(frozen=True)
class Layout:
    """How a step's examples are laid into rows.

    Attributes:
      packed: Several examples a row; otherwise one a row, in length buckets.
      max_length: The most tokens an example may have.
      narrowest: Width of the narrowest row of a packed batch; None: ``fit`` chooses.
      fewest_rows: Fewest rows of a packed batch of that width; None: ``fit`` chooses.
    """

    packed: bool = True
    max_length: int = 128
    narrowest: int | None = None
    fewest_rows: int | None = None

    def __post_init__(self) -> None:
        numbers = (self.max_length, self.narrowest, self.fewest_rows)
        if any(n is not None and n < 1 for n in numbers):
            raise ConfigError(f"A layout's sizes must be 1 or more: {self}.")

    @property
    def widths(self) -> tuple[int, ...]:
        """The row widths ``T`` that may occur, ascending.

        The last is ``max_length``, or more if packed rows are to be wider than that.
        Packed, each is twice the one before; padded, there is one between, too.
        """
        if not self.packed:
            return (*(w for w in WIDTHS if w < self.max_length), self.max_length)
        widths = [self.narrowest or 128]
        while 2 * widths[-1] < self.max_length:
            widths.append(2 * widths[-1])
        return (*widths, *[self.max_length] * (widths[-1] < self.max_length))

    def width(self, longest: int) -> int:
        """Returns the narrowest width that holds an example of ``longest`` tokens."""
        return next(w for w in self.widths if w >= longest)

    def slots(self, width: int) -> int:
        """Returns the number of example slots of a row, a function of its width."""
        return max(1, width // SLOT_TOKENS) if self.packed else 1

    def row_counts(
        self, width: int, batch_size: int, rows_multiple_of: int = 1
    ) -> tuple[int, ...]:
        """Returns the numbers of rows ``B`` that may occur at a width, ascending.

        Packed, they begin at ``fewest_rows`` (less at greater widths) and grow by an
        eighth or ``rows_multiple_of``, whichever is more. Padded, there is but one.
        """
        most = _up(batch_size, rows_multiple_of)
        if not self.packed:
            return (most,)
        fewest = -(-(self.fewest_rows or 1) * self.widths[0] // width)
        counts = [_up(min(fewest, most), rows_multiple_of)]
        while counts[-1] < most:
            grown = _up(counts[-1] + max(1, counts[-1] // 8), rows_multiple_of)
            counts.append(min(grown, most))
        return tuple(counts)

    def shapes(
        self, batch_size: int, rows_multiple_of: int = 1
    ) -> tuple[tuple[int, int], ...]:
        """Returns all shapes ``(B, T)`` that batches of this size can have."""
        return tuple(
            (rows, width)
            for width in self.widths
            for rows in self.row_counts(width, batch_size, rows_multiple_of)
        )


def pack(
    examples: Examples,
    indices: Sequence[int] | Int[np.ndarray, "n"],
    layout: Layout,
    *,
    epochs: int | Int[np.ndarray, "n"] = 0,
    batch_size: int | None = None,
    rows_multiple_of: int = 1,
) -> Batch:
    """Lays the chosen examples into one batch of a shape from ``layout.shapes``.

    Args:
      examples: The store.
      indices: Places in the store; each is laid once.
      layout: How rows are filled.
      epochs: The epoch in which the examples are seen, one for all or one each.
      batch_size: The most examples that a batch of this series has (bounds ``B``);
        by default the number of indices.
      rows_multiple_of: ``B`` is a multiple of it (devices × accumulation steps).

    Returns:
      A batch of numpy arrays, int32 and float32. Targets, weights and inputs are zero
      in empty slots and at padding.

    Raises:
      DataError: There are no examples, or one is longer than ``layout.max_length``.
    """
    chosen = np.asarray(indices, np.int64)
    starts, lengths = spans(examples, chosen)
    _check(examples, chosen, lengths, layout, batch_size)
    width = layout.width(int(lengths.max()))
    slots = layout.slots(width)
    rows, slot, columns = place(lengths, width, slots)
    counts = layout.row_counts(width, batch_size or len(chosen), rows_multiple_of)
    height = next(c for c in counts if c > rows.max())

    source = ranges(starts, lengths)
    columns = ranges(columns, lengths)
    tokens = _Places(np.repeat(rows, lengths), columns, (height, width))
    own = _Places(rows, slot, (height, slots))

    def lay(name: str, values: np.ndarray) -> np.ndarray:
        if name in examples.token_level:
            return tokens.lay(values[source])
        return own.lay(values[chosen])

    inputs = examples.inputs or TokenInputs(source, {})
    return Batch(
        tokens=tokens.lay(examples.tokens[source]),
        types=tokens.lay(examples.types[source]),
        positions=tokens.lay(ranges(np.zeros_like(lengths), lengths)),
        example=tokens.lay(np.repeat(slot + 1, lengths)),
        ids=own.lay(examples.ids[chosen], empty=-1),
        epochs=own.lay(np.broadcast_to(epochs, chosen.shape)),
        targets={k: lay(k, v) for k, v in examples.targets.items()},
        weights={k: lay(k, weights_of(examples, k)) for k in examples.targets},
        inputs={
            k: tokens.lay(x[inputs.index[source]]) for k, x in inputs.tables.items()
        },
    )


class _Places(NamedTuple):
    """Where values go in an array that holds nothing else.

    Attributes:
      rows: The row of each value.
      columns: Its token or slot there.
      shape: Rows, and tokens or slots, of the array.
    """

    rows: Int[np.ndarray, "n"]
    columns: Int[np.ndarray, "n"]
    shape: tuple[int, int]

    def lay(self, values: np.ndarray, empty: int = 0) -> np.ndarray:
        """Puts values into their places, as int32 or float32."""
        dtype = np.float32 if values.dtype.kind == "f" else np.int32
        out = np.full((*self.shape, *values.shape[1:]), empty, dtype)
        out[self.rows, self.columns] = values
        return out


def place(
    lengths: Int[np.ndarray, "n"], width: int, slots: int
) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "n"], Int[np.ndarray, "n"]]:
    """Finds a row, a slot and a first column for each length: best fit, decreasing.

    The longest goes first; each goes to the fullest row that still has room for it
    (n log n). Equal lengths keep their order, so the outcome is a function of the
    lengths alone. With one slot a row, each example gets the row of its own number.
    """
    if slots == 1:
        zero = np.zeros(len(lengths), np.int64)
        return np.arange(len(lengths)), zero, zero
    row, slot, column = [0] * len(lengths), [0] * len(lengths), [0] * len(lengths)
    used: list[int] = []  # slots taken, by row
    open_rows: list[tuple[int, int]] = []  # (room left, row), ascending
    sizes = lengths.tolist()
    for i in np.argsort(-lengths, kind="stable").tolist():
        at = bisect_left(open_rows, (sizes[i], 0))
        if at < len(open_rows):
            room, r = open_rows.pop(at)
        else:
            room, r = width, len(used)
            used.append(0)
        row[i], slot[i], column[i] = r, used[r], width - room
        used[r] += 1
        if used[r] < slots and room > sizes[i]:
            insort(open_rows, (room - sizes[i], r))
    return np.array(row), np.array(slot), np.array(column)


def fit(
    layout: Layout,
    lengths: Int[np.ndarray, "N"],
    batch_size: int,
    *,
    total_steps: int = USUAL_STEPS,
    compile_steps: int = COMPILE_STEPS,
    rows_multiple_of: int = 1,
) -> Layout:
    """Chooses ``narrowest`` and ``fewest_rows`` for examples of these lengths.

    It lays some random steps into rows of every width and takes the pair of least cost

        mean over steps of B·T·(1 + T/1000)  +  (shapes · c / total_steps) · mean

    where T/1000 stands for attention beside the dense layers, and c is the number of
    steps that take as long as a compilation: a short run takes fewer shapes. It depends
    on the lengths and the numbers alone. Measured over two epochs of word pieces,
    max_length 128 (share of positions that carry text, number of shapes):

    ============================ ========== ========== ==========
    examples a step              16         32         64
    ============================ ========== ========== ==========
    MR (27 tokens on average)    86 %, 3    93 %, 4    93 %, 3
    QNLI (51 tokens)             86 %, 3    92 %, 4    90 %, 2
    ============================ ========== ========== ==========

    Reviews of 10 words (NSMC) fill 91 % at 32, and 79 % if rows had but T / 8 slots.
    Not fitted (exact rows, width by the step's longest example) MR at 32 gave 94 % but
    11 shapes; one example a row gives 45 %.

    What the caller has set stays. A padded layout has nothing to fit.
    """
    if not layout.packed or (layout.narrowest and layout.fewest_rows):
        return layout
    steps = list(_trial_steps(lengths, batch_size))
    if not steps:
        return layout
    narrow = [layout.narrowest] if layout.narrowest else _starts(layout.max_length)
    best = (np.inf, layout)
    for width in narrow:
        trial = replace(layout, narrowest=width, fewest_rows=1)
        laid = [_laid(trial, step) for step in steps]
        usual = sorted({rows for rows, w in laid if w == trial.widths[0]})
        floors = [layout.fewest_rows] if layout.fewest_rows else usual
        for fewest in floors:
            option = replace(trial, fewest_rows=fewest)
            compiling = compile_steps / total_steps
            cost = _cost(option, laid, batch_size, compiling, rows_multiple_of)
            best = min(best, (cost, option), key=lambda pair: pair[0])
    return best[1]


def _starts(max_length: int) -> list[int]:
    """Widths to try for the narrowest row: 64, 96, 128, … up to 512."""
    widths = [w for w in WIDTHS if 64 <= w <= min(512, 2 * max_length)]
    return widths or [max_length]


def _trial_steps(
    lengths: Int[np.ndarray, "N"], batch_size: int
) -> Iterator[Int[np.ndarray, "n"]]:
    """Draws the lengths of some random steps, the same ones every time."""
    if not len(lengths):
        return
    rng = np.random.default_rng(0)
    size = min(batch_size, len(lengths))
    for _ in range(max(8, min(512, 16384 // size))):
        yield lengths[rng.choice(len(lengths), size, replace=False)]


def _laid(layout: Layout, lengths: Int[np.ndarray, "n"]) -> tuple[int, int]:
    """Returns the exact number of rows, and their width, that a step takes."""
    width = layout.width(int(lengths.max()))
    rows, _, _ = place(lengths, width, layout.slots(width))
    return int(rows.max()) + 1, width


def _cost(
    layout: Layout,
    laid: list[tuple[int, int]],
    batch_size: int,
    compiling: float,
    rows_multiple_of: int,
) -> float:
    """The cost of a step in token positions, compilations included."""
    shapes = [
        (
            next(
                c for c in layout.row_counts(w, batch_size, rows_multiple_of) if c >= r
            ),
            w,
        )
        for r, w in laid
    ]
    mean = float(np.mean([rows * w * (1 + w / 1000) for rows, w in shapes]))
    return mean * (1 + len(set(shapes)) * compiling)


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def _check(
    examples: Examples,
    indices: Int[np.ndarray, "n"],
    lengths: Int[np.ndarray, "n"],
    layout: Layout,
    batch_size: int | None,
) -> None:
    if not len(indices):
        raise DataError("There are no examples to lay into a batch.")
    if batch_size is not None and len(indices) > batch_size:
        raise ConfigError(
            f"{len(indices)} examples were given for a batch of {batch_size}."
        )
    long = np.flatnonzero(lengths > layout.max_length)
    if len(long):
        i = long[0]
        raise DataError(
            f"{len(long)} examples are longer than the layout's max_length of "
            f"{layout.max_length} tokens: example {examples.ids[indices[i]]} has "
            f"{lengths[i]}. Tokenise with that max_length, or raise it."
        )
