"""Fine-tuning as a run: prepared, trained, scored; stopped and resumed at will."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tl_jax.files.atomic import read_json, sweep, write_json
from tl_jax.files.errors import ConfigError, TlJaxError
from tl_jax.files.locks import hold
from tl_jax.metrics.bootstrap import spread
from tl_jax.models.compose import Params
from tl_jax.runs.config import FinetuneConfig
from tl_jax.runs.encoders import rebuild, save_text_encoder
from tl_jax.runs.fitting import first_state, fit_run, tell_devices
from tl_jax.runs.folder import (
    CHECKPOINTS,
    RESULTS,
    SEEDS,
    SETUP,
    is_run,
    read_setup,
    read_text_encoder,
    refuse_changes,
    refuse_used,
    seal,
    versions,
    write_setup,
)
from tl_jax.runs.job import (
    Job,
    build_model,
    encode_parts,
    prepare,
    read_parts,
    task_predictor,
    training_of,
    with_states,
)
from tl_jax.runs.results import best_params, read_results, write_results
from tl_jax.runs.tasks import task_of
from tl_jax.runs.tell import tell
from tl_jax.training import checkpoint
from tl_jax.training.loop import Display, Habits, Training
from tl_jax.training.signals import exit_on_signal, stop_requests
from tl_jax.training.state import TrainState


def finetune(
    config: FinetuneConfig, out: Path, display: Display | None = None
) -> dict[str, Any]:
    """Fine-tunes pretrained weights on labelled data, in a new run directory.

    Args:
      config: The options.
      out: The run directory, new or empty.
      display: Is told of every step; by default a bar or lines on stderr.

    Returns:
      The results: scores of the best checkpoint on each part of the data.

    Raises:
      TlJaxError: Of the kind that says what does not fit; nothing was trained.
      Interrupted: A stop was requested; `resume` goes on.
    """
    with hold(out):
        refuse_used(out)
        with exit_on_signal("nothing had been trained"):
            sweep(out)
            job, params = prepare(config)
            training_of(job)  # what does not fit is told before there is a run
            told = asdict(job.setup)
            write_setup(out, told, lambda to: save_text_encoder(job.text, to))
        return _train(job, out, params, display)


def finetune_seeds(
    config: FinetuneConfig, out: Path, seeds: int, display: Display | None = None
) -> dict[str, Any]:
    """Fine-tunes once a seed, each in a run directory of its own, ``out/seed-N``.

    Returns:
      Mean and standard deviation over the seeds of every score.
    """
    if seeds < 2:
        raise ConfigError(f"--seeds {seeds}: at least 2, or say --seed N.")
    with hold(out):
        refuse_used(out)
        config = config.anchored()
        write_json(out / SEEDS, {"seeds": seeds, "config": asdict(config)})
    try:
        return _finish_seeds(config, out, seeds, set(), display)
    except TlJaxError:
        if not is_run(out / "seed-0"):  # nothing began that could be gone on with
            (out / SEEDS).unlink()
        raise


def resume(run: Path, allowed: set[str] | None = None) -> dict[str, Any]:
    """Goes on with a run, or with the runs of several seeds, exactly.

    Args:
      run: The run directory.
      allowed: Keys of the setup that may differ from what the run started with.

    Raises:
      ConfigError: Options or data are not those that the run started with.
      IntegrityError: No checkpoint is whole.
    """
    allowed = allowed or set()
    if (run / SEEDS).exists():
        told = read_json(run / SEEDS)
        config = told["config"] | {"train": tuple(told["config"]["train"])}
        return _finish_seeds(FinetuneConfig(**config), run, told["seeds"], allowed)
    with hold(run):
        with exit_on_signal("the run is as it was"):
            sweep(run)
            job, params = _reopen(run, allowed)
        return _train(job, run, params)


def _reopen(run: Path, allowed: set[str]) -> tuple[Job, Params | None]:
    """Loads a run as it was set up; its first parameters only if it has no others."""
    setup = read_setup(run, allowed)
    config = setup.config
    if not checkpoint.committed(run / CHECKPOINTS):
        job, params = prepare(config)
        changes = {"versions", *allowed}
        refuse_changes(run, asdict(setup), asdict(job.setup), changes)
        if allowed:
            save_text_encoder(job.text, run / SETUP)
            seal(run, job.setup)
        return job, params
    task = task_of(config)
    parts = read_parts(config, task)
    data = {name: part.fingerprint() for name, part in parts.items()}
    refuse_changes(run, {"data": setup.data}, {"data": data}, allowed)
    for name, version in versions().items():
        if (before := setup.versions.get(name)) != version:
            tell(f"{name} is {version} now; the run began with {before}")
    if allowed:
        setup = replace(setup, data=data)
        seal(run, setup)
    text = read_text_encoder(run)
    model = build_model(rebuild(setup.encoder), task, setup.labels)
    encoded = encode_parts(parts, task, text, setup.labels, config)
    return Job(setup, task, model, text, parts, encoded), None


def _train(
    job: Job, run: Path, params: Params | None, display: Display | None = None
) -> dict[str, Any]:
    """Trains from the newest checkpoint, or from ``params`` if there is none."""
    training = training_of(job)
    task, config = job.task, job.setup.config
    predict = task_predictor(task, job.model, config)
    with stop_requests() as stop:
        state, memory = first_state(job.model.init, training, run, params)
        _introduce(job, training, run, state)
        job = with_states(job, state.params)
        training = training_of(job)
        rows, dev = job.parts["dev"].rows, job.encoded["dev"]

        def evaluate(params: Params) -> dict[str, float] | None:
            found = predict(params, dev.examples, stop)
            if found is None:
                return None
            judged = task.judge(found, dev, rows, job.setup.labels, labelled=True)
            return judged.metrics

        state, memory = fit_run(
            training,
            state,
            memory,
            evaluate,
            run=run,
            habits=_habits(config, task.score),
            stop=stop,
            display=display,
            tensorboard=config.tensorboard,
        )
        best = best_params(run, memory.best_step, state)
        return write_results(run, job, best, memory, predict, stop)


def _introduce(job: Job, training: Training, run: Path, state: TrainState) -> None:
    """Shows what is trained on what, where, before it begins."""
    epochs = job.setup.config.epochs
    for stage in training.stages:
        if stage.epoch >= epochs:
            tell(f"\nno stage from epoch {stage.epoch:g} on: --epochs {epochs}")
            break
        if len(training.stages) > 1:
            tell(f"\nfrom epoch {stage.epoch:g}:")
        tell(stage.plan.table(state.params))
    for name, told in job.setup.data.items():
        sha256 = told["sha256"][:12]
        tell(f"{name}: {told['examples']:,} examples of {told['name']} ({sha256}…)")
    tell_devices(training.placement, run)


def _habits(config: FinetuneConfig, score: str) -> Habits:
    return Habits(
        eval_every=config.eval_every,
        save_every=config.save_every,
        patience=config.patience,
        max_skipped=config.max_skipped,
        score=score,
    )


def _finish_seeds(
    config: FinetuneConfig,
    out: Path,
    seeds: int,
    allowed: set[str],
    display: Display | None = None,
) -> dict[str, Any]:
    """Begins or goes on with each seed's run, and averages their scores."""
    found = []
    for seed in range(seeds):
        run = out / f"seed-{seed}"
        tell(f"\nseed {seed} of {seeds}")
        if results := read_results(run):
            found.append(results)
        elif is_run(run):
            found.append(resume(run, allowed))
        else:
            found.append(finetune(replace(config, seed=seed), run, display))
    summary: dict[str, Any] = {"seeds": seeds, "trained": found[0]["trained"]}
    for part in found[0]["parts"]:
        scores = [result["parts"][part]["metrics"] for result in found]
        # A type that no seed's data have may yet be predicted by some.
        common = [name for name in scores[0] if all(name in each for each in scores)]
        summary[part] = {
            name: spread([each[name] for each in scores])._asdict() for name in common
        }
    write_json(out / RESULTS, summary)
    return summary
