"""What training changes."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Int, UInt32

from tl_jax.models.batch import Array, Batch
from tl_jax.models.compose import Params


@struct.dataclass
class TrainState:
    """All that a step changes; arrays only.

    Attributes:
      step: Number of steps taken: with the seed, the position in the data.
      params: The model's parameters.
      opt_state: The optimizer's state, of the trained parameters alone.
      seed: Raw key data; each step's dropout key is the same one, since masks are
        hashed from it together with epoch and example.
      carry: What a step hands on to the next, such as the LSTMs' states where the text
        goes on; every array has the batch's rows first. Empty for most tasks.
    """

    step: Int[Array, ""]
    params: Params
    opt_state: optax.OptState
    seed: UInt32[Array, "2"]
    carry: Any = ()

    @property
    def key(self) -> jax.Array:
        """The key of the run's dropout."""
        return jax.random.wrap_key_data(jnp.asarray(self.seed))


def rows(batch: Batch, parts: int) -> dict[str, Any]:
    """Splits a batch's rows into ``parts`` equal ones along a new leading axis.

    The fields come as a dict, since a `Batch` has no such axis; each part is one again:
    ``Batch(**part)``.
    """
    return split_rows(vars(batch), parts)


def split_rows(tree: Any, parts: int) -> Any:
    """Cuts the leading axis of every array: ``[B, …]`` → ``[parts, B / parts, …]``."""
    return jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), tree)


def join_rows(tree: Any) -> Any:
    """Undoes `split_rows`."""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree)
