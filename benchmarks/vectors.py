"""Skip-gram word vectors, side by side with gensim in one run.

    python benchmarks/vectors.py --text FILE … --pairs wordsim353.tsv [--epochs 5]

Both sides train on the same tokens with the same options and are scored on the same
pairs. gensim runs its C code on as many threads as there are processors. Words a second
are those of the text, sub-sampled ones included; compilation, reading and the making of
the vocabulary are left out on both sides. Needs the extra ``peers``.
"""

import json
import os
import time
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro
from gensim.models import Word2Vec
from jaxtyping import Float

from tl_jax.data.corpus import Corpus, read_corpus
from tl_jax.metrics.similarity import read_similarities, similarity_scores
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
      epochs: Passes over the text.
      tokens: Take only the text's first so many tokens; all by default.
      seed: Of both sides.
    """

    text: tuple[str, ...]
    pairs: tuple[Path, ...]
    size: int = 100
    epochs: int = 5
    tokens: int | None = None
    seed: int = 1


def ours(corpus: Corpus, config: Config) -> tuple[Float[np.ndarray, "V D"], float]:
    """Trains with tl_jax; returns vectors and tokens a second after compilation."""
    options = PretrainVectorsConfig(
        config.text,
        "skipgram",
        size=config.size,
        epochs=config.epochs,
        seed=config.seed,
    )
    reports = training(corpus, settled(options), Path())
    last = next(reports)
    jax.block_until_ready(last.vectors)
    began, done = time.perf_counter(), last.done
    for report in reports:
        last = report
    jax.block_until_ready(last.vectors)
    seconds = time.perf_counter() - began
    tokens = (last.done - done) * len(corpus) * config.epochs
    return result("skipgram", last.vectors), tokens / seconds


def theirs(corpus: Corpus, config: Config) -> tuple[Float[np.ndarray, "V D"], float]:
    """Trains with gensim; returns vectors and tokens a second."""
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
        seed=config.seed,
    )
    model.build_vocab(sentences)
    began = time.perf_counter()
    model.train(sentences, total_examples=len(sentences), epochs=config.epochs)
    seconds = time.perf_counter() - began
    vectors = np.stack([model.wv[word] for word in corpus.words])
    return vectors, len(corpus) * config.epochs / seconds


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


def main(config: Config) -> None:
    """Runs both sides and prints a JSON object."""
    corpus = head(read_corpus(config.text), config.tokens)
    found: dict[str, Any] = {"tokens": len(corpus), "words": len(corpus.words)}
    for name, side in (("gensim", theirs), ("tl_jax", ours)):
        vectors, rate = side(corpus, config)
        scores = {
            file.stem: similarity_scores(
                vectors, corpus.index(), read_similarities(file), lowercase=True
            )
            for file in config.pairs
        }
        found[name] = {"tokens_a_second": round(rate), **scores}
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main(tyro.cli(Config))
