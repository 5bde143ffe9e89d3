"""A finished run, opened again: evaluate, predict, verify."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tl_jax.files.atomic import read_json
from tl_jax.files.errors import (
    ConfigError,
    IntegrityError,
    VerificationError,
)
from tl_jax.models.compose import Model, Params
from tl_jax.runs.data import Part, read_part
from tl_jax.runs.encoders import TextEncoder, rebuild
from tl_jax.runs.folder import (
    CHECKPOINTS,
    RESULTS,
    SEEDS,
    Setup,
    read_setup,
    read_text_encoder,
)
from tl_jax.runs.job import EVAL_BATCH, build_model, layout_of, sample_batch
from tl_jax.runs.results import hash_labels, write_predictions
from tl_jax.runs.tell import tell
from tl_jax.tasks import classification
from tl_jax.text.wordpiece import Tokenizer, hangul_warning
from tl_jax.training import checkpoint
from tl_jax.training.arrays import quiet_orbax
from tl_jax.training.placement import choose_placement
from tl_jax.training.predict import predictor


@dataclass(frozen=True, eq=False)
class OpenRun:
    """A run's best checkpoint with all that it takes to use it.

    Attributes:
      setup: What the run started from.
      model: Encoder and head.
      params: Of the best checkpoint.
      text: The tokenizer or vocabulary.
    """

    setup: Setup
    model: Model
    params: Params
    text: TextEncoder

    def log_probabilities(self, part: Part, batch_size: int = EVAL_BATCH) -> np.ndarray:
        """Computes log P of every class for each row of ``part``, ``[N, classes]``."""
        config = self.setup.config
        rows = part.rows
        examples = classification.featurise(
            self.text, rows.texts, rows.pairs, max_length=config.max_length
        )
        if isinstance(self.text, Tokenizer) and (
            warning := hangul_warning(self.text, rows.texts)
        ):
            tell(warning)
        predict = predictor(
            classification.log_probabilities(self.model),
            choose_placement(config.placement, config.devices),
            layout_of(config),
            batch_size,
        )
        found = predict(self.params, examples, None)
        assert found is not None  # nothing asks it to stop
        return found


def open_run(run: Path) -> OpenRun:
    """Opens a run and verifies every file that is used.

    Raises:
      ConfigError: It is not a run directory, or has no checkpoint yet.
      IntegrityError: A file is not the one that was written.
    """
    setup = read_setup(run)
    quiet_orbax()
    path = _best_checkpoint(run)
    model = build_model(rebuild(setup.encoder), len(setup.labels))
    text = read_text_encoder(run)
    batch = sample_batch(text, setup.config)
    like = jax.eval_shape(lambda: model.init(jax.random.key(0), batch))
    params = checkpoint.restore(path, {"params": like}, subset=True)["params"]
    return OpenRun(setup, model, params, text)


def evaluate(run: Path, data: str, batch_size: int = EVAL_BATCH) -> dict[str, Any]:
    """Scores a run's best checkpoint on labelled data, each example exactly once.

    Returns:
      ``{"metrics": {"accuracy": …, …}, "examples": n}``.
    """
    opened = open_run(run)
    part = read_part(data, opened.setup.config)
    labels = classification.row_labels(part.rows, opened.setup.labels)
    log_probs = opened.log_probabilities(part, batch_size)
    metrics = classification.scores(log_probs, labels)
    return {"metrics": metrics, "examples": len(labels)}


def predict(run: Path, data: str, output: Path) -> int:
    """Writes one JSON object a row of ``data``: index, label, probabilities.

    Returns:
      The number of rows.
    """
    opened = open_run(run)
    part = read_part(data, opened.setup.config)
    log_probs = opened.log_probabilities(part)
    predictions = classification.decode(log_probs, opened.setup.labels)
    write_predictions(output, predictions)
    return len(predictions)


def verify(run: Path) -> list[str]:
    """Evaluates a run, or each seed's, again and compares the predictions' hashes.

    Returns:
      One line for each part of the data that was found equal.

    Raises:
      IntegrityError: A file of the run was changed.
      VerificationError: The data were changed, or the predictions are others now.
    """
    if (run / SEEDS).exists():
        seeds = read_json(run / SEEDS)["seeds"]
        return [
            f"seed {seed}, {line}"
            for seed in range(seeds)
            for line in verify(run / f"seed-{seed}")
        ]
    opened = open_run(run)
    if not (run / RESULTS).exists():
        raise ConfigError(f"{run} has no results yet: `tl-jax resume {run}`.")
    recorded = read_json(run / RESULTS, error=IntegrityError)["parts"]
    lines: list[str] = []
    problems: list[str] = []
    for name, told in recorded.items():
        source = opened.setup.data[name]
        part = read_part(source["name"], opened.setup.config)
        if part.fingerprint()["sha256"] != source["sha256"]:
            problems.append(f"{name}: {source['name']} holds other data now")
            continue
        log_probs = opened.log_probabilities(part)
        now = hash_labels(log_probs, opened.setup.labels)
        labels = classification.row_labels(part.rows, opened.setup.labels)
        metrics = classification.scores(log_probs, labels)
        if now != told["predictions_sha256"]:
            problems.append(
                f"{name}: the predictions' hash is {now}, recorded is "
                f"{told['predictions_sha256']}"
            )
        elif metrics["accuracy"] != told["metrics"]["accuracy"]:
            problems.append(
                f"{name}: the accuracy is {metrics['accuracy']}, recorded is "
                f"{told['metrics']['accuracy']}"
            )
        else:
            lines.append(f"{name}: {len(log_probs):,} predictions equal ({now[:12]}…)")
    if problems:
        listed = "\n  ".join(problems)
        raise VerificationError(f"{run} could not be verified:\n  {listed}")
    return lines


def _best_checkpoint(run: Path) -> Path:
    folder = run / CHECKPOINTS
    newest = checkpoint.latest(folder)
    if newest is None:
        raise ConfigError(f"{run} has no checkpoint yet: `tl-jax resume {run}`.")
    checkpoint.verify(newest)
    best = checkpoint.read_progress(newest)["best_step"]
    return newest if best is None else folder / checkpoint.step_name(best)
