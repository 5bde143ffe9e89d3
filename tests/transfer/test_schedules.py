import jax
import numpy as np
import pytest

from tl_jax.files.errors import ConfigError
from tl_jax.transfer.schedules import warmup_linear, warmup_then_linear

CASES = [(10, 0), (10, 3), (100, 10), (7, 7), (1, 0), (1, 1)]


def values(schedule, total):
    return np.asarray(jax.jit(jax.vmap(schedule))(np.arange(total)))


@pytest.mark.parametrize(("total", "warmup"), CASES)
def test_bert_replaces_the_decayed_rate(total, warmup):
    """google-research/bert: polynomial_decay over all steps; warm-up is a switch."""
    expected = []
    for step in range(total):
        decayed = (2e-5 - 0.0) * (1 - min(step, total) / total) ** 1.0 + 0.0
        warming = float(step < warmup)
        risen = 2e-5 * step / warmup if warmup else 0.0
        expected.append((1 - warming) * decayed + warming * risen)
    found = values(warmup_linear(2e-5, total, warmup), total)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(("total", "warmup"), CASES)
def test_electra_multiplies_it(total, warmup):
    """google-research/electra: learning_rate *= min(1, step / warm-up)."""
    expected = [
        2e-5 * (1 - n / total) * (min(1.0, n / warmup) if warmup else 1.0)
        for n in range(total)
    ]
    found = values(warmup_linear(2e-5, total, warmup, multiply=True), total)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-12)


def test_the_two_differ_in_the_warm_up_alone():
    replaced = values(warmup_linear(1.0, 100, 10), 100)
    multiplied = values(warmup_linear(1.0, 100, 10, multiply=True), 100)
    np.testing.assert_array_equal(replaced[10:], multiplied[10:])
    np.testing.assert_allclose(replaced[5], 0.5, rtol=1e-6)
    np.testing.assert_allclose(multiplied[5], 0.5 * 0.95, rtol=1e-6)


@pytest.mark.parametrize(("total", "warmup"), CASES)
def test_transformers_falls_from_the_peak(total, warmup):
    expected = [
        n / warmup if n < warmup else (total - n) / (total - warmup)
        for n in range(total)
    ]
    found = values(warmup_then_linear(3.0, total, warmup), total)
    np.testing.assert_allclose(found, 3 * np.array(expected), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(("total", "warmup"), CASES)
def test_transformers_own_schedule(total, warmup):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=5e-5)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, warmup, total)
    expected = []
    for _ in range(total):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    found = values(warmup_then_linear(5e-5, total, warmup), total)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-12)


def test_after_the_end_the_rate_is_zero():
    for schedule in (warmup_linear(1.0, 5, 2), warmup_then_linear(1.0, 5, 2)):
        assert float(schedule(5)) == 0
        assert float(schedule(9)) == 0


@pytest.mark.parametrize("make", [warmup_linear, warmup_then_linear])
@pytest.mark.parametrize(("total", "warmup"), [(0, 0), (5, 6), (5, -1), (-3, 0)])
def test_impossible_schedules_are_refused(make, total, warmup):
    with pytest.raises(ConfigError, match=f"{total} steps with {warmup} of warm-up"):
        make(1e-3, total, warmup)
