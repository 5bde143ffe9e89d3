"""Skip-gram and GloVe, side by side with gensim's skip-gram in one run.

    python benchmarks/vectors.py --text FILE … --pairs wordsim353.tsv simlex999.txt

All train on the same tokens with the same width and are scored on the same pairs, with
every seed in turn. Skip-gram has the same options on both sides; GloVe, which gensim
has not, those of `tl-jax pretrain vectors`. gensim runs its C code on as many threads
as there are processors. Words a second are those of the text, sub-sampled ones
included, as often as they are read; reading, the making of the vocabulary and the first
call of a step, which compiles, are left out on both sides. GloVe's seconds are all that
it takes, the counting of co-occurrences and compilation too. Told are medians of times
and mean ± standard deviation of Spearman's ρ. Needs the extra ``peers``.
"""

import os
import tempfile
import time
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Literal, NamedTuple

import jax
import numpy as np
import tyro
from gensim.models import Word2Vec
from jaxtyping import Float
from results_file import append_table

from tl_jax.data.corpus import Corpus, read_corpus
from tl_jax.metrics.bootstrap import spread
from tl_jax.metrics.similarity import Judged, read_similarities, similarity_scores
from tl_jax.report.tables import markdown
from tl_jax.runs.pretrain_vectors import (
    PretrainVectorsConfig,
    result,
    settled,
    training,
)


@dataclass(frozen=True)
class Config:
    """Options of the benchmark.

    Attributes:
      text: Files of raw text.
      pairs: Files of judged pairs.
      size: Width of the vectors.
      epochs: Skip-gram's passes over the text.
      tokens: Take only the text's first so many tokens; all by default.
      seeds: Trainings of each method.
      results: File to append the figures to, a JSON object a line.
    """

    text: tuple[str, ...]
    pairs: tuple[Path, ...]
    size: int = 100
    epochs: int = 5
    tokens: int | None = None
    seeds: int = 3
    results: Path | None = None


class Trained(NamedTuple):
    """What a training came to.

    Attributes:
      vectors: One a word.
      seconds: All that it took, compilation too.
      rate: Words of the text a second, after the first call.
    """

    vectors: Float[np.ndarray, "V D"]
    seconds: float
    rate: float


def ours(
    method: Literal["skipgram", "glove"], corpus: Corpus, config: Config, seed: int
) -> Trained:
    """Trains with tl_jax."""
    epochs = config.epochs if method == "skipgram" else None
    options = settled(
        PretrainVectorsConfig(
            config.text, method, size=config.size, epochs=epochs, seed=seed
        )
    )
    assert options.epochs
    with tempfile.TemporaryDirectory() as scratch:
        start = time.perf_counter()
        reports = training(corpus, options, Path(scratch))
        last = next(reports)
        jax.block_until_ready(last.vectors)
        began, done = time.perf_counter(), last.done
        for report in reports:
            last = report
        jax.block_until_ready(last.vectors)
        end = time.perf_counter()
    words = (last.done - done) * len(corpus) * options.epochs
    return Trained(result(method, last.vectors), end - start, words / (end - began))


def theirs(corpus: Corpus, config: Config, seed: int) -> Trained:
    """Trains with gensim."""
    words = np.array(corpus.words, object)[corpus.tokens].tolist()
    cuts = [0, *(np.flatnonzero(np.diff(corpus.sentences)) + 1), len(words)]
    sentences = [words[a:b] for a, b in pairwise(cuts)]
    model = Word2Vec(
        vector_size=config.size,
        window=5,
        sg=1,
        negative=5,
        sample=1e-3,
        min_count=1,
        workers=len(os.sched_getaffinity(0)),
        seed=seed,
    )
    model.build_vocab(sentences)
    began = time.perf_counter()
    model.train(sentences, total_examples=len(sentences), epochs=config.epochs)
    seconds = time.perf_counter() - began
    vectors = np.stack([model.wv[word] for word in corpus.words])
    return Trained(vectors, seconds, len(corpus) * config.epochs / seconds)


def head(corpus: Corpus, tokens: int | None) -> Corpus:
    """Cuts a corpus to its first tokens; words that are not in them keep no number."""
    text, sentences = corpus.tokens[:tokens], corpus.sentences[:tokens]
    counts = np.bincount(text, minlength=len(corpus.words))
    order = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]
    number = np.zeros(len(counts), np.int32)
    number[order] = np.arange(len(order))
    words = tuple(corpus.words[i] for i in order)
    return replace(
        corpus,
        words=words,
        counts=counts[order],
        tokens=number[text],
        sentences=sentences,
    )


def agreement(
    corpus: Corpus, trainings: list[Trained], pairs: list[Judged]
) -> tuple[str, float]:
    """Spearman's ρ with people's judgement, of each training; as text, and the mean."""
    found = spread(
        [
            similarity_scores(t.vectors, corpus.index(), pairs, lowercase=True)[
                "spearman"
            ]
            for t in trainings
        ]
    )
    return f"{found.mean:.3f} ± {found.std:.3f}", found.mean


def main(config: Config) -> None:
    """Runs all sides and prints a table."""
    corpus = head(read_corpus(config.text), config.tokens)
    skipgram, glove, gensim = [], [], []
    for seed in range(1, config.seeds + 1):
        gensim.append(theirs(corpus, config, seed))
        skipgram.append(ours("skipgram", corpus, config, seed))
        glove.append(ours("glove", corpus, config, seed))
    told = f"{config.epochs} epochs of {len(corpus):,} words, {len(corpus.words):,}"
    mine, other = (median(t.rate for t in side) for side in (skipgram, gensim))
    head_row = f"skip-gram, {told} distinct: words/s"
    table = [[head_row, f"{mine:,.0f}", f"{other:,.0f}", f"{mine / other:.2f} ×"]]
    table.append(["GloVe: s", f"{median(t.seconds for t in glove):.0f}", "", ""])
    for file in config.pairs:
        pairs = read_similarities(file)
        for name, side in (("skip-gram", skipgram), ("GloVe", glove)):
            text, mean = agreement(corpus, side, pairs)
            row = [f"{name}: {file.stem}, Spearman", text]
            if side is skipgram:
                peer, least = agreement(corpus, gensim, pairs)
                row += [peer, f"{mean - least:+.3f}"]
            table.append(row + [""] * (4 - len(row)))
    print(markdown(("", "tl_jax", "gensim", ""), table))
    append_table(config.results, table)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
