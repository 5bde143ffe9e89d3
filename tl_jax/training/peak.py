"""What devices can do at best: the rate that a training step is measured by."""

import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

_SIZES = (512, 1024, 2048, 4096, 8192)
_ENOUGH = 0.02  # seconds of a product: shorter ones are mostly dispatch


def matmul_peak(devices: Sequence[Any], dtype: str = "float32") -> float:
    """Measures FLOP/s of square matrix products on all devices at once.

    Takes the best of a few, at the smallest size that keeps them busy for 20 ms; some
    tenths of a second, compiling included.

    Args:
      devices: What a step runs on. Those of this process stand for all others.
      dtype: Type of the factors.
    """
    own = [device for device in devices if device.process_index == jax.process_index()]
    multiply = jax.jit(jnp.matmul)
    best = 0.0
    for size in _SIZES:
        factors = [jax.device_put(jnp.ones((size, size), dtype), d) for d in own]
        seconds = min(_seconds(multiply, factors) for _ in range(5))
        best = max(best, 2 * size**3 * len(devices) / seconds)
        if seconds > _ENOUGH:
            break
    return best


def _seconds(multiply: Any, factors: list[jax.Array]) -> float:
    began = time.perf_counter()
    jax.block_until_ready([multiply(factor, factor) for factor in factors])
    return time.perf_counter() - began
