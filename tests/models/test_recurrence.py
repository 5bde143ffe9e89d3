"""The recurrence's own backward pass against the gradient of its formula."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tl_jax.models.recurrence import State, Weights, lstm

ROWS, LENGTH, READ, CELL, WIDTH = 3, 7, 2, 5, 4
DRAW = np.random.default_rng(0)
# Two examples with padding around them; one alone; nothing but padding.
EXAMPLE = np.array([[0, 1, 1, 0, 2, 2, 0], [1] * 7, [0] * 7], np.int32)


def drawn(*shape):
    return DRAW.normal(0, 0.9, shape).astype(np.float32)


INPUTS = {
    "x": drawn(LENGTH, ROWS, READ),
    "weights": Weights(
        kernel=drawn(READ, 4 * CELL),
        recurrent=drawn(WIDTH, 4 * CELL),
        bias=drawn(4 * CELL),
        projection=drawn(CELL, WIDTH),
    ),
    "start": State(drawn(ROWS, CELL), drawn(ROWS, WIDTH)),
}
HEARD = drawn(LENGTH, ROWS, WIDTH), State(drawn(ROWS, CELL), drawn(ROWS, WIDTH))


def formula(inputs, reverse, cell_clip, projection_clip):
    """Token by token, row by row."""
    weights = inputs["weights"]
    states = [[jnp.zeros(WIDTH)] * LENGTH for _ in range(ROWS)]
    cells, hiddens = [], []
    for row in range(ROWS):
        begin = inputs["start"].cell[row], inputs["start"].hidden[row]
        end, last = begin, 0
        for t in range(LENGTH)[:: -1 if reverse else 1]:
            own = EXAMPLE[row, t]
            if own > 0:
                cell, hidden = end if own == last else begin
                gates = inputs["x"][t, row] @ weights.kernel + weights.bias
                i, j, f, o = jnp.split(gates + hidden @ weights.recurrent, 4)
                cell = jax.nn.sigmoid(f + 1) * cell + jax.nn.sigmoid(i) * jnp.tanh(j)
                cell = jnp.clip(cell, -cell_clip, cell_clip)
                hidden = (jax.nn.sigmoid(o) * jnp.tanh(cell)) @ weights.projection
                hidden = jnp.clip(hidden, -projection_clip, projection_clip)
                end = cell, hidden
                states[row][t] = hidden
            last = own
        cells.append(end[0])
        hiddens.append(end[1])
    stacked = jnp.stack([jnp.stack(row) for row in states], axis=1)
    return stacked, State(jnp.stack(cells), jnp.stack(hiddens))


def heard(states, end):
    """A number that every state of a word, and the last ones, have a part in."""
    words = jnp.where(EXAMPLE.T[:, :, None] > 0, states * HEARD[0], 0).sum()
    return words + sum((a * b).sum() for a, b in zip(end, HEARD[1], strict=True))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("bounds", [(0.7, 0.6), (1e9, 1e9)])
def test_gradients_are_the_formulas(reverse, bounds):
    # No bound at all is the same as one that is never met.
    cell_clip, projection_clip = bounds if bounds[0] < 1 else (None, None)

    def mine(inputs):
        found = lstm(
            **inputs,
            example=EXAMPLE,
            cell_clip=cell_clip,
            projection_clip=projection_clip,
            reverse=reverse,
        )
        return heard(*found)

    def theirs(inputs):
        return heard(*formula(inputs, reverse, *bounds))

    found, gradients = jax.jit(jax.value_and_grad(mine))(INPUTS)
    wanted, others = jax.jit(jax.value_and_grad(theirs))(INPUTS)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), gradients, others
    )
    assert all(np.abs(x).max() > 0.1 for x in jax.tree.leaves(gradients))
