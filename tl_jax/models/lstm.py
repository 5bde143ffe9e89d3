"""LSTM layers: as usual from zero states, and ELMo's with a projection and a carry."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float, Int

from tl_jax.models.batch import Array
from tl_jax.models.dropout import Noise, dropout
from tl_jax.models.recurrence import State, Weights, lstm


class Lstm(nn.Module):
    """One layer in one direction; a forget gate starts open, at σ(1)."""

    features: int
    reverse: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T E"], example: Int[Array, "B T"]
    ) -> Float[Array, "B T D"]:
        """Reads each example of each row from a zero state."""
        inputs, width = x.shape[-1], 4 * self.features
        uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
        kernel, recurrent, bias = (
            self.param(name, init, shape, jnp.float32).astype(x.dtype)
            for name, init, shape in (
                ("kernel", uniform, (inputs, width)),
                ("recurrent", uniform, (self.features, width)),
                ("bias", nn.initializers.zeros, (width,)),
            )
        )
        zeros = jnp.zeros((len(x), self.features), x.dtype)
        states, _ = lstm(
            x.swapaxes(0, 1),
            Weights(kernel, recurrent, bias),
            example,
            State(zeros, zeros),
            reverse=self.reverse,
        )
        return states.swapaxes(0, 1)


def lstm_stack(
    x: Float[Array, "B T E"],
    example: Int[Array, "B T"],
    noise: Noise | None,
    *,
    features: int,
    num_layers: int,
    rate: float,
    bidirectional: bool = True,
) -> list[Array]:
    """Stacks LSTMs, forward and backward side by side, in the module that calls it.

    Their names there are ``lstm_0_forward``, ``lstm_0_backward``, …; dropout's places
    are 0, of ``x``, and above it those of the layers' outputs.

    Args:
      x: What the first layer reads, before dropout.
      example: Which example of its row a token belongs to, 0 = none.
      noise: Switches dropout on.
      features: Width of one direction.
      num_layers: Layers.
      rate: Of dropout.
      bidirectional: Adds the LSTMs that read from right to left.

    Returns:
      After dropout, ``x`` and then each layer's output.
    """
    directions = {"forward": False} | ({"backward": True} if bidirectional else {})
    states = [dropout(x, rate, noise, layer=0)]
    for index in range(num_layers):
        both = [
            Lstm(features, reverse, name=f"lstm_{index}_{name}")(states[-1], example)
            for name, reverse in directions.items()
        ]
        joined = jnp.concatenate(both, axis=-1)
        states.append(dropout(joined, rate, noise, layer=index + 1))
    return states


class ProjectedLstm(nn.Module):
    """One layer in one direction; matrices start Glorot-uniform, the bias at 0.

    Attributes:
      features: Width of the projection, P.
      cell_size: Width of the cell, H.
      cell_clip: As for `tl_jax.models.recurrence.lstm`, like the next two.
      projection_clip: Of the hidden states.
      reverse: The direction.
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
        start = State(start.cell.astype(x.dtype), start.hidden.astype(x.dtype))
        states, end = lstm(
            x.swapaxes(0, 1),
            Weights(kernel, recurrent, bias, projection),
            example,
            start,
            cell_clip=self.cell_clip,
            projection_clip=self.projection_clip,
            reverse=self.reverse,
        )
        return states.swapaxes(0, 1), end
