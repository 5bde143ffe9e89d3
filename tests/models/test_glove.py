import jax
import numpy as np
import pytest

from tl_jax.models import glove
from tl_jax.models.glove import Entries

VOCABULARY, SIZE, RATE, X_MAX, ALPHA = 7, 4, 0.05, 10.0, 0.75
STEP = jax.jit(glove.train_step, static_argnums=(2, 3, 4))
STEPS = jax.jit(glove.train_steps, static_argnums=(2, 3, 4))


def state_of(seed=0, scale=1.0):
    draw = np.random.default_rng(seed)
    shape = (2 * VOCABULARY, SIZE + 1)
    return {
        "weights": (scale * draw.normal(size=shape)).astype(np.float32),
        "squares": draw.uniform(1, 3, shape).astype(np.float32),
    }


def official(state, entries):
    """The update of glove.c, entry by entry in float64; returns the cost too."""
    w, g = (state[n].astype(np.float64).copy() for n in ("weights", "squares"))
    cost = 0.0
    for i, context, x in entries:
        j = VOCABULARY + context
        diff = w[i, :-1] @ w[j, :-1] + w[i, -1] + w[j, -1] - np.log(x)
        fdiff = diff if x > X_MAX else (x / X_MAX) ** ALPHA * diff
        cost += 0.5 * fdiff * diff
        step_i = RATE * np.clip(fdiff * w[j, :-1], -100, 100)
        step_j = RATE * np.clip(fdiff * w[i, :-1], -100, 100)
        for row, step in ((i, step_i), (j, step_j)):
            w[row, :-1] -= step / np.sqrt(g[row, :-1])
            g[row, :-1] += step**2
            w[row, -1] -= fdiff / np.sqrt(g[row, -1])
            g[row, -1] += fdiff**2
    return {"weights": w, "squares": g}, cost


def entries_of(triples, size=4):
    rows = np.zeros((size, 3))
    rows[: len(triples)] = triples
    return Entries(
        rows[:, 0].astype(np.int32),
        rows[:, 1].astype(np.int32),
        rows[:, 2].astype(np.float32),
    )


def stacked(steps):
    return jax.tree.map(lambda *x: np.stack(x), *steps)


def taken(state, entries):
    return STEP(state, entries, RATE, X_MAX, ALPHA)


@pytest.mark.parametrize("scale", [0.5, 8.0])
def test_entries_of_distinct_words_move_as_in_the_official_code(scale):
    triples = [(0, 3, 2.5), (5, 1, 0.1), (2, 2, 40.0)]  # and one of padding
    state = state_of(scale=scale)
    new, (cost, count) = taken(state, entries_of(triples))
    expected, expected_cost = official(state, triples)
    for name, values in expected.items():
        np.testing.assert_allclose(new[name], values, rtol=2e-5, atol=1e-5)
    assert float(cost) == pytest.approx(expected_cost, rel=1e-5)
    assert count == 3
    if scale == 8.0:  # something was clipped
        moves = np.sqrt(np.asarray(new["squares"]) - state["squares"])
        assert moves[:, :-1].max() == pytest.approx(RATE * 100, rel=1e-4)


def test_a_word_in_several_entries_moves_by_their_sum():
    """Each move is scaled by accumulators that hold the other ones already."""
    state, triples = state_of(1, 0.5), [(1, 0, 3.0), (1, 2, 7.0), (4, 2, 7.0)]
    new, _ = taken(state, entries_of(triples))
    apart = [official(state, [t])[0] for t in triples]
    for row, entries in ((1, (0, 1)), (VOCABULARY + 2, (1, 2)), (4, (2,))):
        old, taken_up = state["weights"][row], state["squares"][row]
        squares = [apart[n]["squares"][row] - taken_up for n in entries]
        moved = sum(
            (apart[n]["weights"][row] - old)
            * np.sqrt(taken_up / (taken_up + sum(squares) - own))
            for n, own in zip(entries, squares, strict=True)
        )
        np.testing.assert_allclose(new["weights"][row] - old, moved, rtol=1e-4)
        np.testing.assert_allclose(
            new["squares"][row], taken_up + sum(squares), rtol=1e-5
        )


def test_steps_of_many_entries_learn_as_fast_as_the_official_code():
    """Where words are in several entries of a step, as frequent ones always are.

    If they moved by the mean of these entries, the loss would be 29 % above.
    """
    draw = np.random.default_rng(3)
    counts = np.exp(draw.normal(-3, 1.5, (VOCABULARY, VOCABULARY)))
    triples = [(i, j, x) for (i, j), x in np.ndenumerate(counts)]
    one = many = state_of(3, 0.1) | {"squares": np.ones_like(state_of()["squares"])}
    expected = cost = np.inf
    for epoch in range(4):
        order = np.random.default_rng(epoch).permutation(len(triples))
        shuffled = [triples[n] for n in order]
        one, expected = official(one, shuffled)
        steps = [entries_of(shuffled[n : n + 16], 16) for n in range(0, 49, 16)]
        many, (cost, _) = STEPS(many, stacked(steps), RATE, X_MAX, ALPHA)
    assert float(cost) == pytest.approx(expected, rel=0.03)


def test_many_steps_are_steps_one_after_the_other():
    state = state_of(2, 0.5)
    triples = [[(0, 3, 2.5), (5, 1, 0.1)], [(0, 1, 4.0), (6, 6, 90.0)]]
    both = stacked([entries_of(t) for t in triples])
    new, (cost, count) = STEPS(state, both, RATE, X_MAX, ALPHA)
    expected, expected_cost = official(state, triples[0] + triples[1])
    for name, values in expected.items():
        np.testing.assert_allclose(new[name], values, rtol=2e-5, atol=1e-5)
    assert float(cost) == pytest.approx(expected_cost, rel=1e-5) and count == 4


def test_start_and_result_are_the_official_ones():
    state = glove.init(jax.random.key(0), 300, 9)
    drawn = np.asarray(state["weights"])
    assert drawn.shape == (600, 10) and abs(drawn).max() <= 0.05
    assert drawn.std() == pytest.approx(0.1 / np.sqrt(12), rel=0.05)
    assert (np.asarray(state["squares"]) == 1).all()
    np.testing.assert_array_equal(
        glove.vectors(state), drawn[:300, :9] + drawn[300:, :9]
    )
