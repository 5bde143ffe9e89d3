import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tl_jax.models import skipgram
from tl_jax.models.skipgram import SkipGrams

WINDOW, VOCABULARY, SIZE = 2, 12, 5
STEP = jax.jit(skipgram.train_step, static_argnums=3)


def batch_of(tokens, sentences, reach, negatives):
    """One row whose outer words stand at padding."""
    pad = (WINDOW, WINDOW)
    return SkipGrams(
        tokens=np.pad(tokens, pad)[None].astype(np.int32),
        sentences=np.pad(sentences, pad, constant_values=-1)[None].astype(np.int32),
        reach=np.array([reach], np.int32),
        negatives=np.array(negatives, np.int32),
    )


BATCH = batch_of(
    [3, 1, 4, 1, 5, 9], [0, 0, 0, 0, 1, 1], [2, 1, 2, 1, 2, 1], [4, 7, 0, 7]
)


def pairs_by_hand(batch):
    """(centre's word, neighbour's word) of every window."""
    tokens, sentences = batch.tokens[0], batch.sentences[0]
    return [
        (int(tokens[t + WINDOW]), int(tokens[t + WINDOW + d]))
        for t, reach in enumerate(batch.reach[0])
        for d in range(-reach, reach + 1)
        if d and sentences[t + WINDOW] == sentences[t + WINDOW + d]
    ]


def tables(seed=0):
    draw = np.random.default_rng(seed)
    return draw.normal(size=(2, VOCABULARY, SIZE))


def by_formula(v, u, batch, negatives):
    """Loss, and its gradients of both tables, pair by pair in float64."""
    dv, du, loss = np.zeros_like(v), np.zeros_like(u), 0.0
    share = negatives / len(batch.negatives)

    def term(c, o, sign, weight):
        nonlocal loss
        p = 1 / (1 + np.exp(-sign * (v[c] @ u[o])))
        loss -= weight * np.log(p)
        slope = -weight * sign * (1 - p)
        dv[c] += slope * u[o]
        du[o] += slope * v[c]

    for centre, neighbour in pairs_by_hand(batch):
        term(neighbour, centre, 1, 1.0)
        for noise in batch.negatives:
            if noise != centre:
                term(neighbour, noise, -1, share)
    return loss, dv, du


@pytest.mark.parametrize("negatives", [1, 4])
def test_a_step_is_the_formulas_gradient(negatives):
    v, u = tables()
    loss, dv, du = by_formula(v, u, BATCH, negatives)
    params = {
        "input": jnp.asarray(v, jnp.float32),
        "output": jnp.asarray(u, jnp.float32),
    }
    rate = 1e-3  # so low that no row is slowed down
    new, (value, count) = STEP(params, BATCH, np.float32(rate), negatives)
    assert float(value) == pytest.approx(loss, rel=1e-5)
    assert int(count) == len(pairs_by_hand(BATCH)) == 10
    np.testing.assert_allclose(new["input"], v - rate * dv, atol=1e-6)
    np.testing.assert_allclose(new["output"], u - rate * du, atol=1e-6)
    moved = np.asarray(new["input"]) - v.astype(np.float32)
    np.testing.assert_allclose(moved / rate, -dv, atol=2e-3)


def test_rows_in_many_pairs_move_at_the_rate_of_their_number():
    v, u = tables(1)
    _, dv, du = by_formula(v, u, BATCH, 4)
    pairs = pairs_by_hand(BATCH)
    into, out_of = np.zeros(VOCABULARY), np.zeros(VOCABULARY)
    for centre, neighbour in pairs:
        into[neighbour] += 1 + 4
        out_of[centre] += 1
    for noise in BATCH.negatives:
        out_of[noise] += len(pairs) * 4 / len(BATCH.negatives)
    rate = 0.09
    rates = np.minimum(rate, 1 / np.maximum([into, out_of], 1))
    assert (rates < rate).any() and (rates == rate).any()
    params = {
        "input": jnp.asarray(v, jnp.float32),
        "output": jnp.asarray(u, jnp.float32),
    }
    new, _ = STEP(params, BATCH, np.float32(rate), 4)
    np.testing.assert_allclose(new["input"], v - rates[0][:, None] * dv, atol=1e-5)
    np.testing.assert_allclose(new["output"], u - rates[1][:, None] * du, atol=1e-5)


def test_many_steps_are_steps_one_after_the_other():
    params = skipgram.init(jax.random.key(0), VOCABULARY, SIZE)
    params["output"] = params["output"] + 0.3
    other = batch_of([0, 2, 2, 8, 1, 1], [0] * 6, [1] * 6, [1, 2, 3, 4])
    both = jax.tree.map(lambda a, b: np.stack([a, b]), BATCH, other)
    rates = np.array([0.02, 0.01], np.float32)
    together, (loss, count) = jax.jit(skipgram.train_steps, static_argnums=3)(
        params, both, rates, 3
    )
    losses = counts = 0.0
    for batch, rate in zip((BATCH, other), rates, strict=True):
        params, (value, pairs) = STEP(params, batch, rate, 3)
        losses, counts = losses + value, counts + pairs
    np.testing.assert_allclose(together["input"], params["input"], atol=1e-6)
    np.testing.assert_allclose(together["output"], params["output"], atol=1e-6)
    assert float(loss) == pytest.approx(float(losses), rel=1e-5) and count == counts


def test_initial_vectors_are_word2vecs():
    params = skipgram.init(jax.random.key(0), 400, 50)
    drawn = np.asarray(params["input"])
    assert not np.asarray(params["output"]).any()
    assert abs(drawn).max() <= 0.01
    assert drawn.std() == pytest.approx(0.02 / np.sqrt(12), rel=0.02)
