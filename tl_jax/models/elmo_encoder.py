"""ELMo under a task: word vectors and mixes of a biLM's layers around a biLSTM.

Peters et al. 2018, section 3.3: the task's biLSTM reads [x_k; ELMo_k] instead of the
word vector x_k, or what reads the biLSTM gets [h_k; ELMo_k] instead of its state h_k,
or both, each with a mix of its own.
"""

from dataclasses import dataclass, field
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from tl_jax.models.batch import Array, Batch, by_text, compare, pool
from tl_jax.models.dropout import Noise, dropout
from tl_jax.models.elmo import (
    SENTENCE_BEGIN,
    SENTENCE_END,
    BiLm,
    Carry,
    ElmoConfig,
    Mix,
    spell,
)
from tl_jax.models.layers import Embed, Features
from tl_jax.models.lstm import lstm_stack

CHARACTERS, STATES = "characters", "states"  # what the encoder reads of Batch.inputs
# The mixes' dropout masks are drawn between those of the LSTMs and of the heads.
_MIX_PLACE = 1 << 15


@dataclass(frozen=True)
class ElmoEncoderConfig:
    """Sizes and choices of an encoder that reads by ELMo.

    Attributes:
      bilm: Of the language model.
      at: Where ELMo's vectors are joined: to the biLSTM's input, output, or both.
      vocab_size: Rows of the word vectors beside ELMo; 0: there are none.
      embedding_size: Their width.
      hidden_size: Width of one direction of the biLSTM.
      num_layers: Its layers.
      dropout: Dropout of the biLSTM's inputs and of what is pooled.
      mix_dropout: Dropout of ELMo's vectors.
      mix_norm: Layer-norm in the mixes, over the words (`elmo.mix`): a token's vector
        then depends on the rest of its batch.
      initializer_range: Standard deviation of random word vectors.
      pooling: As in `WordVectorsConfig`, like the next two.
      segments: What segment ids do.
      segment_size: Width of their vectors.
      dtype: Type of activations; parameters stay float32.
    """

    bilm: ElmoConfig = field(default_factory=ElmoConfig)
    at: Literal["input", "output", "both"] = "input"
    vocab_size: int = 0
    embedding_size: int = 50
    hidden_size: int = 128
    num_layers: int = 1
    dropout: float = 0.5
    mix_dropout: float = 0.5
    mix_norm: bool = False
    initializer_range: float = 0.1
    pooling: Literal["last", "max", "mean", "none"] = "max"
    segments: Literal["ignore", "compare", "embed"] = "ignore"
    segment_size: int = 16
    dtype: Literal["float32", "bfloat16"] = "float32"


class Elmo(nn.Module):
    """Maps a batch to [x; ELMo], the biLSTM's states and one vector an example.

    ``Batch.inputs`` holds each token's characters ``[B, T, C]``, or for a biLM that
    looks words up its id, one higher, ``[B, T, 1]``; a token that has none (all are 0),
    such as the separator of a pair, stands between sentences and is no word to the
    biLM. Or ``inputs`` holds the biLM's states ``[B, T, L, D]``, computed
    before, which are 0 where no word is.

    ``layers[0]`` is what the first LSTM reads, ``layers[l]`` what the l-th gives; ELMo
    stands beside the last one's where ``at`` says so.
    """

    config: ElmoEncoderConfig

    @nn.compact
    def __call__(
        self, batch: Batch, noise: Noise | None = None, *, pooled_only: bool = False
    ) -> Features:
        """Encodes a batch; ``noise`` switches dropout on, in all but the biLM.

        With ``pooled_only`` the layers are not returned.

        Raises:
          ValueError: The batch brings neither characters nor states, or the biLSTM
            would have nothing to read.
        """
        c = self.config
        words, bilm = self._read(batch)

        def elmo(at: str, place: int) -> list[Float[Array, "B T E"]]:
            if c.at not in (at, "both"):
                return []
            mixed = Mix(c.mix_norm, name=f"mix_{at}")(bilm, words)
            mixed = jnp.where(words[:, :, None], mixed, 0)
            return [dropout(mixed, c.mix_dropout, noise, _MIX_PLACE + place)]

        vectors = self._embed(batch) + elmo("input", 0)
        if not vectors:
            raise ValueError(
                "at='output' leaves the biLSTM nothing to read: give it word vectors "
                "(vocab_size), or join ELMo to its input as well (at='both')."
            )
        states = jnp.concatenate(vectors, axis=-1)
        texts = by_text(batch) if c.segments == "compare" else batch
        read = lstm_stack(
            states,
            texts.example,
            noise,
            features=c.hidden_size,
            num_layers=c.num_layers,
            rate=c.dropout,
        )
        layers: list[Array] = [states, *read[1:]]
        above = elmo("output", 1)
        layers[-1] = jnp.concatenate([layers[-1], *above], axis=-1)
        pooled = [pool(part, texts, c.pooling) for part in (read[-1], *above)]
        found = [part for part in pooled if part is not None]
        joined = jnp.concatenate(found, axis=-1) if found else None
        if c.segments == "compare" and joined is not None:
            joined = compare(joined)
        return Features(() if pooled_only else tuple(layers), joined)

    def _embed(self, batch: Batch) -> list[Float[Array, "B T E"]]:
        c = self.config
        sizes = {"embedding": (c.vocab_size, c.embedding_size, batch.tokens)}
        if c.segments == "embed":
            sizes["segments"] = (2, c.segment_size, batch.types)
        return [
            Embed(rows, width, c.initializer_range, name=name)(ids).astype(c.dtype)
            for name, (rows, width, ids) in sizes.items()
            if rows
        ]

    def _read(self, batch: Batch) -> tuple[Bool[Array, "B T"], Features]:
        """Says which tokens are words, and gives the biLM's layers."""
        c = self.config
        if STATES in batch.inputs:
            states = jnp.asarray(batch.inputs[STATES]).astype(c.dtype)
            layers = tuple(states[:, :, index] for index in range(states.shape[2]))
            return jnp.any(states != 0, axis=(2, 3)), Features(layers, None)
        if CHARACTERS not in batch.inputs:
            raise ValueError(
                "ELMo reads words by their characters, and this batch has none: give "
                f"its examples inputs named {CHARACTERS!r}."
            )
        characters = batch.inputs[CHARACTERS]
        words = batch.mask & jnp.any(characters != 0, axis=-1)
        bilm = BiLm(c.bilm, name="bilm")
        example = jnp.where(words, batch.example, 0)
        return words, read_sentences(bilm, characters, example)


def read_sentences(
    bilm: BiLm, characters: Int[Array, "B T C"], example: Int[Array, "B T"]
) -> Features:
    """Reads sentences from a zero state, each between the boundaries <S> and </S>.

    Args:
      bilm: Bound to its parameters.
      characters: Of every word.
      example: Which sentence of its row a word belongs to, 0 = none.
    """
    if bilm.config.input == "words":
        ids = jnp.maximum(characters[:, :, 0] - 1, 0)
        return read_bounded(bilm, ids, example, None, None)
    rows, length, size = characters.shape
    tokens = jnp.arange(rows * length, dtype=jnp.int32).reshape(rows, length)
    words = jnp.asarray(characters).reshape(-1, size)
    return read_bounded(bilm, tokens, example, words, boundaries(bilm.config))


def boundaries(config: ElmoConfig) -> Int[np.ndarray, "2 C"]:
    """The characters of <S> and </S>; or their ids, one higher, which are the first."""
    if config.input == "words":
        return np.array([[1], [2]], np.int32)
    size = config.max_characters
    return np.stack([spell([mark], size) for mark in (SENTENCE_BEGIN, SENTENCE_END)])


def read_bounded(
    bilm: BiLm,
    tokens: Int[Array, "B T"],
    example: Int[Array, "B T"],
    words: Int[Array, "W C"] | Float[Array, "W P"] | None,
    bounds: Int[Array, "2 C"] | Float[Array, "2 P"] | None,
) -> Features:
    """Reads sentences as `read_sentences` does, from characters or words' vectors.

    What the biLM remembers after a boundary is the same for every sentence, so the
    boundaries are read once, and each sentence goes on from there: no token stands for
    them, and there is nothing to be dropped from the output.

    Args:
      bilm: Bound to its parameters.
      tokens: Rows of ``words``, or ids.
      example: Which sentence of its row a word belongs to, 0 = none.
      words: Characters or vectors, as `BiLm` takes them.
      bounds: Those of <S> and </S>, likewise.
    """
    column = np.arange(2, dtype=np.int32)[:, None]
    _, ends = bilm(column, np.ones_like(column), bounds)

    def begin(state: Float[Array, "L 2 2 D"]) -> Float[Array, "L 2 B D"]:
        # Forward goes on from the row of <S>, backward from that of </S>.
        read = jnp.stack([state[:, 0, 0], state[:, 1, 1]], axis=1)
        return jnp.repeat(read[:, :, None], len(tokens), axis=2)

    start = Carry(begin(ends.cell), begin(ends.hidden))
    features, _ = bilm(tokens, example, words, start)
    return features
