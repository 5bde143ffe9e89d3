"""Pictures: each function draws one thing into axes that it is given."""

from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tl_jax.metrics.classification import Calibration
from tl_jax.report.diagnosis import Bin, TypeScore

INK, PAPER, PALE = "#1f2933", "#ffffff", "#dddddd"
COLOURS = ("#1b6ca8", "#d1495b", "#2e933c", "#8d5a97", "#e8a33d", "#5b6770")
TYPES = 12  # types drawn, the most frequent ones
NAMED = 12  # classes whose names and counts are written into a confusion matrix

Points = Sequence[tuple[int, float]]


def panels(count: int, *, height: float = 3.6) -> tuple[Figure, list[Axes]]:
    """A figure of so many axes, two a row, each row of some height in inches."""
    columns = min(count, 2)
    rows = -(-count // columns)
    size = (8 if columns == 1 else 10, height * rows)
    with matplotlib.rc_context({"text.color": INK, "axes.labelcolor": INK}):
        figure = Figure(figsize=size, layout="constrained", facecolor=PAPER)
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[count:]:
        axes.remove()
    for axes in grid[:count]:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, list(grid[:count])


def draw_training(axes: Axes, losses: Points, scores: Points, score: str) -> None:
    """Draws the loss by step, and on an axis of its own the score on dev data."""
    if losses:
        steps, values = zip(*losses, strict=True)
        axes.plot(steps, values, color=COLOURS[5], linewidth=0.5, alpha=0.5)
        axes.plot(steps, smooth(values), color=COLOURS[0])
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel("training loss", color=COLOURS[0])
    other = axes.twinx()
    other.spines["top"].set_visible(False)
    if scores:
        steps, values = zip(*scores, strict=True)
        other.plot(steps, values, marker="o", color=COLOURS[1])
    other.set_ylabel(f"dev {score}", color=COLOURS[1])
    _title(axes, "training")


def draw_confusion(
    axes: Axes, matrix: Int[np.ndarray, "N N"], labels: Sequence[str]
) -> None:
    """Draws a confusion matrix: shades are shares of the gold class, figures counts."""
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.spines[:].set_visible(False)
    if len(labels) <= NAMED:
        places = range(len(labels))
        axes.set_xticks(places, [_short(name) for name in labels])
        axes.set_yticks(places, [_short(name) for name in labels])
        for row, column in np.ndindex(*matrix.shape):
            colour = PAPER if shares[row, column] > 0.5 else INK
            axes.text(
                column,
                row,
                f"{matrix[row, column]:,}",
                ha="center",
                va="center",
                color=colour,
            )
    axes.set_xlabel("predicted")
    axes.set_ylabel("gold")
    _title(axes, "confusion")


def draw_types(axes: Axes, types: Sequence[TypeScore], by: str) -> None:
    """Draws F1 by type or by role, the most frequent one on top, with their numbers."""
    shown = types[:TYPES]
    places = range(len(shown))
    axes.barh(places, [kind.f1 for kind in shown], color=COLOURS[0], height=0.7)
    for place, kind in zip(places, shown, strict=True):
        axes.text(kind.f1 + 0.01, place, f"{kind.f1:.2f}", va="center", fontsize=8)
    axes.set_yticks(places, [f"{_short(k.name)} ({k.gold:,})" for k in shown])
    axes.tick_params(axis="y", labelsize=8)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_xlim(0, 1.08)
    axes.set_xlabel("F1")
    rest = len(types) - len(shown)
    more = f", the {len(shown)} most frequent of {len(types)}" if rest else ""
    _title(axes, f"F1 by {by}{more} (gold count)")


def draw_lengths(axes: Axes, bins: Sequence[Bin], score: str) -> None:
    """Draws the score of rows of about one length, up to 1 if none is more."""
    places = range(len(bins))
    axes.bar(places, [own.score for own in bins], color=COLOURS[2], width=0.7)
    for place, own in zip(places, bins, strict=True):
        axes.text(
            place, own.score, f"{own.score:.2f}", ha="center", va="bottom", fontsize=8
        )
    names = [f"{b.least}" if b.least == b.most else f"{b.least}–{b.most}" for b in bins]
    counts = [f"{name}\nn={own.rows:,}" for name, own in zip(names, bins, strict=True)]
    axes.set_xticks(places, counts)
    axes.set_ylim(0, 1.12 * max([1.0, *(own.score for own in bins)]))
    axes.set_xlabel("words")
    axes.set_ylabel(score)
    _title(axes, f"{score} by length")


def draw_calibration(axes: Axes, found: Calibration) -> None:
    """Draws a reliability diagram (1706.04599, figure 1).

    A dot is a bin of predictions, as large as its share of them.
    """
    axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle="--")
    full = found.counts > 0
    sizes = 20 + 280 * found.counts[full] / max(found.counts.sum(), 1)
    axes.plot(
        found.confidence[full], found.accuracy[full], color=COLOURS[3], linewidth=1
    )
    axes.scatter(
        found.confidence[full],
        found.accuracy[full],
        s=sizes,
        color=COLOURS[3],
        alpha=0.8,
        edgecolor=PAPER,
    )
    axes.set_xlim(0, 1.03)
    axes.set_ylim(0, 1.03)
    axes.set_xlabel("confidence")
    axes.set_ylabel("share that is right")
    _title(axes, f"calibration: expected error {found.error:.3f}")


def draw_values(
    axes: Axes, gold: Float[np.ndarray, " M"], predicted: Float[np.ndarray, " M"]
) -> None:
    """Draws predicted numbers against gold ones."""
    ends = [float(gold.min()), float(gold.max())]
    axes.plot(ends, ends, color=INK, linewidth=0.8, linestyle="--")
    axes.scatter(gold, predicted, s=8, color=COLOURS[0], alpha=0.4, edgecolor="none")
    axes.set_xlabel("gold")
    axes.set_ylabel("predicted")
    _title(axes, "predicted against gold")


class LayerMix(NamedTuple):
    """A mix of ELMo's layers.

    Attributes:
      name: Whose it is.
      weights: softmax(s), one a layer; layer 0 is the words' own vectors.
      gamma: γ.
    """

    name: str
    weights: Sequence[float]
    gamma: float


def draw_mixes(axes: Axes, mixes: Sequence[LayerMix]) -> None:
    """Draws what each mix takes of each layer, one mix a line, with its γ."""
    depth = max(len(mix.weights) for mix in mixes)
    shares = np.full((len(mixes), depth), np.nan)
    for row, mix in enumerate(mixes):
        shares[row, : len(mix.weights)] = mix.weights
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=np.nanmax(shares), aspect="auto")
    axes.spines[:].set_visible(False)
    for row, column in np.argwhere(~np.isnan(shares)):
        share = shares[row, column]
        colour = PAPER if share > 0.6 * np.nanmax(shares) else INK
        axes.text(column, row, f"{share:.2f}", ha="center", va="center", color=colour)
    layers = ["words", *(f"LSTM {number}" for number in range(1, depth))]
    axes.set_xticks(range(depth), layers)
    names = [f"{mix.name} (γ {mix.gamma:.2f})" for mix in mixes]
    axes.set_yticks(range(len(mixes)), names)
    _title(axes, "what ELMo's mixes take of its layers, softmax(s)")


def smooth(values: Sequence[float], share: float = 0.9) -> list[float]:
    """Exponential moving average, started at the first value."""
    smoothed, mean = [], values[0]
    for value in values:
        mean = share * mean + (1 - share) * value
        smoothed.append(mean)
    return smoothed


def _title(axes: Axes, text: str) -> None:
    axes.set_title(text, loc="left", fontsize=10)


def _short(name: str) -> str:
    """A name that fits beside an axis."""
    return name if len(name) <= 16 else name[:15] + "…"
