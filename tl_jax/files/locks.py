"""One process at a time in a folder."""

import contextlib
import fcntl
import json
import os
import shlex
import socket
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

from tl_jax.files.errors import RunBusyError

LOCK = ".lock"
"""The lock file's name; its text is for people, the kernel's lock is what counts."""


@contextlib.contextmanager
def hold(
    folder: Path, *, wait: float = 0.0, told: Callable[[str], None] | None = None
) -> Iterator[None]:
    """Holds ``folder`` (made if need be) for this process until the block ends.

    The kernel drops the lock when the process dies, however it dies, so there is
    nothing stale to clean up. A forked child that outlives it keeps the lock. A folder
    that it made, and in which nothing was laid before the block failed, goes again.

    Args:
      folder: The folder to hold, by an exclusive ``flock`` on its ``.lock``.
      wait: Seconds to wait for another holder to leave.
      told: Is told once who is waited for.

    Raises:
      RunBusyError: Another holder is there; it is named by pid, host, command and time.
    """
    fresh = not folder.exists()
    descriptor = _lock(folder, time.monotonic() + wait, told)
    try:
        _replace(descriptor, json.dumps(_owner()).encode())
        yield
    except BaseException:
        if fresh:
            _remove_bare(folder)
        raise
    finally:
        _replace(descriptor, b"")
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _lock(folder: Path, deadline: float, told: Callable[[str], None] | None) -> int:
    """Opens and locks the lock file that is there when the lock is had."""
    # O_NOFOLLOW: a link planted as .lock must not have its target truncated.
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    file = folder / LOCK
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, flags, 0o666)
        try:
            _acquire(descriptor, folder, deadline, told)
            if _is_there(descriptor, file):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _is_there(descriptor: int, file: Path) -> bool:
    """False if who held the lock before has removed the file, with its folder."""
    try:
        return os.path.samestat(os.fstat(descriptor), file.stat())
    except FileNotFoundError:
        return False


def _remove_bare(folder: Path) -> None:
    """Removes a folder that holds a lock file alone."""
    with contextlib.suppress(OSError):
        if [*folder.iterdir()] == [folder / LOCK]:
            (folder / LOCK).unlink()
            folder.rmdir()


def _acquire(
    descriptor: int,
    folder: Path,
    deadline: float,
    told: Callable[[str], None] | None,
) -> None:
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise RunBusyError(_busy(descriptor, folder)) from None
            if told is not None:
                told(f"waiting for {_who(descriptor)} to leave {folder}")
                told = None
            time.sleep(0.05)


def _owner() -> dict[str, str | int]:
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "command": shlex.join(sys.argv),
        "since": datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def _replace(descriptor: int, data: bytes) -> None:
    """Best effort: a full disk must not keep the lock from being held or released."""
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, data, 0)


def _who(descriptor: int) -> str:
    try:
        owner = json.loads(os.pread(descriptor, 1 << 16, 0))
        return (
            f"process {owner['pid']} on {owner['host']} "
            f"({owner['command']!r}), since {owner['since']}"
        )
    except (ValueError, TypeError, KeyError):
        return "a process that has not written its name yet"


def _busy(descriptor: int, folder: Path) -> str:
    return (
        f"{folder}: another process works here: {_who(descriptor)}. "
        "Wait for it or stop it, or name another folder."
    )
