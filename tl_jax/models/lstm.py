"""Long short-term memory over rows that may hold several examples.

Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000:
i, f, o = σ(·), g = tanh(·), c ← f⊙c + i⊙g, h = o⊙tanh(c).
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from tl_jax.models.batch import Array
from tl_jax.models.feed_forward import dense


def lstm(
    gates: Float[Array, "B T G"],
    recurrent: Float[Array, "D G"],
    first: Bool[Array, "B T"],
    *,
    reverse: bool = False,
) -> Float[Array, "B T D"]:
    """Runs the recurrence over gate inputs that were computed for all tokens at once.

    Args:
      gates: Wx + b of each token, in the order input, forget, cell, output.
      recurrent: The weights of the previous hidden state.
      first: True where an example begins in the direction of reading; the state
        before it is zero, so no example sees another, nor the padding.
      reverse: Reads from right to left.

    Returns:
      The hidden state after each token.
    """
    size = recurrent.shape[0]
    zeros = jnp.zeros((gates.shape[0], size), gates.dtype)

    def read(
        carry: tuple[Array, Array], token: tuple[Array, Array]
    ) -> tuple[tuple[Array, Array], Array]:
        x, fresh = token
        cell, hidden = (jnp.where(fresh[:, None], 0, state) for state in carry)
        i, f, g, o = jnp.split(x + hidden @ recurrent, 4, axis=-1)
        cell = jax.nn.sigmoid(f) * cell + jax.nn.sigmoid(i) * jnp.tanh(g)
        hidden = jax.nn.sigmoid(o) * jnp.tanh(cell)
        return (cell, hidden), hidden

    tokens = (gates.swapaxes(0, 1), first.T)
    _, states = jax.lax.scan(read, (zeros, zeros), tokens, reverse=reverse)
    return states.swapaxes(0, 1)


def borders(example: Int[Array, "B T"], *, reverse: bool) -> Bool[Array, "B T"]:
    """True at the first token of each run of one example, in reading direction."""
    edge = jnp.ones((example.shape[0], 1), bool)
    changes = example[:, 1:] != example[:, :-1]
    parts = [changes, edge] if reverse else [edge, changes]
    return jnp.concatenate(parts, axis=1)


class Lstm(nn.Module):
    """One LSTM layer in one direction; the forget gate's bias starts at 1."""

    features: int
    reverse: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T E"], example: Int[Array, "B T"]
    ) -> Float[Array, "B T D"]:
        """Reads each example of each row from a zero state."""
        width = 4 * self.features
        init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
        kernel = self.param("kernel", init, (x.shape[-1], width), jnp.float32)
        recurrent = self.param("recurrent", init, (self.features, width), jnp.float32)
        bias = self.param("bias", _forget_open, (width,), jnp.float32)
        flat = dense(x.reshape(-1, x.shape[-1]), kernel, bias)
        first = borders(example, reverse=self.reverse)
        gates = flat.reshape(*x.shape[:-1], width)
        return lstm(gates, recurrent.astype(x.dtype), first, reverse=self.reverse)


def _forget_open(
    key: jax.Array, shape: tuple[int, ...], dtype: Any
) -> Float[Array, " G"]:
    del key
    return jnp.zeros(shape, dtype).reshape(4, -1).at[1].set(1).reshape(shape)
