"""Scaled dot-product attention within examples, on flat tokens."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Integer, UInt32

from tl_jax.models.batch import Array
from tl_jax.models.dense import settled
from tl_jax.models.dropout import absorb, hash_of, kept, layer_noise
from tl_jax.models.mesh import row_devices

# Finite: a row without any key must not compute inf - inf.
_MASKED = np.float32(-1e30)
# Of all heads on a device; 128 MiB of float32 that a layer would keep, several times.
_MOST_SCORES = 2**25


def attention(
    query: Float[Array, "R D"],
    key: Float[Array, "M D"],
    value: Float[Array, "M D"],
    query_example: Int[Array, "B Q"],
    example: Int[Array, "B T"],
    positions: Int[Array, "B T"],
    *,
    heads: int,
    rate: float = 0.0,
    noise: UInt32[Array, "B Q"] | None = None,
    layer: int | Integer[Array, ""] = 0,
) -> Float[Array, "R D"]:
    """softmax(q·kᵀ/√K)·v of each head, over the tokens of the query's own example.

    Vaswani et al. 2017, section 3.2. The softmax is float32 whatever the type of its
    inputs, and its weights are dropped out, as in BERT. A query at padding gets zeros.

    Args:
      query: Projected queries, ``R = B·Q``; a head is K neighbouring columns.
      key: Projected flat tokens, ``M = B·T``.
      value: As key.
      query_example: Slot of the row that a query belongs to, 0 = padding.
      example: Slot of the row that a token belongs to, 0 = padding.
      positions: Position within the example; names the key in the dropout's hash, so
        that masks do not depend on where in the row the example lies.
      heads: H; D is H·K.
      rate: Probability that a weight is dropped, in [0, 1).
      noise: Of the queries' tokens, ``[B, Q]``; None means evaluation.
      layer: Number of the place of the model, as in `dropout`.
    """
    rows, width = example.shape

    def by_head(x: Array) -> Array:
        return x.reshape(rows, -1, heads, x.shape[1] // heads).transpose(2, 0, 1, 3)

    query = query * jnp.asarray((query.shape[1] // heads) ** -0.5, query.dtype)
    same = query_example[:, :, None] == example[:, None, :]
    names, scale = None, 1.0
    if noise is not None and rate:
        each = np.arange(1, heads + 1)[:, None, None]
        names, scale = absorb(layer_noise(noise, layer)[None], each), 1 / (1 - rate)
    columns = hash_of(positions)[:, None, :]

    def attend(head: tuple[Array, Array, Array, Array | None]) -> Array:
        query, key, value, names = head
        scores = jnp.matmul(query, key, preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(jnp.where(same, scores, _MASKED)).astype(query.dtype)
        if names is not None:
            keep = kept(names[:, :, None], columns, rate)
            weights = jnp.where(keep, weights, jnp.zeros((), query.dtype))
        return jnp.matmul(weights, value)

    each_head = by_head(query), settled(by_head(key).swapaxes(2, 3)), by_head(value)
    if query_example.size * width * heads > _MOST_SCORES * row_devices():
        # The weights of a head at a time, made again for its gradients. In a loop, or
        # CPUs' compiler would find the second making equal to the first and keep that.
        attended = jax.lax.map(jax.checkpoint(attend), (*each_head, names))
    else:
        attended = jax.vmap(attend)((*each_head, names))
    attended = attended.transpose(1, 2, 0, 3).reshape(query.shape)
    real = jnp.where(query_example > 0, scale, 0).astype(query.dtype)
    return attended * real.reshape(-1, 1)
