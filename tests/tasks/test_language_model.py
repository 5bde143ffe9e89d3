"""The biLM's loss over carried states, against its formula in float64."""

import functools
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import farthest, same_bits

from tl_jax.data.word_stream import WordStream
from tl_jax.data.word_text import open_words, prepare_words
from tl_jax.metrics.sums import mean
from tl_jax.models.compose import flatten_paths, unflatten_paths
from tl_jax.models.elmo import DIRECTIONS, Carry, ElmoConfig
from tl_jax.tasks.language_model import BiLanguageModel
from tl_jax.training.placement import choose_placement
from tl_jax.training.step import EVERYTHING, create_state, train_step

V, P, H, L = 9, 4, 6, 2
CONFIG = ElmoConfig(
    input="words",
    vocab_size=V,
    projection_size=P,
    cell_size=H,
    num_layers=L,
    cell_clip=0.8,
    projection_clip=0.9,
    dropout=0.3,
    filters=((1, 3), (2, 4)),
    character_size=3,
    num_highways=1,
    max_characters=6,
)
MODEL = BiLanguageModel(CONFIG, V, tied=True)
SPELLING = BiLanguageModel(replace(CONFIG, input="characters"), V, tied=False)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    draw = np.random.default_rng(0)
    lengths = draw.integers(1, 8, 14)
    sentences = [[f"w{draw.zipf(1.5) % 11}" for _ in range(n)] for n in lengths]
    folder = tmp_path_factory.mktemp("words") / "text"
    prepare_words(folder, sentences, {}, vocab_size=V)
    return open_words(Path(folder))


@functools.cache
def drawn(model):
    """Random parameters, large enough that every part is heard."""
    draw = np.random.default_rng(1)
    sample = jax.tree.map(np.zeros_like, STREAMS[model].batch(0))
    leaves = flatten_paths(jax.eval_shape(model.init, jax.random.key(0), sample))
    return unflatten_paths(
        {p: draw.normal(0, 0.7, x.shape).astype(np.float32) for p, x in leaves.items()}
    )


STREAMS = {}


@pytest.fixture(scope="module", autouse=True)
def streams(text):
    """Streams of four rows, the last one shorter, in windows that do not fit."""
    STREAMS[MODEL] = WordStream(text, 4, 5)
    STREAMS[SPELLING] = WordStream(text, 4, 5, CONFIG.max_characters)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def formula(weights, way, tokens, targets):
    """Σ −log p of a whole stream, read from its one end to the other."""
    x = weights["encoder/words/embedding"][tokens]
    for layer in range(L):
        name = f"encoder/lstm_{layer}_{DIRECTIONS[way]}"
        kernel, recurrent, bias, projection = (
            weights[f"{name}/{part}"]
            for part in ("kernel", "recurrent", "bias", "projection")
        )
        c, h, out = np.zeros(H), np.zeros(P), []
        for token in x:
            i, j, f, o = np.split(token @ kernel + h @ recurrent + bias, 4)
            c = sigmoid(f + 1) * c + sigmoid(i) * np.tanh(j)
            c = np.clip(c, -CONFIG.cell_clip, CONFIG.cell_clip)
            h = (sigmoid(o) * np.tanh(c)) @ projection
            h = np.clip(h, -CONFIG.projection_clip, CONFIG.projection_clip)
            out.append(h)
        x = np.array(out) + (x if layer else 0)
    scores = x @ weights["encoder/words/embedding"].T + weights["head/bias"]
    every = np.log(np.exp(scores).sum(axis=1))
    return (every - scores[np.arange(len(targets)), targets]).sum()


def oracle(text, params):
    """By row and direction: each stream as one sequence, with no windows at all."""
    flat = flatten_paths(params).items()
    weights = {path: np.asarray(x, np.float64) for path, x in flat}
    tokens = np.where(text.tokens < V, text.tokens, 2)
    after = np.append(tokens[1:], 0)
    after = np.where(after == 0, 1, after)
    length = -(-len(tokens) // 4)
    found = np.zeros((4, 2))
    for row in range(4):
        own = slice(row * length, (row + 1) * length)
        found[row, 0] = formula(weights, 0, tokens[own], after[own])
        found[row, 1] = formula(weights, 1, after[own][::-1], tokens[own][::-1])
    return found


def test_windows_with_a_carry_are_one_long_window_in_both_directions(text):
    """Forward from the stream's beginning, backward from its end, to the formula."""
    stream, params = STREAMS[MODEL], drawn(MODEL)
    read = jax.jit(MODEL.losses)
    carry, total = MODEL.carry(4), np.zeros((4, 2))
    assert stream.steps_per_epoch > 2
    for n in range(stream.steps_per_epoch):
        losses, carry = read(params, stream.batch(n), carry)
        total += np.asarray(losses, np.float64)
    expected = oracle(text, params)
    np.testing.assert_allclose(total, expected, atol=1e-4, rtol=0)
    # The next epoch begins from zero, whatever it is handed.
    again, _ = read(params, stream.batch(stream.steps_per_epoch), carry)
    first, _ = read(params, stream.batch(0), MODEL.carry(4))
    np.testing.assert_array_equal(again, first)


@pytest.mark.parametrize("window", [0, 1])
def test_the_training_loss_is_the_mean_of_both_directions(text, window):
    stream, params = STREAMS[MODEL], drawn(MODEL)
    plain = BiLanguageModel(replace(CONFIG, dropout=0.0), V, tied=True)
    carry = jax.tree.map(lambda x: x + np.float32(0.3), MODEL.carry(4))
    batch, key = stream.batch(window), jax.random.key(0)
    # Backward the first window is the last of the stream, which is not full.
    same = np.array_equal(*batch.weights.values())
    assert same == (window == 1)
    sums, _ = plain.loss(params, batch, key, carry, train=True)
    losses, _ = MODEL.losses(params, batch, carry)
    counts = [batch.weights[way].sum() for way in DIRECTIONS]
    total = np.asarray(losses).sum(axis=0)
    found = mean(sums)
    assert found["forward_loss"] == pytest.approx(total[0] / counts[0], rel=1e-5)
    assert found["backward_loss"] == pytest.approx(total[1] / counts[1], rel=1e-5)
    assert found["loss"] == pytest.approx(total.sum() / sum(counts), rel=1e-5)
    # A sample of all words is the full softmax.
    every = replace(plain, sampled=V)
    sums, _ = every.loss(params, batch, key, carry, train=True)
    assert mean(sums)["loss"] == pytest.approx(found["loss"], rel=1e-5)


def test_each_step_draws_words_and_dropout_of_its_own():
    params, batch = drawn(MODEL), STREAMS[MODEL].batch(1)
    carry, key = MODEL.carry(4), jax.random.key(0)
    plain = BiLanguageModel(replace(CONFIG, dropout=0.0), V, tied=True, sampled=3)

    def loss(model, batch, **options):
        given = {"train": True, **options}
        return mean(model.loss(params, batch, key, carry, **given)[0])["loss"]

    later = batch.replace(positions=batch.positions + 5)
    after = batch.replace(epochs=batch.epochs + 1)
    for model in (plain, MODEL):
        values = {loss(model, b) for b in (batch, later, after)}
        assert len(values) == 3
        assert loss(model, batch) == loss(model, batch)
    # Held-out text is read by all words, without dropout.
    whole = BiLanguageModel(CONFIG, V, tied=True)
    told = {loss(m, b, train=False) for m in (plain, whole) for b in (batch, later)}
    assert max(told) - min(told) < 1e-5


def test_training_forgets_the_carry_of_some_rows_and_windows():
    params, stream = drawn(MODEL), STREAMS[MODEL]
    plain = BiLanguageModel(replace(CONFIG, dropout=0.0), V, tied=True)
    half = replace(plain, restart=0.5)
    carry = jax.tree.map(lambda x: x + np.float32(0.3), MODEL.carry(4))

    @functools.partial(jax.jit, static_argnums=(0, 3))
    def left(model, batch, carry, train=True):
        return model.loss(params, batch, jax.random.key(3), carry, train=train)[1]

    def rows_apart(a, b):
        both = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
        return sum(np.abs(x - y).reshape(4, -1).max(axis=1) for x, y in both) > 1e-5

    draws = []
    for epoch in range(20):
        batch = stream.batch(1)
        batch = batch.replace(epochs=np.full_like(batch.epochs, epoch))
        found = left(half, batch, carry)
        fresh = ~rows_apart(found, left(plain, batch, MODEL.carry(4)))
        going_on = ~rows_apart(found, left(plain, batch, carry))
        assert (fresh != going_on).all()  # a row begins anew in all or goes on in all
        draws.append(fresh)
        # Each row draws by itself, wherever it lies in the batch.
        turned = jax.tree.map(lambda x: x[::-1], batch)
        again = left(half, turned, jax.tree.map(lambda x: x[::-1], carry))
        assert not rows_apart(jax.tree.map(lambda x: x[::-1], again), found).any()
        assert not rows_apart(
            left(half, batch, carry, False), left(plain, batch, carry, False)
        ).any()
    assert 20 < np.sum(draws) < 60  # of 80, at one half: 4.5 standard deviations
    assert len({tuple(draw) for draw in draws}) > 5


def test_dropout_is_of_the_lstms_inputs_and_of_what_the_softmax_reads():
    plain = BiLanguageModel(replace(CONFIG, use_skip_connections=False), V, tied=True)
    params, batch = drawn(MODEL), STREAMS[MODEL].batch(1)
    leaves = flatten_paths(params).items()
    deaf = {p: np.zeros_like(x) if p.endswith("/kernel") else x for p, x in leaves}

    def read(params, train):
        key = jax.random.key(0)
        sums, carry = plain.loss(params, batch, key, MODEL.carry(4), train=train)
        return mean(sums), carry

    heard = [read(params, train)[1] for train in (True, False)]
    assert farthest(*heard) > 0.1
    # LSTMs that do not hear their inputs end alike; their outputs are dropped out.
    (dropped, one), (whole, other) = (
        read(unflatten_paths(deaf), train) for train in (True, False)
    )
    assert farthest(one, other) == 0
    for way in DIRECTIONS:
        assert abs(dropped[f"{way}_loss"] - whole[f"{way}_loss"]) > 1e-3


def test_characters_give_what_their_vectors_give_when_looked_up(text):
    """A biLM by characters is one by words whose embedding is the CNN's output."""
    params, stream = drawn(SPELLING), STREAMS[SPELLING]
    batch, carry = stream.batch(1), SPELLING.carry(4)
    losses, end = SPELLING.losses(params, batch, carry)
    assert end.cell.shape == (4, L, 2, H)
    same = {**batch.inputs, "spellings": batch.inputs["spellings"][::-1].copy()}
    # Rows of the table are numbered over the whole batch.
    width = same["spellings"].shape[1]
    moved = [3 - ids // width for ids in (batch.tokens, batch.inputs["backward"])]
    ids = [
        m * width + old % width
        for m, old in zip(moved, (batch.tokens, batch.inputs["backward"]), strict=True)
    ]
    other = batch.replace(tokens=ids[0], inputs={**same, "backward": ids[1]})
    found, _ = SPELLING.losses(params, other, carry)
    np.testing.assert_allclose(found, losses, atol=1e-5)


def train(model, kind, count, blocks=1, steps=4):
    params = jax.tree.map(np.copy, drawn(model))
    optimizer = EVERYTHING.optimizer(params, 1e-2, weight_decay=0.0)
    placement = choose_placement(kind, count)
    take = placement.train(train_step(model.loss, optimizer))
    state = create_state(params, optimizer, carry=model.carry(4))
    state = placement.replicate(state)
    stream, told = replace(STREAMS[model], blocks=blocks), []
    for n in range(steps):
        state, sums = take(state, stream.batch(n))
        told.append(mean(jax.device_get(sums))["loss"])
    return state, told


def test_devices_and_pmap_give_the_same_parameters_and_carry():
    alone, told = train(SPELLING, "jit", 1)
    assert farthest(alone.carry, SPELLING.carry(4)) > 0.1
    for kind, count, blocks in (("jit", 4, 1), ("pmap", 4, 4)):
        state, found = train(SPELLING, kind, count, blocks)
        assert farthest(state.params, alone.params) <= 1e-5, kind
        assert farthest(state.carry, alone.carry) <= 1e-5, kind
        assert found == pytest.approx(told, rel=1e-5)
        if kind == "jit":
            rows = choose_placement("jit", 4).by_rows
            assert state.carry.cell.sharding.is_equivalent_to(rows, 4)


def test_a_state_that_is_stored_goes_on_exactly():
    """The carry is of the state: without it the steps that follow are others."""
    whole, _ = train(MODEL, "jit", 1)
    optimizer = EVERYTHING.optimizer(drawn(MODEL), 1e-2, weight_decay=0.0)
    take = jax.jit(train_step(MODEL.loss, optimizer))
    half = jax.device_get(train(MODEL, "jit", 1, steps=2)[0])
    lost = half.replace(carry=MODEL.carry(4))
    ends = []
    for state in (half, lost):
        for n in (2, 3):
            state, _ = take(state, STREAMS[MODEL].batch(n))
        ends.append(state)
    assert same_bits(ends[0], whole)
    assert farthest(ends[1].params, whole.params) > 1e-4
    assert isinstance(ends[0].carry, Carry)
