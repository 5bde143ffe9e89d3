"""A training in a run directory: begun or gone on with, and shown as it goes."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import jax

from tl_jax.models.batch import Batch
from tl_jax.models.compose import Params
from tl_jax.runs.folder import CHECKPOINTS
from tl_jax.runs.tell import tell
from tl_jax.training import checkpoint
from tl_jax.training.arrays import quiet_orbax
from tl_jax.training.log import Progress, tensorboard_writer, truncate_log
from tl_jax.training.loop import Display, Evaluate, Habits, Memory, Training, fit
from tl_jax.training.placement import Placement
from tl_jax.training.processes import leads, meet
from tl_jax.training.signals import StopRequest
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
        return training.first(params), Memory()
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


def tell_devices(placement: Placement, run: Path) -> None:
    """Says where a run is trained, and where it is kept."""
    devices = placement.devices
    kind = devices[0].device_kind
    tell(f"{placement.kind} on {len(devices)} × {kind}; run directory {run}")


def fit_run(
    training: Training,
    state: TrainState,
    memory: Memory,
    evaluate: Evaluate | None,
    *,
    run: Path,
    habits: Habits,
    stop: StopRequest,
    display: Display | None = None,
    tensorboard: bool = False,
) -> tuple[TrainState, Memory]:
    """Trains from a state of `first_state` to the end; see `tl_jax.training.loop.fit`.

    Args:
      training: What is trained and how.
      state: What it begins from.
      memory: What the loop knew then.
      evaluate: Scores parameters on the dev data, if there are any.
      run: The run directory.
      habits: When to evaluate, save and give up.
      stop: Says when to stop.
      display: Is told of every step; by default a bar or lines on stderr.
      tensorboard: Whether metrics are written for TensorBoard, too.
    """
    start = int(state.step)
    also = None
    if tensorboard and leads():
        also = tensorboard_writer(run / "tensorboard", start + 1)
    own = Progress(training.total_steps, start=start)
    with own if display is None else nullcontext(display) as shown:
        return fit(
            training,
            state,
            evaluate,
            habits=habits,
            memory=memory,
            folder=run,
            also=also,
            stop=stop,
            display=shown,
        )
