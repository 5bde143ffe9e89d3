"""Long short-term memory over rows that may hold several examples.

Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000 and, for ELMo,
the projection of Sak et al. 2014 (https://arxiv.org/abs/1402.1128) and the bounds of
TensorFlow's LSTMCell: i, j, f, o = [x; h]W + b, c ← clip(σ(f + 1)⊙c + σ(i)⊙tanh(j)),
h = clip((σ(o)⊙tanh(c))P).
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from tl_jax.models.batch import Array
from tl_jax.models.dense import transposed, weight_gradient


class State(NamedTuple):
    """What one layer remembers between two tokens, in one direction.

    Attributes:
      cell: c, of the width of the cell.
      hidden: h, of the width of the projection, or of the cell where there is none.
    """

    cell: Float[Array, "B H"]
    hidden: Float[Array, "B P"]


class Weights(NamedTuple):
    """What a layer learns, in one direction; gates are in the order i, j, f, o.

    Attributes:
      kernel: From the input to the gates.
      recurrent: From the previous hidden state, likewise.
      bias: Of the gates; 1 is added to the forget gate beside it.
      projection: From the cell's width to the hidden state's; by default h is as wide.
    """

    kernel: Float[Array, "E G"]
    recurrent: Float[Array, "P G"]
    bias: Float[Array, " G"]
    projection: Float[Array, "H P"] | None = None


class Bounds(NamedTuple):
    """Bounds of a cell's and of a hidden state's values in both directions, if any."""

    cell: float | None
    hidden: float | None


def lstm(
    x: Float[Array, "T B E"],
    weights: Weights,
    example: Int[Array, "B T"],
    start: State,
    *,
    cell_clip: float | None = None,
    projection_clip: float | None = None,
    reverse: bool = False,
) -> tuple[Float[Array, "T B P"], State]:
    """Runs a layer in one direction.

    Args:
      x: What it reads, time first.
      weights: Of the layer.
      example: Which example of its row a token belongs to, 0 = padding.
      start: Every example of a row begins with the row's state here.
      cell_clip: Bound of c's values in both directions; None means that there is none.
      projection_clip: Bound of h's, likewise.
      reverse: Reads from right to left.

    Returns:
      The hidden state after each token (without meaning at padding), and the state
      after the last token that was read, which padding leaves as it was.
    """
    first = borders(example, reverse=reverse).T[:, :, None]
    flags = Flags(first, (example > 0).T[:, :, None])
    bounds = Bounds(cell_clip, projection_clip)
    return _recurrence(bounds, reverse, x, weights, start, flags)


def borders(example: Int[Array, "B T"], *, reverse: bool) -> Bool[Array, "B T"]:
    """True at the first token of each run of one example, in reading direction."""
    edge = jnp.ones((example.shape[0], 1), bool)
    changes = example[:, 1:] != example[:, :-1]
    parts = [changes, edge] if reverse else [edge, changes]
    return jnp.concatenate(parts, axis=1)


class Flags(NamedTuple):
    """Whether a token begins an example, in reading direction, and whether it is real.

    Attributes:
      first: By time, row, and an axis of one.
      real: Likewise.
    """

    first: Bool[Array, "T B 1"]
    real: Bool[Array, "T B 1"]


class _Step(NamedTuple):
    """What the backward pass needs of a token: activations, and the state read."""

    i: Float[Array, "... B H"]
    j: Float[Array, "... B H"]
    f: Float[Array, "... B H"]
    o: Float[Array, "... B H"]
    before: State


class _Saved(NamedTuple):
    """What the backward pass needs of all tokens; ``states`` are the hidden ones."""

    x: Float[Array, "T B E"]
    weights: Weights
    flags: Flags
    steps: _Step
    states: Float[Array, "T B P"]


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _recurrence(
    bounds: Bounds,
    reverse: bool,
    x: Float[Array, "T B E"],
    weights: Weights,
    start: State,
    flags: Flags,
) -> tuple[Float[Array, "T B P"], State]:
    def read(state: State, token: tuple[Array, Flags]) -> tuple[State, Array]:
        state, _ = _read(bounds, weights, start, state, *token)
        return state, state.hidden

    tokens = _inputs(x, weights.kernel), flags
    end, states = jax.lax.scan(read, start, tokens, reverse=reverse)
    return states, end


def _inputs(
    x: Float[Array, "T B E"], kernel: Float[Array, "E G"]
) -> Float[Array, "T B G"]:
    """The inputs' part of all tokens' gates, in one product."""
    return (_flat(x) @ kernel).reshape(*x.shape[:-1], -1)


def _read(
    bounds: Bounds,
    weights: Weights,
    start: State,
    state: State,
    inputs: Float[Array, "B G"],
    flags: Flags,
) -> tuple[State, _Step]:
    """Reads one token of each row."""
    before = _choose(flags.first, start, state)
    gates = inputs + before.hidden @ weights.recurrent + weights.bias[None, :]
    i, j, f, o = _activate(gates)
    cell = _clip(f * before.cell + i * j, bounds.cell)
    hidden = o * jnp.tanh(cell)
    if weights.projection is not None:
        hidden = hidden @ weights.projection
    hidden = _clip(hidden, bounds.hidden)
    step = _Step(i, j, f, o, before)
    return _choose(flags.real, State(cell, hidden), state), step


# Slope, middle and shift of each gate's m + s·tanh(s(x + a)): σ(x) = ½ + ½ tanh(x/2).
_ACTIVATIONS = (0.5, 1, 0.5, 0.5), (0.5, 0, 0.5, 0.5), (0, 0, 1, 0)


def _activate(gates: Float[Array, "B G"]) -> tuple[Array, ...]:
    """σ(i), tanh(j), σ(f + 1), σ(o), in one operation that the cores can share."""
    parts = gates.reshape(len(gates), 4, -1)
    wide = parts.astype(jnp.promote_types(gates.dtype, jnp.float32))
    slope, middle, shift = jnp.array(_ACTIVATIONS, wide.dtype)[:, None, :, None]
    active = middle + slope * jnp.tanh(slope * (wide + shift))
    return tuple(jnp.unstack(active.astype(gates.dtype), axis=1))


def _forward(
    bounds: Bounds,
    reverse: bool,
    x: Float[Array, "T B E"],
    weights: Weights,
    start: State,
    flags: Flags,
) -> tuple[tuple[Float[Array, "T B P"], State], _Saved]:
    def read(
        state: State, token: tuple[Array, Flags]
    ) -> tuple[State, tuple[Array, _Step]]:
        state, step = _read(bounds, weights, start, state, *token)
        return state, (state.hidden, step)

    tokens = _inputs(x, weights.kernel), flags
    end, (states, steps) = jax.lax.scan(read, start, tokens, reverse=reverse)
    return (states, end), _Saved(x, weights, flags, steps, states)


def _backward(
    bounds: Bounds,
    reverse: bool,
    saved: _Saved,
    gradient: tuple[Float[Array, "T B P"], State],
) -> tuple[Float[Array, "T B E"], Weights, State, None]:
    """Goes back through the tokens; the weights' gradients are two products."""
    x, weights, flags, steps, states = saved
    back = jax.tree.map(transposed, weights._replace(bias=None))
    nothing = jax.tree.map(jnp.zeros_like, gradient[1])

    def unread(
        carry: tuple[State, State], token: tuple[Array, Array, Flags, _Step]
    ) -> tuple[tuple[State, State], tuple[Array, Array, Array]]:
        (cell, hidden), at_start = carry
        outer, told, (first, real), step = token
        after = State(cell, hidden + outer)
        own = _choose(real, after, nothing)
        projected = jnp.where(_inside(told, bounds.hidden), own.hidden, 0)
        squashed = projected
        if back.projection is not None:
            squashed = projected @ back.projection
        # Computed once more: to store it takes longer.
        was = _clip(step.f * step.before.cell + step.i * step.j, bounds.cell)
        tanh = jnp.tanh(was)
        cell = own.cell + squashed * step.o * (1 - tanh**2)
        cell = jnp.where(_inside(was, bounds.cell), cell, 0)
        i = cell * step.j * step.i * (1 - step.i)
        j = cell * step.i * (1 - step.j**2)
        f = cell * step.before.cell * step.f * (1 - step.f)
        o = squashed * tanh * step.o * (1 - step.o)
        gates = jnp.concatenate([i, j, f, o], axis=-1)
        before = State(cell * step.f, gates @ back.recurrent)
        begun = _choose(first, before, nothing)
        at_start = jax.tree.map(jnp.add, at_start, begun)
        # Padding hands on what it was given, an example's first token nothing.
        passed = _choose(real, _choose(first, nothing, before), after)
        return (passed, at_start), (gates, projected, step.o * tanh)

    outer, end = gradient
    (begin, at_start), (gates, projected, given) = jax.lax.scan(
        unread, (end, nothing), (outer, states, flags, steps), reverse=not reverse
    )
    # The gates read [x; h; 1], and what is one product forward is one product back.
    gates, read = _flat(gates), [_flat(x), _flat(steps.before.hidden)]
    ones = jnp.ones_like(gates[:, :1])
    product = weight_gradient(jnp.concatenate([*read, ones], axis=1), gates)
    kernel, recurrent, bias = jnp.split(product, np.cumsum([a.shape[1] for a in read]))
    projection = None
    if weights.projection is not None:
        projection = weight_gradient(_flat(given), _flat(projected))
    to_weights = Weights(kernel, recurrent, bias[0], projection)
    to_x = (gates @ back.kernel).reshape(x.shape)
    return to_x, to_weights, jax.tree.map(jnp.add, at_start, begin), None


_recurrence.defvjp(_forward, _backward)


def _flat(x: Float[Array, "T B D"]) -> Float[Array, "M D"]:
    return x.reshape(-1, x.shape[-1])


def _choose(condition: Array, yes: State, no: State) -> State:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def _clip(x: Array, bound: float | None) -> Array:
    return x if bound is None else jnp.clip(x, -bound, bound)


def _inside(x: Array, bound: float | None) -> Array | bool:
    """True where a clipped value was not held back, and so has a gradient."""
    return True if bound is None else jnp.abs(x) < bound
