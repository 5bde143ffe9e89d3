"""A run's results: predictions of the best checkpoint, their hash and their scores."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tl_jax.files.atomic import read_object, write_json, write_text
from tl_jax.files.errors import IntegrityError
from tl_jax.models.compose import Params, flatten_paths
from tl_jax.runs.elmo import learnt_mixes
from tl_jax.runs.folder import CHECKPOINTS, PREDICTIONS, RESULTS
from tl_jax.runs.job import Job
from tl_jax.tasks.task import with_options
from tl_jax.training import checkpoint
from tl_jax.training.loop import Memory
from tl_jax.training.predict import Predict
from tl_jax.training.signals import StopRequest
from tl_jax.training.state import TrainState
from tl_jax.transfer.presets import stages_from_json

_SEAL = "sha256"  # of all else that stands in results.json


def best_params(run: Path, best_step: int | None, state: TrainState) -> Params:
    """The parameters of the best checkpoint, given the state of the last step."""
    if best_step is None or best_step == int(state.step):
        return state.params
    path = run / CHECKPOINTS / checkpoint.step_name(best_step)
    return checkpoint.restore(path, {"params": state.params}, subset=True)["params"]


def write_results(
    run: Path,
    job: Job,
    params: Params,
    memory: Memory,
    predict: Predict,
    stop: StopRequest,
) -> dict[str, Any]:
    """Scores dev and test data, and stores predictions, their hashes and the scores.

    Raises:
      Interrupted: A stop was requested; resuming does at most this again.
    """
    epochs = job.setup.config.epochs
    stages = stages_from_json(job.setup.plan)
    plan = [stage.plan for stage in stages if stage.epoch < epochs][-1]
    found: dict[str, list[Any]] = {}
    for name in sorted(job.parts.keys() - {"train"}):
        outputs = predict(params, job.encoded[name].examples, stop)
        if outputs is None:
            stop.check("trained; `tl-jax resume` scores it")
            raise AssertionError("nothing else breaks a prediction off")
        found[name] = outputs
    dev = job.parts["dev"].rows
    tuned = job.task.tune(found["dev"], job.encoded["dev"], dev)
    task = with_options(job.task, tuned)
    results: dict[str, Any] = {
        "best_step": memory.best_step,
        "trained": sum(x.size for x in flatten_paths(plan.split(params)[0]).values()),
        "tuned": tuned,
        "parts": {},
    }
    if mixes := learnt_mixes(params):
        results["elmo_mixes"] = mixes
    for name, outputs in found.items():
        rows = job.parts[name].rows
        judged = task.judge(
            outputs, job.encoded[name], rows, job.setup.labels, labelled=True
        )
        write_predictions(run / PREDICTIONS / f"{name}.jsonl", judged.records)
        results["parts"][name] = {
            "metrics": judged.metrics,
            "examples": len(rows),
            "predictions_sha256": hash_answers(judged.answers),
        }
    results = sealed(results)
    write_json(run / RESULTS, results)
    stop.check("trained and scored")
    return results


def sealed(results: Mapping[str, Any]) -> dict[str, Any]:
    """Results with the SHA-256 of all that stands in them."""
    text = json.dumps(results, sort_keys=True, ensure_ascii=False)
    return {**results, _SEAL: hashlib.sha256(text.encode()).hexdigest()}


def read_results(run: Path) -> dict[str, Any] | None:
    """Reads a run's results.json; None if there is none yet.

    Raises:
      IntegrityError: It is not as it was written: what was tuned on dev, which decides
        on answers, stands there too.
    """
    file = run / RESULTS
    if not file.exists():
        return None
    told = read_object(file, error=IntegrityError)
    if told != sealed({name: told[name] for name in told if name != _SEAL}):
        raise IntegrityError(
            f"{file}: not as it was written. Restore it; or remove it, and "
            f"`tl-jax resume {run}` scores the run anew."
        )
    return told


def write_predictions(file: Path, predictions: Sequence[dict[str, object]]) -> None:
    """Writes one JSON object a line."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(entry, ensure_ascii=False) for entry in predictions)
    write_text(file, "".join(f"{line}\n" for line in lines))


def hash_answers(answers: Sequence[str]) -> str:
    """SHA-256 of what was decided for each row, one a line; never of probabilities."""
    return hashlib.sha256("\n".join(answers).encode()).hexdigest()
