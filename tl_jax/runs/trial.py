"""A classifier trained in memory and scored once: what comparisons are made of."""

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tl_jax.data.examples import Examples
from tl_jax.data.packing import Layout
from tl_jax.data.stream import TrainingStream
from tl_jax.files.atomic import read_json, write_json
from tl_jax.files.errors import ConfigError
from tl_jax.models.compose import Model, Params, flatten_paths
from tl_jax.runs.job import EVAL_BATCH
from tl_jax.runs.tell import tell
from tl_jax.tasks import classification
from tl_jax.training.loop import Display, Training, fit
from tl_jax.training.placement import Placement, choose_placement
from tl_jax.training.predict import predictor
from tl_jax.transfer.plans import Stage
from tl_jax.transfer.schedules import warmup_then_linear


@dataclass(frozen=True)
class Recipe:
    """How a trial trains.

    Attributes:
      epochs: Passes over the training examples.
      learning_rate: Highest rate, after a warm-up over a tenth of the steps.
      layout: How examples are laid into rows.
      batch_size: Examples a step.
      total_steps: Steps taken instead of whole epochs. Trainings of one layout, batch
        size and number of steps share their compiled steps, whatever they train on.
    """

    epochs: int
    learning_rate: float
    layout: Layout
    batch_size: int = 32
    total_steps: int | None = None

    def steps(self, examples: int) -> int:
        """Steps on so many examples."""
        return self.total_steps or self.epochs * -(-examples // self.batch_size)


class Outcome(NamedTuple):
    """Accuracy on the held-out examples, parameters trained, and seconds."""

    accuracy: float
    trained: int
    seconds: float


class KeptScores:
    """Scores of trials, stored in a file as they come; what is there is kept."""

    def __init__(self, file: Path, options: Mapping[str, Any]) -> None:
        """Opens a file, or begins a new one.

        Args:
          file: JSON.
          options: What the trials have in common, as JSON can hold it.

        Raises:
          ConfigError: The file holds scores of trials with other options.
        """
        self._file = file
        told = json.loads(json.dumps(options, default=str))
        self._kept: dict[str, Any] = {"options": told, "scores": {}}
        if file.exists():
            self._kept = read_json(file)
        if self._kept["options"] != told:
            raise ConfigError(
                f"{file} holds scores of other options: choose another --out."
            )

    def score(self, name: str, run: Callable[[], float]) -> float:
        """A trial's score, of which the trial is run only if it is not known."""
        scores = self._kept["scores"]
        if name not in scores:
            scores[name] = run()
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_json(self._file, self._kept)
            tell(f"{name}: {scores[name]:.4f}")
        return scores[name]


def train_and_score(
    model: Model,
    params: Params,
    stages: tuple[Stage, ...],
    train: Examples,
    held_out: Examples,
    recipe: Recipe,
    *,
    seed: int = 0,
    placement: Placement | None = None,
    display: Display | None = None,
) -> Outcome:
    """Trains to the last step, without looking at the held-out examples, and scores."""
    began = time.perf_counter()
    placement = placement or choose_placement(count=1)
    layout = recipe.layout
    stream = TrainingStream(
        train,
        recipe.batch_size,
        layout,
        seed,
        rows_multiple_of=placement.count,
        epochs=recipe.epochs,
    )
    total = recipe.steps(len(train))
    training = Training(
        loss=classification.loss(model),
        stream=stream,
        stages=stages,
        schedule=warmup_then_linear(
            recipe.learning_rate, total, math.ceil(0.1 * total)
        ),
        total_steps=total,
        placement=placement,
        seed=seed,
    )
    state, _ = fit(training, training.state(params), display=display)
    function = classification.log_probabilities(model)
    predict = predictor(function, placement, layout, EVAL_BATCH)
    found = predict(state.params, held_out, None)
    assert found is not None  # nothing asks it to stop
    log_probs = np.stack(found)
    labels = held_out.targets[classification.LABEL]
    trained, _ = stages[-1].plan.split(params)
    return Outcome(
        classification.scores(log_probs, labels)["accuracy"],
        sum(leaf.size for leaf in flatten_paths(trained).values()),
        time.perf_counter() - began,
    )
