"""Tables and pictures of runs."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from tl_jax.diagnosis import Diagnosis, diagnose
from tl_jax.drawing import (
    COLOURS,
    INK,
    PALE,
    draw_calibration,
    draw_confusion,
    draw_lengths,
    draw_training,
    draw_types,
    draw_values,
    panels,
)
from tl_jax.files.atomic import read_json
from tl_jax.files.errors import ConfigError, DataError, TlJaxError
from tl_jax.runs.data import read_part
from tl_jax.runs.folder import PREDICTIONS, RESULTS, SEEDS, Setup, read_setup
from tl_jax.runs.tasks import task_of
from tl_jax.tasks.task import Task
from tl_jax.training.log import read_log


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
    figure, (axes,) = panels(1, height=0.45 * len(rows) + 1.2)
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
    axes.grid(axis="y", color=PALE)
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
    figure, (axes,) = panels(1, height=4.2)
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
    """Tells runs apart in a table, and draws each one's training and predictions.

    Args:
      runs: Run directories; of several seeds, the folder above them.

    Returns:
      The table, and where the pictures lie (``report.png`` in each run directory).

    Raises:
      ConfigError: One is not a run directory.
    """
    each = [seed for run in runs for seed in _seeds(run)]
    head = ("run", "task", "weights", "plan", "rate", "seed", "score", "dev", "test")
    table = markdown(head, [_summary(run) for run in each])
    told = [line for run in each for line in draw_run(run)]
    return "\n".join([table, "", *told])


def draw_run(run: Path) -> list[str]:
    """Draws a run's training, and what its predictions of the dev data get right.

    The gold labels are read again from the data that run.json names.

    Returns:
      Where the picture lies; and if only the training could be drawn, why.
    """
    setup = read_setup(run)
    task = task_of(setup.config)
    notes: list[str] = []
    diagnosis = None
    try:
        diagnosis = diagnose_run(run, setup, task)
    except TlJaxError as error:
        notes.append(f"{run}: only the training is drawn. {error}")
    drawings = _drawings(diagnosis) if diagnosis is not None else []
    figure, axes = panels(1 + len(drawings))
    records = read_log(run / "metrics.jsonl")
    key = f"dev_{task.score}"
    losses = [(r["step"], float(r["loss"])) for r in records if "loss" in r]
    scores = [(r["step"], float(r[key])) for r in records if key in r]
    draw_training(axes[0], losses, scores, task.score.replace("_", " "))
    for draw, own in zip(drawings, axes[1:], strict=True):
        draw(own)
    file = run / "report.png"
    figure.savefig(file, dpi=150)
    return [*notes, f"picture: {file}"]


def diagnose_run(run: Path, setup: Setup, task: Task) -> Diagnosis:
    """Compares a run's predictions of its dev data with these data.

    Raises:
      ConfigError: The run has no results yet.
      DataError: The data cannot be read, or are not those that were predicted.
    """
    file = run / PREDICTIONS / "dev.jsonl"
    if not (run / RESULTS).exists() or not file.exists():
        raise ConfigError(f"There are no predictions yet: `tl-jax resume {run}`.")
    part = read_part(setup.config.dev, "dev", task, setup.config)
    if part.fingerprint()["sha256"] != setup.data["dev"]["sha256"]:
        raise DataError(f"{part.name}: these are not the data that the run read.")
    lines = file.read_text(encoding="utf-8").split("\n")
    try:
        records = [json.loads(line) for line in lines if line]
    except ValueError as error:
        raise DataError(f"{file}: is not JSON lines ({error}).") from error
    if len(records) != len(part.rows):
        raise DataError(
            f"{file}: has {len(records)} predictions for {len(part.rows)} examples."
        )
    return diagnose(task, records, part.rows, setup.labels)


def _drawings(found: Diagnosis) -> list[Callable[[Axes], None]]:
    """What there is to draw of a diagnosis, one panel each."""
    drawings: list[Callable[[Axes], None]] = []
    if found.confusion is not None:
        matrix = found.confusion
        drawings.append(partial(draw_confusion, matrix=matrix, labels=found.labels))
    if found.values is not None:
        gold, predicted = found.values
        drawings.append(partial(draw_values, gold=gold, predicted=predicted))
    if found.types:
        drawings.append(partial(draw_types, types=found.types))
    if found.lengths:
        drawings.append(partial(draw_lengths, bins=found.lengths, score=found.score))
    if found.confidence is not None:
        drawings.append(partial(draw_calibration, found=found.confidence))
    return drawings


def _seeds(run: Path) -> list[Path]:
    if not (run / SEEDS).exists():
        return [run]
    return [run / f"seed-{n}" for n in range(read_json(run / SEEDS)["seeds"])]


def _summary(run: Path) -> tuple[str, ...]:
    config = read_setup(run).config
    score = task_of(config).score
    parts: dict[str, Any] = {}
    if (run / RESULTS).exists():
        parts = read_json(run / RESULTS)["parts"]
    percent = 1 if config.task == "span" else 100  # the official scripts' are percents
    scores = [
        f"{percent * parts[part]['metrics'][score]:.2f}" if part in parts else "–"
        for part in ("dev", "test")
    ]
    weights = config.weights.rpartition("/")[2]
    rate = f"{config.learning_rate:g}"
    told = (config.task, weights, str(config.plan), rate, str(config.seed), score)
    return (str(run), *told, *scores)
