"""The one batch type: packed is the general case, padded is one example a row.

Axes, here and everywhere: ``B`` rows, ``T`` tokens of a row, ``S`` example slots of a
row, ``D`` width, ``H`` heads, ``K`` head size, ``N`` classes, ``M = B·T`` flat tokens.
"""

from dataclasses import replace
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Bool, Float, Int, Shaped

Array = jax.Array | np.ndarray


@struct.dataclass
class Batch:
    """Examples laid into rows of fixed shape.

    Attributes:
      tokens: Vocabulary ids; what stands at padding is never read.
      types: Segment ids (BERT's sentence A = 0, B = 1).
      positions: Position of a token within its example, from 0.
      example: Slot (1…S) of the row that a token belongs to; 0 is padding.
      ids: Global number of the example in each slot; -1 is an empty slot.
      epochs: The epoch in which the slot's example is seen (keys its dropout).
      targets: Named targets, one per slot ``[B, S, …]`` or per token ``[B, T]``.
      weights: Weight of each target, by the same names; 0 where there is none.
      inputs: What tokens bring beside their ids, one entry a token ``[B, T, …]``:
        ELMo's ``characters``, or the ``states`` of a biLM that were computed before.
    """

    tokens: Int[Array, "B T"]
    types: Int[Array, "B T"]
    positions: Int[Array, "B T"]
    example: Int[Array, "B T"]
    ids: Int[Array, "B S"]
    epochs: Int[Array, "B S"]
    targets: dict[str, Array] = struct.field(default_factory=dict)
    weights: dict[str, Array] = struct.field(default_factory=dict)
    inputs: dict[str, Array] = struct.field(default_factory=dict)

    @property
    def mask(self) -> Bool[Array, "B T"]:
        """True where a real token stands."""
        return self.example > 0

    @property
    def slots(self) -> Bool[Array, "B S"]:
        """True where a slot holds an example."""
        return self.ids >= 0


def membership(batch: Batch) -> Bool[Array, "B S T"]:
    """True where token ``t`` belongs to the example in slot ``s`` of its row."""
    slots = jnp.arange(1, batch.ids.shape[1] + 1)
    return batch.example[:, None, :] == slots[None, :, None]


def per_token(
    values: Int[Array, "B S"], example: Int[Array, "B T"]
) -> Int[Array, "B T"]:
    """Spreads one value a slot to the slot's tokens; padding gets the first slot's."""
    return jnp.take_along_axis(values, jnp.maximum(example - 1, 0), axis=1)


def first_columns(batch: Batch) -> Int[Array, "B S"]:
    """Finds each example's first token ([CLS]); an empty slot gets the row's first."""
    return jnp.argmax(membership(batch), axis=2)


def first_tokens(
    features: Shaped[Array, "B T D"], batch: Batch
) -> Shaped[Array, "B S D"]:
    """Takes each example's first token, as `first_columns` finds it."""
    return jnp.take_along_axis(features, first_columns(batch)[:, :, None], axis=1)


def last_tokens(
    features: Shaped[Array, "B T D"], batch: Batch
) -> Shaped[Array, "B S D"]:
    """Takes each example's last token; an empty slot gets the row's last."""
    where = features.shape[1] - 1 - jnp.argmax(membership(batch)[:, :, ::-1], axis=2)
    return jnp.take_along_axis(features, where[:, :, None], axis=1)


def mean_tokens(features: Float[Array, "B T D"], batch: Batch) -> Float[Array, "B S D"]:
    """Averages each example's tokens; an empty slot gives zeros."""
    member = membership(batch).astype(features.dtype)
    count = jnp.maximum(member.sum(axis=2), 1)
    return jnp.einsum("BST,BTD->BSD", member, features) / count[:, :, None]


def max_tokens(features: Float[Array, "B T D"], batch: Batch) -> Float[Array, "B S D"]:
    """Takes each feature's maximum over an example's tokens; empty slots give zeros."""
    member = membership(batch)[:, :, :, None]
    lowest = jnp.finfo(features.dtype).min
    highest = jnp.where(member, features[:, None], lowest).max(axis=2)
    return jnp.where(batch.slots[:, :, None], highest, 0)


def pool(
    features: Float[Array, "B T D"],
    batch: Batch,
    how: Literal["last", "max", "mean", "none"],
    *,
    directions: int = 2,
) -> Float[Array, "B S D"] | None:
    """Makes one vector of each example's states.

    ``last`` joins the final state of each direction (D is split evenly, the forward one
    first); ``max`` and ``mean`` pool over the example's tokens; ``none`` makes none.
    """
    match how:
        case "none":
            return None
        case "mean":
            return mean_tokens(features, batch)
        case "max":
            return max_tokens(features, batch)
    if directions == 1:
        return last_tokens(features, batch)
    forward, backward = jnp.split(features, 2, axis=-1)
    ends = [last_tokens(forward, batch), first_tokens(backward, batch)]
    return jnp.concatenate(ends, axis=-1)


def by_text(batch: Batch) -> Batch:
    """Gives each of an example's two texts a slot of its own: 2·s − 1 and 2·s."""
    slot = 2 * batch.example - 1 + batch.types
    return replace(
        batch,
        example=jnp.where(batch.mask, slot, 0),
        ids=jnp.repeat(batch.ids, 2, axis=1),
        epochs=jnp.repeat(batch.epochs, 2, axis=1),
    )


def compare(pooled: Float[Array, "B R D"]) -> Float[Array, "B S E"]:
    """Joins the vectors u and v of each example's texts to (u, v, |u − v|, u⊙v).

    Conneau et al. 2017, section 3.1.
    """
    u, v = pooled[:, 0::2], pooled[:, 1::2]
    return jnp.concatenate([u, v, jnp.abs(u - v), u * v], axis=-1)
