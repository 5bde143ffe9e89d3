"""Spread equals numpy's sample deviation; intervals equal scipy's and cover."""

import numpy as np
import pytest

from tl_jax.metrics.bootstrap import bootstrap, spread
from tl_jax.metrics.classification import accuracy, confusion_matrix, macro_f1


def test_spread_by_hand():
    """Mean 5, Σ(x − 5)² = 9 + 1 + 1 + 1 + 0 + 0 + 4 + 16 = 32, n − 1 = 7."""
    result = spread([2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0])
    assert result.mean == 5
    assert result.std == pytest.approx((32 / 7) ** 0.5)
    assert str(result) == "5.0000 ± 2.1381 (n = 8)"
    assert spread([0.25]) == (0.25, 0.0, 1)
    with pytest.raises(ValueError, match="no scores"):
        spread([])


def test_interval_equals_scipys():
    stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(0).exponential(size=200)
    ours = bootstrap(lambda at: values[at].mean(), 200, level=0.9, resamples=4000)
    theirs = stats.bootstrap(
        (values,),
        np.mean,
        confidence_level=0.9,
        n_resamples=4000,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert ours.score == pytest.approx(values.mean())
    # Two draws of 4,000: each end is known to about σ·√(p(1 − p)/4000)/φ(z) = 0.033 σ.
    noise = values.std() / 200**0.5
    assert abs(ours.low - theirs.low) < 5 * 0.033 * noise * 2**0.5
    assert abs(ours.high - theirs.high) < 5 * 0.033 * noise * 2**0.5


def test_interval_of_the_mean_is_the_normal_one():
    """For 2,000 examples the ends lie at mean ± 1.96 σ/√n."""
    right = np.random.default_rng(0).random(2000) < 0.8
    result = bootstrap(lambda at: float(right[at].mean()), 2000, resamples=4000)
    half = 1.96 * right.std() / 2000**0.5
    assert result.low == pytest.approx(right.mean() - half, abs=0.12 * half)
    assert result.high == pytest.approx(right.mean() + half, abs=0.12 * half)


def test_the_seed_decides_and_scores_need_not_be_means():
    random = np.random.default_rng(3)
    gold = random.integers(0, 3, 80)
    predicted = np.where(random.random(80) < 0.7, gold, 0)

    def f1(at):
        return macro_f1(confusion_matrix(gold[at], predicted[at], 3))

    first = bootstrap(f1, 80, resamples=200)
    assert first == bootstrap(f1, 80, resamples=200)
    assert first != bootstrap(f1, 80, resamples=200, seed=1)
    assert first.low < first.score < first.high
    assert first.score == f1(np.arange(80))
    assert accuracy(confusion_matrix(gold, predicted, 3)) != first.score


@pytest.mark.parametrize(("examples", "level"), [(0, 0.9), (5, 0.0), (5, 1.0)])
def test_nothing_to_resample_is_refused(examples, level):
    with pytest.raises(ValueError, match="cannot resample"):
        bootstrap(lambda at: 0.0, examples, level=level)
