"""BERT's pre-training as a run: raw text in, a Hugging Face folder out.

::

    RUN/
      run.json       what the run starts from; setup/ seals it and holds the tokenizer
      data/          the tokenised text by part: train and perhaps dev
      checkpoints/   the last, and the best on dev
      metrics.jsonl  one line a step and one an evaluation
      model/         encoder, heads and tokenizer at the end, for `from_pretrained`
      results.json   the scores on dev
"""

import math
import shutil
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax

from tl_jax.data.shards import Prepared, open_prepared
from tl_jax.files.atomic import read_json, sweep, temporary_path, write_json
from tl_jax.files.errors import ConfigError, IntegrityError
from tl_jax.files.locks import hold
from tl_jax.files.manifest import verify_manifest, write_manifest
from tl_jax.interop.huggingface import save_bert
from tl_jax.metrics.sums import add, mean
from tl_jax.models.bert import Bert
from tl_jax.models.compose import Model, Params
from tl_jax.runs.encoders import describe, rebuild, weights_hash
from tl_jax.runs.first_state import first_state
from tl_jax.runs.folder import (
    CHECKPOINTS,
    RESULTS,
    RUN_FILE,
    SETUP,
    is_run,
    refuse_changes,
    versions,
)
from tl_jax.runs.pretrain_config import PretrainBertConfig as PretrainBertConfig
from tl_jax.runs.pretrain_setup import (
    DATA,
    build_model,
    choose_tokenizer,
    data_of,
    initial,
    prepare_parts,
    stream_of,
)
from tl_jax.runs.tell import tell
from tl_jax.tasks import pretraining
from tl_jax.text.subwords import Tokenizer, load_tokenizer
from tl_jax.training import checkpoint
from tl_jax.training.log import Progress, tensorboard_writer
from tl_jax.training.loop import Display, Evaluate, Habits, Training, fit
from tl_jax.training.placement import choose_placement
from tl_jax.training.signals import StopRequest, exit_on_signal, stop_requests
from tl_jax.training.state import TrainState
from tl_jax.training.step import eval_step
from tl_jax.transfer.plans import Plan, Rule, Stage
from tl_jax.transfer.schedules import warmup_linear

KIND = "pretrain_bert"
MODEL = "model"
EVERYTHING = (Stage(0.0, Plan(Rule(".*"))),)


@dataclass(frozen=True, eq=False)
class _Job:
    """A run with all that it computes on."""

    config: PretrainBertConfig
    model: Model
    tokenizer: Tokenizer
    parts: dict[str, Prepared]


def pretrain_bert(
    config: PretrainBertConfig, out: Path, display: Display | None = None
) -> dict[str, Any]:
    """Pre-trains an encoder on raw text, in a new run directory.

    Args:
      config: The options.
      out: The run directory. Text that an interrupted run had prepared there is used
        again if it is whole and was prepared in the same way.
      display: Is told of every step; by default a bar or lines on stderr.

    Returns:
      The results: the scores on held-out text, and the folder of the model.

    Raises:
      TlJaxError: Of the kind that says what does not fit; nothing was trained.
      Interrupted: A stop was requested; `resume_pretrain` goes on.
    """
    config.check()
    with hold(out):
        if is_run(out):
            raise ConfigError(
                f"{out} already holds a run. Go on with it by `tl-jax resume {out}`, "
                "or choose another --out."
            )
        with exit_on_signal("nothing had been trained"):
            sweep(out)
            choose_placement(config.placement, config.devices)
            tokenizer = choose_tokenizer(config)
            encoder, params = initial(config, tokenizer)
            parts = prepare_parts(config, tokenizer, out)
            job = _Job(config, build_model(encoder, nsp=config.nsp), tokenizer, parts)
            _write_setup(out, job)
        return _train(job, out, params, display)


def resume_pretrain(
    run: Path, allowed: set[str] | None = None, display: Display | None = None
) -> dict[str, Any]:
    """Goes on with a run, exactly.

    Args:
      run: The run directory.
      allowed: Keys of run.json that may have been changed by hand since.
      display: As for `pretrain_bert`.

    Raises:
      ConfigError: The folder is no such run, or run.json was changed.
      IntegrityError: The prepared text, the tokenizer or every checkpoint is damaged.
    """
    with hold(run):
        with exit_on_signal("the run is as it was"):
            sweep(run)
            job, params = _reopen(run, allowed or set())
        return _train(job, run, params, display)


def is_pretraining(run: Path) -> bool:
    """True if the folder holds a run of this kind."""
    return is_run(run) and read_json(run / RUN_FILE).get("kind") == KIND


def _write_setup(run: Path, job: _Job) -> None:
    """Writes run.json and the setup folder, which is there as a whole or not at all."""
    source = job.config.from_weights
    told = {
        "kind": KIND,
        "config": asdict(job.config),
        "encoder": describe(job.model.encoder),
        "data": data_of(job.parts, run),
        "weights": {"source": source, "sha256": weights_hash(source)} if source else {},
        "versions": versions(),
    }
    fresh = temporary_path(run / SETUP)
    try:
        job.tokenizer.save(fresh)
        write_manifest(fresh, told)
        write_json(run / RUN_FILE, told)
        fresh.rename(run / SETUP)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _reopen(run: Path, allowed: set[str]) -> tuple[_Job, Params | None]:
    """Loads a run as it was set up; its first parameters only if it has no others."""
    if not is_pretraining(run):
        raise ConfigError(f"{run} is not the directory of a pre-training run.")
    sealed = verify_manifest(run / SETUP)
    told = read_json(run / RUN_FILE, error=IntegrityError)
    refuse_changes(run, sealed, told, allowed)
    options: dict[str, Any] = dict(told["config"])
    options |= {name: tuple(options[name]) for name in ("text", "lines", "dev")}
    config = PretrainBertConfig(**options)
    parts = {name: open_prepared(run / DATA / name) for name in told["data"]}
    data = {"data": data_of(parts, run)}
    refuse_changes(run, {"data": told["data"]}, data, allowed)
    tokenizer = load_tokenizer(run / SETUP)
    encoder = rebuild(told["encoder"])
    assert isinstance(encoder, Bert)
    job = _Job(config, build_model(encoder.config, nsp=config.nsp), tokenizer, parts)
    if checkpoint.committed(run / CHECKPOINTS):
        return job, None
    if config.from_weights is not None:
        now = {
            "weights": {**told["weights"], "sha256": weights_hash(config.from_weights)}
        }
        refuse_changes(run, {"weights": told["weights"]}, now, allowed)
    return job, initial(config, tokenizer)[1]


def _train(
    job: _Job, run: Path, params: Params | None, display: Display | None
) -> dict[str, Any]:
    """Trains from the newest checkpoint, or from ``params`` if there is none."""
    config = job.config
    training = training_of(config, job.model, job.tokenizer, job.parts["train"])
    with stop_requests() as stop:
        state, memory = first_state(job.model, training, run, params)
        _introduce(job, training, run)
        evaluate = _evaluate(job, training, stop) if "dev" in job.parts else None
        start = int(state.step)
        also = None
        if config.tensorboard:
            also = tensorboard_writer(run / "tensorboard", start)
        own = Progress(training.total_steps, start=start)
        with own if display is None else nullcontext(display) as shown:
            state, memory = fit(
                training,
                state,
                evaluate,
                habits=Habits(
                    eval_every=config.eval_every,
                    save_every=config.save_every,
                    max_skipped=config.max_skipped,
                    score="mlm_accuracy",
                ),
                memory=memory,
                folder=run,
                also=also,
                stop=stop,
                display=shown,
            )
        dev = evaluate(state.params) if evaluate is not None else {}
        if dev is None:
            stop.check("trained; `tl-jax resume` scores and exports it")
        return _finish(job, run, state, dev or {})


def training_of(
    config: PretrainBertConfig, model: Model, tokenizer: Tokenizer, train: Prepared
) -> Training:
    """What is trained on what, and how."""
    placement = choose_placement(config.placement, config.devices)
    stream = stream_of(config, train, tokenizer, placement.count * config.accumulate)
    total = config.steps or config.epochs * stream.steps_per_epoch
    return Training(
        loss=pretraining.loss(model),
        stream=stream,
        stages=EVERYTHING,
        schedule=warmup_linear(
            config.learning_rate, total, math.ceil(config.warmup * total)
        ),
        total_steps=total,
        placement=placement,
        weight_decay=config.weight_decay,
        clip=config.clip or None,
        bias_correction=config.bias_correction,
        accumulate=config.accumulate,
        seed=config.seed,
    )


def _introduce(job: _Job, training: Training, run: Path) -> None:
    """Shows what is trained on what, where, before it begins."""
    assert isinstance(job.model.encoder, Bert)
    sizes = job.model.encoder.config
    tell(f"BERT, {sizes.num_layers} layers of width {sizes.hidden_size}")
    for name, part in job.parts.items():
        counts, width = part.counts, part.row_length
        share = counts["tokens"] / (counts["rows"] * width)
        tell(
            f"{name}: {counts['examples']:,} examples of {counts['documents']:,} "
            f"documents in {counts['rows']:,} rows of {width}, {share:.1%} of them text"
        )
    devices = training.placement.devices
    kind = devices[0].device_kind
    tell(f"{training.placement.kind} on {len(devices)} × {kind}; run directory {run}")


def _evaluate(job: _Job, training: Training, stop: StopRequest) -> Evaluate:
    """Scores parameters on the dev text, always behind the same masks."""
    placement = training.placement
    stream = stream_of(job.config, job.parts["dev"], job.tokenizer, placement.count)
    step = placement.evaluate(eval_step(training.loss))

    def evaluate(params: Params) -> dict[str, float] | None:
        total = None
        for n in range(stream.steps_per_epoch):
            if stop.requested is not None:
                return None
            sums = jax.device_get(step(params, stream.batch(n)))
            total = sums if total is None else add(total, sums)
        assert total is not None
        scores = mean(total)
        return {**scores, "perplexity": math.exp(min(scores["mlm_loss"], 700))}

    return evaluate


def _finish(
    job: _Job, run: Path, state: TrainState, dev: dict[str, float]
) -> dict[str, Any]:
    """Exports the model and stores the results."""
    folder = run / MODEL
    shutil.rmtree(folder, ignore_errors=True)
    encoder = job.model.encoder
    assert isinstance(encoder, Bert)
    params = jax.device_get(state.params)
    save_bert(folder, encoder.config, params, job.model.head, tokenizer=job.tokenizer)
    results = {"steps": int(state.step), "model": str(folder), "dev": dev}
    write_json(run / RESULTS, results)
    tell(f"`tl-jax finetune --weights {folder}` takes it from here")
    return results
