"""Tables and pictures of runs."""

import json
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from tl_jax.files.atomic import read_json
from tl_jax.files.errors import ConfigError, DataError, TlJaxError
from tl_jax.report.diagnosis import Diagnosis, diagnose
from tl_jax.report.drawing import (
    LayerMix,
    draw_calibration,
    draw_confusion,
    draw_lengths,
    draw_mixes,
    draw_training,
    draw_types,
    draw_values,
    panels,
)
from tl_jax.report.tables import markdown
from tl_jax.runs.data import read_part
from tl_jax.runs.folder import (
    PREDICTIONS,
    RESULTS,
    SEEDS,
    Setup,
    is_run,
    read_setup,
)
from tl_jax.runs.tasks import task_of
from tl_jax.tasks.span_qa import SpanQa
from tl_jax.tasks.task import Task
from tl_jax.training.log import read_log

MIXES_PICTURE = "elmo_layers.png"


def report(runs: Sequence[Path]) -> str:
    """Tells runs apart in a table, and draws each one's training and predictions.

    Args:
      runs: Run directories; of several seeds, the folder above them.

    Returns:
      The table, and where the pictures lie: ``report.png`` in each run directory, and
      for several runs with ELMo ``elmo_layers.png`` above them.

    Raises:
      ConfigError: One is not a run directory.
    """
    each = [seed for run in runs for seed in _seeds(run)]
    head = ("run", "task", "weights", "plan", "rate", "seed", "score", "dev", "test")
    table = markdown(head, [_summary(run) for run in each])
    told = [line for run in each for line in draw_run(run)]
    if len(mixes := [mix for run in runs for mix in mean_mixes(run)]) > 1:
        file = Path(os.path.commonpath([run.resolve() for run in runs]), MIXES_PICTURE)
        figure, (axes,) = panels(1, height=0.5 * len(mixes) + 1.2)
        draw_mixes(axes, mixes)
        figure.savefig(file, dpi=150)
        told.append(f"picture: {file}")
    return "\n".join([table, "", *told])


def mean_mixes(run: Path) -> list[LayerMix]:
    """What the mixes of ELMo have learnt, averaged over a run's seeds, if it has any.

    They are named by the run, and by the place where the mix is joined.
    """
    told = [
        read_json(seed / RESULTS).get("elmo_mixes", {})
        for seed in _seeds(run)
        if (seed / RESULTS).exists()
    ]
    return [
        LayerMix(
            f"{run.name}, {place}",
            np.mean([mixes[place]["weights"] for mixes in told], axis=0).tolist(),
            float(np.mean([mixes[place]["gamma"] for mixes in told])),
        )
        for place in (told[0] if told else {})
    ]


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
    if mixes := mean_mixes(run):
        drawings.append(partial(draw_mixes, mixes=mixes))
    figure, axes = panels(1 + len(drawings))
    log = run / "metrics.jsonl"  # which is not there before the first step
    records = read_log(log) if log.exists() else []
    key = f"dev_{task.score}"
    losses = [(r["step"], float(r["loss"])) for r in records if "loss" in r]
    scores = [(r["step"], _percent(task, r[key]) / 100) for r in records if key in r]
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
        drawings.append(partial(draw_types, types=found.types, by=found.kind))
    if found.lengths:
        drawings.append(partial(draw_lengths, bins=found.lengths, score=found.score))
    if found.confidence is not None:
        drawings.append(partial(draw_calibration, found=found.confidence))
    return drawings


def _seeds(run: Path) -> list[Path]:
    if not (run / SEEDS).exists():
        return [run]
    count = read_json(run / SEEDS)["seeds"]
    return [seed for n in range(count) if is_run(seed := run / f"seed-{n}")]


def _summary(run: Path) -> tuple[str, ...]:
    config = read_setup(run).config
    task = task_of(config)
    score = task.score
    parts: dict[str, Any] = {}
    if (run / RESULTS).exists():
        parts = read_json(run / RESULTS)["parts"]
    scores = [
        f"{_percent(task, parts[part]['metrics'][score]):.2f}" if part in parts else "–"
        for part in ("dev", "test")
    ]
    weights = "/".join(config.weights.split("/")[-2:])
    rate = f"{config.learning_rate:g}"
    told = (config.task, weights, str(config.plan), rate, str(config.seed), score)
    return (str(run), *told, *scores)


def _percent(task: Task, score: float) -> float:
    """A score in percent, as the official scripts for answers tell theirs."""
    return score if isinstance(task, SpanQa) else 100 * score
