"""Pre-training BERT, side by side with transformers + torch in one run.

    python benchmarks/pretrain.py --data FILES [--size small] [--repeats 9]

FILES are text with blank lines between documents. Both sides have the same weights,
examples, masks, dropout, optimizer and number of threads, and take turns; medians are
reported, compile time apart. The peer is `BertForPreTraining` with scaled-dot-product
attention and the fused AdamW: it scores the vocabulary at every position, where ours
scores masked ones alone.

Equal shapes: both are given the same padded rows. Text: pieces of text a second; ours
reads packed rows, the peer one example a row, padded to the full length, as BERT's own
create_pretraining_data.py writes them. Scripts that chop text into full rows instead,
across documents and without next-sentence pairs (run_mlm.py), waste nothing on padding:
their rate is the one at equal shapes, all of it text, and stands in a row of its own.
Making batches is not timed on either side; preparation is. Memory is what a process of
its own takes at most beyond what it held before there was a model; the peer's has the
allocator of its users. Needs the extra
``peers``.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import jax
import numpy as np
import tyro
from peak_memory import peak_added_by
from pretrain_task import POSITIONS, Task, make_task
from results_file import append_table
from timing import seconds

from tl_jax.models.batch import Batch
from tl_jax.report.tables import markdown
from tl_jax.runs.host_memory import keep_freed_memory
from tl_jax.runs.pretrain_bert import training_of
from tl_jax.runs.pretrain_bert_setup import prepare_parts
from tl_jax.runs.pretrain_config import PretrainBertConfig, Size
from tl_jax.runs.pretraining import ONE_STAGE
from tl_jax.tasks.pretraining import matmul_flops
from tl_jax.training.peak import matmul_peak

SIDES = ("ours", "peer")
TOKENIZER = "tokenizer"


@dataclass(frozen=True)
class Config:
    """Options of the benchmark.

    Attributes:
      data: Text files, blank lines between documents.
      size: Layers and width of the model.
      vocab_size: Most pieces of the vocabulary, which is trained on the text.
      lengths: Tokens of an example; equal shapes are measured at the first one.
      repeats: Turns of each side.
      results: File to append the figures to, a JSON object a line.
      memory_of: Internal: measure the memory of one side in this process.
      folder: Internal: where text is prepared already, with its tokenizer.
    """

    data: tuple[str, ...]
    size: Size = "small"
    vocab_size: int = 16_000
    lengths: tuple[int, ...] = (128, 512)
    repeats: int = 9
    results: Path | None = None
    memory_of: str | None = None
    folder: Path | None = None

    def pretrain(self, length: int) -> PretrainBertConfig:
        """The options of the library's own command."""
        return PretrainBertConfig(
            text=self.data,
            size=self.size,
            vocab_size=self.vocab_size,
            tokenizer=str(self.folder / TOKENIZER) if self.folder else None,
            max_length=length,
            steps=10_000,
            devices=1,
        )


class Ours:
    """This library: jitted steps on one CPU device."""

    name = "tl_jax"

    def __init__(self, task: Task) -> None:
        training = training_of(task.config, task.model, task.tokenizer, task.prepared)
        self.step = training.step(ONE_STAGE[0], task.params)
        self.state = training.placement.replicate(training.state(task.params))

    def of(self, batch: Batch) -> Batch:
        """Takes batches as they are."""
        return batch

    def train(self, batch: Batch) -> None:
        """Takes a step."""
        self.state, sums = self.step(self.state, batch)
        jax.block_until_ready(sums)


def make_side(task: Task, name: str) -> Any:
    """Makes one of `SIDES`; torch is imported only where it is needed."""
    if name == "ours":
        return Ours(task)
    from pretrain_peer import Peer

    return Peer(task)


@dataclass(frozen=True)
class Turns:
    """Steps of both sides, taken in turn.

    Attributes:
      times: Median seconds of ours and of theirs.
      text: Mean pieces of text of a step, likewise.
      compiled: Seconds that ours compiled.
    """

    times: tuple[float, float]
    text: tuple[float, float]
    compiled: float

    @property
    def rates(self) -> tuple[float, float]:
        """Pieces of text a second."""
        return self.text[0] / self.times[0], self.text[1] / self.times[1]


def take_turns(
    sides: list[Any], batches: tuple[Iterator[Batch], Iterator[Batch]], repeats: int
) -> Turns:
    """Times ``repeats`` steps of each side, after two that are not counted."""
    compiled, times, text = 0.0, [], []
    for turn in range(-2, repeats):
        given = [next(stream) for stream in batches]
        took = [
            seconds(side.train, side.of(batch))
            for side, batch in zip(sides, given, strict=True)
        ]
        if turn < 0:
            compiled = max(compiled, took[0])
            continue
        times.append(took)
        text.append([batch.mask.sum() for batch in given])
    ours, theirs = np.median(times, axis=0)
    means = np.mean(text, axis=0)
    return Turns((ours, theirs), (means[0], means[1]), compiled - ours)


def speed_rows(config: Config, folder: Path) -> Iterator[list[str]]:
    """Equal shapes, text at every length, and preparation against consumption."""
    for length in config.lengths:
        task = make_task(config.pretrain(length), folder / str(length))
        sides = [make_side(task, name) for name in SIDES]
        if length == config.lengths[0]:
            yield from equal_rows(task, sides, config.repeats)
        found = take_turns(sides, (task.packed(), task.padded()), config.repeats)
        shares = " and ".join(f"{n / POSITIONS:.0%}" for n in found.text)
        label = f"text, examples of {length} ({shares} of positions)"
        yield rate_row(label, *found.rates)
        if length == config.lengths[0]:
            yield preparation_row(task, folder, found.rates[0])


def equal_rows(task: Task, sides: list[Any], repeats: int) -> Iterator[list[str]]:
    """A train step on the same rows, as time and as what it makes of the machine."""
    batch = next(task.padded())
    peak = matmul_peak(jax.devices()[:1])
    found = take_turns(sides, (task.padded(), task.padded()), repeats)
    ours, theirs = found.times
    rows, width = batch.tokens.shape
    cells = [f"{1000 * ours:.0f} ms", f"{1000 * theirs:.0f} ms"]
    ratio = f"{theirs / ours:.2f} ×"
    yield [f"train step, {rows} × {width}", *cells, ratio, f"{found.compiled:.1f} s"]
    # By the products that are needed: the peer makes more of them.
    shares = [matmul_flops(task.encoder, batch) / s / peak for s in found.times]
    told = f"share of {peak / 1e9:.0f} GFLOP/s in matrix products"
    yield [told, *(f"{share:.0%}" for share in shares), "", ""]
    yield rate_row(
        "text, full rows on both sides", POSITIONS / ours, POSITIONS / theirs
    )


def rate_row(label: str, ours: float, theirs: float) -> list[str]:
    """Pieces a second, side by side."""
    cells = [f"{ours:,.0f} pieces/s", f"{theirs:,.0f} pieces/s"]
    return [label, *cells, f"{ours / theirs:.2f} ×", ""]


def preparation_row(task: Task, folder: Path, consumed: float) -> list[str]:
    """How fast text is prepared, and how much faster than it is consumed."""
    rates = []
    for turn in range(3):
        began = time.perf_counter()
        prepare_parts(task.config, task.tokenizer, folder / f"turn-{turn}")
        took = time.perf_counter() - began
        rates.append(task.prepared.counts["tokens"] / took)
    prepared = median(rates)
    told = f"{prepared:,.0f} pieces/s"
    return ["preparing text", told, "", f"{prepared / consumed:.0f} × our step", ""]


def memory_row(config: Config, folder: Path) -> list[str]:
    """Peak memory of each side in a process of its own, on padded rows."""
    length = config.lengths[0]
    make_task(config.pretrain(length), folder).tokenizer.save(folder / TOKENIZER)
    peaks = []
    for name in SIDES:
        words = [sys.executable, __file__, "--data", *config.data, "--memory-of", name]
        words += ["--size", config.size, "--vocab-size", str(config.vocab_size)]
        words += ["--lengths", str(length), "--folder", str(folder)]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        peaks.append(float(done.stdout.split()[-1]))
    cells = [f"{peak:.0f} MiB" for peak in peaks]
    return ["peak memory of 10 such steps", *cells, f"{peaks[1] / peaks[0]:.2f} ×", ""]


def measure_memory(config: Config, folder: Path, name: str) -> None:
    """Makes the model, takes 10 steps and prints what that added at most, in MiB."""
    if name == "ours":
        keep_freed_memory()
    else:
        import pretrain_peer  # noqa: F401  (ours is imported by now, too)
    task = make_task(config.pretrain(config.lengths[0]), folder)

    def work() -> None:
        side, batches = make_side(task, name), task.padded()
        for _ in range(10):
            side.train(side.of(next(batches)))

    print(peak_added_by(work))


def main(config: Config) -> None:
    """Prints the table; appends the figures to the results file."""
    if config.memory_of is not None and config.folder is not None:
        measure_memory(config, config.folder, config.memory_of)
        return
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table = list(speed_rows(config, folder))
        table.append(memory_row(config, folder / "memory"))
    print(markdown(("", "tl_jax", "transformers + torch", "ratio", "compiling"), table))
    append_table(config.results, table)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
