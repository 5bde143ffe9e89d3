"""Scaled dot-product attention within examples, on flat tokens.

For one head with queries q, keys k, values v and dropout factors c ∈ {0, 1/(1-rate)}:

    e = exp(q·kᵀ/√K - row maximum)   (0 where query and key are of different examples)
    o = (c∘e)·v / s,                 s = row sums of e

and backward, with g = ∂loss/∂o / s and δ = row sums of g∘o,

    ∂v = (c∘e)ᵀ·g,   a = e∘(c∘(g·vᵀ) - δ),   ∂q = a·k/√K,   ∂k = aᵀ·q/√K.

δ is the softmax's row sum, taken over K instead of T numbers (Dao et al. 2022,
"FlashAttention", section 3.1). The row maximum needs no gradient.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, UInt32

from tl_jax.models.batch import Array
from tl_jax.models.dropout import Noise, absorb, hash_of, kept, layer_noise

# Finite, so that a row of padding has no inf - inf.
_MASKED = np.float32(-1e30)


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
    layer: int | Array = 0,
) -> Float[Array, "M D"]:
    """Lets each token attend to the tokens of its own example; padding gets zeros.

    Args:
      query, key, value: Projected flat tokens, ``M = B·T``; heads are contiguous in D.
      example: Slot of the row a token belongs to, 0 = padding.
      positions: Position within the example; keys the dropout of the weights, so that
        it does not depend on where the example lies.
      heads: H; D is H·K.
      rate: Probability that a weight is dropped.
      noise: From `token_noise`; None means evaluation.
      layer: Number of the place of the model, as in `dropout`.
    """
    rows, columns, rate = _draws(noise, layer, positions, heads, rate)
    return _attention(heads, rate, query, key, value, example, rows, columns)


def _draws(noise, layer, positions, heads, rate):
    """Row hashes [B, H, T] of (query token, layer, head), column hashes of the keys."""
    if noise is None or rate == 0:
        return None, None, 0.0
    rows = layer_noise(noise, layer)[:, None, :]
    rows = absorb(rows, np.arange(1, heads + 1)[None, :, None])
    return rows, hash_of(positions), rate


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attention(heads, rate, query, key, value, example, rows, columns):
    return _forward(heads, rate, query, key, value, example, rows, columns)[0]


def _groups(heads):
    n = 2 if heads % 2 == 0 else 1
    return n


def _split(x, B, T, heads):
    return x.reshape(B, T, heads, -1).transpose(0, 2, 1, 3).reshape(B * heads, T, -1)


def _forward(heads, rate, query, key, value, example, rows, columns):
    n = _groups(heads)
    h = heads // n
    outs, saved = [], []
    for i in range(n):
        cut = lambda x: jnp.split(x, n, axis=1)[i]
        o, s = _fwd_heads(h, rate, cut(query), cut(key), cut(value), example, None if rows is None else rows[:, i * h : (i + 1) * h], columns)
        outs.append(o)
        saved.append(s)
    out = jnp.concatenate(outs, axis=1) if n > 1 else outs[0]
    return out, (saved, out, example)


def _fwd_heads(heads, rate, query, key, value, example, rows, columns):
    B, T = example.shape
    D = query.shape[1]
    scale = 1 / np.sqrt(D // heads)
    q, k, v = (_split(x, B, T, heads) for x in (query * jnp.asarray(scale, query.dtype), key, value))
    S = jax.lax.dot_general(q, k, (((2,), (2,)), ((0,), (0,))), preferred_element_type=jnp.float32)
    S = S.reshape(B, heads, T, T)
    same = (example[:, :, None] == example[:, None, :])[:, None]
    S = jnp.where(same, S, _MASKED)
    E = jnp.exp(S - S.max(axis=-1, keepdims=True))
    total = E.sum(-1)
    inv = (1 / (1 - rate)) / total  # B H T
    E = E.astype(query.dtype)
    if rows is not None:
        keep = kept(rows[:, :, :, None], columns[:, None, None, :], rate)
        E = jnp.where(keep, E, -E)
    ED = jnp.maximum(E, 0) if rows is not None else E
    O = ED.reshape(B * heads, T, T) @ v
    valid = (example > 0)[:, None, :]
    inv = jnp.where(valid, inv, 0)[..., None].astype(O.dtype)
    out = (O.reshape(B, heads, T, -1) * inv).transpose(0, 2, 1, 3).reshape(B * T, D)
    return out, (q, k, v, E, inv)


def _backward(heads, rate, saved, g):
    saved, out, example = saved
    n = len(saved)
    res = []
    for i, s in enumerate(saved):
        cut = lambda x: jnp.split(x, n, axis=1)[i]
        res.append(_bwd_heads(heads // n, rate, s, cut(out), example, cut(g)))
    dq, dk, dv = (jnp.concatenate(x, axis=1) if n > 1 else x[0] for x in zip(*res))
    return dq, dk, dv, None, None, None


def _bwd_heads(heads, rate, saved, out, example, g):
    q, k, v, E, inv = saved
    B, T = example.shape
    D = g.shape[1]
    K = D // heads
    scale = 1 / np.sqrt(D // heads)
    g = g.reshape(B, T, heads, K).transpose(0, 2, 1, 3)
    out = out.reshape(B, T, heads, K).transpose(0, 2, 1, 3)
    inv = inv  # B H T 1
    delta = (g * out).sum(-1, keepdims=True) * inv * (1 - rate)
    g = (g * inv).reshape(B * heads, T, K)
    dP = jax.lax.dot_general(g, v, (((2,), (2,)), ((0,), (0,)))).reshape(B, heads, T, T)
    if rate:
        ED = jnp.maximum(E, 0)
        dS = ED * dP - jnp.abs(E) * delta
    else:
        ED = E
        dS = E * (dP - delta)
    dS = dS.reshape(B * heads, T, T)
    ED = ED.reshape(B * heads, T, T)
    dvT = g.transpose(0, 2, 1) @ ED
    dq = dS @ k
    dkT = q.transpose(0, 2, 1) @ dS
    flatT = lambda x: x.reshape(B, heads, K, T).transpose(0, 3, 1, 2).reshape(B * T, D)
    dq = (dq.reshape(B, heads, T, K) * jnp.asarray(scale, dq.dtype)).transpose(0, 2, 1, 3).reshape(B * T, D)
    return dq, flatT(dkT), flatT(dvT)


_attention.defvjp(_forward, _backward)
