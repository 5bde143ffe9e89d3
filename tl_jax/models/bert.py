"""BERT's encoder: bidirectional self-attention over word pieces (Devlin et al. 2019).

Post-layer-norm, exactly as the released weights demand: embeddings are summed,
normalised and dropped out; each sub-layer is dropped out before its residual is added
and the sum is normalised. https://arxiv.org/abs/1810.04805, section 3.
"""

from dataclasses import dataclass
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float

from tl_jax.models.attention import attention
from tl_jax.models.batch import Array, Batch, first_tokens, mean_tokens
from tl_jax.models.dropout import Noise, dropout
from tl_jax.models.feed_forward import feed_forward
from tl_jax.models.layers import Affine, Dense, Embed, Features, LayerNorm


@dataclass(frozen=True)
class BertConfig:
    """Sizes and choices of a BERT encoder; the defaults are BERT-base, uncased.

    Attributes:
      vocab_size: Rows of the word-piece embedding, V.
      hidden_size: Width of every layer, D.
      num_layers: Transformer blocks, L.
      num_heads: Attention heads, H; divides ``hidden_size``.
      intermediate_size: Width of the feed-forward layer.
      max_positions: Longest sequence, specials included.
      type_vocab_size: Segments that are told apart.
      activation: ``gelu`` is the exact erf, ``gelu_new`` Google's tanh.
      hidden_dropout: Dropout of embeddings, sub-layers and pooled vectors.
      attention_dropout: Dropout of attention probabilities.
      layer_norm_eps: Added to the variance (1e-12 in released weights).
      initializer_range: Standard deviation of the truncated normal.
      pooling: How an example becomes one vector: ``pooler`` is the paper's tanh dense
        layer on [CLS], ``mean`` averages its tokens, ``none`` makes no vector.
      dtype: Type of activations; parameters stay float32.
    """

    vocab_size: int = 30522
    hidden_size: int = 768
    num_layers: int = 12
    num_heads: int = 12
    intermediate_size: int = 3072
    max_positions: int = 512
    type_vocab_size: int = 2
    activation: str = "gelu"
    hidden_dropout: float = 0.1
    attention_dropout: float = 0.1
    layer_norm_eps: float = 1e-12
    initializer_range: float = 0.02
    pooling: Literal["pooler", "mean", "none"] = "pooler"
    dtype: Literal["float32", "bfloat16"] = "float32"


class Bert(nn.Module):
    """Maps a batch to every layer's states and one vector an example.

    ``layers[0]`` is the embedding output and ``layers[l]`` block ``l``'s, each
    ``[B, T, D]``; ``pooled`` is ``[B, S, D]``.
    """

    config: BertConfig

    @nn.compact
    def __call__(self, batch: Batch, noise: Noise | None = None) -> Features:
        """Encodes ``batch``; ``noise`` switches dropout on."""
        config = self.config
        rows, width = batch.tokens.shape
        states, table = Embeddings(config, name="embeddings")(batch, noise)
        layers = [states]
        for index in range(config.num_layers):
            block = Block(config, index, name=f"layer_{index}")
            states = block(states, batch, noise)
            layers.append(states)
        shaped = tuple(x.reshape(rows, width, -1) for x in layers)
        return Features(shaped, self._pool(shaped[-1], batch), table)

    def _pool(
        self, states: Float[Array, "B T D"], batch: Batch
    ) -> Float[Array, "B S D"] | None:
        if self.config.pooling == "none":
            return None
        if self.config.pooling == "mean":
            return mean_tokens(states, batch)
        c = self.config
        pooler = Dense(c.hidden_size, c.initializer_range, name="pooler")
        first = first_tokens(states, batch)
        return jnp.tanh(pooler(first))


class Embeddings(nn.Module):
    """LayerNorm(word + position + segment), then dropout; flat tokens out."""

    config: BertConfig

    @nn.compact
    def __call__(
        self, batch: Batch, noise: Noise | None
    ) -> tuple[Float[Array, "M D"], Float[Array, "V D"]]:
        """Embeds the batch's tokens; returns the word table too, for tied heads."""
        c = self.config
        rows = {"word": c.vocab_size, "position": c.max_positions}
        rows["type"] = c.type_vocab_size
        ids = {"word": batch.tokens, "position": batch.positions, "type": batch.types}
        tables = {
            name: Embed(size, c.hidden_size, c.initializer_range, name=name)
            for name, size in rows.items()
        }
        word, position, segment = (
            table(ids[name].reshape(-1)) for name, table in tables.items()
        )
        norm = LayerNorm(c.layer_norm_eps, name="norm")
        normed = norm(word + position + segment)
        dropped = dropout(normed.astype(c.dtype), c.hidden_dropout, noise, layer=0)
        return dropped, tables["word"].embedding


class Block(nn.Module):
    """One transformer block: self-attention and feed-forward, each added and normed."""

    config: BertConfig
    index: int

    @nn.compact
    def __call__(
        self, states: Float[Array, "M D"], batch: Batch, noise: Noise | None
    ) -> Float[Array, "M D"]:
        """Transforms flat tokens; ``batch`` tells which of them belong together."""
        c = self.config
        # Three places a block draw dropout masks; the embeddings hold place 0.
        place = 3 * self.index + 1
        attention = SelfAttention(c, place, name="attention")
        attended = dropout(
            attention(states, batch, noise), c.hidden_dropout, noise, place + 1
        )
        states = LayerNorm(c.layer_norm_eps, name="attention_norm")(states + attended)
        fed = FeedForward(c, name="feed_forward")(states)
        fed = dropout(fed, c.hidden_dropout, noise, place + 2)
        return LayerNorm(c.layer_norm_eps, name="feed_forward_norm")(states + fed)


class SelfAttention(nn.Module):
    """Multi-head attention of each token over the tokens of its own example."""

    config: BertConfig
    place: int

    @nn.compact
    def __call__(
        self, states: Float[Array, "M D"], batch: Batch, noise: Noise | None
    ) -> Float[Array, "M D"]:
        """Returns the attended and projected states of flat tokens."""
        c = self.config
        query, key, value = (
            Dense(c.hidden_size, c.initializer_range, name=name)(states)
            for name in ("query", "key", "value")
        )
        attended = attention(
            query,
            key,
            value,
            batch.example,
            batch.positions,
            heads=c.num_heads,
            rate=c.attention_dropout,
            noise=noise,
            layer=self.place,
        )
        return Dense(c.hidden_size, c.initializer_range, name="output")(attended)


class FeedForward(nn.Module):
    """Two dense layers with the activation between."""

    config: BertConfig

    @nn.compact
    def __call__(self, states: Float[Array, "M D"]) -> Float[Array, "M D"]:
        """Widens to ``intermediate_size``, activates and narrows again."""
        c = self.config
        widen = Affine(c.intermediate_size, c.initializer_range, name="input")
        narrow = Affine(c.hidden_size, c.initializer_range, name="output")
        return feed_forward(
            states,
            *widen(c.hidden_size, states.dtype),
            *narrow(c.intermediate_size, states.dtype),
            activation=c.activation,
        )
