"""How sure a score is: spread over seeds, and an interval over examples."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int


class Spread(NamedTuple):
    """Mean and sample standard deviation over ``runs`` runs."""

    mean: float
    std: float
    runs: int

    def __str__(self) -> str:
        return f"{self.mean:.4f} ± {self.std:.4f} (n = {self.runs})"


class Interval(NamedTuple):
    """A score on all examples, and the ends of its confidence interval."""

    score: float
    low: float
    high: float


def spread(scores: Sequence[float]) -> Spread:
    """Mean ± √(Σ(x − mean)²/(n − 1)); the deviation of a single score is 0.

    Raises:
        ValueError: there are no scores.
    """
    if not scores:
        raise ValueError("no scores to take a mean of")
    std = float(np.std(scores, ddof=1)) if len(scores) > 1 else 0.0
    return Spread(float(np.mean(scores)), std, len(scores))


def bootstrap(
    score: Callable[[Int[np.ndarray, "M"]], float],
    examples: int,
    *,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """The percentile bootstrap interval of a score over examples (Efron 1979).

    ``score`` maps the positions of a resample (drawn with replacement) to a number, so
    that scores which are no means, such as F1, are resampled by example too. The ends
    are the (1 ± level)/2 quantiles of ``resamples`` scores.

    Raises:
        ValueError: there are no examples, or ``level`` is not between 0 and 1.
    """
    if examples < 1 or not 0 < level < 1:
        raise ValueError(f"cannot resample {examples} examples at level {level}")
    random = np.random.default_rng(seed)
    drawn = [
        score(random.integers(0, examples, size=examples)) for _ in range(resamples)
    ]
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(score(np.arange(examples))), float(low), float(high))
