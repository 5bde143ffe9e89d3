"""Several processes that train as one: who leads, where they meet, when they stop.

Each has devices of its own; `tl_jax.training.placement` spreads steps over all of them.
The first process leads: it alone writes and tells, and all see the same files. What one
does, all do in the same order.
"""

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from tl_jax.files.errors import TlJaxError
from tl_jax.models.batch import Array

_DAY = 86_400
_STOP = "tl_jax/stop"


class LostProcessError(TlJaxError):
    """Another process of the training is gone, so that this one cannot go on."""

    exit_code = 8


def leads() -> bool:
    """True in the first process, and where there is only one."""
    return jax.process_index() == 0


def meet(where: str, step: int, patience: float = _DAY) -> None:
    """Waits for the other processes, where there are any; not by way of the devices.

    Args:
      where: What to meet for; the same in all processes.
      step: Tells meetings of one name apart.
      patience: Seconds.
    """
    wait = ocp.multihost.get_barrier_sync_fn()
    wait(key=f"tl_jax/{where}/{step}", timeout_ms=int(patience * 1000))


def agreed(step: int, noted: int | None) -> int | None:
    """Returns the signal that all processes stop for before this step, or None.

    All must call it before each step, having looked at the outcome of the last but one.
    When one is at step n, no other can be beyond n + 1, and none gets to n + 2 before
    that one has gone on: so a stop announced at n for n + 2 is known to all in time.

    Args:
      step: The step that is next.
      noted: The signal that came to this process, or None.
    """
    client = ocp.multihost.get_jax_distributed_client()
    if noted is not None and not client.key_value_dir_get(_STOP):
        client.key_value_set(f"{_STOP}/{jax.process_index()}", f"{step + 2} {noted}")
    told = [value.split() for _, value in client.key_value_dir_get(_STOP)]
    due = sorted((int(at), int(signum)) for at, signum in told)
    return due[0][1] if due and due[0][0] <= step else None


def everyones(rows: Array) -> np.ndarray:
    """Joins the rows that each process has; all must call it."""
    if jax.process_count() == 1:
        return np.asarray(rows)
    return np.asarray(multihost_utils.process_allgather(rows, tiled=True))
