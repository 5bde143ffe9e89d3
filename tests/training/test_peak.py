"""The measured rate of matrix products."""

import jax
import pytest

from tl_jax.training import peak


def test_the_rate_counts_every_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """2·n³ a product; sizes grow until one takes long enough."""
    asked = []

    def seconds(multiply: object, factors: list[jax.Array]) -> float:
        asked.append([x.shape for x in factors])
        return 0.001 if len(factors[0]) < 1024 else 0.05

    monkeypatch.setattr(peak, "_seconds", seconds)
    devices = jax.devices()[:2]
    assert peak.matmul_peak(devices) == 2 * 512**3 * 2 / 0.001
    assert asked == [[(512, 512)] * 2] * 5 + [[(1024, 1024)] * 2] * 5


def test_it_measures_this_machine() -> None:
    assert 1e8 < peak.matmul_peak(jax.devices()[:1]) < 1e16
