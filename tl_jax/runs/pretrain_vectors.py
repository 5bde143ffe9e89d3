"""Static word vectors as a run: raw text in, vectors and their scores out.

::

    RUN/
      run.json        the options, the files of the text by SHA-256, versions
      metrics.jsonl   the loss, some hundred steps a line
      word2vec.txt    the vectors in word2vec's text format, by falling frequency
      glove.txt       the same in GloVe's
      results.json    scores, and the SHA-256 of both files

Vectors of sub-words stand in a folder ``model``, the tokenizer beside them.
"""

import math
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from tl_jax.data.cooccurrence import Cooccurrences, count_cooccurrences
from tl_jax.data.corpus import Corpus, read_corpus, read_lines
from tl_jax.data.pairs import SkipGramStream
from tl_jax.data.stream import prefetch
from tl_jax.files.atomic import sweep, write_json
from tl_jax.files.errors import DataError, NonFiniteError
from tl_jax.files.locks import hold
from tl_jax.files.manifest import sha256_file
from tl_jax.interop.word_vectors import (
    WordVectorTable,
    write_glove_text,
    write_word2vec_text,
)
from tl_jax.metrics.similarity import (
    analogy_scores,
    read_analogies,
    read_similarities,
    similarity_scores,
)
from tl_jax.models import glove, skipgram
from tl_jax.models.batch import Array
from tl_jax.runs.folder import RESULTS, RUN_FILE, refuse_used, versions
from tl_jax.runs.pretrain_config import PretrainVectorsConfig
from tl_jax.runs.pretraining import MODEL
from tl_jax.runs.tell import tell
from tl_jax.text.subwords import Tokenizer
from tl_jax.text.training import Reread, train_wordpiece
from tl_jax.training.log import MetricsLog, truncate_log
from tl_jax.training.signals import exit_on_signal

MOST_PIECES = 8000
VECTORS = {"word2vec.txt": write_word2vec_text, "glove.txt": write_glove_text}
_LOG = "metrics.jsonl"
_STEPS = 64  # of glove that are taken in one call
_MOST_ENTRIES = 12  # of a step of glove, as a power of two
_QUIET = 20.0  # seconds, at most, between two lines on stderr


class Report(NamedTuple):
    """What some steps came to.

    Attributes:
      step: How many steps have been taken.
      epoch: The epoch that they belong to, from 0.
      loss: Sum of the loss.
      pairs: Number of pairs or entries in it.
      rate: Learning rate of the first of them.
      done: Share of the whole training behind them.
      vectors: The parameters after them.
    """

    step: int
    epoch: int
    loss: Array
    pairs: Array
    rate: float
    done: float
    vectors: dict[str, Any]


def pretrain_vectors(config: PretrainVectorsConfig, out: Path) -> dict[str, Any]:
    """Trains word vectors in a new run directory.

    A run takes minutes and is not resumed: stopped, it leaves no vectors, and started
    again (in another folder) it gives the same ones, byte for byte.

    Args:
      config: The options.
      out: The run directory, new or empty.

    Returns:
      What stands in results.json.

    Raises:
      ConfigError: Options do not fit, or ``out`` holds a run.
      DataError: The text or a file of scores cannot be read.
      NonFiniteError: The loss became NaN or infinite.
      Interrupted: A signal came.
    """
    config.check()
    config = settled(config)
    with hold(out), exit_on_signal("no vectors were written"):
        refuse_used(out)
        sweep(out)
        judged = {Path(f).stem: read_similarities(Path(f)) for f in config.similarity}
        questions = read_analogies(Path(config.analogies)) if config.analogies else None
        tokenizer, corpus = _read(config)
        tell(f"{len(corpus):,} tokens of {len(corpus.words):,} words; run in {out}")
        data = [{"name": f, "sha256": sha256_file(Path(f))} for f in config.text]
        setup = {"config": asdict(config), "data": data, "versions": versions()}
        write_json(out / RUN_FILE, setup)
        with closing(training(corpus, config, out)) as reports:
            loss, vectors = _follow(reports, config, len(corpus), out / _LOG)
        results: dict[str, Any] = {
            "method": config.method,
            "words": len(corpus.words),
            "tokens": len(corpus),
            "loss": loss,
            "similarity": {
                name: similarity_scores(
                    vectors, corpus.index(), pairs, lowercase=config.lowercase
                )
                for name, pairs in judged.items()
            },
        }
        if questions is not None:
            results["analogies"] = analogy_scores(
                vectors, corpus.index(), questions, lowercase=config.lowercase
            )
        table = WordVectorTable(corpus.words, vectors)
        results["files"] = _write(table, tokenizer, out)
        write_json(out / RESULTS, results)
    return results


def _read(config: PretrainVectorsConfig) -> tuple[Tokenizer | None, Corpus]:
    """Reads the text as words, or as pieces of a vocabulary that is trained on it."""
    tokenizer = None
    if config.units == "pieces":
        tokenizer = train_wordpiece(
            Reread(partial(read_lines, config.text)),
            config.max_words or MOST_PIECES,
            lowercase=config.lowercase,
        )
    corpus = read_corpus(
        config.text,
        lowercase=config.lowercase,
        min_count=config.min_count,
        max_words=config.max_words,
        tokenizer=tokenizer,
    )
    return tokenizer, corpus


def _write(
    table: WordVectorTable, tokenizer: Tokenizer | None, run: Path
) -> dict[str, str]:
    """Writes the vectors in every format; returns the SHA-256 of each file."""
    folder = run
    if tokenizer is not None:
        folder = run / MODEL
        folder.mkdir(exist_ok=True)
        tokenizer.save(folder)
    for name, write in VECTORS.items():
        write(folder / name, table)
    return {name: sha256_file(folder / name) for name in VECTORS}


def settled(config: PretrainVectorsConfig) -> PretrainVectorsConfig:
    """Fills in what the method decides."""
    defaults = (5, 5, 0.025) if config.method == "skipgram" else (15, 25, 0.05)
    names = ("window", "epochs", "learning_rate")
    decided = dict(zip(names, defaults, strict=True))
    open_ones = {k: v for k, v in decided.items() if getattr(config, k) is None}
    return replace(config, **open_ones)


def training(
    corpus: Corpus, config: PretrainVectorsConfig, folder: Path
) -> Generator[Report]:
    """Trains, and tells every some hundred steps; the last report has the result.

    Args:
      corpus: The text.
      config: Settled options.
      folder: Where glove puts its co-occurrences while it trains.
    """
    if config.method == "skipgram":
        return _skipgram(corpus, config)
    return _glove(corpus, config, folder)


def result(method: str, parameters: dict[str, Any]) -> Float[np.ndarray, "V D"]:
    """Returns the vectors that a method makes of its parameters."""
    if method == "skipgram":
        return np.asarray(parameters["input"])
    return np.asarray(glove.vectors(parameters))


def _skipgram(corpus: Corpus, config: PretrainVectorsConfig) -> Generator[Report]:
    assert config.window and config.epochs and config.learning_rate
    stream = SkipGramStream(corpus, config.window, config.sample, config.seed)
    key = jax.random.key(config.seed)
    params = skipgram.init(key, len(corpus.words), config.size)
    steps = jax.jit(
        partial(skipgram.train_steps, negatives=config.negatives), donate_argnums=0
    )
    total, taken = config.epochs * len(corpus), 0
    for epoch in range(config.epochs):
        for batch, seen in stream.epoch(epoch):
            done = (epoch * len(corpus) + seen) / total
            rates = config.learning_rate * np.maximum(1 - done, 1e-4)
            params, (loss, count) = steps(params, batch, rates.astype(np.float32))
            taken += len(rates)
            first = float(rates[0])
            yield Report(taken, epoch, loss, count, first, float(done[-1]), params)


def _glove(
    corpus: Corpus, config: PretrainVectorsConfig, folder: Path
) -> Generator[Report]:
    assert config.window and config.epochs and config.learning_rate
    found = count_cooccurrences(
        corpus, config.window, folder, memory=config.memory << 20, seed=config.seed
    )
    tell(f"{len(found):,} co-occurrences; {found.spilled} runs were spilled to disk")
    key, rate = jax.random.key(config.seed), config.learning_rate
    state = glove.init(key, len(corpus.words), config.size)
    constants = {"rate": rate, "x_max": config.x_max, "alpha": config.alpha}
    steps = jax.jit(partial(glove.train_steps, **constants), donate_argnums=0)
    size = 1 << min(int(math.log2(len(corpus.words))), _MOST_ENTRIES)
    taken = 0
    try:
        for epoch in range(config.epochs):
            draw = np.random.default_rng([config.seed, 2, epoch])
            order = draw.permutation(-(-len(found) // size))
            calls = -(-len(order) // _STEPS)
            batch = partial(_entries, found, order, size)
            for call, entries in enumerate(prefetch(batch, 0, calls)):
                state, (loss, count) = steps(state, entries)
                taken += _STEPS
                done = (epoch + (call + 1) / calls) / config.epochs
                yield Report(taken, epoch, loss, count, rate, done, state)
    finally:
        found.path.unlink()


def _entries(
    found: Cooccurrences, order: np.ndarray, size: int, call: int
) -> glove.Entries:
    """Gathers the steps of a call; what lacks at the end is padded by counts of 0."""
    blocks = order[call * _STEPS : (call + 1) * _STEPS]
    records = np.zeros((_STEPS, size), found.entries.dtype)
    for row, block in zip(records, blocks, strict=False):
        some = found.entries[block * size : (block + 1) * size]
        row[: len(some)] = some
    return glove.Entries(
        np.ascontiguousarray(records["word"]),
        np.ascontiguousarray(records["context"]),
        np.ascontiguousarray(records["count"]),
    )


def _follow(
    reports: Iterator[Report], config: PretrainVectorsConfig, tokens: int, log: Path
) -> tuple[float, Float[np.ndarray, "V D"]]:
    """Logs reports one call late; returns the last epoch's mean loss, and the vectors.

    Raises:
      DataError: There was nothing to learn from.
      NonFiniteError: The loss is not finite any more.
    """
    truncate_log(log, -1)
    began = told = time.monotonic()
    sums, epoch, last, seen = np.zeros(2), -1, None, 0.0
    with MetricsLog(log) as metrics:
        for report in _late(reports):
            last = report
            loss, count = float(report.loss), float(report.pairs)
            if not math.isfinite(loss):
                raise NonFiniteError(
                    f"The loss is {loss} at step {report.step}; lower --learning-rate."
                )
            seen += count
            sums = np.array([loss, count]) + (sums if report.epoch == epoch else 0)
            epoch, now = report.epoch, time.monotonic()
            mean = loss / max(count, 1)
            values = {"epoch": epoch, "loss": mean, "learning_rate": report.rate}
            metrics.append(report.step, values, seconds=now - began)
            if now - told > _QUIET:
                told, each = now, config.epochs or 1
                rate = report.done * each * tokens / (now - began)
                tell(
                    f"{report.done:4.0%}  epoch {epoch + 1}/{each}  loss {mean:.4f}  "
                    f"lr {report.rate:.2e}  {rate:,.0f} tokens/s"
                )
    if last is None or not seen:
        raise DataError(
            f"{', '.join(config.text)}: no two words that are kept stand within a "
            "window, so there is nothing to learn from. Give more text, longer lines, "
            "a lower --min-count, or --sample 0."
        )
    return float(sums[0] / max(sums[1], 1)), result(config.method, last.vectors)


def _late(reports: Iterator[Report]) -> Iterator[Report]:
    """Yields each report when the next steps are dispatched: none is awaited."""
    before = None
    for report in reports:
        if before is not None:
            yield before
        before = report
    if before is not None:
        yield before
