"""Stopping on request: SIGTERM from a scheduler, SIGINT from a person.

Where there is work to save, `stop_requests` only notes the signal and the loop looks at
it after each step. Where there is none, `exit_on_signal` stops at once. Python runs
handlers between two bytecodes of the main thread, so a running compilation or step
always returns first.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

from tl_jax.files.errors import TlJaxError

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(TlJaxError):
    """The process was asked to stop; leaves with ``128 + signum`` (143, 130)."""

    def __init__(self, signum: int, detail: str = "") -> None:
        super().__init__(
            f"stopped by {signal.Signals(signum).name}" + (detail and f": {detail}")
        )
        self.signum = signum
        self.exit_code = 128 + signum


@dataclass
class StopRequest:
    """The first signal that came, or None; poll ``requested`` after each step.

    Attributes:
      requested: What is to be heeded.
      noted: What came to this process. Where several must stop as one it is heeded once
        all know of it (`tl_jax.training.processes.agreed`).
    """

    requested: int | None = None
    noted: int | None = None

    def check(self, detail: str = "") -> None:
        """Raises `Interrupted` if a signal came; call it once the work is saved."""
        if self.requested is not None:
            raise Interrupted(self.requested, detail)


@contextmanager
def stop_requests(*, alone: bool = True) -> Iterator[StopRequest]:
    """Notes SIGTERM and SIGINT instead of dying; later signals change nothing.

    Unless this process is ``alone``, what it notes is not heeded at once.

    On leaving, the handlers of before are back. A signal is not raised again: the
    caller ends with `StopRequest.check`. Outside the main thread Python allows no
    handlers, and nothing is ever requested.
    """
    request = StopRequest()

    def note(signum: int, frame: FrameType | None) -> None:
        if request.noted is None:
            request.noted = signum
            request.requested = signum if alone else None

    with _handled_by(note):
        yield request


@contextmanager
def exit_on_signal(detail: str = "nothing was lost") -> Iterator[None]:
    """Raises `Interrupted` as soon as SIGTERM or SIGINT comes; for work worth nothing.

    Only the first signal raises, so that a second one cannot break into the cleaning up
    that the first one started.
    """
    seen = StopRequest()

    def leave(signum: int, frame: FrameType | None) -> None:
        if seen.requested is None:
            seen.requested = signum
            raise Interrupted(signum, detail)

    with _handled_by(leave):
        yield


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {signum: signal.getsignal(signum) for signum in SIGNALS}
    try:
        for signum in SIGNALS:
            signal.signal(signum, handler)
        yield
    finally:
        for signum, previous in before.items():
            # None: set by C code (jax.distributed does), which Python cannot give back.
            signal.signal(signum, signal.SIG_DFL if previous is None else previous)
