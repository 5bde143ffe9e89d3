"""Scores of several systems side by side: pictures and a table."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from tl_jax.files.atomic import write_text
from tl_jax.metrics.bootstrap import Spread
from tl_jax.report.drawing import COLOURS, INK, PALE, panels
from tl_jax.report.tables import markdown


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
    file: Path,
    curves: Mapping[str, Sequence[tuple[int, float]]],
    title: str,
    deviations: Mapping[str, Sequence[float]] = MappingProxyType({}),
    score: str = "accuracy",
) -> None:
    """Draws a score against the number of labels, on a logarithmic axis.

    ``deviations`` are drawn as bars around the curves' points.
    """
    figure, (axes,) = panels(1, height=4.2)
    for (name, points), colour in zip(curves.items(), COLOURS, strict=False):
        sizes, accuracies = zip(*points, strict=True)
        shown = [100 * accuracy for accuracy in accuracies]
        bars = [100 * deviation for deviation in deviations.get(name, ())]
        axes.errorbar(
            sizes, shown, bars or None, marker="o", color=colour, label=name, capsize=3
        )
    ticks = sorted({size for points in curves.values() for size, _ in points})
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{size:,}" for size in ticks])
    axes.minorticks_off()
    axes.set_xlabel("labels")
    axes.set_ylabel(f"{score}, %")
    axes.set_title(title, loc="left", fontsize=10)
    axes.legend(frameon=False, fontsize=9)
    figure.savefig(file, dpi=150)


def tell_curves(
    out: Path, score: str, spreads: Mapping[str, Mapping[int, Spread]]
) -> str:
    """Writes scores by system and number of labels: ``table.md`` and ``labels.png``.

    Args:
      out: The folder.
      score: Their name.
      spreads: By system, then by number of labels; the same numbers everywhere.

    Returns:
      The table.
    """
    sizes = next(iter(spreads.values()))
    head = (f"{score}, %", *(f"{size:,} labels" for size in sizes))
    rows = [
        (system, *(f"{100 * s.mean:.1f} ± {100 * s.std:.1f}" for s in found.values()))
        for system, found in spreads.items()
    ]
    runs = max(one.runs for found in spreads.values() for one in found.values())
    title = f"mean ± standard deviation of {runs} seeds"
    table = f"{title}\n\n{markdown(head, rows)}"
    write_text(out / "table.md", f"{table}\n")
    means = {
        system: [(size, one.mean) for size, one in found.items()]
        for system, found in spreads.items()
    }
    bars = {system: [s.std for s in f.values()] for system, f in spreads.items()}
    draw_curves(out / "labels.png", means, title, bars, score.replace("_", " "))
    return table
