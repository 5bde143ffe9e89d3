"""ELMo's biLM, side by side with an equal model in torch in one run.

    python benchmarks/elmo.py --text FILE [--train TSV --dev TSV]

Pre-training: the train step of `tl-jax pretrain elmo --input words` on windows of FILE:
states carried on in both directions, dropout, the full softmax that shares the words'
vectors, the clipped gradient, Adam. Features: all layers of every line of FILE, one
sentence a line, its words between spaces, from characters; the distinct words of a
batch go once through the peer's character CNN, those of the file through ours. The peer
has `nn.LSTM` with ``proj_size`` for each layer and direction, the same residual
connection, and the fused Adam; it clips no cells, which ours does. Both sides have the
same sizes, batches and number of threads, and take turns; medians are reported, compile
time apart. With --train and --dev, epochs of a classifier on frozen states are timed:
the first one, which computes the states, and a later one, which reads them.
Needs the extra ``peers``.
"""

import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any

import jax
import numpy as np
import tyro
from elmo_task import Sizes
from results_file import append_table
from timing import seconds

from tl_jax.interop.elmo import save_elmo
from tl_jax.models.batch import Batch
from tl_jax.models.compose import Params, init_module
from tl_jax.models.elmo import BiLm
from tl_jax.report.tables import markdown
from tl_jax.runs import job as finetuning
from tl_jax.runs.config import FinetuneConfig
from tl_jax.runs.elmo_features import stateless_states
from tl_jax.runs.host_memory import keep_freed_memory
from tl_jax.runs.pretrain_elmo import Job, training_of
from tl_jax.runs.pretrain_elmo_setup import build_model, prepare_text
from tl_jax.runs.pretraining import ONE_STAGE
from tl_jax.training.loop import fit


@dataclass(frozen=True)
class Config:
    """Options of the benchmark.

    Attributes:
      text: Sentences, one a line, with spaces between words.
      train: Labelled sentences, to time epochs on frozen states.
      dev: Held-out ones.
      sizes: Of the biLM and of a step of pre-training.
      lines: Sentences whose features are extracted.
      feature_batch: Sentences at a time.
      repeats: Turns of each side.
      results: File to append the figures to, a JSON object a line.
    """

    text: Path
    train: Path | None = None
    dev: Path | None = None
    sizes: Sizes = field(default_factory=Sizes)
    lines: int = 2_000
    feature_batch: int = 64
    repeats: int = 9
    results: Path | None = None


def reader(sizes: Sizes) -> tuple[BiLm, Any]:
    """A biLM that reads characters, and parameters at random."""
    bilm, ones = BiLm(sizes.reader()), np.ones((1, 2), np.int32)
    spelt = np.ones((1, bilm.config.max_characters), np.int32)
    return bilm, init_module(bilm, jax.random.key(0), ones, ones, spelt)


class Ours:
    """This library: jitted steps on one CPU device."""

    name = "tl_jax"

    def __init__(self, job: Job, sizes: Sizes) -> None:
        training = training_of(job)
        params = job.model.init(jax.random.key(0), training.stream.batch(0))
        self.step = training.step(ONE_STAGE[0], params)
        self.state = training.placement.replicate(training.state(params))
        self.layers = range(sizes.layers + 1)
        self.reader, self.read_params = reader(sizes)

    def train(self, batch: Batch) -> float:
        """Takes a step of pre-training; returns the loss."""
        self.state, sums = self.step(self.state, batch)
        return float(sums["loss"].total / sums["loss"].weight)

    def features(
        self, sentences: Sequence[Sequence[str]], batch_size: int
    ) -> list[Any]:
        """Every layer's states of each sentence, between the boundaries."""
        inputs = self.reader, self.read_params, sentences, self.layers, batch_size
        found: list[Any] = [None] * len(sentences)
        for number, states in stateless_states(*inputs):
            found[number] = states
        return found


def compare(
    name: str, calls: Sequence[Callable[[], Any]], tokens: int, repeats: int
) -> list[str]:
    """One row of the table: ours and the peer's tokens a second, by turns."""
    firsts = [seconds(call) for call in calls]
    turns = [[seconds(call) for call in calls] for _ in range(repeats)]
    ours, theirs = (median(times) for times in zip(*turns, strict=True))
    rates = (f"{tokens / own:,.0f} tokens/s" for own in (ours, theirs))
    return [name, *rates, f"{theirs / ours:.2f} ×", f"{firsts[0] - ours:.1f} s"]


def full_windows(job: Job, count: int) -> list[Batch]:
    """The first windows of a text that have a word everywhere, in both directions."""
    stream = training_of(job).stream
    batches = map(stream.batch, range(stream.steps_per_epoch))
    full = (b for b in batches if all(w.all() for w in b.weights.values()))
    return list(islice(full, count))


def side_by_side(config: Config, scratch: Path) -> Iterator[list[str]]:
    """Pre-training and features on both sides."""
    from elmo_peer import Peer

    options = config.sizes.pretraining(config.text)
    parts = prepare_text(options, scratch)
    vocabulary = len(parts["train"].vocabulary)
    job = Job(options, build_model(options, vocabulary), parts)
    peer = Peer(options, vocabulary, config.sizes.reader())
    sides: list[Any] = [Ours(job, config.sizes), peer]
    windows = [cycle(full_windows(job, config.repeats + 1)) for _ in sides]
    steps = [
        lambda side=side, own=own: side.train(next(own))
        for side, own in zip(sides, windows, strict=True)
    ]
    shape = options.batch_size, options.unroll
    name = "pre-training, {} × {}, {:,} words".format(*shape, vocabulary)
    yield compare(name, steps, math.prod(shape), config.repeats)
    text = config.text.read_text(encoding="utf-8").splitlines()
    sentences = [line.split()[:128] for line in text if line.split()][: config.lines]
    size = config.feature_batch
    reads = [lambda side=side: side.features(sentences, size) for side in sides]
    words = sum(map(len, sentences))
    name = f"features of {len(sentences):,} sentences, {size} at a time"
    yield compare(name, reads, words, max(3, config.repeats // 3))


@dataclass
class Clock:
    """Notes the time of each step that `fit` tells of."""

    times: list[float] = field(default_factory=list)

    def update(self, step: int, **_: Any) -> None:
        """Notes that a step is done."""
        self.times.append(time.perf_counter())

    def note(self, text: str) -> None:
        """Passes a note over."""


def epoch_seconds(job: Any, params: Params) -> float:
    """The time of an epoch's steps, when all shapes are compiled."""
    training, clock = finetuning.training_of(job), Clock()
    fit(training, training.state(params), display=clock)
    steps = training.stream.steps_per_epoch
    return clock.times[3 * steps - 1] - clock.times[2 * steps - 1]


def cached_epochs(config: Config) -> Iterator[list[str]]:
    """An epoch that computes the states of a frozen biLM, and one that reads them."""
    assert config.train is not None and config.dev is not None
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["TL_JAX_CACHE"] = scratch
        folder = Path(scratch, "weights")
        folder.mkdir()
        bilm, params = reader(config.sizes)
        files = folder / "options.json", folder / "weights.hdf5"
        save_elmo(*files, bilm.config, jax.tree.map(np.asarray, params))
        options = FinetuneConfig(
            task="classify",
            train=(str(config.train),),
            dev=str(config.dev),
            weights=str(folder),
            epochs=3,
            devices=1,
        )
        job, params = finetuning.prepare(options)
        each_step = epoch_seconds(job, params)
        cold = seconds(lambda: finetuning.with_states(job, params))
        for file in Path(scratch, "elmo").rglob("MANIFEST.json"):
            file.unlink()
        began = time.perf_counter()
        cached = finetuning.with_states(job, params)
        states = time.perf_counter() - began
        later = epoch_seconds(cached, params)
    examples = len(job.encoded["train"].examples)
    told = f"epoch of {examples:,} sentences, frozen biLM"
    times = [f"{states + later:.1f} s", f"{later:.1f} s"]
    yield [
        f"{told}: first, later",
        *times,
        f"{(states + later) / later:.2f} ×",
        f"{cold - states:.1f} s",
    ]
    times = [f"{each_step:.1f} s", f"{later:.1f} s"]
    yield [
        f"{told}: without the cache, later",
        *times,
        f"{each_step / later:.2f} ×",
        "",
    ]


def main(config: Config) -> None:
    """Prints the tables; appends the figures to the results file."""
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as scratch:
        table = list(side_by_side(config, Path(scratch)))
    sizes = config.sizes.name
    print(markdown((sizes, "tl_jax", "torch", "ratio", "compiling"), table))
    if config.train is not None:
        epochs = list(cached_epochs(config))
        columns = sizes, "before", "with the cache", "ratio", "compiling"
        print(markdown(columns, epochs))
        table += epochs
    append_table(config.results, [[f"{sizes}: {what}", *row] for what, *row in table])


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
