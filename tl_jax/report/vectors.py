"""Trained word vectors: how near they come to people's judgements, in a table."""

from collections.abc import Sequence
from pathlib import Path

from tl_jax.files.atomic import read_json
from tl_jax.report.tables import markdown
from tl_jax.runs.folder import RESULTS, RUN_FILE, SETUP

_HEAD = ("run", "method", "width", "words", "tokens", "loss")


def trained_vectors(run: Path) -> bool:
    """True for a run directory of `tl-jax pretrain vectors`."""
    file = run / RUN_FILE
    if not file.is_file() or (run / SETUP).exists():
        return False
    return "method" in read_json(file).get("config", {})


def report_vectors(runs: Sequence[Path]) -> str:
    """Tells runs apart in a table.

    Of similarity it has Spearman's ρ and of analogies the accuracy, in percent, with
    the share of the file's pairs and questions whose words all have a vector.
    """
    told = {run: _read(run) for run in runs}
    files = list(dict.fromkeys(name for _, scores in told.values() for name in scores))
    rows = [
        (str(run), *facts, *(scores.get(name, "–") for name in files))
        for run, (facts, scores) in told.items()
    ]
    return markdown((*_HEAD, *files), rows)


def _read(run: Path) -> tuple[tuple[str, ...], dict[str, str]]:
    """What a run is, and its scores by the file that they are of."""
    config = read_json(run / RUN_FILE)["config"]
    method, width = config["method"], str(config["size"])
    if not (run / RESULTS).exists():
        return (method, width, "–", "–", "–"), {}
    results = read_json(run / RESULTS)
    scores = {
        name: _share(found["spearman"], found["covered"], found["pairs"])
        for name, found in results["similarity"].items()
    }
    if found := results.get("analogies"):
        scores["analogies"] = _share(
            found["accuracy"], found["covered"], found["questions"]
        )
    counts = f"{results['words']:,}", f"{results['tokens']:,}"
    return (method, width, *counts, f"{results['loss']:.4f}"), scores


def _share(score: float, covered: int, of: int) -> str:
    return f"{100 * score:.1f} ({covered / max(of, 1):.0%})"
