"""Attention against plain float64 formulas, forward and backward."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from tests.models.test_dropout import rows_of
from tl_jax.models.attention import attention
from tl_jax.models.dropout import token_noise
from tl_jax.training.placement import choose_placement

KEY = jax.random.key(3)
# Two rows: two examples and padding; one example; a row of padding.
PACKED = rows_of([(5, 4), (9, 3)], [(2, 8)], [], length=8)
HEADS, WIDTH = 4, 12


def inputs(batch=PACKED, scale=1.0, seed=0, dtype=jnp.float32):
    draw = np.random.default_rng(seed)
    shape = (3, batch.tokens.size, WIDTH)
    return tuple(jnp.asarray(scale * draw.normal(size=shape), dtype))


COMPILED = jax.jit(attention, static_argnames=("heads", "rate"))


@pytest.fixture(params=["all heads at once", "a head at a time"])
def way(request, monkeypatch):
    """Both ways of computing, whatever the number of scores."""
    if request.param == "a head at a time":
        monkeypatch.setattr("tl_jax.models.attention._MOST_SCORES", 0)
    COMPILED.clear_cache()
    yield
    COMPILED.clear_cache()


def run(query, key, value, batch=PACKED, heads=HEADS, **dropout):
    example, positions = batch.example, batch.positions
    return COMPILED(
        query, key, value, example, example, positions, heads=heads, **dropout
    )


def plain(query, key, value, batch=PACKED, heads=HEADS, factors=1.0):
    """softmax(q·kᵀ/√K within the example)·v, factors on the weights [B, H, T, T]."""
    B, T = batch.tokens.shape

    def split(x):
        return x.reshape(B, T, heads, -1)

    q, k, v = split(query), split(key), split(value)
    scores = jnp.einsum("BQHK,BTHK->BHQT", q, k) / np.sqrt(q.shape[-1])
    example = np.asarray(batch.example)
    mask = (example[:, :, None] == example[:, None, :]) & (example > 0)[:, :, None]
    mask = mask[:, None]
    e = jnp.exp(jnp.where(mask, scores, -1e4)) * mask
    weights = e / jnp.where(e.sum(-1, keepdims=True) > 0, e.sum(-1, keepdims=True), 1)
    return jnp.einsum("BHQT,BTHK->BQHK", weights * factors, v).reshape(query.shape)


def seen_factors(batch, rate, noise, layer=0, heads=HEADS):
    """The factors on the weights, seen from outside: values are unit vectors.

    All scores are equal, so that the output of a head of K = T columns is its row of
    weights, 1 / (number of tokens of the example), times the factors.
    """
    B, T = batch.tokens.shape
    zeros = jnp.zeros((B * T, heads * T))
    unit = jnp.tile(jnp.eye(T), (B, heads))
    kwargs = {"rate": rate, "noise": noise, "layer": layer}
    out = run(zeros, zeros, unit, batch, heads, **kwargs)
    out = np.asarray(out).reshape(B, T, heads, T).transpose(0, 2, 1, 3)
    example = np.asarray(batch.example)
    same = (example[:, :, None] == example[:, None, :]) & (example > 0)[:, :, None]
    return out * same.sum(-1)[:, None, :, None]


def in_double(function, *args):
    with jax.enable_x64(True):
        args = [jnp.asarray(np.asarray(a), jnp.float64) for a in args]
        return jax.tree.map(np.asarray, jax.jit(function)(*args))


def gradients(function, cotangent, *args):
    out, pull = jax.vjp(function, *args)
    return pull(jnp.asarray(cotangent, out.dtype))


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("heads", [3, 4])
def test_forward_and_backward_follow_the_formula(heads):
    args = inputs()
    cotangent = np.random.default_rng(1).normal(size=args[0].shape)
    want = in_double(lambda *a: plain(*a, heads=heads), *args)
    np.testing.assert_allclose(run(*args, heads=heads), want, rtol=1e-5, atol=1e-6)
    got = gradients(lambda *a: run(*a, heads=heads), cotangent, *args)
    want = in_double(
        lambda *a: gradients(lambda *b: plain(*b, heads=heads), cotangent, *a), *args
    )
    for g, w in zip(got, want, strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropout_multiplies_the_weights_forward_and_backward(rate):
    noise = token_noise(KEY, PACKED)
    factors = seen_factors(PACKED, rate, noise)
    real = factors[np.asarray(plain_mask())]
    assert set(np.round(np.unique(real), 4)) == {0, np.round(1 / (1 - rate), 4)}
    args = inputs()
    cotangent = np.random.default_rng(1).normal(size=args[0].shape)

    def dropped(*a):
        return run(*a, rate=rate, noise=noise)

    # Exact factors: what was seen holds float32's rounding.
    exact = np.where(factors > 0.5, 1 / (1 - rate), 0.0)
    want = in_double(lambda *a: plain(*a, factors=exact), *args)
    np.testing.assert_allclose(dropped(*args), want, rtol=1e-5, atol=1e-6)
    want = in_double(
        lambda *a: gradients(lambda *b: plain(*b, factors=exact), cotangent, *a), *args
    )
    for g, w in zip(gradients(dropped, cotangent, *args), want, strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-5, atol=1e-6)


def plain_mask():
    example = np.asarray(PACKED.example)
    mask = (example[:, :, None] == example[:, None, :]) & (example > 0)[:, :, None]
    return np.broadcast_to(mask[:, None], (len(example), HEADS, *mask.shape[1:]))


def test_dropped_weights_are_independent_of_head_layer_query_and_key():
    batch = rows_of(*([(i, 64)] for i in range(4)), length=64)
    noise = token_noise(KEY, batch)
    keep = seen_factors(batch, 0.1, noise, heads=4) > 0.5
    others = {"layer": seen_factors(batch, 0.1, noise, layer=1, heads=4) > 0.5}
    for axis, name in enumerate(["example", "head", "query", "key"]):
        others[name] = np.roll(keep, 1, axis=axis)
    others["query and key"] = np.roll(keep, (1, 1), axis=(2, 3))
    pairs = {name: (keep, other) for name, other in others.items()}
    above = np.triu_indices(64, 1)
    swapped = keep.swapaxes(2, 3)
    pairs["swapped"] = (keep[..., *above], swapped[..., *above])
    deviation = np.sqrt(0.1 * 0.9 / keep.size)
    assert abs((~keep).mean() - 0.1) < 5 * deviation
    for name, (one, other) in pairs.items():
        r = np.corrcoef(one.ravel(), other.ravel())[0, 1]
        assert abs(r) * np.sqrt(one.size) < 5, name


def test_packing_changes_neither_output_nor_gradient():
    padded = rows_of([(9, 3)], [(2, 8)], [(5, 4)], length=8)
    where = {5: ((0, 0), (2, 0)), 9: ((0, 4), (0, 0)), 2: ((1, 0), (1, 0))}
    length = {5: 4, 9: 3, 2: 8}
    args = [np.asarray(a).reshape(3, 8, WIDTH) for a in inputs()]
    cotangent = np.random.default_rng(1).normal(size=(3, 8, WIDTH)).astype("f")

    def moved(x):
        out = np.zeros_like(x)
        for number, ((b, t), (c, u)) in where.items():
            n = length[number]
            out[c, u : u + n] = x[b, t : t + n]
        return out

    def both(batch, args, cotangent):
        noise = token_noise(KEY, batch)
        flat = [jnp.asarray(a.reshape(-1, WIDTH)) for a in args]
        out, pull = jax.vjp(lambda *a: run(*a, batch, rate=0.3, noise=noise), *flat)
        results = (out, *pull(jnp.asarray(cotangent.reshape(-1, WIDTH))))
        return [np.asarray(r).reshape(3, 8, WIDTH) for r in results]

    one = both(PACKED, args, cotangent)
    other = both(padded, [moved(a) for a in args], moved(cotangent))
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(moved(a), b, rtol=1e-5, atol=1e-6)


def test_no_gradient_crosses_an_example_border():
    args = inputs()
    jacobians = jax.jacrev(run, argnums=(0, 1, 2))(*args)
    example = np.asarray(PACKED.example)
    label = (example + 10 * np.arange(3)[:, None] * (example > 0)).ravel()
    same = (label[:, None] == label[None]) & (label > 0)[:, None]
    for jacobian in jacobians:
        reached = np.abs(np.asarray(jacobian)).max(axis=(1, 3))
        assert (reached[~same] == 0).all()
    # A value reaches every token of its example.
    reached = np.abs(np.asarray(jacobians[2])).max(axis=(1, 3))
    assert (reached[same] > 0).all()


def test_padding_gets_zeros_and_gives_no_gradient_whatever_stands_there():
    args = inputs(scale=100.0)
    real = np.asarray(PACKED.mask).ravel()
    out, pull = jax.vjp(run, *args)
    assert (np.asarray(out)[~real] == 0).all()
    for g in pull(jnp.ones_like(out)):
        assert np.isfinite(g).all()
        assert (np.asarray(g)[~real] == 0).all()


def test_huge_scores_stay_finite():
    args = inputs(scale=1e4)
    out, pull = jax.vjp(run, *args)
    assert np.isfinite(out).all()
    assert all(np.isfinite(g).all() for g in pull(jnp.ones_like(out)))


def test_bfloat16_stays_bfloat16_and_close():
    noise = token_noise(KEY, PACKED)
    args = inputs(dtype=jnp.bfloat16)
    wide = [a.astype(jnp.float32) for a in args]
    cotangent = np.random.default_rng(1).normal(size=args[0].shape)

    def dropped(*a):
        return run(*a, rate=0.1, noise=noise)

    out = dropped(*args)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(jnp.float32), dropped(*wide), atol=0.03)
    got, want = (
        gradients(dropped, cotangent, *args),
        gradients(dropped, cotangent, *wide),
    )
    for g, w in zip(got, want, strict=True):
        assert g.dtype == jnp.bfloat16
        np.testing.assert_allclose(g.astype(jnp.float32), w, atol=0.06)


@pytest.mark.usefixtures("way")
def test_rows_spread_over_devices_give_the_same_gradients():
    batch = rows_of([(5, 4), (9, 3)], [(2, 8)], [], [(1, 5)], length=8)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))

    @jax.jit
    def grad(args, batch):
        noise = token_noise(KEY, batch)
        return jax.grad(
            lambda args: (run(*args, batch, rate=0.1, noise=noise) ** 2).sum()
        )(args)

    rows = NamedSharding(mesh, PartitionSpec("data"))
    args = inputs(batch)
    spread = grad(jax.device_put(args, rows), jax.device_put(batch, rows))
    for g, w in zip(spread, grad(args, batch), strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-5, atol=1e-6)


def test_remat_vmap_and_a_traced_layer_change_nothing():
    noise = token_noise(KEY, PACKED)
    args = inputs()

    def loss(args, layer):
        return (run(*args, rate=0.1, noise=noise, layer=layer) ** 2).sum()

    want = jax.grad(loss)(args, 3)
    remat = jax.grad(jax.checkpoint(loss))(args, jnp.int32(3))
    stacked = jax.tree.map(lambda a: jnp.stack([a, -a]), args)
    mapped = jax.vmap(jax.grad(loss), in_axes=(0, None))(stacked, 3)
    for w, r, m in zip(want, remat, mapped, strict=True):
        np.testing.assert_allclose(r, w, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(m[0], w, rtol=1e-5, atol=1e-6)


def test_many_scores_are_not_kept_for_the_gradients(monkeypatch):
    batch = rows_of([(1, 256)], [(2, 256)], length=256)
    noise = token_noise(KEY, batch)
    args = inputs(batch)

    def loss(args):
        query, key, value = args
        for layer in range(4):
            query = run(query, key, value, batch, rate=0.1, noise=noise, layer=layer)
        return (query**2).sum()

    def memory():
        COMPILED.clear_cache()
        compiled = jax.jit(jax.grad(loss)).lower(args).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    kept = memory()
    monkeypatch.setattr("tl_jax.models.attention._MOST_SCORES", 0)
    assert memory() < kept / 3
    COMPILED.clear_cache()


@pytest.mark.parametrize("kind", ["jit", "fsdp", "pmap"])
def test_what_counts_is_how_many_weights_a_device_has(kind, monkeypatch):
    """So many fit on one of two devices as half of the batch has."""
    half = HEADS * PACKED.tokens.size * PACKED.tokens.shape[1]
    batch = jax.tree.map(lambda x: np.concatenate([x, x]), PACKED)

    def loops(most):
        monkeypatch.setattr("tl_jax.models.attention._MOST_SCORES", most)
        found = []

        def look(_, batch):
            where = batch.example, batch.example, batch.positions
            attend = functools.partial(attention, heads=HEADS)
            flat = [jnp.ones((batch.tokens.size, WIDTH))] * 3
            found.append("scan" in str(jax.make_jaxpr(attend)(*flat, *where)))
            return batch.ids

        choose_placement(kind, 2).map(look)(None, batch)
        return any(found)

    assert not loops(half)
    assert loops(half - 1)
