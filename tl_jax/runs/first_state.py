"""The state that a run begins from, or goes on from after it was stopped."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from tl_jax.models.batch import Batch
from tl_jax.models.compose import Params
from tl_jax.runs.folder import CHECKPOINTS
from tl_jax.runs.tell import tell
from tl_jax.training import checkpoint
from tl_jax.training.arrays import quiet_orbax
from tl_jax.training.log import truncate_log
from tl_jax.training.loop import Memory, Training
from tl_jax.training.processes import leads, meet
from tl_jax.training.state import TrainState

Init = Callable[[jax.Array, Batch], Params]


def first_state(
    init: Init, training: Training, run: Path, params: Params | None
) -> tuple[TrainState, Memory]:
    """The state of step 0, or the newest whole checkpoint with what the loop knew.

    Args:
      init: Draws parameters by a key and a batch; only their shapes matter here.
      training: What is trained and how.
      run: The run directory.
      params: Parameters to begin with; None goes on from a checkpoint.
    """
    quiet_orbax()
    if leads():
        checkpoint.sweep(run / CHECKPOINTS)
    meet("swept", 0)
    log = run / "metrics.jsonl"
    if params is not None:
        if leads():
            truncate_log(log, -1)
        return training.state(params, copy=False), Memory()
    batch = training.stream.batch(0)

    def shapes(step: int) -> dict[str, Any]:
        def draw() -> dict[str, Any]:
            return vars(training.state(init(jax.random.key(0), batch), step))

        return jax.eval_shape(draw)

    restored = checkpoint.restore_newest(run / CHECKPOINTS, shapes)
    for note in restored.notes:
        tell(note)
    step = restored.progress.pop("step")
    if leads():
        truncate_log(log, step)
    tell(f"goes on from step {step} of {training.total_steps}")
    return TrainState(**restored.state), Memory(**restored.progress)
