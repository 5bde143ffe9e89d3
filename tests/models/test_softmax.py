"""The softmax loss that is made by parts, against the one that is made at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from tl_jax.models import softmax
from tl_jax.models.mesh import DATA
from tl_jax.models.softmax import full_softmax, softmax_loss

T, B, P, V = 6, 2, 3, 7
DRAW = np.random.default_rng(0)
STATES = DRAW.normal(0, 2, (T, B, P)).astype(np.float32)
KERNEL = DRAW.normal(0, 2, (V, P)).astype(np.float32)
BIAS = DRAW.normal(0, 2, V).astype(np.float32)
# A word that is a target twice, and one that has no weight.
TARGETS = np.array([[0, 3], [3, 3], [6, 1], [2, 5], [5, 0], [1, 3]], np.int32)
WEIGHTS = np.resize(np.array([1, 0.5, 0, 2, 1], np.float32), (T, B))


# All at once; two steps of the leading axis at a time; one, where fewer do not go.
@pytest.mark.parametrize("scores", [10**6, 2 * B * V, 1])
def test_parts_give_the_value_and_the_gradients_of_the_whole(scores, monkeypatch):
    monkeypatch.setattr(softmax, "_SCORES", scores)

    def by_parts(states, kernel, bias):
        return 3 * softmax_loss(states, TARGETS, WEIGHTS, kernel, bias)

    def at_once(states, kernel, bias):
        return 3 * jnp.sum(WEIGHTS * full_softmax(states, TARGETS, kernel, bias))

    inputs = STATES, KERNEL, BIAS
    found, expected = (
        jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(*inputs)
        for loss in (by_parts, at_once)
    )
    for one, other in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5, rtol=1e-5)
    value = jax.jit(by_parts)(*inputs)  # without a gradient it takes another way
    np.testing.assert_allclose(value, expected[0], rtol=1e-6)


def test_devices_that_share_the_rows_make_larger_parts(monkeypatch):
    """Two steps' scores fit on a device, so on two of them three of the six steps."""
    monkeypatch.setattr(softmax, "_SCORES", 2 * B * V)

    def program(rows):
        given = STATES, TARGETS, WEIGHTS, KERNEL, BIAS
        told.append(str(jax.make_jaxpr(softmax_loss)(*given)))
        return rows

    told = []
    program(None)
    mesh = Mesh(jax.devices()[:2], (DATA,), axis_types=(AxisType.Auto,))
    with jax.set_mesh(mesh):
        jax.jit(program)(np.zeros(2))
    alone, shared = told
    assert "length=3" in alone
    assert "length=2" in shared


def test_large_scores_are_finite():
    given = 100 * STATES, TARGETS, WEIGHTS, KERNEL, BIAS
    value, slopes = jax.value_and_grad(softmax_loss)(*given)
    assert np.isfinite(value)
    assert np.isfinite(slopes).all()


def test_states_of_half_precision_are_scored_in_float32():
    states = jnp.asarray(STATES, jnp.bfloat16)
    given = TARGETS, WEIGHTS, KERNEL, BIAS
    value, slopes = jax.value_and_grad(softmax_loss)(states, *given)
    exact, wide = jax.value_and_grad(softmax_loss)(states.astype(jnp.float32), *given)
    assert slopes.dtype == jnp.bfloat16
    np.testing.assert_allclose(value, exact, rtol=2e-2)
    np.testing.assert_allclose(slopes.astype(jnp.float32), wide, atol=0.1)
