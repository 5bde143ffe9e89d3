from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from tiny_corpora import corpus_of, random_corpus

from tl_jax.data.pairs import SkipGramStream, keep_probability, noise_distribution
from tl_jax.files.errors import ConfigError


def sentences_of(corpus):
    cuts = np.flatnonzero(np.diff(corpus.sentences)) + 1
    return [s.tolist() for s in np.split(corpus.tokens, cuts)]


def pairs_in(stream, epoch=0):
    """Every (centre, neighbour) of an epoch, by the batch's own masks."""
    found = Counter()
    for batch, _ in stream.epoch(epoch):
        for step in range(len(batch.negatives)):
            one = type(batch)(
                *(
                    getattr(batch, name)[step]
                    for name in ("tokens", "sentences", "reach", "negatives")
                )
            )
            mask = np.asarray(one.pairs())
            r, t, j = np.nonzero(mask)
            centres = np.asarray(one.centres(one.tokens))
            found.update(
                zip(centres[r, t].tolist(), one.tokens[r, j].tolist(), strict=True)
            )
    return found


SMALL = {"rows": 2, "centres": 4, "noise": 8, "steps": 3, "part": 40}


def test_without_draws_the_pairs_are_all_neighbours():
    corpus = random_corpus(150)
    stream = SkipGramStream(corpus, window=1, sample=0.0, **SMALL)
    expected = Counter()
    for sentence in sentences_of(corpus):
        for a, b in pairwise(sentence):
            expected.update([(a, b), (b, a)])
    assert pairs_in(stream) == expected


def test_windows_are_uniform_and_reach_over_rows_and_parts():
    corpus = corpus_of([np.arange(4000) % 50])
    stream = SkipGramStream(corpus, window=3, sample=0.0, **{**SMALL, "steps": 600})
    reach = np.concatenate([b.reach.ravel() for b, _ in stream.epoch(0)])
    drawn = np.bincount(reach)[1:]
    assert drawn.sum() == 4000 and len(drawn) == 3
    # χ² of two degrees of freedom: 13.8 at p = .001.
    assert ((drawn - 4000 / 3) ** 2 / (4000 / 3)).sum() < 13.8
    # Each of ±1, ±2, ±3 is there as often as the windows say, but at the text's ends.
    distances = Counter()
    for (a, b), n in pairs_in(stream).items():
        distances[(b - a) % 50] += n
    for d in (1, 2, 3):
        wanted = (reach >= d).sum()
        assert wanted - 3 <= distances[d] <= wanted
        assert wanted - 3 <= distances[50 - d] <= wanted
    assert set(distances) == {1, 2, 3, 47, 48, 49}


def test_sub_sampling_and_its_statistics():
    counts = np.array([900_000, 90_000, 9_000, 1_000])
    p = keep_probability(counts, 1e-3)
    for f, kept in zip(counts / counts.sum(), p, strict=True):
        # As in word2vec.c: (sqrt(f / t) + 1) * t / f
        assert kept == pytest.approx(min(1, (np.sqrt(f / 1e-3) + 1) * 1e-3 / f))
    assert (keep_probability(counts, 0.0) == 1).all()
    corpus = random_corpus(20_000)
    stream = SkipGramStream(corpus, window=2, sample=0.01, seed=3)
    found = np.zeros(len(corpus.words))
    for batch, _ in stream.epoch(0):
        centres = batch.tokens[..., 2:-2][batch.reach > 0]
        found += np.bincount(centres, minlength=len(found))
    expected = keep_probability(corpus.counts, 0.01) * corpus.counts
    spread = np.sqrt(expected * (1 - expected / corpus.counts)) + 1e-9
    assert (abs(found - expected) <= 4 * spread).all()
    assert found.sum() < 0.8 * len(corpus)


def test_negatives_follow_the_three_quarter_unigram():
    counts = np.array([1000, 100, 10])
    powers = np.array([1000**0.75, 100**0.75, 10**0.75])
    np.testing.assert_allclose(noise_distribution(counts), powers / powers.sum())
    corpus = random_corpus(3000)
    stream = SkipGramStream(corpus, noise=2000, steps=8)
    drawn = np.concatenate([b.negatives.ravel() for b, _ in stream.epoch(0)])
    expected = noise_distribution(corpus.counts) * len(drawn)
    found = np.bincount(drawn, minlength=len(expected))
    assert ((found - expected) ** 2 / expected).sum() < 58.3  # χ² of 29, p = .001


def test_draws_are_keyed_by_seed_and_epoch():
    stream = SkipGramStream(random_corpus(300), **SMALL)
    once, again = pairs_in(stream), pairs_in(replace(stream))
    assert once == again
    assert once != pairs_in(stream, 1)
    assert once != pairs_in(replace(stream, seed=1))
    # Each part of the text has draws of its own, too.
    twice = corpus_of([np.arange(40) % 7] * 2)
    first, second = SkipGramStream(twice, **{**SMALL, "steps": 5}).epoch(0)
    for name in ("reach", "negatives"):
        assert (getattr(first[0], name) != getattr(second[0], name)).any()


def test_what_has_been_seen_rises_to_the_texts_length():
    corpus = random_corpus(300)
    seen = np.concatenate(
        [s for _, s in SkipGramStream(corpus, sample=0.05, **SMALL).epoch(0)]
    )
    assert seen[0] < 20 and (np.diff(seen) >= 0).all() and 280 < seen[-1] < 300


@pytest.mark.parametrize("wrong", [{"window": 0}, {"sample": 1.0}, {"seed": -1}])
def test_wrong_options_are_refused(wrong):
    with pytest.raises(ConfigError, match="window must be"):
        SkipGramStream(random_corpus(50), **wrong)


def test_a_part_of_which_sub_sampling_leaves_nothing_has_no_step():
    """Ten tokens of two words: most draws keep none."""
    corpus = corpus_of([np.arange(10) % 2])
    counts = [
        sum(1 for _ in SkipGramStream(corpus, sample=1e-5, seed=seed).epoch(0))
        for seed in range(20)
    ]
    assert 0 in counts
