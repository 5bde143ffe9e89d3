"""Static word vectors under a (bi)LSTM: embedding → RNN → pooled.

The classifier that word2vec and GloVe vectors were first transferred to: the embedding
is the only layer that comes pretrained.
"""

from dataclasses import dataclass
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp

from tl_jax.models.batch import Batch, by_text, compare, pool
from tl_jax.models.dropout import Noise
from tl_jax.models.layers import Embed, Features
from tl_jax.models.lstm import lstm_stack


@dataclass(frozen=True)
class WordVectorsConfig:
    """Sizes and choices of a word-vector encoder.

    Attributes:
      vocab_size: Rows of the embedding, V.
      embedding_size: Width of a word vector.
      hidden_size: Width of one direction of the LSTM.
      num_layers: LSTM layers.
      bidirectional: Adds an LSTM that reads from right to left.
      dropout: Dropout of the embedded words and of each LSTM layer's output.
      initializer_range: Standard deviation of a random embedding.
      pooling: How an example becomes one vector: ``last`` joins the final state of
        each direction, ``max`` and ``mean`` pool over its tokens, ``none`` makes none.
      segments: What segment ids (0 and 1) do. ``ignore``: nothing. ``compare``: the
        LSTM reads each text of a pair by itself, and the pooled vectors u and v
        become (u, v, |u − v|, u⊙v) (Conneau et al. 2017, section 3.1). ``embed``: a
        learnt vector of the id stands beside the word's, as an indicator of the
        predicate or the question (He et al. 2017, section 2.1).
      segment_size: Width of that vector.
      dtype: Type of activations; parameters stay float32.
    """

    vocab_size: int
    embedding_size: int = 50
    hidden_size: int = 128
    num_layers: int = 1
    bidirectional: bool = True
    dropout: float = 0.5
    initializer_range: float = 0.1
    pooling: Literal["last", "max", "mean", "none"] = "max"
    segments: Literal["ignore", "compare", "embed"] = "ignore"
    segment_size: int = 16
    dtype: Literal["float32", "bfloat16"] = "float32"


class WordVectors(nn.Module):
    """Maps a batch to its word vectors, the LSTM's states and one vector an example.

    ``layers[0]`` is ``[B, T, embedding_size]``, and ``segment_size`` wider where
    segments are embedded; ``layers[l]``, the l-th LSTM's output, is
    ``[B, T, directions · hidden_size]``, as is ``pooled``, ``[B, S, …]``, but for
    compared pairs, where it is four times as wide.
    """

    config: WordVectorsConfig

    @nn.compact
    def __call__(
        self, batch: Batch, noise: Noise | None = None, *, pooled_only: bool = False
    ) -> Features:
        """Encodes a batch; ``noise`` switches dropout on.

        With ``pooled_only`` the layers are not returned.
        """
        c = self.config
        embed = Embed(
            c.vocab_size, c.embedding_size, c.initializer_range, name="embedding"
        )
        states = embed(batch.tokens)
        if c.segments == "embed":
            mark = Embed(2, c.segment_size, c.initializer_range, name="segments")
            states = jnp.concatenate([states, mark(batch.types)], axis=-1)
        states = states.astype(c.dtype)
        texts = by_text(batch) if c.segments == "compare" else batch
        read = lstm_stack(
            states,
            texts.example,
            noise,
            features=c.hidden_size,
            num_layers=c.num_layers,
            rate=c.dropout,
            bidirectional=c.bidirectional,
        )
        layers = (states, *read[1:])
        both = 1 + c.bidirectional
        pooled = pool(read[-1], texts, c.pooling, directions=both)
        if c.segments == "compare" and pooled is not None:
            pooled = compare(pooled)
        return Features(() if pooled_only else layers, pooled, embed.embedding)
