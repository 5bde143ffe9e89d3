"""GloVe (Pennington et al. 2014): weighted least squares on log co-occurrences.

::

    loss = ½ Σ f(X_ij) (w_i · c_j + a_i + b_j - log X_ij)²,  f(x) = min(1, (x/x_max)^α)

by AdaGrad as in the official `glove.c`: accumulators begin at 1 and take up *steps*
(rate times gradient), each used before it is added; the gradients of vectors are
clipped to ±100, while those of biases are neither clipped nor scaled by the rate.

A step takes many entries at once where the original takes one. A row that is in several
of them moves by their sum, and for each of them its accumulators hold the other ones
already: that keeps the sum within bounds, and the loss is that of the original.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Float, Int, PRNGKeyArray

from tl_jax.models.batch import Array

CLIP = 100.0
State = dict[str, Any]


@struct.dataclass
class Entries:
    """Entries of the co-occurrence matrix; a count of 0 is padding.

    Axes: ``S`` steps (or none), ``E`` entries of a step.

    Attributes:
      words: i.
      contexts: j.
      counts: X_ij.
    """

    words: Int[Array, "*S E"]
    contexts: Int[Array, "*S E"]
    counts: Float[Array, "*S E"]


def init(key: PRNGKeyArray, vocab_size: int, size: int) -> State:
    """Draws parameters uniformly within ±1 / 2(D + 1), as the official code does.

    Returns:
      ``weights`` [2V, D + 1], words above contexts, biases in the last column; and the
      accumulators of all, ``squares``, 1 throughout.
    """
    shape, edge = (2 * vocab_size, size + 1), 0.5 / (size + 1)
    drawn = jax.random.uniform(key, shape, minval=-edge, maxval=edge)
    return {"weights": drawn, "squares": jnp.ones(shape)}


def vectors(state: State) -> Float[Array, "V D"]:
    """Returns the result: word vectors plus context vectors, without biases."""
    words, contexts = jnp.split(state["weights"][:, :-1], 2)
    return words + contexts


def train_step(
    state: State, entries: Entries, rate: float, x_max: float, alpha: float
) -> tuple[State, tuple[Float[Array, ""], Float[Array, ""]]]:
    """Takes a step on some entries.

    Args:
      state: See `init`.
      entries: One step of them.
      rate: Learning rate η.
      x_max: Counts from here on weigh 1.
      alpha: Exponent of the weights below.

    Returns:
      The new state, and the sum of the loss with the number of entries.
    """
    counts, real = entries.counts, entries.counts > 0
    vocabulary = len(state["weights"]) // 2
    rows = jnp.concatenate([entries.words, vocabulary + entries.contexts])
    weights = state["weights"][rows]
    word, context = jnp.split(weights, 2)
    product = (word[:, :-1] * context[:, :-1]).sum(axis=1)
    logs = jnp.log(jnp.where(real, counts, 1.0))
    error = product + word[:, -1] + context[:, -1] - logs
    weighted = jnp.minimum(1.0, (counts / x_max) ** alpha) * error  # 0 for padding
    both = jnp.tile(weighted, 2)[:, None]
    slopes = both * jnp.concatenate([context, word])[:, :-1]
    moves = jnp.concatenate([rate * jnp.clip(slopes, -CLIP, CLIP), both], axis=1)
    squares = moves * moves
    # One place for all entries of a row: no table as large as the weights is made.
    place = jnp.zeros(2 * vocabulary, jnp.int32).at[rows].set(jnp.arange(len(rows)))
    place = place[rows]
    others = jnp.zeros_like(squares).at[place].add(squares)[place] - squares
    several = jnp.zeros(2 * vocabulary).at[rows].add(1.0)[rows] > 1
    # What rounding leaves of a difference of equal numbers is nothing.
    others = jnp.where(several[:, None], jnp.maximum(others, 0), 0)
    before = state["squares"][rows] + others
    state = {
        "weights": state["weights"].at[rows].add(-moves * jax.lax.rsqrt(before)),
        "squares": state["squares"].at[rows].add(squares),
    }
    return state, (0.5 * (weighted * error).sum(), real.sum().astype(np.float32))


def train_steps(
    state: State, entries: Entries, rate: float, x_max: float, alpha: float
) -> tuple[State, tuple[Float[Array, ""], Float[Array, ""]]]:
    """Takes S steps one after the other; see `train_step`."""

    def step(state: State, entries: Entries) -> Any:
        return train_step(state, entries, rate, x_max, alpha)

    state, (losses, counts) = jax.lax.scan(step, state, entries)
    return state, (losses.sum(), counts.sum())
