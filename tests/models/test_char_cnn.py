"""The words' vectors against their formula, written out in float64."""

import jax
import numpy as np
import pytest

from tl_jax.models.char_cnn import CharCnn, Highway
from tl_jax.models.compose import flatten_paths, init_module, unflatten_paths

FILTERS = ((1, 3), (2, 4), (4, 2))
CHARACTERS, LENGTH = 11, 7
DRAW = np.random.default_rng(0)
WORDS = DRAW.integers(0, CHARACTERS + 1, (6, LENGTH)).astype(np.int32)
WORDS[0, 3:] = 0


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def cnn(activation="relu", num_highways=2):
    return CharCnn(5, CHARACTERS, 3, FILTERS, num_highways, activation)


def drawn(module, seed=0):
    """Random parameters, large enough that every part is heard."""
    draw = np.random.default_rng(seed)
    leaves = flatten_paths(
        jax.eval_shape(lambda: init_module(module, jax.random.key(0), WORDS))
    )
    return unflatten_paths(
        {p: draw.normal(0, 0.7, x.shape).astype(np.float32) for p, x in leaves.items()}
    )


def formula(params, word, activation):
    """One word, character by character."""
    weights = {p: np.asarray(x, np.float64) for p, x in flatten_paths(params).items()}
    table = weights["embedding/embedding"]
    spelt = np.array([table[c - 1] if c else np.zeros(3) for c in word])
    pooled = []
    for index, (width, count) in enumerate(FILTERS):
        kernel = weights[f"convolution_{index}/kernel"]
        best = np.full(count, -np.inf)
        for start in range(len(word) - width + 1):
            at = weights[f"convolution_{index}/bias"].copy()
            for offset in range(width):
                at += spelt[start + offset] @ kernel[offset]
            best = np.maximum(best, at)
        pooled.append(np.maximum(best, 0) if activation == "relu" else np.tanh(best))
    x = np.concatenate(pooled)
    for index in range(2):
        part = {k: weights[f"highway_{index}/{k}"] for k in HIGHWAY}
        gate = sigmoid(x @ part["carry/kernel"] + part["carry/bias"])
        new = np.maximum(x @ part["transform/kernel"] + part["transform/bias"], 0)
        x = gate * new + (1 - gate) * x
    return x @ weights["projection/kernel"] + weights["projection/bias"]


HIGHWAY = "carry/kernel", "carry/bias", "transform/kernel", "transform/bias"


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_a_words_vector_is_the_formulas(activation):
    module = cnn(activation)
    params = drawn(module)
    found = module.apply({"params": params}, WORDS)
    wanted = np.array([formula(params, word, activation) for word in WORDS])
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_a_highway_starts_nearly_as_the_identity():
    x = DRAW.normal(size=(4, 8)).astype(np.float32)
    params = init_module(Highway(), jax.random.key(0), x)
    np.testing.assert_array_equal(params["carry"]["bias"], -2)
    np.testing.assert_array_equal(params["transform"]["bias"], 0)


def test_no_character_has_no_vector_to_be_learnt():
    module = cnn(num_highways=0)
    params = drawn(module)
    nothing = np.zeros((1, LENGTH), np.int32)

    def total(params):
        return module.apply({"params": params}, nothing).sum()

    gradient = jax.grad(total)(params)["embedding"]["embedding"]
    assert gradient.shape == (CHARACTERS, 3)
    np.testing.assert_array_equal(gradient, 0)


def test_parameters_have_their_names_and_shapes():
    shapes = {p: x.shape for p, x in flatten_paths(drawn(cnn())).items()}
    assert shapes == {
        "embedding/embedding": (11, 3),
        "convolution_0/kernel": (1, 3, 3),
        "convolution_0/bias": (3,),
        "convolution_1/kernel": (2, 3, 4),
        "convolution_1/bias": (4,),
        "convolution_2/kernel": (4, 3, 2),
        "convolution_2/bias": (2,),
        "highway_0/carry/kernel": (9, 9),
        "highway_0/carry/bias": (9,),
        "highway_0/transform/kernel": (9, 9),
        "highway_0/transform/bias": (9,),
        "highway_1/carry/kernel": (9, 9),
        "highway_1/carry/bias": (9,),
        "highway_1/transform/kernel": (9, 9),
        "highway_1/transform/bias": (9,),
        "projection/kernel": (9, 5),
        "projection/bias": (5,),
    }
