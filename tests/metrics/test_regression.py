import numpy as np
import pytest

from tl_jax.metrics.regression import pearson, ranks, spearman


def test_correlations_by_hand():
    x, y = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 4.0, 9.0, 16.0])
    assert spearman(x, y) == pytest.approx(1.0)
    # cov = 12.5, Σ(x−x̄)² = 5, Σ(y−ȳ)² = 129
    assert pearson(x, y) == pytest.approx(25 / np.sqrt(5 * 129))
    assert pearson(x, -y) == -pearson(x, y)


def test_ties_share_their_mean_rank():
    # Ranks 1.5, 1.5, 3, 4 against 1, 2, 3, 4.
    ranked = np.corrcoef([1.5, 1.5, 3, 4], [1, 2, 3, 4])[0, 1]
    assert spearman(
        np.array([0.0, 0.0, 5.0, 6.0]), np.array([1.0, 2.0, 3.0, 9.0])
    ) == pytest.approx(ranked)


def test_a_constant_has_no_correlation():
    assert pearson(np.ones(3), np.arange(3.0)) == 0.0
    assert spearman(np.arange(3.0), np.ones(3)) == 0.0


def test_ranks_equal_scipys():
    stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(0).integers(0, 9, 50) / 2
    np.testing.assert_array_equal(ranks(values), stats.rankdata(values))
