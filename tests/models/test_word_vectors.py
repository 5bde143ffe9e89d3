"""Word vectors under a (bi)LSTM: what segment ids do."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import drawn, padded, random_examples, tiny_word_vectors

from tl_jax.data.packing import Layout, pack
from tl_jax.models.batch import Batch
from tl_jax.models.dropout import token_noise


def pooled(model: Any, params: Any, batch: Batch) -> np.ndarray:
    """The vectors of the examples, by their numbers."""
    found = np.asarray(model.features(params, batch).pooled)
    order = np.argsort(batch.ids[batch.slots])
    return found[batch.slots][order]


@pytest.fixture(scope="module")
def batches() -> tuple[Batch, Batch]:
    """The same pairs, one a row and several a row."""
    examples = random_examples(6)
    packed = Layout(packed=True, max_length=16, narrowest=32)
    return pack(examples, range(6), padded()), pack(examples, range(6), packed)


@pytest.mark.parametrize("pooling", ["max", "mean", "last"])
def test_a_pair_is_compared_by_the_formula(
    pooling: str, batches: tuple[Batch, Batch]
) -> None:
    model = tiny_word_vectors(pooling=pooling, segments="compare", dropout=0.0)
    alone = tiny_word_vectors(pooling=pooling, dropout=0.0)
    params = drawn(model)
    together = pooled(model, params, batches[0])
    # Each text as an example of its own, by the same LSTM.
    sides = []
    for kind in (0, 1):
        batch = batches[0]
        mine = (batch.types == kind) & batch.mask
        sides.append(
            pooled(alone, params, replace(batch, example=mine.astype(np.int32)))
        )
    u, v = sides
    formula = np.concatenate([u, v, np.abs(u - v), u * v], axis=1)
    np.testing.assert_allclose(together, formula, atol=1e-6)
    packed = pooled(model, params, batches[1])
    np.testing.assert_allclose(packed, formula, atol=1e-6)


def test_embedded_segments_tell_the_texts_apart(batches: tuple[Batch, Batch]) -> None:
    model = tiny_word_vectors(segments="embed", segment_size=4, dropout=0.0)
    params = drawn(model)
    one, several = batches
    np.testing.assert_allclose(
        pooled(model, params, one), pooled(model, params, several), atol=1e-6
    )
    other = replace(one, types=1 - one.types)
    assert not np.allclose(pooled(model, params, one), pooled(model, params, other))

    def total(params: Any) -> jax.Array:
        return jnp.sum(jnp.asarray(model.features(params, one).pooled) ** 2)

    gradient = jax.grad(total)(params)["encoder"]["segments"]["embedding"]
    assert gradient.shape == (2, 4)
    assert np.abs(gradient).min(axis=1).max() > 0


def test_what_heads_of_tokens_read_is_dropped_out(batches: tuple[Batch, Batch]) -> None:
    model = tiny_word_vectors(dropout=0.5)
    params = drawn(model)
    noise = token_noise(jax.random.key(1), batches[0])
    found: Any = model.encoder.apply({"params": params["encoder"]}, batches[0], noise)
    top = np.asarray(found.layers[-1])[batches[0].mask]
    assert 0.4 < (top == 0).mean() < 0.6
