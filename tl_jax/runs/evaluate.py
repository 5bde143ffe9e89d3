"""A finished run, opened again: evaluate, predict, verify."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import jax

from tl_jax.files.atomic import read_json
from tl_jax.files.errors import (
    ConfigError,
    DataError,
    VerificationError,
)
from tl_jax.models.compose import Model, Params
from tl_jax.runs.data import Part, kind_of_texts, read_part
from tl_jax.runs.elmo_cache import remember_states
from tl_jax.runs.encoders import TextEncoder, rebuild
from tl_jax.runs.folder import (
    CHECKPOINTS,
    RESULTS,
    SEEDS,
    Setup,
    read_setup,
    read_text_encoder,
)
from tl_jax.runs.job import (
    EVAL_BATCH,
    build_model,
    encode_rows,
    sample_batch,
    task_predictor,
)
from tl_jax.runs.results import hash_answers, read_results, write_predictions
from tl_jax.runs.tasks import task_of
from tl_jax.runs.tell import tell
from tl_jax.tasks.task import Judged, Task, only_json_lines, with_options
from tl_jax.text.hangul import hangul_warning
from tl_jax.text.subwords import Tokenizer
from tl_jax.training import checkpoint
from tl_jax.training.arrays import quiet_orbax


@dataclass(frozen=True, eq=False)
class OpenRun:
    """A run's best checkpoint with all that it takes to use it.

    Attributes:
      setup: What the run started from.
      task: What was learnt, with its options as they were tuned.
      model: Encoder and head.
      params: Of the best checkpoint.
      text: The tokenizer or vocabulary.
      results: What stands in results.json; None if the run is not finished.
    """

    setup: Setup
    task: Task
    model: Model
    params: Params
    text: TextEncoder
    results: dict[str, Any] | None

    def judge(
        self, part: Part, *, labelled: bool, batch_size: int = EVAL_BATCH
    ) -> Judged:
        """Predicts every row of ``part``, and scores it by its labels if it has any."""
        config, labels = self.setup.config, self.setup.labels
        if (kind := self.task.segments(part.rows)) != self.setup.segments:
            raise DataError(
                f"{part.name}: these are {kind_of_texts(kind)}; the run learnt from "
                f"{kind_of_texts(self.setup.segments)}."
            )
        if labelled:
            self.task.check(part.rows, labels)
        encoded = encode_rows(
            part.rows, self.task, self.text, labels, config, targets=False
        )
        examples = remember_states(
            encoded.examples, self.setup, self.model.encoder, self.params, compute=False
        )
        encoded = encoded._replace(examples=examples)
        if isinstance(self.text, Tokenizer) and (
            warning := hangul_warning(self.text, self.task.texts(part.rows))
        ):
            tell(warning)
        predict = task_predictor(self.task, self.model, config, batch_size)
        found = predict(self.params, encoded.examples, None)
        assert found is not None  # nothing asks it to stop
        return self.task.judge(found, encoded, part.rows, labels, labelled=labelled)


def open_run(run: Path) -> OpenRun:
    """Opens a run and verifies every file that is used.

    Raises:
      ConfigError: It is not a run directory, or has no checkpoint yet.
      IntegrityError: A file is not the one that was written.
    """
    setup = read_setup(run)
    quiet_orbax()
    path = _best_checkpoint(run)
    task = task_of(setup.config)
    results = read_results(run)
    if results is None:
        tell(
            f"{run} has no {RESULTS}: it is not finished, and nothing was tuned on its "
            f"dev data. `tl-jax resume {run}` goes on with it."
        )
    else:
        task = with_options(task, results["tuned"])
    model = build_model(rebuild(setup.encoder), task, setup.labels)
    text = read_text_encoder(run)
    batch = sample_batch(text, setup.config)
    like = jax.eval_shape(lambda: model.init(jax.random.key(0), batch))
    params = checkpoint.restore(path, {"params": like}, subset=True)["params"]
    return OpenRun(setup, task, model, params, text, results)


def evaluate(
    run: Path,
    data: str,
    batch_size: int = EVAL_BATCH,
    part: str | None = None,
    on_bad: Literal["raise", "skip"] | None = None,
) -> dict[str, Any]:
    """Scores a run's best checkpoint on labelled data, each example exactly once.

    Args:
      run: The run directory.
      data: Labelled data.
      batch_size: Examples at a time.
      part: Only this part of data that the run cut by titles (`split`).
      on_bad: What becomes of rows that cannot be read, raise or skip; by default as for
        the run's own data.

    Returns:
      ``{"metrics": {"accuracy": …, …}, "examples": n}``.

    Raises:
      ConfigError: A part is asked for, and the run's data are not cut by titles; or
        ``batch_size`` is below 1.
    """
    if batch_size < 1:
        raise ConfigError(f"--batch-size {batch_size}: at least 1.")
    opened = open_run(run)
    if part is not None and opened.setup.config.split is None:
        raise ConfigError(f"--part {part}: {run} did not cut its data by --split.")
    config = opened.setup.config
    config = replace(config, on_bad=on_bad or config.on_bad)
    read = read_part(data, part, opened.task, config)
    judged = opened.judge(read, labelled=True, batch_size=batch_size)
    return {"metrics": judged.metrics, "examples": len(read.rows)}


def predict(run: Path, data: str, output: Path) -> int:
    """Writes a prediction for each row of ``data``.

    A ``.jsonl`` gets one JSON object a row; anything else the format of the field:
    SQuAD's predictions, or the input's columns and the prediction.

    Returns:
      The number of rows.
    """
    opened = open_run(run)
    if output.suffix != ".jsonl" and not opened.task.own_format:
        raise only_json_lines(output)
    config = opened.setup.config
    # Whoever predicts wants every row, whatever the run's own data were.
    whole = replace(config, on_bad="raise")
    part = read_part(data, None, opened.task, whole, labelled=False)
    judged = opened.judge(part, labelled=False)
    if output.suffix == ".jsonl":
        write_predictions(output, judged.records)
    else:
        opened.task.write(output, judged, part.rows)
    return len(judged.records)


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
    if opened.results is None:
        raise ConfigError(f"{run} has no results yet: `tl-jax resume {run}`.")
    recorded = opened.results["parts"]
    lines: list[str] = []
    problems: list[str] = []
    for name, told in recorded.items():
        source = opened.setup.data[name]
        part = read_part(
            _files(opened.setup, name), name, opened.task, opened.setup.config
        )
        if part.fingerprint()["sha256"] != source["sha256"]:
            problems.append(f"{name}: {source['name']} holds other data now")
            continue
        judged = opened.judge(part, labelled=True)
        now = hash_answers(judged.answers)
        score = opened.task.score
        if now != told["predictions_sha256"]:
            problems.append(
                f"{name}: the predictions' hash is {now}, recorded is "
                f"{told['predictions_sha256']}"
            )
        elif judged.metrics[score] != told["metrics"][score]:
            problems.append(
                f"{name}: the {score} is {judged.metrics[score]}, recorded is "
                f"{told['metrics'][score]}"
            )
        else:
            answers = len(judged.answers)
            lines.append(f"{name}: {answers:,} predictions equal ({now[:12]}…)")
    if problems:
        listed = "\n  ".join(problems)
        raise VerificationError(f"{run} could not be verified:\n  {listed}")
    return lines


def _files(setup: Setup, part: str) -> str:
    name = {"dev": setup.config.dev, "test": setup.config.test}[part]
    assert name is not None  # the part was scored
    return name


def _best_checkpoint(run: Path) -> Path:
    folder = run / CHECKPOINTS
    newest = checkpoint.latest(folder)
    if newest is None:
        raise ConfigError(f"{run} has no checkpoint yet: `tl-jax resume {run}`.")
    checkpoint.verify(newest)
    best = checkpoint.read_progress(newest)["best_step"]
    return newest if best is None else folder / checkpoint.step_name(best)
