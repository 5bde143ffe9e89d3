"""What the C library does with memory that a step frees."""

import ctypes
import sys

import jax

# From glibc's malloc.h; a negative threshold means no limit.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> bool:
    """Lets freed memory stay with the process, for the next step to use again.

    XLA takes one large block a step on the CPU and frees it. By default glibc gives
    such a block back to the system, which hands it out again page by page: a step of
    MiniLM on 16 × 128 tokens then takes 173,000 page faults, and with one heap that is
    never trimmed it takes none. The price is that the process stays as large as it was
    at its largest.

    To be called by a program, not by a library, before it takes much memory.

    Returns:
      Whether it took effect: only where the C library is glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # One arena: in any other, glibc maps large blocks whatever the maximum says.
    settings = ((_M_ARENA_MAX, 1), (_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1))
    jax.monitoring.register_event_duration_secs_listener(_trim_after_compiling)
    return all([mallopt(*setting) == 1 for setting in settings])


def _trim_after_compiling(
    event: str, duration_secs: float, **details: str | int
) -> None:
    """Gives back what the compiler freed, too scattered for a step to use again."""
    del duration_secs, details
    if event == "/jax/core/compile/backend_compile_duration":
        ctypes.CDLL(None).malloc_trim(0)
