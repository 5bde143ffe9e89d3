"""Tables and pictures of runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tl_jax.files.atomic import read_json
from tl_jax.runs.folder import RESULTS, SEEDS, read_setup
from tl_jax.training.log import read_log

INK, PAPER = "#1f2933", "#ffffff"
COLOURS = ("#1b6ca8", "#d1495b", "#2e933c", "#8d5a97", "#e8a33d", "#5b6770")


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lays out a Markdown table; all columns but the first are right-aligned."""
    columns = list(zip(head, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if n == 0 else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    dashes = ["-" * w if n == 0 else "-" * (w - 1) + ":" for n, w in enumerate(widths)]
    return "\n".join([line(head), line(dashes), *map(line, rows)])


def draw_rows(file: Path, rows: Sequence[tuple[str, float, float]], title: str) -> None:
    """Draws each system's accuracy as a dot, with its standard deviation."""
    figure, axes = _figure(height=0.45 * len(rows) + 1.2)
    names, means, deviations = zip(*rows, strict=True)
    places = range(len(rows))
    axes.errorbar(
        [100 * mean for mean in means],
        places,
        # A system of one seed has no deviation to draw.
        xerr=[100 * deviation or float("nan") for deviation in deviations],
        fmt="o",
        color=COLOURS[0],
        ecolor=INK,
        capsize=3,
    )
    for place, mean, deviation in zip(places, means, deviations, strict=True):
        axes.text(
            100 * (mean + deviation) + 0.4, place, f"{100 * mean:.1f}", va="bottom"
        )
    axes.set_yticks(list(places), names)
    axes.grid(axis="y", color="#dddddd")
    axes.set_axisbelow(True)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(min(45, 95 * min(means)), 100 * max(means) + 6)
    axes.set_xlabel("accuracy, %")
    axes.set_title(title, loc="left", fontsize=10)
    figure.savefig(file, dpi=150)


def draw_curves(
    file: Path, curves: Mapping[str, Sequence[tuple[int, float]]], title: str
) -> None:
    """Draws accuracy against the number of labels, on a logarithmic axis."""
    figure, axes = _figure(height=4.2)
    for (name, points), colour in zip(curves.items(), COLOURS, strict=False):
        sizes, accuracies = zip(*points, strict=True)
        shown = [100 * accuracy for accuracy in accuracies]
        axes.plot(sizes, shown, marker="o", color=colour, label=name)
    ticks = sorted({size for points in curves.values() for size, _ in points})
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{size:,}" for size in ticks])
    axes.minorticks_off()
    axes.set_xlabel("labels")
    axes.set_ylabel("accuracy, %")
    axes.set_title(title, loc="left", fontsize=10)
    axes.legend(frameon=False, fontsize=9)
    figure.savefig(file, dpi=150)


def report(runs: Sequence[Path]) -> str:
    """Tells runs apart in a table, and draws each one's training.

    Args:
      runs: Run directories; of several seeds, the folder above them.

    Returns:
      The table, and where the pictures lie (``report.png`` in each run directory).

    Raises:
      ConfigError: One is not a run directory.
    """
    each = [seed for run in runs for seed in _seeds(run)]
    head = ("run", "weights", "plan", "rate", "seed", "dev", "test")
    table = markdown(head, [_summary(run) for run in each])
    pictures = [draw_training(run) for run in each]
    return "\n".join([table, "", *(f"picture: {picture}" for picture in pictures)])


def draw_training(run: Path) -> Path:
    """Draws a run's loss by step and its dev accuracy; returns the picture's path."""
    records = read_log(run / "metrics.jsonl")
    losses = [(r["step"], float(r["loss"])) for r in records if "loss" in r]
    scores = [(r["step"], r["dev_accuracy"]) for r in records if "dev_accuracy" in r]
    figure, axes = _figure(height=3.6)
    if losses:
        steps, values = zip(*losses, strict=True)
        axes.plot(steps, values, color=COLOURS[5], linewidth=0.5, alpha=0.5)
        axes.plot(steps, _smooth(values), color=COLOURS[0], label="training loss")
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    other = axes.twinx()
    if scores:
        steps, values = zip(*scores, strict=True)
        shown = [100 * value for value in values]
        other.plot(steps, shown, marker="o", color=COLOURS[1], label="dev accuracy, %")
    other.set_ylabel("dev accuracy, %")
    figure.legend(loc="outside upper right", ncols=2, frameon=False, fontsize=9)
    file = run / "report.png"
    figure.savefig(file, dpi=150)
    return file


def _seeds(run: Path) -> list[Path]:
    if not (run / SEEDS).exists():
        return [run]
    return [run / f"seed-{n}" for n in range(read_json(run / SEEDS)["seeds"])]


def _summary(run: Path) -> tuple[str, ...]:
    config = read_setup(run).config
    parts: dict[str, Any] = {}
    if (run / RESULTS).exists():
        parts = read_json(run / RESULTS)["parts"]
    scores = [
        f"{100 * parts[part]['metrics']['accuracy']:.2f}" if part in parts else "–"
        for part in ("dev", "test")
    ]
    weights = config.weights.rpartition("/")[2]
    rate = f"{config.learning_rate:g}"
    return (str(run), weights, str(config.plan), rate, str(config.seed), *scores)


def _smooth(values: Sequence[float], share: float = 0.9) -> list[float]:
    """Exponential moving average, started at the first value."""
    smoothed, mean = [], values[0]
    for value in values:
        mean = share * mean + (1 - share) * value
        smoothed.append(mean)
    return smoothed


def _figure(height: float) -> tuple[Figure, Axes]:
    with matplotlib.rc_context({"text.color": INK, "axes.labelcolor": INK}):
        figure = Figure(figsize=(8, height), layout="constrained", facecolor=PAPER)
        axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes
