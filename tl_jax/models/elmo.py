"""ELMo: a language model in both directions, and the mix of its layers.

Peters et al. 2018, https://arxiv.org/abs/1802.05365. LSTMs that run from left to right
give log p(t_k | t_1 … t_{k−1}), others from right to left log p(t_k | t_{k+1} … t_N);
they share the words' vectors and the softmax. On an axis of directions, 0 is forward.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from tl_jax.models.batch import Array, Batch
from tl_jax.models.char_cnn import CharCnn, Filters
from tl_jax.models.dropout import Noise, dropout
from tl_jax.models.heads import HEAD_PLACE
from tl_jax.models.layers import Embed, Features
from tl_jax.models.lstm import ProjectedLstm
from tl_jax.models.recurrence import State

DIRECTIONS = ("forward", "backward")
# Characters are the bytes of UTF-8, then these marks; ids are one higher, for 0 is a
# character that is not there at all.
SENTENCE_BEGIN, SENTENCE_END = 256, 257
_WORD_BEGIN, _WORD_END, _PADDING = 258, 259, 260
_FILTERS = ((1, 32), (2, 32), (3, 64), (4, 128), (5, 256), (6, 512), (7, 1024))


@dataclass(frozen=True)
class ElmoConfig:
    """Sizes and choices of the biLM; the defaults are the released "original" model.

    Attributes:
      input: Whether words are read by their characters or looked up by their ids.
      vocab_size: Words that have an id; rows of the embedding of ``words`` input.
      num_characters: As in `CharCnn`, like the next four.
      character_size: Width of a character.
      filters: (characters that a filter spans, number of such filters).
      num_highways: Highway layers.
      activation: Of the convolutions.
      max_characters: Characters of a word, C, its marks and padding included.
      projection_size: Width of a word and of one direction of a layer, P.
      cell_size: Width of an LSTM's cell, H.
      num_layers: LSTM layers, L.
      cell_clip: Bound of the cells; None means that there is none.
      projection_clip: Bound of the hidden states, likewise.
      use_skip_connections: From layer 2 on, adds a layer's input to its output.
      dropout: Dropout of the input of each LSTM, and of what the softmax reads.
      dtype: Type of activations; parameters stay float32.
    """

    input: Literal["characters", "words"] = "characters"
    vocab_size: int = 793471
    num_characters: int = 261
    character_size: int = 16
    filters: Filters = _FILTERS
    num_highways: int = 2
    activation: Literal["relu", "tanh"] = "relu"
    max_characters: int = 50
    projection_size: int = 512
    cell_size: int = 4096
    num_layers: int = 2
    cell_clip: float | None = 3.0
    projection_clip: float | None = 3.0
    use_skip_connections: bool = True
    dropout: float = 0.1
    dtype: Literal["float32", "bfloat16"] = "float32"


def spell(inside: Sequence[int], length: int) -> Int[np.ndarray, " C"]:
    """Returns a word's characters: a mark, at most C − 2 bytes, a mark, and padding."""
    spelt = [_WORD_BEGIN, *inside[: length - 2], _WORD_END]
    padded = np.full(length, _PADDING, np.int32)
    padded[: len(spelt)] = spelt
    return padded + 1


class Carry(NamedTuple):
    """What the LSTMs remember of the tokens before a batch, one state a row.

    Attributes:
      cell: Of every layer and direction.
      hidden: Likewise.
    """

    cell: Float[Array, "L 2 B H"]
    hidden: Float[Array, "L 2 B P"]


class Rows(NamedTuple):
    """Rows of words.

    Attributes:
      tokens: Ids of words, or rows of a table of their characters.
      example: Which example of its row a token belongs to, 0 = padding.
    """

    tokens: Int[Array, "B T"]
    example: Int[Array, "B T"]


def zero_carry(config: ElmoConfig, rows: int) -> Carry:
    """Returns the state that remembers nothing."""
    c = config
    shape = c.num_layers, len(DIRECTIONS), rows
    return Carry(
        jnp.zeros((*shape, c.cell_size), c.dtype),
        jnp.zeros((*shape, c.projection_size), c.dtype),
    )


class BiLm(nn.Module):
    """Maps words to the states of every layer, and a state to the state after them.

    ``layers[0]`` is the words' vectors twice over and ``layers[l]`` joins the l-th LSTM
    of both directions: each is ``[B, T, 2P]``. It is for the caller to put sentence
    boundaries around the words; here they are words like any other.
    """

    config: ElmoConfig

    @nn.compact
    def __call__(
        self,
        tokens: Int[Array, "B T"],
        example: Int[Array, "B T"],
        characters: Int[Array, "W C"] | Float[Array, "W P"] | None = None,
        carry: Carry | None = None,
        noise: Noise | None = None,
        backward: Rows | None = None,
    ) -> tuple[Features, Carry]:
        """Reads rows of words.

        Args:
          tokens: Ids of words; with ``characters`` input, rows of ``characters``.
          example: Which example of its row a token belongs to, 0 = padding. No example
            sees another, nor the padding.
          characters: Those of the batch's distinct words; or these words' vectors, if
            they are known.
          carry: The state that each example of a row begins from. By default it is
            zero: stateless. ELMo's published results had states that were carried on
            from batch to batch; a row that continues another is one example.
          noise: Switches dropout on.
          backward: What the backward direction reads, if it is something else: in
            training, the window that its state is due to go on with.

        Returns:
          The features, and each row's state after the last token read: the last of the
          row forward, the first backward.

        Raises:
          ValueError: There are no characters, and the config asks for them.
        """
        c = self.config
        rows = Rows(tokens, example)
        both = (rows, rows if backward is None else backward)
        if backward is None:
            words, table = self._embed(tokens, characters)
            states = [words, words]
        else:
            read = jnp.stack([tokens, backward.tokens])
            words, table = self._embed(read, characters)
            states = list(words)
        carry = zero_carry(c, len(tokens)) if carry is None else carry
        layers, ends = [jnp.concatenate(states, axis=-1)], []
        for layer in range(c.num_layers):
            for way, name in enumerate(DIRECTIONS):
                lstm = ProjectedLstm(
                    c.projection_size,
                    c.cell_size,
                    c.cell_clip,
                    c.projection_clip,
                    reverse=name == "backward",
                    name=f"lstm_{layer}_{name}",
                )
                place = len(DIRECTIONS) * layer + way
                inputs = dropout(states[way], c.dropout, noise, place)
                start = State(carry.cell[layer, way], carry.hidden[layer, way])
                outputs, end = lstm(inputs, both[way].example, start)
                skip = layer > 0 and c.use_skip_connections
                states[way] = inputs + outputs if skip else outputs
                ends.append(end)
            layers.append(jnp.concatenate(states, axis=-1))
        shape = c.num_layers, len(DIRECTIONS), len(tokens), -1
        cells, hiddens = zip(*ends, strict=True)
        end = Carry(*(jnp.stack(x).reshape(shape) for x in (cells, hiddens)))
        return Features(tuple(layers), None, table), end

    def _embed(
        self,
        tokens: Int[Array, "*B T"],
        characters: Int[Array, "W C"] | Float[Array, "W P"] | None,
    ) -> tuple[Float[Array, "*B T P"], Float[Array, "V P"] | None]:
        c = self.config
        if characters is not None and jnp.issubdtype(characters.dtype, jnp.floating):
            vectors = characters.astype(c.dtype)
            return jnp.take(vectors, tokens, axis=0, mode="clip"), None
        if c.input == "words":
            stddev = c.projection_size**-0.5
            embed = Embed(c.vocab_size, c.projection_size, stddev, name="words")
            return embed(tokens).astype(c.dtype), embed.embedding
        if characters is None:
            raise ValueError(
                "This biLM reads words by their characters: pass those of the batch's "
                "distinct words, `characters`, and let `tokens` be their rows."
            )
        distinct = character_cnn(c)(characters)
        return jnp.take(distinct, tokens, axis=0, mode="clip"), None


def character_cnn(config: ElmoConfig) -> CharCnn:
    """The part of a biLM that makes vectors of words; `BiLm` has it by this name."""
    return CharCnn(
        config.projection_size,
        config.num_characters,
        config.character_size,
        config.filters,
        config.num_highways,
        config.activation,
        config.dtype,
        name="characters",
    )


def mix(
    layers: tuple[Float[Array, "B T D"], ...],
    s: Float[Array, " N"],
    gamma: Float[Array, ""],
    *,
    mask: Bool[Array, "B T"] | None = None,
) -> Float[Array, "B T D"]:
    """γ·Σ_j softmax(s)_j h_j (Peters et al. 2018, equation 1).

    Args:
      layers: h_0 … h_{N−1}.
      s: One weight a layer, before the softmax.
      gamma: γ.
      mask: True where a real token stands. If given, each layer first gets mean 0 and
        variance 1 over all real tokens of the batch together: the result then depends
        on the rest of the batch. AllenNLP's ``do_layer_norm`` counts the boundaries'
        states among them; where the mask leaves these out, numbers differ somewhat.
    """
    if mask is not None:
        layers = tuple(_normalise(layer, mask) for layer in layers)
    weights = jax.nn.softmax(s)
    return gamma * sum(weights[j] * layer for j, layer in enumerate(layers))


def _normalise(x: Float[Array, "B T D"], mask: Bool[Array, "B T"]) -> Array:
    real = mask[:, :, None]
    count = jnp.maximum(real.sum() * x.shape[-1], 1)
    wide = x.astype(jnp.float32)
    centred = wide - jnp.where(real, wide, 0).sum() / count
    variance = jnp.where(real, jnp.square(centred), 0).sum() / count
    return (centred / jnp.sqrt(variance + 1e-12)).astype(x.dtype)


class Mix(nn.Module):
    """`mix` with s and γ to be learnt, which start at 0 and 1: the layers' mean."""

    compat_norm: bool = False

    @nn.compact
    def __call__(
        self, features: Features, mask: Bool[Array, "B T"]
    ) -> Float[Array, "B T D"]:
        """Mixes layers of one width; ``mask`` is read if ``compat_norm`` is set."""
        count = len(features.layers)
        s = self.param("s", nn.initializers.zeros, (count,), jnp.float32)
        gamma = self.param("gamma", nn.initializers.ones, (), jnp.float32)
        dtype = features.layers[0].dtype
        real = mask if self.compat_norm else None
        return mix(features.layers, s.astype(dtype), gamma.astype(dtype), mask=real)


class WordSoftmax(NamedTuple):
    """What a loss over the vocabulary needs; see :mod:`tl_jax.models.softmax`.

    Attributes:
      states: Of the top layer, by direction.
      kernel: One vector a word, for both directions.
      bias: One number a word.
    """

    states: Float[Array, "2 B T P"]
    kernel: Float[Array, "V P"]
    bias: Float[Array, " V"]


class LanguageModel(nn.Module):
    """Scores the words before and after each token by one softmax for both directions.

    The logits ``[2, B, T, V]`` are not made here: a large vocabulary is sampled.

    Attributes:
      vocab_size: Number of words, V, the most frequent first if it is to be sampled.
      tied: Takes the word embedding for the kernel, which ``words`` input has.
      dropout: Dropout of the states.
    """

    vocab_size: int
    tied: bool = False
    dropout: float = 0.1

    @nn.compact
    def __call__(
        self, features: Features, batch: Batch, noise: Noise | None = None
    ) -> WordSoftmax:
        """Splits the top layer by direction, beside the softmax's parameters.

        Raises:
          ValueError: ``tied``, and there is no word embedding, or not of this size.
        """
        del batch
        top = features.layers[-1]
        states = [
            dropout(half, self.dropout, noise, HEAD_PLACE + way)
            for way, half in enumerate(jnp.split(top, len(DIRECTIONS), axis=-1))
        ]
        shape = self.vocab_size, states[0].shape[-1]
        if not self.tied:
            init = nn.initializers.normal(shape[1] ** -0.5)
            kernel = self.param("kernel", init, shape, jnp.float32)
        elif features.embedding is not None and features.embedding.shape == shape:
            kernel = features.embedding
        else:
            raise ValueError(
                f"LanguageModel(tied=True) needs a word embedding of shape {shape}. "
                "Only a biLM with input='words' has one; else leave `tied` out."
            )
        bias = self.param("bias", nn.initializers.zeros, shape[:1], jnp.float32)
        return WordSoftmax(jnp.stack(states), kernel, bias)


def neighbours(
    words: Int[Array, "B T"], example: Int[Array, "B T"]
) -> tuple[Int[Array, "2 B T"], Bool[Array, "2 B T"]]:
    """Finds the word that each token predicts: the next one forward, the last backward.

    Returns:
      Those words, and whether there is one in the token's own example. Both directions
      have equally many, so that ½(forward + backward) is the mean over all of them.
    """
    inside = (example[:, 1:] == example[:, :-1]) & (example[:, 1:] > 0)
    ahead, behind = ((0, 0), (0, 1)), ((0, 0), (1, 0))
    targets = jnp.stack([jnp.pad(words[:, 1:], ahead), jnp.pad(words[:, :-1], behind)])
    return targets, jnp.stack([jnp.pad(inside, ahead), jnp.pad(inside, behind)])
