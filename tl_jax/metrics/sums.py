"""Sums with weights: reduced apart over batches and devices, divided once."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from tl_jax.models.batch import Array


class Ratio(NamedTuple):
    """A sum and the weight that it is divided by, once, after all is added up."""

    total: Float[Array, ""]
    weight: Float[Array, ""]


Sums = dict[str, Ratio]
# A task's loss, of (params, batch, key, train=…): its entry "loss" is minimised, the
# others are measured beside it.
Loss = Callable[..., Sums]
# That of a model which carries state from batch to batch returns the new state, too.
CarriedLoss = Callable[..., tuple[Sums, Any]]


def mean(sums: Sums) -> dict[str, float]:
    """Divides each sum by its weight; a weight of zero gives NaN."""
    return {
        name: float(ratio.total) / float(ratio.weight) if ratio.weight else float("nan")
        for name, ratio in sums.items()
    }


def add(left: Sums, right: Sums) -> Sums:
    """Adds two sums entry by entry."""
    return jax.tree.map(jnp.add, left, right)
