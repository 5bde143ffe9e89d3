"""The states of a biLM, sentence by sentence: stateless, warmed up or carried on.

A word's vector depends on its spelling alone, so each distinct word goes through the
character CNN once, however often it occurs.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from tl_jax.data.examples import make_examples
from tl_jax.data.packing import Layout, pack
from tl_jax.models.batch import Array, Batch
from tl_jax.models.compose import Params
from tl_jax.models.elmo import BiLm, Carry, ElmoConfig, character_cnn, zero_carry
from tl_jax.models.elmo_encoder import boundaries, read_bounded
from tl_jax.text.characters import bounded, distinct_words, speller

States = Iterator[tuple[int, Float[np.ndarray, "L T D"]]]
_WORDS = 1024  # words that go through the character CNN together
_TOKENS = 4096  # most tokens that are read together


def stateless_states(
    bilm: BiLm,
    params: Params,
    sentences: Sequence[Sequence[str]],
    layers: Sequence[int],
    batch_size: int,
    known: Sequence[str] = (),
) -> States:
    """Reads each sentence from a zero state, so that their order does not matter.

    Args:
      bilm: The module.
      params: Its parameters.
      sentences: Their words; none is empty.
      layers: Which layers are wanted.
      batch_size: Most sentences at a time; those of one length go together.
      known: The biLM's vocabulary, if it looks words up.

    Yields:
      A sentence's number, and its words' states.
    """
    words, index = distinct_words(sentences)
    spelt = speller(known, bilm.config.max_characters)(words)
    for number, states in read_states(bilm, params, index, spelt, layers, batch_size):
        yield number, states.swapaxes(0, 1)


def read_states(
    bilm: BiLm,
    params: Params,
    sentences: Sequence[Int[np.ndarray, "_"]],
    characters: Int[np.ndarray, "V C"],
    layers: Sequence[int],
    batch_size: int = 128,
) -> Iterator[tuple[int, Float[np.ndarray, "T L D"]]]:
    """Reads sentences whose distinct words are spelt out in a table, longest first.

    Args:
      bilm: The module.
      params: Its parameters.
      sentences: Rows of ``characters``; none is empty.
      characters: Of each distinct word.
      layers: Which layers are wanted.
      batch_size: Most sentences at a time; long ones are fewer.

    Yields:
      A sentence's number, and its words' states in float32.
    """
    params = jax.device_put(params)
    vectors = word_vectors(bilm, params, characters)
    bounds = word_vectors(bilm, params, boundaries(bilm.config))
    examples = make_examples(sentences)
    order = np.argsort(-examples.lengths, kind="stable")
    start = 0
    while start < len(order):
        width = _width(int(examples.lengths[order[start]]))
        rows = max(1, min(batch_size, _TOKENS // width, len(order)))
        layout = Layout(packed=False, max_length=width)
        numbers = order[start : start + rows]
        batch = pack(examples, numbers, layout, batch_size=rows)
        words = vectors[batch.tokens]
        found = _read(bilm, tuple(layers), params, words, batch.example, bounds)
        host = np.asarray(found)
        for row, number in enumerate(numbers):
            yield int(number), host[row, batch.mask[row]]
        start += rows


@partial(jax.jit, static_argnums=(0, 1))
def _read(
    bilm: BiLm,
    layers: tuple[int, ...],
    params: Params,
    words: Float[Array, "B T P"],
    example: Int[Array, "B T"],
    bounds: Float[Array, "2 P"],
) -> Float[Array, "B T L D"]:
    rows, length, width = words.shape
    tokens = jnp.arange(rows * length, dtype=jnp.int32).reshape(rows, length)
    read = nn.apply(read_bounded, bilm)
    flat = words.reshape(-1, width)
    found = read({"params": params}, tokens, example, flat, bounds)
    states = jnp.stack([found.layers[layer] for layer in layers], axis=2)
    return states.astype(jnp.float32)


def _width(longest: int) -> int:
    """A row's width: in few steps, for each is compiled, and with little padding."""
    step = 4 if longest <= 32 else 8 if longest <= 64 else 32
    return -(-longest // step) * step


def word_vectors(
    bilm: BiLm, params: Params, characters: Int[np.ndarray, "W C"]
) -> Float[np.ndarray, "W P"]:
    """Reads words by their characters, some at a time; or looks them up."""
    if bilm.config.input == "words":
        return np.asarray(params["words"]["embedding"])[characters[:, 0] - 1]
    found: list[np.ndarray] = []
    for start in range(0, len(characters), _WORDS):
        part = characters[start : start + _WORDS]
        size = 1 << (len(part) - 1).bit_length()  # few shapes: each is compiled
        filled = np.pad(part, ((0, size - len(part)), (0, 0)))
        vectors = _read_words(bilm.config, params["characters"], filled)
        found.append(np.asarray(vectors)[: len(part)])
    return np.concatenate(found)


@partial(jax.jit, static_argnums=0)
def _read_words(
    config: ElmoConfig, params: Params, characters: Int[Array, "W C"]
) -> Float[Array, "W P"]:
    vectors: Any = character_cnn(config).apply({"params": params}, characters)
    return vectors.astype(jnp.float32)


def stateful_states(
    bilm: BiLm,
    params: Params,
    sentences: Sequence[Sequence[str]],
    layers: Sequence[int],
    batch_size: int,
    known: Sequence[str] = (),
    *,
    carried: bool,
    warmed: bool,
) -> States:
    """Reads batches of sentences in their order, from states that are not zero.

    Row n of a batch goes on from row n of the one before, as bilm-tf and AllenNLP have
    it: what a sentence gets depends on the order, and on the batch size.

    Args:
      bilm: The module.
      params: Its parameters.
      sentences: Their words; none is empty.
      layers: Which layers are wanted.
      batch_size: Sentences at a time.
      known: The biLM's vocabulary, if it looks words up.
      carried: Each batch goes on from the one before; else all begin alike.
      warmed: They begin from what the first batch leaves, which is read once more for
        that; else from zero.
    """
    params, chosen = jax.device_put(params), tuple(layers)
    words, index = distinct_words([bounded(words) for words in sentences])
    spelt = speller(known, bilm.config.max_characters)(words)
    vectors = jnp.asarray(word_vectors(bilm, params, spelt))
    examples = make_examples(index)
    start = zero_carry(bilm.config, batch_size)
    for first in range(0, len(examples), batch_size):
        numbers = np.arange(first, min(first + batch_size, len(examples)))
        width = _width(int(examples.lengths[numbers].max()))
        layout = Layout(packed=False, max_length=width)
        batch = pack(examples, numbers, layout, batch_size=batch_size)
        if warmed and first == 0:
            _, start = _read_on(bilm, chosen, params, batch, vectors, start)
        found, end = _read_on(bilm, chosen, params, batch, vectors, start)
        start = end if carried else start
        host = np.asarray(found)
        for row, number in enumerate(numbers):
            yield int(number), host[:, row, batch.mask[row]][:, 1:-1]


@partial(jax.jit, static_argnums=(0, 1))
def _read_on(
    bilm: BiLm,
    layers: tuple[int, ...],
    params: Params,
    batch: Batch,
    vectors: Float[Array, "V P"],
    start: Carry,
) -> tuple[Float[Array, "L B T D"], Carry]:
    inputs = batch.tokens, batch.example, vectors, start
    applied: Any = bilm.apply({"params": params}, *inputs)
    found, end = applied
    return jnp.stack([found.layers[layer] for layer in layers]), end
