"""Masks follow the example and are independent draws in every other coordinate."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from tl_jax.models.batch import Batch
from tl_jax.models.dropout import dropout, hash_of, kept, layer_noise, token_noise

KEY = jax.random.key(7)
RATE = 0.1


def rows_of(*rows, length, epoch=0):
    """A batch from rows of (example id, number of tokens)."""
    slots = max(len(row) for row in rows)
    example = np.zeros((len(rows), length), np.int32)
    positions = np.zeros_like(example)
    ids = np.full((len(rows), slots), -1, np.int32)
    for b, row in enumerate(rows):
        start = 0
        for s, (number, count) in enumerate(row):
            ids[b, s] = number
            example[b, start : start + count] = s + 1
            positions[b, start : start + count] = np.arange(count)
            start += count
    zeros = np.zeros_like(example)
    return Batch(zeros, zeros, positions, example, ids, np.full_like(ids, epoch))


def examples(count, length, *, first=0, epoch=0):
    """One full example a row."""
    return rows_of(
        *([(first + i, length)] for i in range(count)), length=length, epoch=epoch
    )


def mask_of(batch, *, width=64, rate=RATE, layer=0, key=KEY):
    """True where dropout keeps, [B, T, width]."""
    return np.asarray(dropped_ones(batch, key, layer, width, rate)) != 0


@functools.partial(jax.jit, static_argnums=(3, 4))
def dropped_ones(batch, key, layer, width, rate):
    ones = jnp.ones((*batch.tokens.shape, width))
    return dropout(ones, rate, token_noise(key, batch), layer)


def correlation(a, b):
    """In units of its standard deviation under independence."""
    return np.corrcoef(a.ravel(), b.ravel())[0, 1] * np.sqrt(a.size)


def mixed(x):
    """The published 32-bit permutation `lowbias32`, in unbounded integers."""
    x ^= x >> 16
    x = x * 0x7FEB352D % 2**32
    x ^= x >> 15
    x = x * 0x846CA68B % 2**32
    return x ^ x >> 16


def test_hash_is_the_published_permutation():
    values = [0, 1, 2, 12345, 2**31 - 1]
    want = [mixed((v + 0x9E3779B9) % 2**32) for v in values]
    assert np.asarray(hash_of(np.array(values))).tolist() == want


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5, 0.9])
def test_rate_is_kept_within_five_standard_deviations(rate):
    mask = mask_of(examples(32, 64), width=256, rate=rate)
    deviation = np.sqrt(rate * (1 - rate) / mask.size)
    assert abs((~mask).mean() - rate) < 5 * deviation


@pytest.mark.parametrize("axis", [(1, 2), (0, 2), (0, 1)])
def test_no_example_position_or_feature_is_favoured(axis):
    mask = mask_of(examples(64, 64))
    kept_there = mask.sum(axis=axis)
    n = mask.size / kept_there.size
    z = (kept_there - n * (1 - RATE)) / np.sqrt(n * RATE * (1 - RATE))
    chi2, k = (z**2).sum(), z.size
    assert abs(chi2 - k) < 5 * np.sqrt(2 * k)


def test_bits_of_the_token_noise_are_fair_and_pairwise_independent():
    noise = np.asarray(token_noise(KEY, examples(128, 128))).ravel()
    bits = (noise[:, None] >> np.arange(32, dtype=np.uint32)) & 1
    signs = bits.astype(float) * 2 - 1
    products = signs.T @ signs / np.sqrt(len(signs))
    off = products[np.triu_indices(32, 1)]
    assert np.abs(signs.sum(axis=0)).max() < 5 * np.sqrt(len(signs))
    assert np.abs(off).max() < 5
    assert len(np.unique(noise)) > len(noise) - 5  # 0.03 collisions expected


def test_masks_are_independent_across_every_coordinate():
    batch = examples(32, 64)
    mask = mask_of(batch)
    others = {
        "layer": mask_of(batch, layer=1),
        "distant layer": mask_of(batch, layer=2**16),
        "epoch": mask_of(examples(32, 64, epoch=1)),
        "example": mask_of(examples(32, 64, first=32)),
        "seed": mask_of(batch, key=jax.random.key(8)),
    }
    for axis, name in enumerate(["next example", "next position", "next feature"]):
        others[name] = np.roll(mask, 1, axis=axis)
    for axis, name in enumerate(["far example", "far position", "far feature"]):
        others[name] = np.roll(mask, 16, axis=axis)
    for name, other in others.items():
        assert abs(correlation(mask, other)) < 5, name


def test_no_coordinate_can_stand_in_for_another():
    """Example 1 at epoch 0 is not example 0 at epoch 1, and so on."""
    step = {"epoch": (1, 0, 0, 0), "example": (0, 1, 0, 0), "layer": (0, 0, 0, 1)}
    masks = {}
    for name, (epoch, first, _, layer) in step.items():
        batch = examples(8, 64, first=first, epoch=epoch)
        masks[name] = mask_of(batch, layer=layer)
    for a, b in [("epoch", "example"), ("epoch", "layer"), ("example", "layer")]:
        assert abs(correlation(masks[a], masks[b])) < 5


def test_rectangles_of_the_mask_are_independent():
    """Rows and columns combine by xor, which alone would tie the four corners."""
    mask = mask_of(examples(64, 64), rate=0.5).reshape(-1, 64) * 2.0 - 1
    corners = mask[:-1, :-1] * mask[1:, :-1] * mask[:-1, 1:] * mask[1:, 1:]
    assert abs(corners.sum()) < 5 * np.sqrt(corners.size)


def test_no_two_tokens_share_a_mask():
    mask = mask_of(examples(64, 64), width=384).reshape(-1, 384)
    assert len(np.unique(mask, axis=0)) == len(mask)


def test_masks_do_not_depend_on_packing_or_batch_size():
    packed = rows_of([(5, 4), (9, 7)], [(2, 6)], length=12)
    padded = rows_of([(9, 7)], [(3, 2)], [(5, 4)], [(2, 6)], length=8)
    one, other = mask_of(packed), mask_of(padded)
    np.testing.assert_array_equal(one[0, :4], other[2, :4])
    np.testing.assert_array_equal(one[0, 4:11], other[0, :7])
    np.testing.assert_array_equal(one[1, :6], other[3, :6])


def test_masks_do_not_depend_on_the_number_of_devices():
    batch = examples(8, 16)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    split = jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))
    x = jnp.ones((8, 16, 32))

    @jax.jit
    def run(key, batch):
        return dropout(x.reshape(-1, 32), RATE, token_noise(key, batch), 3)

    alone = run(KEY, jax.device_put(batch, jax.devices()[0]))
    np.testing.assert_array_equal(alone, run(KEY, split))


def test_flat_rows_and_traced_layers_give_the_same_masks():
    noise = token_noise(KEY, examples(4, 8))
    x = jax.random.normal(KEY, (4, 8, 16))
    want = dropout(x, RATE, noise, 5)
    flat = dropout(x.reshape(-1, 16), RATE, noise, 5)
    traced = jax.jit(lambda layer: dropout(x, RATE, noise, layer))(5)
    np.testing.assert_array_equal(want.reshape(-1, 16), flat)
    np.testing.assert_array_equal(want, traced)


def test_vmap_over_seeds_equals_one_seed_at_a_time():
    batch = examples(4, 8)
    keys = jax.random.split(KEY, 3)
    together = jax.vmap(lambda key: token_noise(key, batch))(keys)
    apart = jnp.stack([token_noise(key, batch) for key in keys])
    np.testing.assert_array_equal(together, apart)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_kept_features_are_scaled_and_the_gradient_is_the_mask(dtype):
    noise = token_noise(KEY, examples(4, 8))
    x = jax.random.normal(KEY, (32, 16), dtype)
    out = dropout(x, 0.5, noise, 0)
    gradient = jax.grad(lambda x: dropout(x, 0.5, noise, 0).sum())(x)
    assert out.dtype == dtype
    assert set(np.unique(np.asarray(gradient, np.float32))) == {0.0, 2.0}
    np.testing.assert_array_equal(out, x * gradient)


def test_evaluation_and_rate_zero_change_nothing():
    x = jnp.ones((2, 4, 8))
    noise = token_noise(KEY, examples(2, 4))
    assert dropout(x, 0.5, None, 0) is x
    assert dropout(x, 0.0, noise, 0) is x


def test_extreme_rates_reach_both_ends_of_the_hash():
    rows = np.asarray(layer_noise(token_noise(KEY, examples(64, 64)), 0))
    columns = np.asarray(hash_of(np.arange(64)))
    assert np.asarray(kept(rows, columns[None], 0.0)).all()
    assert not np.asarray(kept(rows, columns[None], 1.0)).any()
