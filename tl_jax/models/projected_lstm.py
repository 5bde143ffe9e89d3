"""The LSTM of ELMo: clipped cells, a clipped projection, states that can be carried on.

Sak et al. 2014, https://arxiv.org/abs/1402.1128, as TensorFlow's LSTMCell computes it:
i, j, f, o = [x; h]W + b, c ← clip(σ(f + 1)⊙c + σ(i)⊙tanh(j)),
h = clip((σ(o)⊙tanh(c))P).
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from tl_jax.models.batch import Array
from tl_jax.models.dense import dense
from tl_jax.models.lstm import borders


class State(NamedTuple):
    """What one layer remembers between two tokens, in one direction.

    Attributes:
      cell: c, of the width of the cell.
      hidden: h, of the width of the projection.
    """

    cell: Float[Array, "B H"]
    hidden: Float[Array, "B P"]


def projected_lstm(
    gates: Float[Array, "B T G"],
    recurrent: Float[Array, "P G"],
    projection: Float[Array, "H P"],
    example: Int[Array, "B T"],
    start: State,
    *,
    cell_clip: float | None,
    projection_clip: float | None,
    reverse: bool = False,
) -> tuple[Float[Array, "B T P"], State]:
    """Runs the recurrence over gate inputs that were computed for all tokens at once.

    Args:
      gates: xW + b of each token, in the order input, cell, forget, output; 1 is added
        to the forget gate here.
      recurrent: The weights of the previous hidden state.
      projection: From the cell's width to the hidden state's.
      example: Which example of its row a token belongs to, 0 = padding.
      start: Every example of a row begins with the row's state here.
      cell_clip: Bound of c's values in both directions; None means that there is none.
      projection_clip: Bound of h's, likewise.
      reverse: Reads from right to left.

    Returns:
      The hidden state after each token (without meaning at padding), and the state
      after the last token that was read, which padding leaves as it was.
    """

    def read(state: State, token: tuple[Array, ...]) -> tuple[State, Array]:
        x, first, real = token
        cell, hidden = _choose(first, start, state)
        i, j, f, o = jnp.split(x + hidden @ recurrent, 4, axis=-1)
        cell = jax.nn.sigmoid(f + 1) * cell + jax.nn.sigmoid(i) * jnp.tanh(j)
        cell = _clip(cell, cell_clip)
        hidden = (jax.nn.sigmoid(o) * jnp.tanh(cell)) @ projection
        hidden = _clip(hidden, projection_clip)
        state = _choose(real, State(cell, hidden), state)
        return state, state.hidden

    flags = borders(example, reverse=reverse), example > 0
    tokens = (gates, *(flag[:, :, None] for flag in flags))
    by_time = tuple(x.swapaxes(0, 1) for x in tokens)
    end, states = jax.lax.scan(read, start, by_time, reverse=reverse)
    return states.swapaxes(0, 1), end


def _choose(condition: Array, yes: State, no: State) -> State:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def _clip(x: Array, bound: float | None) -> Array:
    return x if bound is None else jnp.clip(x, -bound, bound)


class ProjectedLstm(nn.Module):
    """One layer in one direction; matrices start Glorot-uniform, the bias at 0.

    The attributes are those of `projected_lstm`; ``features`` is the projection's width
    P and ``cell_size`` the cell's, H.
    """

    features: int
    cell_size: int
    cell_clip: float | None = 3.0
    projection_clip: float | None = 3.0
    reverse: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T E"], example: Int[Array, "B T"], start: State
    ) -> tuple[Float[Array, "B T P"], State]:
        """Reads each example of each row from the row's state."""
        inputs, width = x.shape[-1], 4 * self.cell_size
        glorot, zeros = nn.initializers.glorot_uniform(), nn.initializers.zeros
        kernel, recurrent, projection, bias = (
            self.param(name, init, shape, jnp.float32).astype(x.dtype)
            for name, init, shape in (
                ("kernel", glorot, (inputs, width)),
                ("recurrent", glorot, (self.features, width)),
                ("projection", glorot, (self.cell_size, self.features)),
                ("bias", zeros, (width,)),
            )
        )
        gates = dense(x.reshape(-1, inputs), kernel, bias)
        start = State(start.cell.astype(x.dtype), start.hidden.astype(x.dtype))
        return projected_lstm(
            gates.reshape(*x.shape[:-1], width),
            recurrent,
            projection,
            example,
            start,
            cell_clip=self.cell_clip,
            projection_clip=self.projection_clip,
            reverse=self.reverse,
        )
