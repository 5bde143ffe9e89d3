"""The biLM against its formula in float64, the mix and the softmax in closed form."""

import functools
import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tl_jax.models.batch import Batch
from tl_jax.models.compose import flatten_paths, init_module, unflatten_paths
from tl_jax.models.dropout import token_noise
from tl_jax.models.elmo import (
    BiLm,
    Carry,
    ElmoConfig,
    LanguageModel,
    Mix,
    mix,
    neighbours,
    zero_carry,
)
from tl_jax.models.layers import Features
from tl_jax.models.softmax import (
    Negatives,
    draw_negatives,
    full_softmax,
    log_uniform,
    logits,
    sampled_softmax,
)

WORDS, WIDTH, CELL, LAYERS = 13, 4, 6, 3
ROWS, LENGTH = 3, 12
# The bounds are low, so that they are met.
CONFIG = ElmoConfig(
    input="words",
    vocab_size=WORDS,
    projection_size=WIDTH,
    cell_size=CELL,
    num_layers=LAYERS,
    cell_clip=0.8,
    projection_clip=0.9,
    dropout=0.4,
)
DRAW = np.random.default_rng(0)
SENTENCES = [DRAW.integers(0, WORDS, n) for n in (5, 3, 12, 1, 4)]
# Which sentences stand in which row; None is a token of padding.
PACKED = [[0, None, 1], [2], [None, 3, 4, None]]
PADDED = [[[0], [1], [2]], [[3], [4], []]]


def drawn(module, *inputs, seed=0):
    """Random parameters, large enough that every part is heard."""
    draw = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda: init_module(module, jax.random.key(0), *inputs))
    leaves = flatten_paths(shapes).items()
    return unflatten_paths(
        {p: draw.normal(0, 0.9, x.shape).astype(np.float32) for p, x in leaves}
    )


EMPTY = np.zeros((ROWS, LENGTH), np.int32)
PARAMS = drawn(BiLm(CONFIG), EMPTY, EMPTY)
CARRY = Carry(
    DRAW.normal(0, 0.5, (LAYERS, 2, ROWS, CELL)).astype(np.float32),
    DRAW.normal(0, 0.5, (LAYERS, 2, ROWS, WIDTH)).astype(np.float32),
)


@functools.partial(jax.jit, static_argnums=0)
def read(config, tokens, example, carry):
    return BiLm(config).apply({"params": PARAMS}, tokens, example, None, carry)


def lay(rows, padding=0):
    """Lays sentences into rows: tokens, example, and where each sentence stands."""
    tokens, example = np.full((2, ROWS, LENGTH), padding, np.int32)
    example[:] = 0
    places = {}
    for row, parts in enumerate(rows):
        at = 0
        for slot, part in enumerate(parts, 1):
            length = 1 if part is None else len(SENTENCES[part])
            if part is not None:
                tokens[row, at : at + length] = SENTENCES[part]
                example[row, at : at + length] = slot
                places[part] = row, slice(at, at + length)
            at += length
    return tokens, example, places


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def formula(sentence, way, skip, cell, hidden):
    """One sentence in one direction: every layer's states, and the last of each.

    The states that it begins from are cell [L, H] and hidden [L, P].
    """
    weights = {p: np.asarray(x, np.float64) for p, x in flatten_paths(PARAMS).items()}
    order = slice(None) if way == 0 else slice(None, None, -1)
    x = weights["words/embedding"][sentence][order]
    layers, cells, hiddens = [x[order]], [], []
    for layer in range(LAYERS):
        name = f"lstm_{layer}_{('forward', 'backward')[way]}"
        part = {p[len(name) + 1 :]: w for p, w in weights.items() if p.startswith(name)}
        c, h = (np.asarray(state[layer], np.float64) for state in (cell, hidden))
        out = []
        for token in x:
            gates = token @ part["kernel"] + h @ part["recurrent"] + part["bias"]
            i, j, f, o = np.split(gates, 4)
            c = sigmoid(f + 1) * c + sigmoid(i) * np.tanh(j)
            c = np.clip(c, -CONFIG.cell_clip, CONFIG.cell_clip)
            h = (sigmoid(o) * np.tanh(c)) @ part["projection"]
            h = np.clip(h, -CONFIG.projection_clip, CONFIG.projection_clip)
            out.append(h)
        x = np.array(out) + (x if skip and layer else 0)
        layers.append(x[order])
        cells.append(c)
        hiddens.append(h)
    return layers, cells, hiddens


def assert_close(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


# The biLM


@pytest.mark.parametrize("skip", [True, False])
def test_every_layer_is_the_formulas(skip):
    config = replace(CONFIG, use_skip_connections=skip)
    tokens, example, places = lay(PACKED)
    features, end = read(config, tokens, example, CARRY)
    assert len(features.layers) == LAYERS + 1
    assert features.pooled is None
    np.testing.assert_array_equal(features.embedding, PARAMS["words"]["embedding"])
    for way in (0, 1):
        ends = {}
        for sentence, (row, columns) in places.items():
            start = CARRY.cell[:, way, row], CARRY.hidden[:, way, row]
            layers, *last = formula(SENTENCES[sentence], way, skip, *start)
            half = slice(way * WIDTH, (way + 1) * WIDTH)
            for found, wanted in zip(features.layers, layers, strict=True):
                assert_close(found[row, columns, half], wanted)
            ends[row, columns.start] = last
        for row in range(ROWS):  # the sentence that is read last leaves the state
            starts = [at for r, at in ends if r == row]
            cells, hiddens = ends[row, (max if way == 0 else min)(starts)]
            assert_close(end.cell[:, way, row], cells)
            assert_close(end.hidden[:, way, row], hiddens)
    # The bounds were met, or they would not have been tested.
    assert np.isclose(np.abs(end.cell), CONFIG.cell_clip).any()
    assert np.isclose(np.abs(features.layers[1]), CONFIG.projection_clip).any()


@pytest.mark.parametrize("carried", [False, True])
def test_packed_is_padded_and_padding_changes_nothing(carried):
    # A state of its own for each row; the same for all, that sentences may move.
    carry = jax.tree.map(lambda x: np.repeat(x[:, :, :1], ROWS, axis=2), CARRY)
    carry = carry if carried else zero_carry(CONFIG, ROWS)
    tokens, example, packed = lay(PACKED)
    features, _ = read(CONFIG, tokens, example, carry)
    for padding, rows in zip((1, 7), PADDED, strict=True):
        tokens, example, places = lay(rows, padding)
        alone, _ = read(CONFIG, tokens, example, carry)
        for sentence, place in places.items():
            for left, right in zip(features.layers, alone.layers, strict=True):
                assert_close(left[packed[sentence]], right[place])


def test_no_state_is_the_zero_state():
    tokens, example, _ = lay(PACKED)
    left = read(CONFIG, tokens, example, None)
    right = read(CONFIG, tokens, example, zero_carry(CONFIG, ROWS))
    for found, wanted in zip(*map(jax.tree.leaves, (left, right)), strict=True):
        assert_close(found, wanted)


def test_a_row_of_padding_keeps_its_state():
    tokens, example, _ = lay([[0], [], [2]])
    _, end = read(CONFIG, tokens, example, CARRY)
    for found, start in zip(end, CARRY, strict=True):
        np.testing.assert_array_equal(found[:, :, 1], start[:, :, 1])
        assert (np.abs(found[:, :, 0] - start[:, :, 0]).max(axis=-1) > 0.01).all()


@pytest.mark.parametrize("way", [0, 1])
def test_a_row_read_in_two_parts_is_the_row(way):
    sentence = SENTENCES[2]
    tokens, example, _ = lay([[2], [], []])
    whole, _ = read(CONFIG, tokens, example, CARRY)
    carry, top = CARRY, np.zeros((LENGTH, WIDTH))
    half = slice(way * WIDTH, (way + 1) * WIDTH)
    parts = [slice(0, 7), slice(7, LENGTH)]
    for part in parts if way == 0 else parts[::-1]:
        tokens, example = np.zeros((2, ROWS, LENGTH), np.int32)
        length = part.stop - part.start
        # Not at the row's edge, where a state could be lost in the padding.
        tokens[0, 2 : 2 + length] = sentence[part]
        example[0, 2 : 2 + length] = 1
        features, carry = read(CONFIG, tokens, example, carry)
        top[part] = features.layers[-1][0, 2 : 2 + length, half]
    assert_close(top, whole.layers[-1][0, :, half])


def test_a_state_hears_nothing_of_what_it_is_to_predict():
    """Gradients of forward states by later words, and of backward by earlier, are 0."""
    tokens, example, _ = lay([[0, None, 1], [2], [4]])
    table = np.arange(ROWS * LENGTH, dtype=np.int32).reshape(ROWS, LENGTH)
    config = replace(CONFIG, vocab_size=table.size)
    vectors = np.asarray(PARAMS["words"]["embedding"])[tokens].reshape(-1, WIDTH)

    def tops(vectors):
        params = PARAMS | {"words": {"embedding": vectors}}
        inputs = table, example, None, CARRY
        features, _ = BiLm(config).apply({"params": params}, *inputs)
        # One number for each direction and token.
        halves = jnp.stack(jnp.split(features.layers[-1], 2, axis=-1))
        return jnp.sin(halves).sum(axis=-1)

    jacobian = jax.jit(jax.jacrev(tops))(jnp.asarray(vectors))
    jacobian = np.abs(jacobian).sum(axis=-1).reshape(2, ROWS, LENGTH, ROWS, LENGTH)
    for (way, row, t), (other, s) in itertools.product(
        np.ndindex(2, ROWS, LENGTH), np.ndindex(ROWS, LENGTH)
    ):
        if not (example[row, t] and example[other, s]):
            continue
        same = row == other and example[row, t] == example[other, s]
        heard = same and (s <= t if way == 0 else s >= t)
        assert (jacobian[way, row, t, other, s] > 0) == heard, (way, row, t, other, s)


def test_words_are_read_by_their_characters():
    config = replace(
        CONFIG, input="characters", filters=((1, 3), (2, 2)), character_size=3
    )
    tokens, example, _ = lay(PACKED)
    spelt = DRAW.integers(0, 262, (WORDS, 5)).astype(np.int32)
    module = BiLm(config)
    params = drawn(module, tokens, example, spelt)
    features, _ = jax.jit(module.apply)({"params": params}, tokens, example, spelt)
    assert features.embedding is None
    # The same vectors, looked up, give the same states.
    vectors = np.zeros((WORDS, WIDTH), np.float32)
    vectors[tokens] = features.layers[0][:, :, :WIDTH]
    np.testing.assert_array_equal(features.layers[0][:, :, WIDTH:], vectors[tokens])
    params = {k: x for k, x in params.items() if k != "characters"}
    params["words"] = {"embedding": vectors}
    wanted, _ = jax.jit(BiLm(CONFIG).apply)({"params": params}, tokens, example)
    jax.tree.map(assert_close, features.layers, wanted.layers)
    with pytest.raises(ValueError, match="pass those of the batch's distinct words"):
        module.apply({"params": params}, tokens, example)


def batch_of(tokens, example, places):
    """A `Batch` whose examples are numbered as the sentences are."""
    ids = np.full((ROWS, 4), -1, np.int32)
    positions = np.zeros_like(tokens)
    for sentence, (row, columns) in places.items():
        ids[row, example[row, columns.start] - 1] = sentence
        positions[row, columns] = np.arange(columns.stop - columns.start)
    epochs = np.zeros_like(ids)
    return Batch(tokens, np.zeros_like(tokens), positions, example, ids, epochs)


def test_dropout_depends_on_the_example_alone():
    @jax.jit
    def train(batch):
        noise = token_noise(jax.random.key(1), batch)
        inputs = batch.tokens, batch.example, None, None, noise
        return BiLm(CONFIG).apply({"params": PARAMS}, *inputs)[0]

    tokens, example, packed = lay(PACKED)
    features = train(batch_of(tokens, example, packed))
    still, _ = read(CONFIG, tokens, example, None)
    np.testing.assert_array_equal(features.layers[0], still.layers[0])
    row, columns = packed[2]
    for layer in (1, 2, 3):
        found, quiet = features.layers[layer], still.layers[layer]
        halves = np.split(np.abs(found - quiet)[row, columns], 2, axis=-1)
        assert all(half.max() > 0.05 for half in halves)
    for rows in PADDED:
        tokens, example, places = lay(rows)
        alone = train(batch_of(tokens, example, places))
        for sentence, place in places.items():
            for left, right in zip(features.layers, alone.layers, strict=True):
                assert_close(left[packed[sentence]], right[place])


def test_half_precision_reads_on_from_a_state_of_float32():
    config = replace(CONFIG, dtype="bfloat16")
    tokens, example, _ = lay(PACKED)
    features, end = read(config, tokens, example, CARRY)
    wanted, _ = read(CONFIG, tokens, example, CARRY)
    assert {x.dtype for x in (*features.layers, *end)} == {jnp.bfloat16.dtype}
    top = features.layers[-1].astype(jnp.float32)
    real = example > 0
    np.testing.assert_allclose(top[real], wanted.layers[-1][real], atol=0.1)


def test_parameters_have_their_names_and_shapes():
    config = ElmoConfig()
    spelt = np.zeros((7, config.max_characters), np.int32)
    shapes = jax.eval_shape(
        lambda: init_module(BiLm(config), jax.random.key(0), EMPTY, EMPTY, spelt)
    )
    found = {p: x.shape for p, x in flatten_paths(shapes).items()}
    lstms = {p: s for p, s in found.items() if p.startswith("lstm")}
    wanted = {
        "kernel": (512, 16384),
        "recurrent": (512, 16384),
        "bias": (16384,),
        "projection": (4096, 512),
    }
    assert lstms == {
        f"lstm_{layer}_{way}/{name}": shape
        for layer in (0, 1)
        for way in ("forward", "backward")
        for name, shape in wanted.items()
    }
    assert {p.split("/")[0] for p in found.keys() - lstms.keys()} == {"characters"}


# The mix


def layers_of(count=3):
    return tuple(DRAW.normal(size=(2, 5, 4)).astype(np.float32) for _ in range(count))


def test_the_mix_is_its_formula():
    layers = layers_of()
    s = np.array([0.3, -2.0, 1.1], np.float32)
    found = mix(layers, s, jnp.float32(1.7))
    chance = np.exp(s) / np.exp(s).sum()
    assert_close(found, 1.7 * sum(p * h for p, h in zip(chance, layers, strict=True)))


def test_the_mixs_norm_takes_one_mean_over_the_whole_masked_batch():
    layers = tuple(10 + 3 * h for h in layers_of())
    mask = np.arange(5)[None, :] < np.array([[5], [2]])
    s = np.zeros(3, np.float32)
    found = mix(layers, s, jnp.float32(1), mask=mask)
    wanted = 0
    for layer in layers:
        real = layer[mask].astype(np.float64)
        wanted = wanted + (layer - real.mean()) / real.std() / 3
    assert_close(found[mask], wanted[mask])


def test_the_mix_starts_as_the_mean():
    layers = layers_of()
    mask = np.ones((2, 5), bool)
    features = Features(layers, None)
    params = init_module(Mix(), jax.random.key(0), features, mask)
    assert {p: x.shape for p, x in params.items()} == {"s": (3,), "gamma": ()}
    found = Mix().apply({"params": params}, features, mask)
    assert_close(found, np.mean(layers, axis=0))
    normed = Mix(compat_norm=True).apply({"params": params}, features, mask)
    assert abs(float(normed.mean())) < 1e-6 < np.abs(normed - found).max()


# The softmax


def test_neighbours_are_the_words_before_and_after_in_the_example():
    tokens, example, places = lay(PACKED)
    targets, exist = neighbours(tokens, example)
    wanted = np.full((2, ROWS, LENGTH), -1)
    for row, columns in places.values():
        inside = tokens[row, columns]
        wanted[0, row, columns][:-1] = inside[1:]
        wanted[1, row, columns][1:] = inside[:-1]
    np.testing.assert_array_equal(exist, wanted >= 0)
    np.testing.assert_array_equal(np.where(exist, targets, -1), wanted)


def softmax_inputs(vocabulary=9, tokens=6):
    states = DRAW.normal(size=(tokens, WIDTH)).astype(np.float32)
    targets = DRAW.integers(0, vocabulary, tokens).astype(np.int32)
    kernel = DRAW.normal(size=(vocabulary, WIDTH)).astype(np.float32)
    bias = DRAW.normal(size=vocabulary).astype(np.float32)
    return states, targets, kernel, bias


def test_the_full_softmax_is_its_formula():
    states, targets, kernel, bias = softmax_inputs()
    scores = states.astype(np.float64) @ kernel.T + bias
    assert_close(logits(states, kernel, bias), scores)
    chances = np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)
    wanted = -np.log(chances[np.arange(6), targets])
    assert_close(full_softmax(states, targets, kernel, bias), wanted)


def test_the_head_splits_the_directions_for_one_softmax():
    layers = tuple(DRAW.normal(size=(2, 2, 5, 8)).astype(np.float32))
    batch = batch_of(*lay([[3], [], []]))
    table = DRAW.normal(size=(9, 4)).astype(np.float32)
    free, tied = LanguageModel(9), LanguageModel(9, tied=True)
    features = Features(layers, None, table)
    params = init_module(free, jax.random.key(0), features, batch)
    assert {p: x.shape for p, x in params.items()} == {"kernel": (9, 4), "bias": (9,)}
    found = free.apply({"params": params}, features, batch)
    np.testing.assert_array_equal(found.states[0], layers[1][:, :, :4])
    np.testing.assert_array_equal(found.states[1], layers[1][:, :, 4:])
    np.testing.assert_array_equal(found.kernel, params["kernel"])
    params = init_module(tied, jax.random.key(0), features, batch)
    assert params.keys() == {"bias"}
    found = tied.apply({"params": params}, features, batch)
    np.testing.assert_array_equal(found.kernel, table)
    for other in (None, table[:5]):
        with pytest.raises(ValueError, match=r"word embedding of shape \(9, 4\)"):
            tied.apply({"params": params}, Features(layers, None, other), batch)


def test_words_follow_zipfs_law():
    chances = log_uniform(np.arange(1000), 1000)
    assert float(chances.sum()) == pytest.approx(1, abs=1e-5)
    k = np.array([0, 1, 500, 999])
    wanted = (np.log(k + 2.0) - np.log(k + 1.0)) / np.log(1001)
    np.testing.assert_allclose(chances[k], wanted, rtol=1e-5)


def test_a_sample_of_all_words_is_the_full_softmax():
    inputs = softmax_inputs()
    everything = draw_negatives(jax.random.key(0), 9, 9)
    assert sorted(np.asarray(everything.words)) == list(range(9))
    assert_close(sampled_softmax(*inputs, everything), full_softmax(*inputs))
    for count in (0, 10):
        with pytest.raises(ValueError, match=f"{count} negatives"):
            draw_negatives(jax.random.key(0), count, 9)


def test_samples_weighed_by_their_chance_have_the_expectation_of_all():
    """E Σ_drawn f/q = Σ f, with q the chance that the softmax corrects by."""
    f = np.exp(DRAW.normal(size=20))
    draws = 4000

    @jax.jit
    @jax.vmap
    def estimate(key):
        words, tries = draw_negatives(key, 6, 20)
        weights = 1 / -jnp.expm1(-tries * log_uniform(words, 20))
        return words, (jnp.asarray(f, jnp.float32)[words] * weights).sum()

    words, estimates = estimate(jax.random.split(jax.random.key(0), draws))
    assert all(len(set(row)) == 6 for row in np.asarray(words)[:100])
    error = estimates.std() / draws**0.5
    assert abs(float(estimates.mean()) - f.sum()) < 4 * error < 0.1 * f.sum()
    # The first word drawn follows the law itself.
    first = np.bincount(np.asarray(words)[:, 0], minlength=20) / draws
    np.testing.assert_allclose(first, log_uniform(np.arange(20), 20), atol=0.03)


def test_the_sampled_softmax_is_right_where_the_full_one_is():
    """At the true distribution the expected gradient is 0, over every set of draws."""
    size, tries = 5, 2.5
    scores = DRAW.normal(size=size).astype(np.float32)
    truth = np.exp(scores) / np.exp(scores).sum()
    q = 1 - np.exp(-tries * np.asarray(log_uniform(np.arange(size), size)))
    ones = np.ones((1, 1), np.float32)

    def loss(scores, target, negatives):
        kernel = jnp.zeros((size, 1))
        return sampled_softmax(ones, target[None], kernel, scores, negatives)[0]

    gradients = jax.jit(jax.vmap(jax.grad(loss), (None, 0, None)))
    expected = np.zeros(size)
    for count in range(1, size + 1):
        for chosen in itertools.combinations(range(size), count):
            words = np.array(chosen, np.int32)
            drawn_here = np.isin(np.arange(size), words)
            chance = np.where(drawn_here, q, 1 - q).prod()
            negatives = Negatives(words, jnp.float32(tries))
            each = gradients(jnp.asarray(scores), np.arange(size), negatives)
            expected += chance * (truth @ np.asarray(each))
    # With nothing drawn the target stands alone, and its gradient is 0.
    np.testing.assert_allclose(expected, 0, atol=1e-6)


def test_a_negative_that_is_the_target_counts_once():
    states, targets, kernel, bias = softmax_inputs()
    targets[:] = 4
    alone = Negatives(np.array([4], np.int32), jnp.float32(3))
    np.testing.assert_allclose(
        sampled_softmax(states, targets, kernel, bias, alone), 0, atol=1e-6
    )
