"""The layers that hold parameters: thin Linen modules over the pure kernels.

Every layer works on flat tokens ``[M, D]`` or any leading axes, keeps its parameters in
float32 and computes in the type of its input.
"""

import flax.linen as nn
import jax.numpy as jnp
from flax import struct
from jaxtyping import Float, Int

from tl_jax.models.batch import Array
from tl_jax.models.dense import dense


@struct.dataclass
class Features:
    """What a representation makes of a batch.

    Attributes:
      layers: States of every layer, lowest first, each ``[B, T, D_l]``.
      pooled: One vector an example slot, ``[B, S, D]``; None if the model makes none.
      embedding: The word embedding ``[V, E]``, for heads that are tied to it.
    """

    layers: tuple[Float[Array, "B T _"], ...]
    pooled: Float[Array, "B S D"] | None
    embedding: Float[Array, "V E"] | None = None


class Dense(nn.Module):
    """The affine map xW + b; W is drawn from a truncated normal, b starts at zero."""

    features: int
    stddev: float = 0.02

    @nn.compact
    def __call__(self, x: Float[Array, "*M D"]) -> Float[Array, "*M E"]:
        """Maps the last axis to ``features``."""
        kernel, bias = affine(self, x.shape[-1], self.features, self.stddev)
        flat = x.reshape(-1, x.shape[-1])
        mapped = dense(flat, kernel.astype(x.dtype), bias.astype(x.dtype))
        return mapped.reshape(*x.shape[:-1], self.features)


class Affine(nn.Module):
    """The parameters of a dense layer, for kernels that take several at once."""

    features: int
    stddev: float

    @nn.compact
    def __call__(
        self, inputs: int, dtype: jnp.dtype
    ) -> tuple[Float[Array, "D E"], Float[Array, " E"]]:
        """Returns kernel and bias as ``dtype``, for an input of width ``inputs``."""
        kernel, bias = affine(self, inputs, self.features, self.stddev)
        return kernel.astype(dtype), bias.astype(dtype)


def affine(
    module: nn.Module, inputs: int, features: int, stddev: float
) -> tuple[Float[Array, "D E"], Float[Array, " E"]]:
    """Declares ``kernel`` (truncated normal) and ``bias`` (zeros) on ``module``."""
    init = nn.initializers.truncated_normal(stddev)
    kernel = module.param("kernel", init, (inputs, features), jnp.float32)
    bias = module.param("bias", nn.initializers.zeros, (features,), jnp.float32)
    return kernel, bias


class LayerNorm(nn.Module):
    """(x − mean) / √(variance + ε) · scale + bias over the last axis, in float32.

    Ba et al. 2016, https://arxiv.org/abs/1607.06450.
    """

    epsilon: float

    @nn.compact
    def __call__(self, x: Float[Array, "*M D"]) -> Float[Array, "*M D"]:
        """Normalises the last axis."""
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
        wide = x.astype(jnp.float32)
        centred = wide - wide.mean(axis=-1, keepdims=True)
        variance = jnp.square(centred).mean(axis=-1, keepdims=True)
        normed = centred / jnp.sqrt(variance + self.epsilon)
        ones = (1,) * (x.ndim - 1)
        scaled = normed * scale.reshape(*ones, -1) + bias.reshape(*ones, -1)
        return scaled.astype(x.dtype)


class Embed(nn.Module):
    """A table of vectors, looked up by id; ``embedding`` is the table itself."""

    rows: int
    features: int
    stddev: float

    def setup(self) -> None:
        """Declares the table."""
        init = nn.initializers.truncated_normal(self.stddev)
        shape = (self.rows, self.features)
        self.embedding = self.param("embedding", init, shape, jnp.float32)

    def __call__(self, ids: Int[Array, "*M"]) -> Float[Array, "*M D"]:
        """Looks ids up; each must be within ``[0, rows)``."""
        return jnp.take(self.embedding, ids, axis=0, mode="clip")
