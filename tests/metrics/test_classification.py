"""Scores equal scikit-learn's; calibration equals the formula by hand."""

import numpy as np
import pytest

from tl_jax.metrics.classification import (
    accuracy,
    calibration,
    class_scores,
    confusion_matrix,
    macro_f1,
    matthews,
)

sk = pytest.importorskip("sklearn.metrics")


def cases():
    """Random ids, absent classes, one class only, everything right or wrong."""
    random = np.random.default_rng(0)
    for classes in (2, 3, 7):
        for size in (1, 5, 300):
            gold = random.integers(0, classes, size)
            noisy = np.where(
                random.random(size) < 0.6, gold, random.integers(0, classes, size)
            )
            yield gold, noisy, classes
            yield gold, np.zeros(size, np.int64), classes
            yield np.ones(size, np.int64), gold, classes
            yield gold, gold, classes
            yield gold, (gold + 1) % classes, classes
            yield gold.astype(np.int32), noisy.astype(np.int8), classes + 2


@pytest.mark.parametrize(("gold", "predicted", "classes"), list(cases()))
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_scores_equal_sklearns(gold, predicted, classes):
    matrix = confusion_matrix(gold, predicted, classes)
    labels = list(range(classes))
    np.testing.assert_array_equal(
        matrix, sk.confusion_matrix(gold, predicted, labels=labels)
    )
    assert accuracy(matrix) == pytest.approx(sk.accuracy_score(gold, predicted))
    expected = sk.precision_recall_fscore_support(
        gold, predicted, labels=labels, zero_division=0
    )
    for ours, theirs in zip(class_scores(matrix), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    assert matthews(matrix) == pytest.approx(sk.matthews_corrcoef(gold, predicted))
    f1 = sk.f1_score(gold, predicted, labels=labels, average="macro", zero_division=0)
    assert macro_f1(matrix) == pytest.approx(f1)
    f1 = sk.f1_score(gold, predicted, average="macro", zero_division=0)
    assert macro_f1(matrix, seen_only=True) == pytest.approx(f1)


def test_matrices_of_batches_add_up():
    random = np.random.default_rng(1)
    gold, predicted = random.integers(0, 4, (2, 100))
    parts = [
        confusion_matrix(gold[a:b], predicted[a:b], 4)
        for a, b in ((0, 1), (1, 37), (37, 37), (37, 100))
    ]
    np.testing.assert_array_equal(sum(parts), confusion_matrix(gold, predicted, 4))


def test_matthews_of_many_examples_does_not_overflow():
    """φ = (ad − bc)/√((a+b)(c+d)(a+c)(b+d)) in Python's integers."""
    a, b, c, d = 9_000_000, 1_000_000, 2_000_000, 8_000_000
    matrix = np.array([[a, b], [c, d]])
    phi = (a * d - b * c) / ((a + b) * (c + d) * (a + c) * (b + d)) ** 0.5
    assert matthews(matrix) == pytest.approx(phi, rel=1e-12)


def test_no_examples_score_zero():
    empty = np.zeros(0, np.int64)
    matrix = confusion_matrix(empty, empty, 3)
    assert accuracy(matrix) == macro_f1(matrix) == matthews(matrix) == 0
    assert macro_f1(matrix, seen_only=True) == 0
    assert calibration(np.zeros((0, 3)), empty).error == 0


def test_ids_out_of_range_are_refused():
    with pytest.raises(ValueError, match="predicted ids span 0…3, expected 0…2"):
        confusion_matrix(np.array([0, 1]), np.array([0, 3]), 3)
    with pytest.raises(ValueError, match="gold ids span -1…1"):
        confusion_matrix(np.array([-1, 1]), np.array([0, 1]), 3)


def test_calibration_by_hand():
    """Confidences .5 .55 | .7 .75 | 1 in five bins; right: 1 0 | 1 1 | 0."""
    top = np.array([0.5, 0.55, 0.7, 0.75, 1.0])
    probabilities = np.stack([top, 1 - top], axis=1)
    table = calibration(probabilities, np.array([0, 1, 0, 0, 1]), bins=5)
    np.testing.assert_allclose(table.edges, [0, 0.2, 0.4, 0.6, 0.8, 1])
    np.testing.assert_array_equal(table.counts, [0, 0, 2, 2, 1])
    np.testing.assert_allclose(table.confidence, [0, 0, 0.525, 0.725, 1])
    np.testing.assert_allclose(table.accuracy, [0, 0, 0.5, 1, 0])
    error = (2 * 0.025 + 2 * 0.275 + 1 * 1) / 5
    assert table.error == pytest.approx(error)


def test_calibration_equals_its_definition():
    """Guo et al. 2017, equation 3, bin by bin, B_m = ((m−1)/M, m/M]."""
    random = np.random.default_rng(0)
    logits = random.normal(size=(500, 4)) * 2
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    gold = random.integers(0, 4, 500)
    confidence, said = probabilities.max(1), probabilities.argmax(1)
    error, count = 0.0, 0
    for m in range(1, 11):
        inside = (confidence > (m - 1) / 10) & (confidence <= m / 10)
        if inside.any():
            gap = (said == gold)[inside].mean() - confidence[inside].mean()
            error += inside.mean() * abs(gap)
            count += inside.sum()
    table = calibration(probabilities, gold, bins=10)
    assert table.counts.sum() == count == 500
    assert table.error == pytest.approx(error, rel=1e-12)


def test_the_ends_of_confidence_have_a_bin():
    """0 belongs to the first bin; ½ to (¼, ½], not to (½, ¾]."""
    table = calibration(np.array([[0.0], [0.5], [1.0]]), np.array([0, 0, 0]), bins=4)
    np.testing.assert_array_equal(table.counts, [1, 1, 0, 1])
