"""What pre-training runs of every kind share: they begin, are sealed, go on and end."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import jax

from tl_jax.data.tfds import PREFIX, tfds_hash
from tl_jax.files.atomic import read_object, sweep
from tl_jax.files.errors import ConfigError, IntegrityError
from tl_jax.files.locks import hold
from tl_jax.files.manifest import sha256_file, verify_manifest
from tl_jax.models.compose import Params
from tl_jax.runs.fitting import Init, first_state, fit_run
from tl_jax.runs.folder import RUN_FILE, SETUP, is_run, refuse_changes, refuse_used
from tl_jax.training.loop import Display, Evaluate, Habits, Training
from tl_jax.training.processes import leads, meet
from tl_jax.training.signals import StopRequest, exit_on_signal, stop_requests
from tl_jax.training.step import EVERYTHING
from tl_jax.transfer.plans import Stage

DATA = "data"
MODEL = "model"
ONE_STAGE = (Stage(0.0, EVERYTHING),)  # all parameters learn, from the first step
Made = TypeVar("Made")
# Makes what scores parameters until a stop is requested.
Evaluator = Callable[[StopRequest], Evaluate]
# Of the last parameters (whole, in numpy), the steps taken and the scores on dev.
Finish = Callable[[Params, int, dict[str, float]], dict[str, Any]]


@contextmanager
def beginning(
    out: Path, set_up: Callable[[], Made], reopen: Callable[[], Made]
) -> Iterator[Made]:
    """Makes a run, and holds its directory for as long as it is trained.

    Args:
      out: The run directory.
      set_up: Makes the run and writes it down; the first process does.
      reopen: Loads what that wrote; the others do.

    Raises:
      ConfigError: ``out`` holds a run already.
    """
    with hold(out) if leads() else nullcontext():
        with exit_on_signal("nothing had been trained"):
            if leads():
                refuse_used(out)
                sweep(out)
            made = set_up() if leads() else None
            meet("set up", 0)
            made = reopen() if made is None else made
        yield made


@contextmanager
def going_on(run: Path, reopen: Callable[[], Made]) -> Iterator[Made]:
    """Loads a run, and holds its directory for as long as it is trained."""
    with hold(run) if leads() else nullcontext():
        with exit_on_signal("the run is as it was"):
            if leads():
                sweep(run)
            meet("swept", 1)
            made = reopen()
        yield made


def kind_of(run: Path) -> str | None:
    """The kind of a pre-training run; None for any other run, or none."""
    return read_object(run / RUN_FILE).get("kind") if is_run(run) else None


def read_setup(run: Path, kind: str, allowed: set[str]) -> dict[str, Any]:
    """Reads run.json and verifies that it is what the run started from.

    Raises:
      ConfigError: The folder is no such run, or run.json was changed.
      IntegrityError: The setup folder is damaged.
    """
    if kind_of(run) != kind:
        raise ConfigError(f"{run} is not the directory of such a pre-training run.")
    sealed = verify_manifest(run / SETUP)
    told = read_object(run / RUN_FILE, error=IntegrityError)
    refuse_changes(run, sealed, told, allowed)
    return told


def text_hash(name: str) -> str:
    """SHA-256 of a text file, or of a data set's texts."""
    return tfds_hash(name) if name.startswith(PREFIX) else sha256_file(Path(name))


@dataclass(eq=False)
class _Remembered:
    """An evaluation, and the scores that it came to last."""

    evaluate: Evaluate
    last: dict[str, float] | None = None

    def __call__(self, params: Params) -> dict[str, float] | None:
        self.last = self.evaluate(params)
        return self.last


@dataclass(frozen=True, eq=False)
class Course:
    """How a run is trained to its end.

    Attributes:
      training: What is trained and how.
      init: Draws parameters, for their shapes.
      habits: When to evaluate, save and give up.
      evaluator: Makes what scores parameters on the dev text, if there is any.
      introduce: Shows what is trained on what, before it begins.
      finish: Exports the model and stores the results, which it returns.
      tensorboard: Whether metrics are written for TensorBoard, too.
    """

    training: Training
    init: Init
    habits: Habits
    evaluator: Evaluator | None
    introduce: Callable[[], None]
    finish: Finish
    tensorboard: bool = False

    def take(
        self, run: Path, params: Params | None, display: Display | None
    ) -> dict[str, Any]:
        """Trains from the newest checkpoint, or from ``params`` if there is none."""
        training = self.training
        with stop_requests(alone=jax.process_count() == 1) as stop:
            state, memory = first_state(self.init, training, run, params)
            self.introduce()
            evaluate = None
            if self.evaluator is not None:
                evaluate = _Remembered(self.evaluator(stop))
            state, memory = fit_run(
                training,
                state,
                memory,
                evaluate,
                run=run,
                habits=self.habits,
                stop=stop,
                display=display,
                tensorboard=self.tensorboard,
            )
            dev: dict[str, float] | None = {}
            if evaluate is not None:
                scored = memory.evaluated == int(state.step)
                dev = evaluate.last if scored else None
                dev = evaluate(state.params) if dev is None else dev
            if dev is None:
                stop.check("trained; `tl-jax resume` scores and exports it")
            trained = training.placement.fetch(state.params)
            return self.finish(trained, int(state.step), dev or {})
