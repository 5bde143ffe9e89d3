"""Processes that join to train as one, and how they part.

JAX's coordination service, which the first process runs, notices one that is gone.
"""

import atexit
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from dataclasses import dataclass

from tl_jax.files.errors import ConfigError, TlJaxError

# Heavy rooms are imported by the functions that need them: the command's options,
# which are among its first imports, are here.

_HEARTBEAT = 20  # seconds of silence after which a process counts as lost
_PATIENCE = 10  # seconds that a process that was stopped waits for the others to be so
_LOST = re.compile(r"gloo|nccl|coordination service|barrier|heartbeat", re.IGNORECASE)


@dataclass(frozen=True)
class Cluster:
    """How the processes of one training find each other; by default there is but one.

    Attributes:
      distributed: Train together with the processes that Slurm, Open MPI or a TPU pod
        has started in the same way; who they are is found out.
      coordinator: Instead: HOST:PORT at which the first process can be reached.
      process_count: Number of processes.
      process_id: Number of this one; 0 is the first.
    """

    distributed: bool = False
    coordinator: str | None = None
    process_count: int | None = None
    process_id: int | None = None

    def check(self) -> None:
        """Refuses options that contradict one another.

        Raises:
          ConfigError: By hand all three are needed, and fit one another.
        """
        given = (self.coordinator, self.process_count, self.process_id)
        if given == (None, None, None):
            return
        if self.distributed or self.process_count is None or self.process_id is None:
            raise ConfigError(
                "Processes are found by --distributed, or by all of --coordinator "
                "HOST:PORT, --process-count N and --process-id I."
            )
        if not self.coordinator or not self.coordinator.rpartition(":")[2].isdigit():
            raise ConfigError(
                f"--coordinator {self.coordinator}: it must be HOST:PORT."
            )
        if not 0 <= self.process_id < self.process_count:
            raise ConfigError(
                f"--process-id {self.process_id}: of {self.process_count} processes "
                f"they are 0 … {self.process_count - 1}."
            )


@contextmanager
def together(cluster: Cluster) -> Iterator[None]:
    """Joins the other processes for as long as the block runs; JAX must be untouched.

    All but the first are silent within. A process that fails leaves at once, and the
    others, which notice, leave as well.

    Raises:
      ConfigError: The others cannot be found.
      LostProcessError: One of them is gone.
    """
    from tl_jax.training.processes import leads, meet

    cluster.check()
    if not cluster.distributed and cluster.coordinator is None:
        yield
        return
    _join(cluster)
    try:
        with nullcontext() if leads() else _silence():
            yield
        meet("the end", 0)
    except BaseException as problem:
        lost = _as_lost(problem)
        if not _all_stopped(problem):
            known = lost or problem
            code = known.exit_code if isinstance(known, TlJaxError) else 1
            # Before JAX's own, which would wait for the others at a barrier.
            atexit.register(_leave, code)
        if lost is not None:
            raise lost from problem
        raise


def _join(cluster: Cluster) -> None:
    import jax

    # Otherwise it catches SIGTERM, and a process that hangs survives that.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            cluster.coordinator,
            cluster.process_count,
            cluster.process_id,
            heartbeat_timeout_seconds=_HEARTBEAT,
        )
    except (ValueError, RuntimeError) as problem:
        raise ConfigError(
            f"The other processes cannot be found: {problem} Name them by "
            "--coordinator HOST:PORT --process-count N --process-id I."
        ) from problem
    jax.devices()  # all processes make theirs known at the same time


@contextmanager
def _silence() -> Iterator[None]:
    with (
        open(os.devnull, "w") as nowhere,
        redirect_stdout(nowhere),
        redirect_stderr(nowhere),
    ):
        yield


def _as_lost(problem: BaseException) -> TlJaxError | None:
    """Recognises what JAX raises when another process is gone."""
    from tl_jax.training.processes import LostProcessError

    if isinstance(problem, TlJaxError) or not isinstance(problem, Exception):
        return None
    if not _LOST.search(str(problem)):
        return None
    reason = str(problem).strip().splitlines()[0]
    return LostProcessError(
        f"Another process of this training is gone ({reason}). See what it said, start "
        "all of them again and `tl-jax resume` the run."
    )


def _all_stopped(problem: BaseException) -> bool:
    from tl_jax.training.processes import meet
    from tl_jax.training.signals import Interrupted

    if not isinstance(problem, Interrupted):
        return False
    try:
        meet("stopped", 0, _PATIENCE)
    except Exception:
        return False
    return True


def _leave(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
