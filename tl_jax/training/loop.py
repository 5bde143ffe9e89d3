"""The training loop: dispatch a step, then look at the sums of the step before.

The loop owns no arithmetic. Steps are pure, the batch of step n is a function of
(seed, n), and what the loop itself remembers (`Memory`) is a few numbers that are
stored with each checkpoint; so a run that was stopped anywhere goes on exactly.
"""

import math
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing, nullcontext
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tl_jax.data.stream import prefetch
from tl_jax.files.atomic import write_json
from tl_jax.files.errors import NonFiniteError
from tl_jax.metrics.sums import CarriedLoss, Loss, Sums, mean
from tl_jax.models.batch import Batch
from tl_jax.models.compose import Params
from tl_jax.training.checkpoint import keep_only, save
from tl_jax.training.log import MetricsLog
from tl_jax.training.placement import Placement
from tl_jax.training.processes import agreed, everyones, leads
from tl_jax.training.signals import StopRequest
from tl_jax.training.state import TrainState
from tl_jax.training.step import create_state, train_step
from tl_jax.transfer.plans import Stage, carry_over

# Scores parameters on held-out data; None if a requested stop broke it off.
Evaluate = Callable[[Params], dict[str, float] | None]


@runtime_checkable
class Display(Protocol):
    """What shows how far the training is, such as `tl_jax.training.log.Progress`."""

    def update(
        self,
        step: int,
        *,
        loss: float,
        learning_rate: float,
        tokens: int,
        examples: int,
        figures: Mapping[str, float],
    ) -> None:
        """Tells that a step is done; ``figures`` are those of `Training.shown`."""
        ...

    def note(self, text: str) -> None:
        """Shows a line."""
        ...


@runtime_checkable
class Stream(Protocol):
    """The batches of a training by step, such as those of `TrainingStream`."""

    @property
    def steps_per_epoch(self) -> int:
        """Steps an epoch."""
        ...

    def batch(self, step: int) -> Batch:
        """Returns the batch of a step, counted from 0, as numpy arrays."""
        ...


@dataclass(frozen=True)
class Training:
    """What is trained on what, and how; nothing here changes while it runs.

    Attributes:
      loss: The task's loss of (params, batch, key, train=…).
      stream: The batches by step.
      stages: The transfer plan, or several that take over from one another.
      schedule: Learning rate by step.
      total_steps: Steps of the whole training.
      placement: Devices and how they are used.
      weight_decay: Decoupled decay of all but biases and LayerNorm's scales.
      clip: Largest global norm of the trained gradients; None clips nothing.
      bias_correction: Adam's; BERT was trained without.
      accumulate: Equal parts of a batch that are computed one after the other.
      seed: Keys the dropout.
      carry: What the first step is handed, where steps carry something on
        (`TrainState`).
      gauge: Figures of a batch whose step took so many seconds; they go into the log.
      shown: Names of what the display shows of the log, beside loss and rate.
      whole: What becomes of a batch on the devices, where the rows of all processes are
        at hand.
    """

    loss: Loss | CarriedLoss
    stream: Stream
    stages: tuple[Stage, ...]
    schedule: optax.Schedule
    total_steps: int
    placement: Placement
    weight_decay: float = 0.01
    clip: float | None = 1.0
    bias_correction: bool = True
    accumulate: int = 1
    seed: int = 0
    carry: Any = ()
    gauge: Callable[[Batch, float], dict[str, float]] | None = None
    shown: tuple[str, ...] = ()
    whole: Callable[[Batch], Batch] | None = None

    def stage(self, step: int) -> Stage:
        """The stage that the step of this number is taken in."""
        epoch = step / self.stream.steps_per_epoch
        return next(s for s in reversed(self.stages) if s.epoch <= epoch)

    def optimizer(self, stage: Stage, params: Params) -> optax.GradientTransformation:
        """The partitioned optimizer of a stage's plan."""
        return stage.plan.optimizer(
            params,
            self.schedule,
            weight_decay=self.weight_decay,
            clip=self.clip,
            bias_correction=self.bias_correction,
        )

    def state(self, params: Params, step: int = 0, *, copy: bool = True) -> TrainState:
        """A fresh state of the form that it has after ``step`` steps.

        Without ``copy`` it holds ``params`` themselves, and training takes them away.
        """
        if copy:
            params = jax.tree.map(jnp.array, params)
        stage = self.stage(max(step - 1, 0))
        optimizer = self.optimizer(stage, params)
        return create_state(
            params, optimizer, stage.plan, seed=self.seed, carry=self.carry
        )

    def first(self, params: Params) -> TrainState:
        """The state of step 0; training takes ``params`` away."""
        state_of = partial(self.state, copy=False)
        if self.placement.kind == "fsdp":
            return self.placement.make(state_of, params)
        return state_of(params)

    def step(self, stage: Stage, params: Params) -> Callable[..., Any]:
        """The compiled train step of a stage."""
        optimizer = self.optimizer(stage, params)
        step = train_step(self.loss, optimizer, stage.plan, accumulate=self.accumulate)
        return self.placement.train(self.on_whole(step))

    def on_whole(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """A step of any kind, on what ``whole`` makes of its batch."""
        if self.whole is None:
            return step
        whole = self.whole
        return lambda state, batch: step(state, whole(batch))

    @cached_property
    def rates(self) -> np.ndarray:
        """The learning rate of every step."""
        return np.asarray(jax.vmap(self.schedule)(jnp.arange(self.total_steps)))


@dataclass(frozen=True)
class Habits:
    """When the loop evaluates, saves and gives up.

    Attributes:
      eval_every: Steps between evaluations; one epoch by default.
      save_every: Steps between checkpoints beside those at evaluations.
      patience: Evaluations without a better score before it stops early.
      max_skipped: Steps with a loss or gradient that is not finite that are skipped
        before it stops with an error.
      score: The metric that tells which checkpoint is best; higher is better.
    """

    eval_every: int | None = None
    save_every: int | None = None
    patience: int | None = None
    max_skipped: int = 0
    score: str = "accuracy"


@dataclass
class Memory:
    """What the loop remembers beside the state; stored with each checkpoint."""

    evaluated: int = 0
    best_step: int | None = None
    best_score: float | None = None
    worse: int = 0
    skipped: list[int] = field(default_factory=list)

    def judge(self, step: int, score: float) -> None:
        """Takes note of an evaluation's score; one that is NaN is not better."""
        self.evaluated = step
        best = -math.inf if self.best_score is None else self.best_score
        if score > best:
            self.best_step, self.best_score, self.worse = step, score, 0
        else:
            self.worse += 1


def fit(
    training: Training,
    state: TrainState,
    evaluate: Evaluate | None = None,
    *,
    habits: Habits = Habits(),
    memory: Memory | None = None,
    folder: Path | None = None,
    also: Callable[[dict[str, Any]], None] | None = None,
    stop: StopRequest | None = None,
    display: Display | None = None,
) -> tuple[TrainState, Memory]:
    """Trains from a state to the last step, or until it no longer pays.

    Args:
      training: What is trained and how.
      state: The state to go on from; its step says where. Its memory is used for the
        states to come, so it can't be read again.
      evaluate: Scores parameters on held-out data.
      habits: When to evaluate, save and stop.
      memory: What an interrupted run had stored; it is not changed.
      folder: The run directory, for ``metrics.jsonl`` and ``checkpoints/``; None
        writes nothing.
      also: Is handed every line of ``metrics.jsonl``.
      stop: Asked after every step; a request is met by a checkpoint.
      display: Is told of every step and evaluation.

    Returns:
      The state after the last step, and what the loop remembers.

    Raises:
      NonFiniteError: More than ``max_skipped`` steps were not finite. The last bad
        batch's example numbers stand in ``bad_batch.json``.
      Interrupted: A stop was requested; the state is saved.
    """
    memory = deepcopy(memory) if memory is not None else Memory()
    log = None
    if folder is not None and leads():
        log = MetricsLog(folder / "metrics.jsonl", also)
    loop = _Loop(
        training, habits, memory, evaluate, folder, log, stop or StopRequest(), display
    )
    with log or nullcontext():
        return loop.run(state), memory


@dataclass
class _Loop:
    """The parts of `fit`, which share its arguments and the sums of the last step."""

    training: Training
    habits: Habits
    memory: Memory
    evaluate: Evaluate | None
    folder: Path | None
    log: MetricsLog | None
    stop: StopRequest
    display: Display | None
    pending: tuple[int, Batch, Sums] | None = None
    saved: int | None = None
    looked: float = field(default_factory=time.time)

    def run(self, state: TrainState) -> TrainState:
        """Takes all steps that are left."""
        training = self.training
        start = int(state.step)
        stage = training.stage(max(start - 1, 0))
        take = training.step(stage, state.params)
        state = training.placement.replicate(state, copy=False)
        ahead = prefetch(training.stream.batch, start, training.total_steps)
        with closing(cast(Generator[Batch], ahead)) as batches:
            for step in range(start, training.total_steps + 1):
                if jax.process_count() > 1:
                    self.stop.requested = agreed(step, self.stop.noted)
                self.between(state, step)
                if step == training.total_steps or self.given_up():
                    break
                if training.stage(step) is not stage:
                    stage = training.stage(step)
                    state = self.enter(stage, state)
                    take = training.step(stage, state.params)
                batch = next(batches)
                state, sums = take(state, batch)
                self.look_back()
                self.pending = (step + 1, batch, sums)
                if _in_calling_thread(training.placement):
                    self.look_back()
        return state

    def enter(self, stage: Stage, state: TrainState) -> TrainState:
        """Gives what a stage thaws fresh optimizer state, and keeps the rest's."""
        training = self.training
        optimizer = training.optimizer(stage, state.params)
        fresh = create_state(state.params, optimizer, stage.plan, seed=training.seed)
        opt_state = carry_over(state.opt_state, fresh.opt_state)
        entered = replace(state, opt_state=opt_state)
        return training.placement.replicate(entered, copy=False)

    def between(self, state: TrainState, step: int) -> None:
        """Does what is due after ``step`` steps: evaluate, save, stop."""
        if step == 0 and self.stop.requested is None:
            return
        every = self.habits.eval_every or self.training.stream.steps_per_epoch
        score_due = step % every == 0 or step == self.training.total_steps
        save_every = self.habits.save_every or every
        save_due = score_due or step % save_every == 0
        if save_due or self.stop.requested is not None:
            self.look_back()
        if score_due and self.memory.evaluated < step:
            self.score(state.params, step)
        if save_due or self.stop.requested is not None:
            self.save(state, step)
            self.stop.check(f"saved after step {step}")
            self.looked = time.time()  # the next step's time begins here

    def score(self, params: Params, step: int) -> None:
        """Evaluates; an evaluation that a stop broke off is done again on resuming."""
        scores = self.evaluate(params) if self.evaluate is not None else None
        if scores is None:
            return
        self.memory.judge(step, float(scores[self.habits.score]))
        if self.log is not None:
            self.log.append(step, {f"dev_{k}": v for k, v in scores.items()})
        if self.display is not None:
            # Scores of single classes (``f1/PER``) stand in the log alone.
            main = {name: value for name, value in scores.items() if "/" not in name}
            told = "  ".join(f"{name} {value:.4f}" for name, value in main.items())
            self.display.note(f"step {step}  dev: {told}")

    def given_up(self) -> bool:
        """True when evaluations have not become better for too long."""
        patience = self.habits.patience
        return patience is not None and self.memory.worse >= patience

    def look_back(self) -> None:
        """Fetches, checks and logs the sums of the last step taken."""
        if self.pending is None:
            return
        step, batch, sums = self.pending
        self.pending = None
        values = mean(jax.device_get(sums))
        finite = bool(values.pop("finite"))
        # A skipped step does not count for the optimizer, whose schedule waits for it.
        rate = float(self.training.rates[step - 1 - len(self.memory.skipped)])
        record = {**values, "learning_rate": rate, "padding": 1 - batch.mask.mean()}
        before, self.looked = self.looked, time.time()
        gauge = self.training.gauge
        # The batch is this process's share of the step's.
        seconds = (self.looked - before) / jax.process_count()
        gauged = gauge(batch, seconds) if gauge is not None else {}
        if self.log is not None:
            self.log.append(step, record, time=self.looked, **gauged)
        if self.display is not None:
            told = {**record, **gauged}
            self.display.update(
                step,
                loss=values["loss"],
                learning_rate=rate,
                tokens=int(batch.mask.sum()) * jax.process_count(),
                examples=int(batch.slots.sum()) * jax.process_count(),
                figures={name: float(told[name]) for name in self.training.shown},
            )
        if not finite:
            self.skip(step, batch, values)

    def skip(self, step: int, batch: Batch, values: dict[str, float]) -> None:
        """Counts a step that changed nothing because its numbers were not finite."""
        self.memory.skipped.append(step)
        ids = sorted(int(i) for i in everyones(batch.ids).ravel() if i >= 0)
        where = ""
        if self.folder is not None and leads():
            path = self.folder / "bad_batch.json"
            told = {k: str(v) for k, v in values.items()}
            write_json(path, {"step": step, "examples": ids, "values": told})
            where = f" Its examples' numbers stand in {path}."
        if len(self.memory.skipped) > self.habits.max_skipped:
            raise NonFiniteError(
                f"Step {step}: the loss is {values['loss']}, the gradient's norm "
                f"{values['gradient_norm']}. The update was not made.{where} Lower the "
                "learning rate, look at these examples, or allow such steps to be "
                "skipped (--max-skipped N)."
            )

    def save(self, state: TrainState, step: int) -> None:
        """Writes a checkpoint and keeps the best and the last."""
        if self.folder is None or self.saved == step:
            return
        if self.log is not None:
            self.log.sync()
        checkpoints = self.folder / "checkpoints"
        save(checkpoints, step, state, asdict(self.memory))
        if leads():
            keep_only(checkpoints, {step, self.memory.best_step or step})
        self.saved = step


def _in_calling_thread(placement: Placement) -> bool:
    """True if steps are over when they return, so that their time ends there.

    Several processes look back one step later all the same (`agreed`).
    """
    return (
        jax.process_count() == 1
        and placement.devices[0].platform == "cpu"
        and not jax.config.read("jax_cpu_enable_async_dispatch")
    )
