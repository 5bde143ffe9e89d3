"""Scores of regression: Pearson's and Spearman's correlation."""

import numpy as np
from jaxtyping import Float


def pearson(predicted: Float[np.ndarray, " M"], gold: Float[np.ndarray, " M"]) -> float:
    """Pearson's r; 0 where it is undefined, because one side is constant."""
    if np.ptp(predicted) == 0 or np.ptp(gold) == 0:
        return 0.0
    return float(np.corrcoef(predicted, gold)[0, 1])


def spearman(
    predicted: Float[np.ndarray, " M"], gold: Float[np.ndarray, " M"]
) -> float:
    """Spearman's ρ, Pearson's r of the ranks; equal values share their mean rank."""
    return pearson(ranks(predicted), ranks(gold))


def ranks(values: Float[np.ndarray, " M"]) -> Float[np.ndarray, " M"]:
    """Ranks from 1 for the smallest; equal values share their mean rank."""
    _, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[index]
