"""The dense layer's hand-written backward, and that it leaves nothing behind."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from tl_jax.models.dense import dense, settled, transposed, weight_gradient


def inputs(m=16, d=6, e=10):
    draw = np.random.default_rng(0)
    shapes = [(m, d), (d, e), (e,)]
    return [jnp.asarray(draw.normal(size=s), jnp.float32) for s in shapes]


@pytest.mark.parametrize("width", [3, 6, 10])
def test_forward_and_backward_follow_the_formula(width):
    x, kernel, bias = inputs(e=width)
    out, pull = jax.vjp(dense, x, kernel, bias)
    dy = np.random.default_rng(1).normal(size=out.shape).astype(np.float32)
    x64, w64, dy64 = (np.asarray(a, np.float64) for a in (x, kernel, dy))
    want = dy64 @ w64.T, x64.T @ dy64, dy64.sum(axis=0)
    np.testing.assert_allclose(out, x64 @ w64 + bias[None], rtol=1e-5, atol=1e-5)
    for g, w in zip(pull(jnp.asarray(dy)), want, strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("width", [3, 10])
def test_weight_gradient_takes_either_side(width):
    x, _, _ = inputs()
    dy = jnp.asarray(np.random.default_rng(1).normal(size=(16, width)), jnp.float32)
    want = np.asarray(x, np.float64).T @ np.asarray(dy, np.float64)
    np.testing.assert_allclose(weight_gradient(x, dy), want, rtol=1e-5, atol=1e-5)


def test_a_frozen_kernel_costs_no_product():
    args = inputs(64, 64, 64)

    def flops(argnums):
        grad = jax.grad(lambda *a: (dense(*a) ** 2).sum(), argnums=argnums)
        return jax.jit(grad).lower(*args).compile().cost_analysis()["flops"]

    product = 2 * 64**3
    assert flops((0, 1)) - flops((0,)) == pytest.approx(product, rel=0.1)


@pytest.mark.parametrize("function", [settled, transposed])
@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_accelerators_see_no_barrier(function, platform):
    traced = jax.jit(function).trace(jnp.ones((4, 8)))
    barrier = "optimization_barrier"
    assert barrier in traced.lower(lowering_platforms=("cpu",)).as_text()
    assert barrier not in traced.lower(lowering_platforms=(platform,)).as_text()


def test_settled_leaves_no_branch_and_maps_over_a_batch():
    x = jnp.arange(24.0).reshape(2, 3, 4)
    text = jax.jit(jax.vmap(transposed)).lower(x).compile().as_text()
    assert "conditional" not in text
    np.testing.assert_array_equal(jax.vmap(transposed)(x), x.transpose(0, 2, 1))


def test_rows_spread_over_devices_give_the_same_gradients():
    x, kernel, bias = inputs()
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    spread = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
    grad = jax.jit(jax.grad(lambda w, x: (dense(x, w, bias) ** 2).sum()))
    np.testing.assert_allclose(grad(kernel, spread), grad(kernel, x), rtol=1e-5)
