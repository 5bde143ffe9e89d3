"""Dropout whose masks depend on the example, not on where the batch puts it.

A mask element is a 32-bit counter hash of (seed, epoch, example, position, layer,
feature). The same example gets the same masks at any batch size, packing or device
count, and the hash is far cheaper than a cryptographic generator.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Integer, UInt32

from tl_jax.models.batch import Array, Batch, per_token

# Odd multipliers of low avalanche bias (C. Wellons, "Prospecting for Hash Functions").
_MULTIPLY_1 = np.uint32(0x7FEB352D)
_MULTIPLY_2 = np.uint32(0x846CA68B)
# 2^32 divided by the golden ratio: spreads consecutive counters over the range.
_GOLDEN = np.uint32(0x9E3779B9)

Noise = UInt32[Array, "B T"]


def mix_bits(x: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
    """Permutes the 32-bit integers; each input bit flips half of the output's."""
    x = (x ^ (x >> np.uint32(16))) * _MULTIPLY_1
    x = (x ^ (x >> np.uint32(15))) * _MULTIPLY_2
    return x ^ (x >> np.uint32(16))


def hash_of(value: int | Integer[Array, "..."]) -> UInt32[Array, "..."]:
    """Hashes integers one by one."""
    return mix_bits(jnp.asarray(value).astype(jnp.uint32) + _GOLDEN)


def absorb(
    state: UInt32[Array, "..."], value: int | Integer[Array, "..."]
) -> UInt32[Array, "..."]:
    """Hashes one more integer into a running hash of the same shape (or a scalar)."""
    return mix_bits(state ^ hash_of(value))


def token_noise(key: jax.Array, batch: Batch) -> Noise:
    """Hashes (key, epoch, example, position) into one number a token.

    Made once a batch; every dropout of the model derives its mask from it.
    """
    seed = jax.random.bits(key, (1, 1), jnp.uint32)
    epochs = per_token(batch.epochs, batch.example)
    ids = per_token(batch.ids, batch.example)
    return absorb(absorb(absorb(seed, epochs), ids), batch.positions)


def layer_noise(noise: Noise, layer: int | Integer[Array, ""]) -> Noise:
    """Rehashes the tokens' noise for one place of the model, so that none repeats."""
    return absorb(noise, layer)


def kept(
    rows: UInt32[Array, "..."], columns: UInt32[Array, "..."], rate: float
) -> Bool[Array, "..."]:
    """Draws True with probability 1 - rate for each pair of hashed row and column.

    Both are hashes already, of shapes that broadcast. A product is random in its high
    bits, and those decide the comparison; CPUs compare signed integers only.
    """
    x = (rows ^ columns) * _MULTIPLY_1
    x = (x ^ (x >> np.uint32(15))) * _MULTIPLY_2
    threshold = np.int32(min(round(rate * 2**32), 2**32 - 1) - 2**31)
    return jax.lax.bitcast_convert_type(x, jnp.int32) >= threshold


def dropout(
    x: Float[Array, "*M D"],
    rate: float,
    noise: Noise | None,
    layer: int | Integer[Array, ""],
) -> Float[Array, "*M D"]:
    """Zeroes features at the given rate and scales the others by 1 / (1 - rate).

    Args:
      x: Features, one row a token: ``[B, T, D]``, or flat ``[B·T, D]``.
      rate: Probability of zero, in [0, 1).
      noise: From `token_noise`; None means evaluation and returns x.
      layer: Number of the place of the model; places with the same one share masks.
    """
    if noise is None or rate == 0:
        return x
    rows = layer_noise(noise, layer).reshape(x.shape[:-1])[..., None]
    columns = mix_bits(np.arange(x.shape[-1], dtype=np.uint32) + _GOLDEN)
    columns = columns.reshape((1,) * (x.ndim - 1) + (-1,))
    scale = jnp.asarray(1 / (1 - rate), x.dtype)
    return jnp.where(kept(rows, columns, rate), x * scale, jnp.zeros((), x.dtype))
