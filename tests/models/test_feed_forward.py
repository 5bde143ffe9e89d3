"""The block and its activations against float64 formulas and PyTorch."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import AS_FOR_USERS

from tl_jax.models.feed_forward import ACTIVATIONS, feed_forward

X64 = np.linspace(-12, 12, 4801)
ERF = np.vectorize(math.erf)
TANH_GELU = 0.5 * X64 * (1 + np.tanh(np.sqrt(2 / np.pi) * (X64 + 0.044715 * X64**3)))
FORMULAS = {
    "gelu": X64 * (1 + ERF(X64 / np.sqrt(2))) / 2,
    "gelu_new": TANH_GELU,
    "gelu_pytorch_tanh": TANH_GELU,
    "relu": np.maximum(X64, 0),
    "silu": X64 / (1 + np.exp(-X64)),
    "swish": X64 / (1 + np.exp(-X64)),
    "tanh": np.tanh(X64),
}


def inputs(m=12, d=8, e=20, dtype=np.float32):
    draw = np.random.default_rng(0)
    shapes = [(m, d), (d, e), (e,), (e, d), (d,)]
    return [draw.normal(size=s).astype(dtype) for s in shapes]


def plain(x, w_in, b_in, w_out, b_out, activation):
    """The formula, for JAX to differentiate, with its own erfc form of GELU."""
    act = {
        "gelu": lambda x: jax.nn.gelu(x, approximate=False),
        "gelu_new": lambda x: jax.nn.gelu(x, approximate=True),
        "relu": jax.nn.relu,
        "silu": jax.nn.silu,
        "tanh": jnp.tanh,
    }[activation]
    return act(x @ w_in + b_in[None]) @ w_out + b_out[None]


@pytest.mark.parametrize("name", list(ACTIVATIONS))
def test_activations_follow_their_formulas(name):
    got = ACTIVATIONS[name](jnp.asarray(X64, jnp.float32))
    np.testing.assert_allclose(got, FORMULAS[name], rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("name", list(ACTIVATIONS))
def test_activations_are_those_of_hugging_face(name):
    torch = pytest.importorskip("torch")
    activations = pytest.importorskip("transformers.activations").ACT2FN
    x = X64.astype(np.float32)
    want = activations[name](torch.tensor(x)).numpy()
    np.testing.assert_allclose(ACTIVATIONS[name](x), want, rtol=2e-6, atol=1e-6)


def test_block_follows_the_formula():
    x, w_in, b_in, w_out, b_out = inputs(dtype=np.float64)
    before = x @ w_in + b_in
    want = before * (1 + ERF(before / np.sqrt(2))) / 2 @ w_out + b_out
    args = (jnp.asarray(a, jnp.float32) for a in (x, w_in, b_in, w_out, b_out))
    np.testing.assert_allclose(feed_forward(*args), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu", "silu", "tanh"])
@pytest.mark.parametrize("wide", [20, 5])
def test_backward_is_the_derivative_of_the_formula(activation, wide):
    args = inputs(e=wide)
    cotangent = np.random.default_rng(1).normal(size=args[0].shape)

    def pulled(*args):
        _, pull = jax.vjp(lambda *a: feed_forward(*a, activation), *args)
        return pull(jnp.asarray(cotangent, jnp.float32))

    got = jax.jit(pulled, compiler_options=AS_FOR_USERS)(*args)
    with jax.enable_x64(True):
        args = [jnp.asarray(a, jnp.float64) for a in args]
        want = jax.vjp(lambda *a: plain(*a, activation), *args)[1](cotangent)
        want = [np.asarray(w) for w in want]
    for g, w in zip(got, want, strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-5, atol=1e-5)


def test_bfloat16_stays_bfloat16_and_close():
    args = [jnp.asarray(a, jnp.bfloat16) for a in inputs()]
    out, pull = jax.vjp(lambda *a: feed_forward(*a), *args)
    want, pull32 = jax.vjp(
        lambda *a: feed_forward(*a), *(a.astype(jnp.float32) for a in args)
    )
    ones = jnp.ones_like(want)
    scale = np.abs(want).max()
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(jnp.float32), want, atol=0.02 * scale)
    for g, w in zip(pull(ones.astype(jnp.bfloat16)), pull32(ones), strict=True):
        assert g.dtype == jnp.bfloat16
        g = g.astype(jnp.float32)
        np.testing.assert_allclose(g, w, atol=0.03 * np.abs(w).max())


def test_remat_and_vmap_change_nothing():
    x, *weights = inputs()

    def loss(x):
        return (feed_forward(x, *weights) ** 2).sum()

    want = jax.grad(loss)(x)
    remat = jax.grad(jax.checkpoint(loss))(x)
    np.testing.assert_allclose(remat, want, rtol=1e-5, atol=1e-4)
    both = jax.vmap(jax.grad(loss))(jnp.stack([x, 2 * x]))
    np.testing.assert_allclose(both[0], want, rtol=1e-4, atol=1e-4)
