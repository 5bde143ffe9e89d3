"""Small numbered texts."""

import numpy as np

from tl_jax.data.corpus import Corpus


def corpus_of(sentences):
    tokens = np.concatenate(sentences).astype(np.int32)
    counts = np.bincount(tokens)
    lengths = [len(s) for s in sentences]
    return Corpus(
        tuple(f"w{i}" for i in range(len(counts))),
        counts,
        tokens,
        np.repeat(np.arange(len(lengths), dtype=np.int32), lengths),
    )


def random_corpus(size, words=30, seed=0):
    draw = np.random.default_rng(seed)
    zipf = 1 / np.arange(1, words + 1)
    text = draw.choice(words, size, p=zipf / zipf.sum())
    text[:words] = np.arange(words)
    return corpus_of(np.split(text, np.sort(draw.choice(size, size // 9, False))))
