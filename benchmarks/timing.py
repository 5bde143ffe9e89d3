"""How the benchmarks take times."""

import time
from collections.abc import Callable

PAUSE = 0.2  # seconds; the other side's threads may spin on a while


def seconds(function: Callable[..., object], *arguments: object) -> float:
    """Times one call, after a pause."""
    time.sleep(PAUSE)
    began = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - began
