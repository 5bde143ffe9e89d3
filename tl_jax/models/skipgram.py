"""Skip-gram with negative sampling (Mikolov et al. 2013b, eq. 4), in dense steps.

For each centre word w and each word c of its window::

    loss = -log σ(u_w · v_c) - Σ_k log σ(-u_k · v_c),    k = 1 … K drawn by unigram^.75

with input vectors v (the result) and output vectors u. As in word2vec.c the centre is
what its neighbours predict; over a text the pairs are the same either way.

word2vec updates after every pair, threads over one another (Hogwild). Here a step takes
some hundred centres at once, and differs from it in two things:

* Its N negatives are shared by all its pairs, each counted K / N times, so that the
  expected loss is the same and both of its sums are products of matrices.
* The gradients of a row are summed. A frequent word is in so many pairs of a step that
  this sum would overshoot, so a row that is in n pairs moves at the rate
  ``min(rate, 1 / n)`` a pair; rows that are in fewer than 1 / rate move as in word2vec.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Bool, Float, Int, PRNGKeyArray

from tl_jax.models.batch import Array

Params = dict[str, Any]


@struct.dataclass
class SkipGrams:
    """Steps of a text cut into rows of T centres and the J = T + 2·window around them.

    Axes: ``S`` steps (or none), ``R`` rows of a step, ``N`` its negatives.

    Attributes:
      tokens: Words; those of the centres begin ``window`` places from the left.
      sentences: Number of each word's sentence; what stands at padding has none of a
        centre.
      reach: How far each centre looks to both sides; 0 is not at all.
      negatives: Words drawn for the step.
    """

    tokens: Int[Array, "*S R J"]
    sentences: Int[Array, "*S R J"]
    reach: Int[Array, "*S R T"]
    negatives: Int[Array, "*S N"]

    @property
    def window(self) -> int:
        """Words on either side of a row's centres."""
        return (self.tokens.shape[-1] - self.reach.shape[-1]) // 2

    def centres(self, rows: Int[Array, "R J"]) -> Int[Array, "R T"]:
        """Cuts the centres' places out of rows."""
        return rows[:, self.window : self.window + self.reach.shape[-1]]

    def pairs(self) -> Bool[Array, "R T J"]:
        """True where a word is in the window of a centre (of one step)."""
        centre = jnp.arange(self.reach.shape[-1]) + self.window
        distance = jnp.abs(jnp.arange(self.tokens.shape[-1])[None, :] - centre[:, None])
        same = self.centres(self.sentences)[:, :, None] == self.sentences[:, None, :]
        near = (distance > 0)[None] & (distance[None] <= self.reach[:, :, None])
        return near & same


def init(key: PRNGKeyArray, vocab_size: int, size: int) -> Params:
    """Draws parameters as word2vec.c does.

    Returns:
      ``input`` [V, D], uniform within ±1 / 2D, and ``output`` [V, D], zero.
    """
    shape = (vocab_size, size)
    drawn = jax.random.uniform(key, shape, minval=-0.5 / size, maxval=0.5 / size)
    return {"input": drawn, "output": jnp.zeros(shape)}


def loss(
    inputs: Float[Array, "R J D"],
    outputs: Float[Array, "R T D"],
    noise: Float[Array, "N D"],
    pairs: Float[Array, "R T J"],
    clashes: Float[Array, "R J N"],
    negatives: int,
) -> Float[Array, ""]:
    """Sums the loss of a step's pairs.

    Args:
      inputs: Input vectors of the words of the rows.
      outputs: Output vectors of the centres.
      noise: Output vectors of the negatives.
      pairs: 1 for each pair of a centre and a word of its window.
      clashes: In how many of a word's pairs a negative is the centre itself; those are
        left out, as in word2vec.
      negatives: K.
    """
    right = jnp.einsum("rtd,rjd->rtj", outputs, inputs)
    wrong = jnp.einsum("rjd,nd->rjn", inputs, noise)
    times = (pairs.sum(axis=1)[:, :, None] - clashes) * (negatives / len(noise))
    return -(
        (pairs * jax.nn.log_sigmoid(right)).sum()
        + (times * jax.nn.log_sigmoid(-wrong)).sum()
    )


def train_step(
    params: Params, batch: SkipGrams, rate: Float[Array, ""], negatives: int
) -> tuple[Params, tuple[Float[Array, ""], Float[Array, ""]]]:
    """Takes a step of gradient descent; only rows that are in it are touched.

    Args:
      params: See `init`.
      batch: One step.
      rate: Learning rate of a pair.
      negatives: K, negatives a pair.

    Returns:
      New parameters, and the sum of the loss with the number of its pairs.
    """
    centres = batch.centres(batch.tokens)
    pairs = batch.pairs().astype(jnp.float32)
    is_centre = centres[:, :, None] == batch.negatives[None, None, :]
    clashes = jnp.einsum("rtj,rtn->rjn", pairs, is_centre.astype(jnp.float32))
    rows = (
        params["input"][batch.tokens],
        params["output"][centres],
        params["output"][batch.negatives],
    )
    value, grads = jax.value_and_grad(loss, (0, 1, 2))(*rows, pairs, clashes, negatives)
    count = pairs.sum()
    share = jnp.full(batch.negatives.shape, count * negatives / len(batch.negatives))
    into = (pairs.sum(axis=1) * (1 + negatives)).ravel()
    out_of = jnp.concatenate([pairs.sum(axis=2).ravel(), share])
    output = jnp.concatenate([centres.ravel(), batch.negatives])
    size = params["input"].shape[1]
    moved = jnp.concatenate([grads[1].reshape(-1, size), grads[2]])
    params = {
        "input": _descend(
            params["input"],
            batch.tokens.ravel(),
            grads[0].reshape(-1, size),
            into,
            rate,
        ),
        "output": _descend(params["output"], output, moved, out_of, rate),
    }
    return params, (value, count)


def _descend(
    table: Float[Array, "V D"],
    rows: Int[Array, " M"],
    grads: Float[Array, "M D"],
    pairs: Float[Array, " M"],
    rate: Float[Array, ""],
) -> Float[Array, "V D"]:
    """Adds gradients to their rows, at most at the rate of 1 / pairs of the row."""
    equal = (rows[:, None] == rows[None, :]).astype(jnp.float32)
    rates = jnp.minimum(rate, 1 / jnp.maximum(equal @ pairs, 1))
    return jnp.asarray(table).at[rows].add(-rates[:, None] * grads)


def train_steps(
    params: Params, batch: SkipGrams, rates: Float[Array, " S"], negatives: int
) -> tuple[Params, tuple[Float[Array, ""], Float[Array, ""]]]:
    """Takes S steps one after the other; see `train_step`."""

    def step(params: Params, given: tuple[SkipGrams, Float[Array, ""]]) -> Any:
        return train_step(params, *given, negatives)

    params, (losses, counts) = jax.lax.scan(step, params, (batch, rates))
    return params, (losses.sum(), counts.sum())
