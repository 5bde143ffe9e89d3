"""BERT's encoder: bidirectional self-attention over word pieces (Devlin et al. 2019).

Post-layer-norm, exactly as the released weights demand: embeddings are summed,
normalised and dropped out; each sub-layer is dropped out before its residual is added
and the sum is normalised. https://arxiv.org/abs/1810.04805, section 3.

Its descendants differ in what `BertConfig` says: ELECTRA projects narrow embeddings
(Clark et al. 2020, https://arxiv.org/abs/2003.10555), RoBERTa and XLM-R number their
positions from 2 and tell no segments apart (Liu et al. 2019,
https://arxiv.org/abs/1907.11692), DistilBERT has no segments at all (Sanh et al. 2019,
https://arxiv.org/abs/1910.01108).
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float, Int, Integer, UInt32

from tl_jax.files.errors import ConfigError
from tl_jax.models.attention import attention
from tl_jax.models.batch import (
    Array,
    Batch,
    first_columns,
    first_tokens,
    mean_tokens,
)
from tl_jax.models.compose import Params
from tl_jax.models.dropout import Noise, dropout
from tl_jax.models.feed_forward import ACTIVATIONS, feed_forward
from tl_jax.models.layers import Affine, Dense, Embed, Features, LayerNorm
from tl_jax.models.mesh import keep_rows

ModelType = Literal["bert", "electra", "roberta", "xlm-roberta", "distilbert"]


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
      type_vocab_size: Segments that are told apart. With fewer than 2 the batch's types
        make no difference, whatever they are; a task that needs them asks
        `require_segments`. With 0 there is no segment embedding.
      activation: ``gelu`` is the exact erf, ``gelu_new`` Google's tanh.
      hidden_dropout: Dropout of embeddings, sub-layers and pooled vectors.
      attention_dropout: Dropout of attention probabilities.
      layer_norm_eps: Added to the variance (1e-12 in released weights).
      initializer_range: Standard deviation of the truncated normal.
      pooling: How an example becomes one vector: ``pooler`` is the paper's dense layer
        on [CLS], ``mean`` averages its tokens, ``none`` makes no vector.
      dtype: Type of activations; parameters stay float32.
      model_type: Whose names a checkpoint of it bears; it computes nothing.
      embedding_size: Width of the embeddings, E, which a dense layer then brings to
        ``hidden_size``; None if they are as wide as that.
      position_offset: Rows of the position embedding that lie unused before the first
        position's; RoBERTa's has 2.
      pooler_activation: Of the pooler: tanh in BERT and RoBERTa; ELECTRA's sentence
        classifier has gelu in its place, DistilBERT's relu.
      remat: Keep only the blocks' outputs for the backward pass, and compute what is
        inside them twice (Chen et al. 2016, https://arxiv.org/abs/1604.06174).
      scan_layers: Compile one block and loop over it; the blocks' parameters are
        stacked on the way, and keep their paths. Numbers are those of a plain loop.
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
    model_type: ModelType = "bert"
    embedding_size: int | None = None
    position_offset: int = 0
    pooler_activation: str = "tanh"
    remat: bool = False
    scan_layers: bool = False

    @property
    def embedding_width(self) -> int:
        """Width of the embeddings, E."""
        return self.embedding_size or self.hidden_size


def require_segments(config: BertConfig, what: str) -> None:
    """Refuses an encoder that does not tell segment 0 from segment 1.

    Args:
      config: The encoder's.
      what: What needs them, to begin the message with.

    Raises:
      ConfigError: ``type_vocab_size`` is below 2.
    """
    if config.type_vocab_size < 2:
        raise ConfigError(
            f"{what} needs two segments, and this {config.model_type} encoder does not "
            f"tell them apart (type_vocab_size {config.type_vocab_size}). Use BERT or "
            "ELECTRA."
        )


class Bert(nn.Module):
    """Maps a batch to every layer's states and one vector an example.

    ``layers[0]`` is the embedding output and ``layers[l]`` block ``l``'s, each
    ``[B, T, D]``; ``pooled`` is ``[B, S, D]``.
    """

    config: BertConfig

    @nn.compact
    def __call__(
        self, batch: Batch, noise: Noise | None = None, *, pooled_only: bool = False
    ) -> Features:
        """Encodes a batch.

        Args:
          batch: Examples in rows.
          noise: Switches dropout on.
          pooled_only: Returns the pooled vectors without the layers. Where the pooler
            reads nothing but [CLS], the last block is then computed for [CLS] alone;
            numbers and dropout masks are the same.
        """
        c = self.config
        states, table = Embeddings(c, name="embeddings")(batch, noise)
        first_only = pooled_only and c.pooling == "pooler"
        full = c.num_layers - first_only
        layers = self._blocks(states, batch, noise, full)
        if first_only:
            last = Block(c, full, name=f"layer_{full}")
            states = last(layers[-1], batch, cls_queries(batch, noise))
            first = states.reshape(*batch.ids.shape, -1)
            return Features((), self._pooler(first), table)
        shaped = tuple(x.reshape(*batch.tokens.shape, -1) for x in layers)
        pooled = self._pool(shaped[-1], batch)
        return Features(() if pooled_only else shaped, pooled, table)

    def _blocks(
        self,
        states: Float[Array, "M D"],
        batch: Batch,
        noise: Noise | None,
        count: int,
    ) -> list[Float[Array, "M D"]]:
        """Returns the embeddings' states and those of the first ``count`` blocks."""
        c = self.config
        layers = [states]
        queries = Queries(batch.example, noise)
        if self.is_initializing() or not count or not (c.remat or c.scan_layers):
            for index in range(count):
                block = Block(c, index, name=f"layer_{index}")
                layers.append(block(layers[-1], batch, queries))
            return layers

        def run(states: Array, layer: tuple[Params, Any]) -> tuple[Array, Array]:
            block = Block(c, layer[1], parent=None)
            found = block.apply({"params": layer[0]}, states, batch, queries)
            return cast(Array, found), cast(Array, found)

        if c.remat:
            run = jax.checkpoint(run, prevent_cse=not c.scan_layers)
        own = [self.variables["params"][f"layer_{n}"] for n in range(count)]
        if not c.scan_layers:
            for index, params in enumerate(own):
                layers.append(run(layers[-1], (params, index))[0])
            return layers
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *own)
        _, found = jax.lax.scan(run, states, (stacked, jnp.arange(count)))
        return [states, *found]

    def _pool(
        self, states: Float[Array, "B T D"], batch: Batch
    ) -> Float[Array, "B S D"] | None:
        match self.config.pooling:
            case "none":
                return None
            case "mean":
                return mean_tokens(states, batch)
        return self._pooler(first_tokens(states, batch))

    def _pooler(self, first: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
        c = self.config
        dense = Dense(c.hidden_size, c.initializer_range, name="pooler")
        return ACTIVATIONS[c.pooler_activation](dense(first))


class Embeddings(nn.Module):
    """LayerNorm(word + position + segment), then dropout; flat tokens out.

    Where the embeddings have a width of their own, they are projected after that.
    """

    config: BertConfig

    @nn.compact
    def __call__(
        self, batch: Batch, noise: Noise | None
    ) -> tuple[Float[Array, "M D"], Float[Array, "V E"]]:
        """Embeds the batch's tokens; returns the word table too, for tied heads."""
        c = self.config

        def table(rows: int, name: str) -> Embed:
            return Embed(rows, c.embedding_width, c.initializer_range, name=name)

        word = table(c.vocab_size, "word")
        position = table(c.max_positions + c.position_offset, "position")
        summed = word(batch.tokens.reshape(-1))
        summed += position(batch.positions.reshape(-1) + c.position_offset)
        if c.type_vocab_size:  # `Embed` clips: of one row, every type is that row
            segment = table(c.type_vocab_size, "type")
            summed += segment(batch.types.reshape(-1))
        normed = LayerNorm(c.layer_norm_eps, name="norm")(summed)
        states = dropout(normed.astype(c.dtype), c.hidden_dropout, noise, layer=0)
        if c.embedding_width != c.hidden_size:
            project = Dense(c.hidden_size, c.initializer_range, name="projection")
            states = project(states)
        return keep_rows(states), word.embedding


class Queries(NamedTuple):
    """The tokens whose states a block computes: all of them, or some of each row.

    Attributes:
      example: Slot of the row that a query belongs to, 0 = padding.
      noise: The queries' own, or None.
      columns: Where they stand in their row; None: ``Q = T``, each at its own place.
    """

    example: Int[Array, "B Q"]
    noise: UInt32[Array, "B Q"] | None
    columns: Int[Array, "B Q"] | None = None

    def of(self, states: Float[Array, "M D"]) -> Float[Array, "R D"]:
        """Takes the queries' states out of all flat tokens'; ``R = B·Q``."""
        if self.columns is None:
            return states
        rows = states.reshape(len(self.example), -1, states.shape[1])
        taken = jnp.take_along_axis(rows, self.columns[:, :, None], axis=1)
        return taken.reshape(-1, states.shape[1])


def cls_queries(batch: Batch, noise: Noise | None) -> Queries:
    """[CLS] of every example slot, ``Q = S``; empty slots count as padding."""
    columns = first_columns(batch)
    slots = jnp.arange(1, batch.ids.shape[1] + 1)
    if noise is not None:
        noise = jnp.take_along_axis(noise, columns, axis=1)
    return Queries(jnp.where(batch.slots, slots, 0), noise, columns)


class Block(nn.Module):
    """One transformer block: self-attention and feed-forward, each added and normed.

    Attributes:
      config: The encoder's.
      index: Number of the block, which its dropout masks depend on.
    """

    config: BertConfig
    index: int | Integer[Array, ""]

    @nn.compact
    def __call__(
        self, states: Float[Array, "M D"], batch: Batch, queries: Queries
    ) -> Float[Array, "R D"]:
        """Transforms the queries' states; each attends to its own example."""
        c = self.config
        # Three places a block draw dropout masks; the embeddings hold place 0.
        place = 3 * self.index + 1
        attention = SelfAttention(c, place, name="attention")
        attended = attention(states, batch, queries)
        attended = dropout(attended, c.hidden_dropout, queries.noise, place + 1)
        own = queries.of(states)
        own = LayerNorm(c.layer_norm_eps, name="attention_norm")(own + attended)
        fed = FeedForward(c, name="feed_forward")(own)
        fed = dropout(fed, c.hidden_dropout, queries.noise, place + 2)
        return keep_rows(
            LayerNorm(c.layer_norm_eps, name="feed_forward_norm")(own + fed)
        )


class SelfAttention(nn.Module):
    """Multi-head attention of each query over the tokens of its own example."""

    config: BertConfig
    place: int | Integer[Array, ""]

    @nn.compact
    def __call__(
        self, states: Float[Array, "M D"], batch: Batch, queries: Queries
    ) -> Float[Array, "R D"]:
        """Returns the attended and projected states of the queries."""
        c = self.config

        def project(states: Array, name: str) -> Array:
            return Dense(c.hidden_size, c.initializer_range, name=name)(states)

        attended = attention(
            project(queries.of(states), "query"),
            project(states, "key"),
            project(states, "value"),
            queries.example,
            batch.example,
            batch.positions,
            heads=c.num_heads,
            rate=c.attention_dropout,
            noise=queries.noise,
            layer=self.place,
        )
        return project(attended, "output")


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
