"""What a side of a benchmark takes of memory, by the kernel's books (Linux)."""

from collections.abc import Callable
from pathlib import Path


def peak_added_by(work: Callable[[], object]) -> float:
    """Returns the MiB that ``work`` takes at most beyond what is held before it.

    What is imported beforehand does not count, on either side.
    """
    before = _resident("VmRSS:")
    # A new peak; not getrusage's, which is never less than the parent's at the fork.
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    work()
    return _resident("VmHWM:") - before


def _resident(key: str) -> float:
    """MiB of this process, now or at most."""
    status = Path("/proc/self/status").read_text(encoding="ascii").split()
    return int(status[status.index(key) + 1]) / 1024
