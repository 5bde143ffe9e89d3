"""Pre-training runs of language models: their perplexities in a table and as curves."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes

from tl_jax.files.atomic import read_json
from tl_jax.report.drawing import COLOURS, panels, smooth
from tl_jax.report.tables import markdown
from tl_jax.runs.folder import RESULTS, RUN_FILE
from tl_jax.training.log import Record, read_log

# By what the log calls the loss of a step, and the perplexity of held-out text.
_CURVES = {
    "forward": ("forward_loss", "dev_forward_perplexity"),
    "backward": ("backward_loss", "dev_backward_perplexity"),
    "masked words": ("mlm_loss", "dev_perplexity"),
}


class Curve(NamedTuple):
    """The perplexity of a way to predict words.

    Attributes:
      name: Of the way.
      training: By step.
      held_out: By step.
    """

    name: str
    training: list[tuple[int, float]]
    held_out: list[tuple[int, float]]


def report_pretraining(runs: Sequence[Path]) -> str:
    """Tells pre-training runs apart in a table, and draws each one's perplexities.

    Args:
      runs: Run directories.

    Returns:
      The table, and where the pictures lie: ``report.png`` in each run directory.
    """
    head = ("run", "kind", "steps", "perplexity", "forward", "backward")
    table = markdown(head, [_summary(run) for run in runs])
    return "\n".join([table, "", *map(draw_pretraining, runs)])


def draw_pretraining(run: Path) -> str:
    """Draws a run's perplexities; returns where the picture lies."""
    figure, (axes,) = panels(1, height=4.2)
    # The loss of a sample of words is not that of all.
    sampled = read_json(run / RUN_FILE)["config"].get("sampled") is not None
    draw_perplexities(axes, curves(read_log(run / "metrics.jsonl")), sampled=sampled)
    file = run / "report.png"
    figure.savefig(file, dpi=150)
    return f"picture: {file}"


def curves(records: Sequence[Record]) -> list[Curve]:
    """The perplexities that a log tells of, by direction where there are two."""
    found = []
    for name, (loss, held_out) in _CURVES.items():
        losses = [(r["step"], float(r[loss])) for r in records if loss in r]
        scores = [(r["step"], float(r[held_out])) for r in records if held_out in r]
        if losses:
            steps, values = zip(*losses, strict=True)
            means = np.exp(np.minimum(smooth(values), 700.0)).tolist()
            found.append(Curve(name, list(zip(steps, means, strict=True)), scores))
    return found


def draw_perplexities(
    axes: Axes, found: Sequence[Curve], *, sampled: bool = False
) -> None:
    """Draws perplexities on a logarithmic axis: training as lines, held-out as dots.

    Of a sampled softmax the former are none, and left out.
    """
    for curve, colour in zip(found, COLOURS, strict=False):
        if curve.training and not sampled:
            told = f"{curve.name}, training"
            axes.plot(*zip(*curve.training, strict=True), color=colour, label=told)
        if curve.held_out:
            told = f"{curve.name}, held out"
            points = zip(*curve.held_out, strict=True)
            axes.plot(*points, "o:", color=colour, label=told)
    axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel("perplexity")
    title = "perplexity by direction" if len(found) > 1 else "perplexity"
    axes.set_title(title, loc="left", fontsize=10)
    if axes.lines:
        axes.legend(frameon=False, fontsize=9)


def _summary(run: Path) -> tuple[str, ...]:
    """A line of the table; "–" stands for what is not known (yet)."""
    results: dict[str, Any] = {"dev": {}}
    if (run / RESULTS).exists():
        results = read_json(run / RESULTS)
    keys = "perplexity", "forward_perplexity", "backward_perplexity"
    dev = results["dev"]
    scores = [f"{dev[key]:,.1f}" if key in dev else "–" for key in keys]
    kind = read_json(run / RUN_FILE)["kind"]
    return (str(run), kind, str(results.get("steps", "–")), *scores)
