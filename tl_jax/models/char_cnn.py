"""Words from their characters: convolutions, highway layers and a projection.

Kim et al. 2016, https://arxiv.org/abs/1508.06615, as ELMo takes it (Peters et al. 2018,
section 3.4): the vector of a word depends on its spelling alone, so no word is unknown.
"""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from tl_jax.models.batch import Array
from tl_jax.models.feed_forward import ACTIVATIONS
from tl_jax.models.layers import Dense, Embed

Filters = tuple[tuple[int, int], ...]


class CharCnn(nn.Module):
    """Embedding → convolutions → maximum over positions → highways → projection.

    Attributes:
      features: Width of a word vector, P.
      num_characters: Rows of the embedding. Id 0 is no row but zeros, and id ``n`` is
        row ``n - 1``, as in AllenNLP.
      character_size: Width of a character, E.
      filters: (characters that a filter spans, number of such filters).
      num_highways: Highway layers.
      activation: Of the convolutions.
      dtype: Type of activations; parameters stay float32.
    """

    features: int
    num_characters: int
    character_size: int
    filters: Filters
    num_highways: int
    activation: Literal["relu", "tanh"] = "relu"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, characters: Int[Array, "W C"]) -> Float[Array, "W P"]:
        """Encodes words of C characters each, no fewer than the widest filter spans."""
        embed = Embed(self.num_characters, self.character_size, 1.0, name="embedding")
        table = jnp.pad(embed.embedding, ((1, 0), (0, 0))).astype(self.dtype)
        spelt = jnp.take(table, characters, axis=0, mode="clip")
        pooled = [
            self._convolve(spelt, index, *filters)
            for index, filters in enumerate(self.filters)
        ]
        words = jnp.concatenate(pooled, axis=-1)
        for index in range(self.num_highways):
            words = Highway(name=f"highway_{index}")(words)
        stddev = words.shape[-1] ** -0.5
        return Dense(self.features, stddev, name="projection")(words)

    def _convolve(
        self, spelt: Float[Array, "W C E"], index: int, width: int, count: int
    ) -> Float[Array, "W F"]:
        convolution = nn.Conv(
            count,
            (width,),
            padding="VALID",
            dtype=self.dtype,
            name=f"convolution_{index}",
        )
        # Both activations are monotone, so they may follow the maximum.
        return ACTIVATIONS[self.activation](convolution(spelt).max(axis=1))


class Highway(nn.Module):
    """g⊙relu(xW + b) + (1 − g)⊙x with g = σ(xV + c); c starts at −2, so x passes.

    Srivastava et al. 2015, https://arxiv.org/abs/1505.00387.
    """

    @nn.compact
    def __call__(self, x: Float[Array, "W F"]) -> Float[Array, "W F"]:
        """Mixes x with its transform."""
        size = x.shape[-1]
        init = nn.initializers.normal(size**-0.5)
        closed = nn.initializers.constant(-2.0)
        carry = nn.Dense(
            size, True, x.dtype, kernel_init=init, bias_init=closed, name="carry"
        )
        gate = jax.nn.sigmoid(carry(x))
        transformed = nn.Dense(size, True, x.dtype, kernel_init=init, name="transform")(
            x
        )
        return gate * jax.nn.relu(transformed) + (1 - gate) * x
