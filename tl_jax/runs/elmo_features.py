"""The states of a biLM, sentence by sentence: stateless, warmed up or carried on."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from tl_jax.data.examples import Examples, TokenInputs, make_examples
from tl_jax.data.packing import Layout, pack
from tl_jax.data.stream import evaluation_batches
from tl_jax.models.batch import Array, Batch
from tl_jax.models.compose import Params
from tl_jax.models.elmo import BiLm, Carry, zero_carry
from tl_jax.models.elmo_encoder import CHARACTERS, read_sentences
from tl_jax.text.characters import bounded, distinct_words, word_characters

States = Iterator[tuple[int, Float[np.ndarray, "L T D"]]]


def stateless_states(
    bilm: BiLm,
    params: Params,
    sentences: Sequence[Sequence[str]],
    layers: Sequence[int],
    batch_size: int,
) -> States:
    """Reads each sentence from a zero state, so that their order does not matter.

    Args:
      bilm: The module.
      params: Its parameters.
      sentences: Their words; none is empty.
      layers: Which layers are wanted.
      batch_size: Sentences at a time; those of one length go together.

    Yields:
      A sentence's number, and its words' states.
    """

    @jax.jit
    def read(params: Params, batch: Batch) -> Float[Array, "L B T D"]:
        sentences_of = nn.apply(read_sentences, bilm)
        characters = batch.inputs[CHARACTERS]
        found = sentences_of({"params": params}, characters, batch.example)
        return jnp.stack([found.layers[layer] for layer in layers])

    examples = _spelt(sentences, bilm.config.max_characters)
    for batch in evaluation_batches(examples, batch_size, _layout(examples)):
        found = np.asarray(read(params, batch))
        for row in np.flatnonzero(batch.slots[:, 0]):
            yield int(batch.ids[row, 0]), found[:, row, batch.mask[row]]


def stateful_states(
    bilm: BiLm,
    params: Params,
    sentences: Sequence[Sequence[str]],
    layers: Sequence[int],
    batch_size: int,
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
      carried: Each batch goes on from the one before; else all begin alike.
      warmed: They begin from what the first batch leaves, which is read once more for
        that; else from zero.
    """
    read = jax.jit(partial(_read_on, bilm, tuple(layers)))
    examples = _spelt(
        [bounded(words) for words in sentences], bilm.config.max_characters
    )
    layout = _layout(examples)
    start = zero_carry(bilm.config, batch_size)
    for first in range(0, len(examples), batch_size):
        numbers = np.arange(first, min(first + batch_size, len(examples)))
        batch = pack(examples, numbers, layout, batch_size=batch_size)
        if warmed and first == 0:
            _, start = read(params, batch, start)
        found, end = read(params, batch, start)
        start = end if carried else start
        host = np.asarray(found)
        for row, number in enumerate(numbers):
            yield int(number), host[:, row, batch.mask[row]][:, 1:-1]


def _read_on(
    bilm: BiLm, layers: tuple[int, ...], params: Params, batch: Batch, start: Carry
) -> tuple[Float[Array, "L B T D"], Carry]:
    characters = batch.inputs[CHARACTERS]
    rows, length, size = characters.shape
    tokens = jnp.arange(rows * length, dtype=jnp.int32).reshape(rows, length)
    flat = jnp.asarray(characters).reshape(-1, size)
    applied: Any = bilm.apply({"params": params}, tokens, batch.example, flat, start)
    found, end = applied
    return jnp.stack([found.layers[layer] for layer in layers]), end


def _spelt(sentences: Sequence[Sequence[str]], length: int) -> Examples:
    words, index = distinct_words(sentences)
    examples = make_examples(index)
    rows = np.fromiter(chain.from_iterable(index), np.int64, len(examples.tokens))
    tables = {CHARACTERS: word_characters(words, length=length)}
    return replace(examples, inputs=TokenInputs(rows, tables))


def _layout(examples: Examples) -> Layout:
    return Layout(packed=False, max_length=int(examples.lengths.max(initial=1)))
