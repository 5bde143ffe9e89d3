"""Scaled dot-product attention within examples, on flat tokens.

For one head with queries q, keys k, values v and kept weights c ∈ {0, 1}:

    e = exp(q·kᵀ/√K - row maximum)    within one example, elsewhere 0
    o = r∘((c∘e)·v),                  r = 1 / ((1 - rate)·row sums of e)

and backward, with g = r∘∂loss/∂o and δ = (1 - rate)·r∘(row sums of ∂loss/∂o ∘ o),

    ∂v = (c∘e)ᵀ·g,    a = e∘(c∘(g·vᵀ) - δ),    ∂q = a·k/√K,    ∂k = aᵀ·q/√K.

The row factors r and δ stay on arrays of K columns instead of T (δ after Dao et al.
2022, "FlashAttention", appendix B). Every product is a plain [G, ·, ·]·[G, ·, ·] of
G = B·H matrices; only the thin operands of K columns are ever transposed.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Integer, UInt32

from tl_jax.models.batch import Array
from tl_jax.models.dense import settled
from tl_jax.models.dropout import Noise, absorb, hash_of, kept, layer_noise

# Finite: a row without any key must not compute inf - inf.
_MASKED = np.float32(-1e30)


class _Shape(NamedTuple):
    """The static numbers of one call."""

    rows: int  # B
    length: int  # T
    heads: int  # H

    def by_head(self, x: Array) -> Array:
        """[M, D] to [G, T, K]."""
        x = x.reshape(self.rows, self.length, self.heads, -1).transpose(0, 2, 1, 3)
        return x.reshape(self.rows * self.heads, self.length, -1)

    def by_head_transposed(self, x: Array) -> Array:
        """[M, D] to [G, K, T]."""
        x = x.reshape(self.rows, self.length, self.heads, -1).transpose(0, 2, 3, 1)
        return settled(x.reshape(self.rows * self.heads, -1, self.length))

    def flat(self, x: Array) -> Array:
        """[G, T, K] to [M, D]."""
        x = x.reshape(self.rows, self.heads, self.length, -1).transpose(0, 2, 1, 3)
        return x.reshape(self.rows * self.length, -1)

    def flat_transposed(self, x: Array) -> Array:
        """[G, K, T] to [M, D]."""
        x = x.reshape(self.rows, self.heads, -1, self.length).transpose(0, 3, 1, 2)
        return x.reshape(self.rows * self.length, -1)

    def square(self, x: Array) -> Array:
        """[G, T, T] to [B, H, T, T]."""
        return x.reshape(self.rows, self.heads, self.length, self.length)

    def spread(self, x: Array) -> Array:
        """A number a token and head [B, H, T] to its K columns' rows [M, H, 1]."""
        return x.transpose(0, 2, 1).reshape(-1, self.heads, 1)


class _Saved(NamedTuple):
    """What the backward needs of the forward."""

    query: Array  # [M, D], times 1/√K
    key: Array
    value: Array
    out: Array
    e: Array  # [B, H, T, T]
    keep: Array | None  # [B, H, T, T]
    r: Array  # [B, H, T]


def attention(
    query: Float[Array, "M D"],
    key: Float[Array, "M D"],
    value: Float[Array, "M D"],
    example: Int[Array, "B T"],
    positions: Int[Array, "B T"],
    *,
    heads: int,
    rate: float = 0.0,
    noise: Noise | None = None,
    layer: int | Integer[Array, ""] = 0,
) -> Float[Array, "M D"]:
    """Lets each token attend to the tokens of its own example; padding gets zeros.

    Args:
      query: Projected flat tokens, ``M = B·T``; a head is K neighbouring columns.
      key: As query.
      value: As query.
      example: Slot of the row that a token belongs to, 0 = padding.
      positions: Position within the example; names the key in the dropout's hash, so
        that masks do not depend on where in the row the example lies.
      heads: H; D is H·K.
      rate: Probability that a weight is dropped, in [0, 1).
      noise: From `token_noise`; None means evaluation.
      layer: Number of the place of the model, as in `dropout`.
    """
    # Two chains of products, meant to run side by side on CPU; the gain is unproven.
    groups = 2 if heads % 2 == 0 else 1
    draws = [(None, None)] * groups
    if noise is None or rate == 0:
        rate = 0.0
    else:
        rows = layer_noise(noise, layer)[:, None, :]
        rows = absorb(rows, np.arange(1, heads + 1)[None, :, None])
        columns = hash_of(positions)
        draws = [(part, columns) for part in jnp.split(rows, groups, axis=1)]
    parts = zip(
        *(jnp.split(x, groups, axis=1) for x in (query, key, value)), draws, strict=True
    )
    out = [
        jnp.asarray(_attention(heads // groups, rate, q, k, v, example, *draw))
        for q, k, v, draw in parts
    ]
    return jnp.concatenate(out, axis=1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attention(
    heads: int,
    rate: float,
    query: Float[Array, "M D"],
    key: Float[Array, "M D"],
    value: Float[Array, "M D"],
    example: Int[Array, "B T"],
    rows: UInt32[Array, "B H T"] | None,
    columns: UInt32[Array, "B T"] | None,
) -> Float[Array, "M D"]:
    return _forward(heads, rate, query, key, value, example, rows, columns)[0]


def _forward(
    heads: int,
    rate: float,
    query: Array,
    key: Array,
    value: Array,
    example: Array,
    rows: Array | None,
    columns: Array | None,
) -> tuple[Array, _Saved]:
    shape = _Shape(example.shape[0], example.shape[1], heads)
    query = query * jnp.asarray((query.shape[1] // heads) ** -0.5, query.dtype)
    scores = jnp.matmul(
        shape.by_head(query),
        shape.by_head_transposed(key),
        preferred_element_type=jnp.float32,
    )
    same = (example[:, :, None] == example[:, None, :])[:, None]
    scores = settled(jnp.where(same, shape.square(scores), _MASKED))
    e = jnp.exp(scores - scores.max(axis=-1, keepdims=True))
    real = (example > 0)[:, None, :]
    r = jnp.where(real, 1 / ((1 - rate) * e.sum(axis=-1)), 0)
    e = e.astype(query.dtype)
    keep = None
    if rows is not None and columns is not None:
        keep = kept(rows[..., None], columns[:, None, None, :], rate)
    summed = jnp.matmul(_dropped(e, keep), shape.by_head(value))
    out = _scale(shape.flat(summed), shape.spread(r))
    return out, _Saved(query, key, value, out, e, keep, r)


def _backward(
    heads: int, rate: float, saved: _Saved, gradient: Array
) -> tuple[Array | None, ...]:
    e, keep = saved.e, saved.keep
    shape = _Shape(e.shape[0], e.shape[2], heads)
    inner = (gradient * saved.out).reshape(len(gradient), heads, -1)
    inner = inner.astype(jnp.float32).sum(axis=-1).reshape(*e.shape[::2], heads)
    delta = (1 - rate) * saved.r * inner.transpose(0, 2, 1)
    g = _scale(gradient, shape.spread(saved.r))
    weighted = jnp.matmul(
        shape.by_head(g),
        shape.by_head_transposed(saved.value),
        preferred_element_type=jnp.float32,
    )
    weighted = shape.square(settled(weighted))
    if keep is not None:
        weighted = jnp.where(keep, weighted, 0)
    a = e * (weighted - delta[..., None])
    a = settled(a.astype(e.dtype)).reshape(-1, *e.shape[2:])
    root = jnp.asarray((gradient.shape[1] // heads) ** -0.5, gradient.dtype)
    to_query = shape.flat(jnp.matmul(a, shape.by_head(saved.key))) * root
    # The saved query holds 1/√K already.
    to_key = jnp.matmul(shape.by_head_transposed(saved.query), a)
    to_value = jnp.matmul(shape.by_head_transposed(g), settled(_dropped(e, keep)))
    to_key, to_value = shape.flat_transposed(to_key), shape.flat_transposed(to_value)
    return to_query, to_key, to_value, None, None, None


def _dropped(e: Array, keep: Array | None) -> Array:
    """c∘e as [G, T, T]."""
    if keep is not None:
        e = jnp.where(keep, e, jnp.zeros((), e.dtype))
    return jnp.reshape(e, (-1, *e.shape[2:]))


def _scale(x: Float[Array, "M D"], by: Float[Array, "M H 1"]) -> Float[Array, "M D"]:
    """Multiplies the K columns of each head by its number, in float32."""
    heads = x.reshape(*by.shape[:2], -1) * by
    return heads.reshape(x.shape).astype(x.dtype)


_attention.defvjp(_forward, _backward)
