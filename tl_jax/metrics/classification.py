"""Scores of classification, all from one confusion matrix, and calibration.

A confusion matrix is a sum over examples: those of several batches or hosts are added,
and every score divides once at the end. Where a score divides by zero it is 0, as with
scikit-learn's ``zero_division=0``.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int


class ClassScores(NamedTuple):
    """Precision, recall, F1 and number of gold examples of each class."""

    precision: Float[np.ndarray, "N"]
    recall: Float[np.ndarray, "N"]
    f1: Float[np.ndarray, "N"]
    support: Int[np.ndarray, "N"]


class Calibration(NamedTuple):
    """How far confidence is from accuracy, by bins of confidence (§2, 1706.04599).

    ``error`` is the expected calibration error Σ_b n_b/n · |accuracy_b − confidence_b|.
    Empty bins hold zeros.
    """

    edges: Float[np.ndarray, "bins+1"]
    counts: Int[np.ndarray, "bins"]
    confidence: Float[np.ndarray, "bins"]
    accuracy: Float[np.ndarray, "bins"]
    error: float


def confusion_matrix(
    gold: Int[np.ndarray, "M"], predicted: Int[np.ndarray, "M"], classes: int
) -> Int[np.ndarray, "N N"]:
    """Counts of (gold, predicted): row = gold class, column = predicted class.

    Raises:
        ValueError: an id is not in ``range(classes)``.
    """
    for name, ids in (("gold", gold), ("predicted", predicted)):
        if ids.size and (ids.min() < 0 or ids.max() >= classes):
            raise ValueError(
                f"{name} ids span {ids.min()}…{ids.max()}, expected 0…{classes - 1}"
            )
    cells = gold.astype(np.int64) * classes + predicted
    return np.bincount(cells, minlength=classes**2).reshape(classes, classes)


def accuracy(matrix: Int[np.ndarray, "N N"]) -> float:
    """Correct / all; 0 for no examples."""
    return float(np.trace(matrix) / max(matrix.sum(), 1))


def class_scores(matrix: Int[np.ndarray, "N N"]) -> ClassScores:
    """P = tp/(tp+fp), R = tp/(tp+fn), F1 = 2tp/(2tp+fp+fn), for each class."""
    right = np.diag(matrix)
    said, support = matrix.sum(axis=0), matrix.sum(axis=1)
    return ClassScores(
        precision=_ratio(right, said),
        recall=_ratio(right, support),
        f1=_ratio(2 * right, said + support),
        support=support,
    )


def macro_f1(matrix: Int[np.ndarray, "N N"], *, seen_only: bool = False) -> float:
    """The mean F1 over classes.

    A class that is neither gold nor predicted counts as 0, as with scikit-learn's
    ``labels=range(N)``; with ``seen_only`` it is left out, as without labels.
    """
    f1 = class_scores(matrix).f1
    if seen_only:
        f1 = f1[(matrix.sum(axis=0) + matrix.sum(axis=1)) > 0]
    return float(f1.mean()) if f1.size else 0.0


def matthews(matrix: Int[np.ndarray, "N N"]) -> float:
    """Matthews correlation for N classes (R_K of Gorodkin 2004); CoLA's score.

    (c·n − Σ_k p_k t_k) / √((n² − Σ p_k²)(n² − Σ t_k²)) with c correct of n examples,
    p_k predicted and t_k gold examples of class k; 0 where the root is 0.
    """
    # Python integers: the products of counts leave 64 bits at a few 10⁴ examples.
    said = [int(x) for x in matrix.sum(axis=0)]
    gold = [int(x) for x in matrix.sum(axis=1)]
    correct, total = int(np.trace(matrix)), int(matrix.sum())
    covariance = correct * total - sum(p * t for p, t in zip(said, gold, strict=True))
    product = (total**2 - sum(p * p for p in said)) * (
        total**2 - sum(t * t for t in gold)
    )
    return covariance / product**0.5 if product else 0.0


def calibration(
    probabilities: Float[np.ndarray, "M N"],
    gold: Int[np.ndarray, "M"],
    bins: int = 15,
) -> Calibration:
    """Compares the highest probability with being right, in bins (k/bins, (k+1)/bins].

    A confidence of exactly 0 falls into the first bin.
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == gold
    edges = np.linspace(0, 1, bins + 1)
    place = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    confidence_sums = np.bincount(place, weights=confidence, minlength=bins)
    right_sums = np.bincount(place, weights=right, minlength=bins)
    error = np.abs(right_sums - confidence_sums).sum() / max(len(gold), 1)
    return Calibration(
        edges=edges,
        counts=counts,
        confidence=_ratio(confidence_sums, counts),
        accuracy=_ratio(right_sums, counts),
        error=float(error),
    )


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Elementwise above / below, 0 where below is 0."""
    return np.divide(
        above, below, out=np.zeros(np.shape(above), np.float64), where=below != 0
    )
