"""The chain's algorithms against the enumeration of all its tag sequences."""

import itertools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tl_jax.models.crf import (
    FORBIDDEN,
    Transitions,
    iob2_constraints,
    log_likelihood,
    marginals,
    viterbi,
)

CLASSES, LENGTH, SLOTS = 3, 12, 4
# One example a row and, of the same shape, two rows that are packed. The row's end, its
# start, gaps within an example and an example without a counted token all occur.
CHAINS = ["..x.x", "x", "xx.x", "...", "xxxx", "x..x", ".x"]
PADDED = [[0], [1], [2], [3], [4], [5], [6]]
PACKED = [[4, 0, 1], [], [3, 5], [2], [6], [], []]

best_tags = jax.jit(viterbi)
likelihood = jax.jit(log_likelihood, static_argnames="slots")
posteriors = jax.jit(marginals)


def random_transitions(seed=0, classes=CLASSES):
    draw = np.random.default_rng(seed)
    shapes = (classes,), (classes, classes), (classes,)
    return Transitions(*(draw.normal(0, 1.5, s).astype(np.float32) for s in shapes))


def lay(rows, seed=0):
    """Lays CHAINS into rows: emissions, tags, counted, example; garbage elsewhere."""
    draw = np.random.default_rng(seed)
    values = [draw.normal(0, 2, (len(c), CLASSES)) for c in CHAINS]
    golds = [draw.integers(0, CLASSES, len(c)) for c in CHAINS]
    emissions = draw.normal(0, 50, (len(rows), LENGTH, CLASSES)).astype(np.float32)
    tags = draw.integers(0, CLASSES, (len(rows), LENGTH)).astype(np.int32)
    counted = np.zeros((len(rows), LENGTH), bool)
    example = np.zeros((len(rows), LENGTH), np.int32)
    for r, row in enumerate(rows):
        begin = 0
        for slot, number in enumerate(row):
            here = slice(begin, begin + len(CHAINS[number]))
            emissions[r, here] = values[number]
            tags[r, here] = golds[number]
            counted[r, here] = [c == "x" for c in CHAINS[number]]
            example[r, here] = slot + 1
            begin = here.stop
    return emissions, tags, counted, example


def chains(rows, counted, example):
    """Where each example's counted tokens stand: {number: (row, columns, slot)}."""
    return {
        number: (r, np.flatnonzero(counted[r] & (example[r] == slot + 1)), slot)
        for r, row in enumerate(rows)
        for slot, number in enumerate(row)
    }


def score(emissions, tags, transitions):
    """The definition, in float64."""
    start, between, end = (np.float64(x) for x in transitions)
    steps = sum(between[a, b] for a, b in itertools.pairwise(tags))
    total = sum(np.float64(e)[y] for e, y in zip(emissions, tags, strict=True))
    return total + start[tags[0]] + steps + end[tags[-1]]


def enumerate_all(emissions, transitions):
    """Every tag sequence, and its probability."""
    found = list(itertools.product(range(CLASSES), repeat=len(emissions)))
    scores = np.array([score(emissions, tags, transitions) for tags in found])
    exponents = np.exp(scores - scores.max())
    return np.array(found), exponents / exponents.sum()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("rows", [PADDED, PACKED], ids=["padded", "packed"])
def test_all_three_are_those_of_the_enumeration(rows, seed):
    transitions = random_transitions(seed)
    emissions, tags, counted, example = lay(rows, seed)
    best = np.asarray(best_tags(emissions, transitions, counted, example))
    likely = likelihood(emissions, tags, transitions, counted, example, slots=SLOTS)
    posterior = np.asarray(posteriors(emissions, transitions, counted, example))
    assert (best[~counted] == 0).all()
    assert (posterior[~counted] == 0).all()
    wanted = np.zeros((len(rows), SLOTS))
    places = chains(rows, counted, example)
    assert len(places) == len(CHAINS)
    for r, columns, slot in places.values():
        if not len(columns):
            continue
        sequences, probabilities = enumerate_all(emissions[r, columns], transitions)
        np.testing.assert_array_equal(
            best[r, columns], sequences[probabilities.argmax()]
        )
        gold = (sequences == tags[r, columns]).all(axis=1)
        wanted[r, slot] = np.log(probabilities[gold][0])
        for tag in range(CLASSES):
            np.testing.assert_allclose(
                posterior[r, columns, tag],
                probabilities @ (sequences == tag),
                atol=1e-5,
            )
    np.testing.assert_allclose(likely, wanted, rtol=1e-5, atol=1e-5)


def test_gradients_are_those_of_the_enumeration():
    """Expected less observed counts, by the enumeration's probabilities."""
    transitions = random_transitions(seed=1)
    emissions, tags, counted, example = lay(PACKED, seed=1)

    def total(emissions, transitions):
        return log_likelihood(
            emissions, tags, transitions, counted, example, SLOTS
        ).sum()

    by_emission, found = jax.jit(jax.grad(total, argnums=(0, 1)))(
        emissions, transitions
    )
    wanted = Transitions(*(np.zeros(x.shape) for x in transitions))
    wanted_emission = np.zeros(emissions.shape)
    for r, columns, _ in chains(PACKED, counted, example).values():
        if not len(columns):
            continue
        sequences, probabilities = enumerate_all(emissions[r, columns], transitions)
        gold = tags[r, columns]
        for sequence, weight in [
            *zip(sequences, -probabilities, strict=True),
            (gold, 1.0),
        ]:
            wanted.start[sequence[0]] += weight
            wanted.end[sequence[-1]] += weight
            for a, b in itertools.pairwise(sequence):
                wanted.between[a, b] += weight
            wanted_emission[r, columns, sequence] += weight
    np.testing.assert_allclose(by_emission, wanted_emission, atol=1e-5)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_a_long_row_keeps_its_digits():
    """Against float64: 400 tokens whose scores have a large common part."""
    draw = np.random.default_rng(2)
    length = 400
    transitions = random_transitions(seed=2)
    emissions = draw.normal(100, 3, (1, length, CLASSES)).astype(np.float32)
    tags = draw.integers(0, CLASSES, (1, length)).astype(np.int32)
    start, between, end = (np.float64(x) for x in transitions)
    message = start + emissions[0, 0]
    for emission in np.float64(emissions[0, 1:]):
        paths = message[:, None] + between
        top = paths.max(axis=0)
        message = top + np.log(np.exp(paths - top).sum(axis=0)) + emission
    message = message + end
    partition = message.max() + np.log(np.exp(message - message.max()).sum())
    wanted = score(emissions[0], tags[0], transitions) - partition
    ones = np.ones((1, length), np.int32)
    found = likelihood(emissions, tags, transitions, ones > 0, ones, slots=1)
    np.testing.assert_allclose(found[0, 0], wanted, rtol=1e-6)


def test_nothing_counted_is_nothing_scored():
    transitions = random_transitions()
    emissions, tags, counted, example = lay(PADDED)
    none = np.zeros_like(counted)

    def total(emissions):
        return log_likelihood(emissions, tags, transitions, none, example, SLOTS).sum()

    value, gradient = jax.jit(jax.value_and_grad(total))(emissions)
    assert float(value) == 0
    assert (np.asarray(gradient) == 0).all()
    # A counted token at padding is none.
    outside = emissions, transitions, ~none, np.zeros_like(example)
    assert not np.asarray(best_tags(*outside)).any()
    assert not np.asarray(posteriors(*outside)).any()


NAMES = ("O", "B-a", "I-a", "B-b-c", "I-b-c")


def test_iob2_constraints_are_its_rules():
    start, between, end = iob2_constraints(len(NAMES))
    allowed = {
        (a, b)
        for a, b in itertools.product(NAMES, repeat=2)
        if not b.startswith("I-") or a[2:] == b[2:]
    }
    assert len(allowed) == 25 - 6
    for (i, a), (j, b) in itertools.product(enumerate(NAMES), repeat=2):
        assert between[i, j] == (0 if (a, b) in allowed else FORBIDDEN)
    assert start.tolist() == [0, 0, FORBIDDEN, 0, FORBIDDEN]
    assert end.tolist() == [0] * 5


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.floats(0, 300))
def test_constrained_tags_are_legal(seed, scale):
    draw = np.random.default_rng(seed)
    shape = (3, LENGTH)
    emissions = (scale * draw.normal(size=(*shape, len(NAMES)))).astype(np.float32)
    counted = draw.random(shape) < 0.7
    example = np.sort(draw.integers(0, 4, shape), axis=1).astype(np.int32)
    tags = np.asarray(
        best_tags(emissions, iob2_constraints(len(NAMES)), counted, example)
    )
    for row in range(3):
        for slot in range(1, 4):
            mine = counted[row] & (example[row] == slot)
            before = "O"
            for name in (NAMES[tag] for tag in tags[row, mine]):
                if name.startswith("I-"):
                    assert before != "O" and before[2:] == name[2:]
                before = name
