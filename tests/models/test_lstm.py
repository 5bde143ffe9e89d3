"""The recurrence against its formula in float64, over packed rows, and PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tl_jax.models.lstm import Lstm
from tl_jax.models.recurrence import State, Weights, lstm

SIZE, INPUTS = 5, 3
# Examples of 3, 4 and 1 tokens and padding; one of 8; a row of padding.
EXAMPLE = np.array([[1, 1, 1, 2, 2, 2, 2, 3], [1] * 8, [0] * 8], np.int32)
DRAW = np.random.default_rng(0)
READ = DRAW.normal(size=(*EXAMPLE.shape, INPUTS))
KERNEL = DRAW.normal(size=(INPUTS, 4 * SIZE))
RECURRENT = DRAW.normal(size=(SIZE, 4 * SIZE)) / 2
BIAS = DRAW.normal(size=4 * SIZE)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def formula(tokens):
    """One example from a zero state, [T, E] to [T, D]."""
    hidden = cell = np.zeros(SIZE)
    states = []
    for x in tokens:
        i, j, f, o = np.split(x @ KERNEL + hidden @ RECURRENT + BIAS, 4)
        cell = sigmoid(f + 1) * cell + sigmoid(i) * np.tanh(j)
        hidden = sigmoid(o) * np.tanh(cell)
        states.append(hidden)
    return np.array(states)


def runs():
    """Yields where each example of each row lies."""
    for row, labels in enumerate(EXAMPLE):
        for label in np.unique(labels[labels > 0]):
            yield row, np.flatnonzero(labels == label)


def read(x, *weights, reverse):
    zeros = jnp.zeros((len(EXAMPLE), SIZE), x.dtype)
    given = x.swapaxes(0, 1), Weights(*weights), EXAMPLE, State(zeros, zeros)
    return lstm(*given, reverse=reverse)[0].swapaxes(0, 1)


@pytest.mark.parametrize("reverse", [False, True])
def test_each_example_of_a_row_is_read_alone(reverse):
    inputs = READ, KERNEL, RECURRENT, BIAS
    as_float32 = (jnp.asarray(x, jnp.float32) for x in inputs)
    states = np.asarray(read(*as_float32, reverse=reverse))
    for row, columns in runs():
        order = columns[::-1] if reverse else columns
        wanted = formula(READ[row, order])
        np.testing.assert_allclose(states[row, order], wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("reverse", [False, True])
def test_gradients_are_differences_of_the_formula(reverse):
    weights = DRAW.normal(size=(*EXAMPLE.shape, SIZE)) * (EXAMPLE > 0)[..., None]

    def loss(*inputs):
        return (read(*inputs, reverse=reverse) * weights).sum()

    inputs = READ, KERNEL, RECURRENT, BIAS
    with jax.enable_x64(True):
        every = tuple(range(len(inputs)))
        found = jax.grad(loss, argnums=every)(*map(jnp.asarray, inputs))
        for argument, gradient in enumerate(found):
            direction = DRAW.normal(size=gradient.shape)
            ends = []
            for sign in (1, -1):
                moved = list(inputs)
                moved[argument] = moved[argument] + sign * 1e-5 * direction
                ends.append(float(loss(*map(jnp.asarray, moved))))
            slope = (ends[0] - ends[1]) / 2e-5
            assert float((gradient * direction).sum()) == pytest.approx(slope, rel=1e-7)


def own_order(by_gate):
    """From PyTorch's input, forget, cell, output to input, cell, forget, output."""
    i, f, j, o = np.split(by_gate, 4)
    return np.concatenate([i, j, f, o])


@pytest.mark.parametrize("reverse", [False, True])
def test_a_layer_is_torchs(reverse):
    torch = pytest.importorskip("torch")
    layer = torch.nn.LSTM(INPUTS, SIZE, batch_first=True, bidirectional=True)
    suffix = "_reverse" if reverse else ""
    kernel, recurrent, first_bias, second_bias = (
        own_order(getattr(layer, f"{name}_l0{suffix}").detach().numpy())
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    open_forget = np.repeat([0, 0, 1, 0], SIZE)
    params = {
        "kernel": kernel.T,
        "recurrent": recurrent.T,
        "bias": first_bias + second_bias - open_forget,
    }
    x = DRAW.normal(size=(*EXAMPLE.shape, INPUTS)).astype(np.float32)
    found = Lstm(SIZE, reverse).apply({"params": params}, x, EXAMPLE)
    half = slice(SIZE, None) if reverse else slice(SIZE)
    for row, columns in runs():
        with torch.no_grad():
            wanted = layer(torch.from_numpy(x[row, columns][None]))[0][0, :, half]
        np.testing.assert_allclose(found[row, columns], wanted, rtol=1e-5, atol=1e-6)
