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
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax

from tl_jax.data.shards import Prepared, open_prepared
from tl_jax.files.atomic import write_json
from tl_jax.interop.huggingface import save_bert
from tl_jax.metrics.sums import add, mean
from tl_jax.models.batch import Batch
from tl_jax.models.bert import Bert
from tl_jax.models.compose import Model, Params
from tl_jax.runs.encoders import describe, rebuild, weights_hash
from tl_jax.runs.fitting import tell_devices
from tl_jax.runs.folder import (
    CHECKPOINTS,
    RESULTS,
    SETUP,
    refuse_changes,
    versions,
    write_setup,
)
from tl_jax.runs.pretrain_bert_setup import (
    build_model,
    choose_tokenizer,
    data_of,
    initial,
    prepare_parts,
    stream_of,
)
from tl_jax.runs.pretrain_config import PretrainBertConfig as PretrainBertConfig
from tl_jax.runs.pretraining import (
    DATA,
    MODEL,
    ONE_STAGE,
    Course,
    beginning,
    going_on,
    read_setup,
)
from tl_jax.runs.tell import tell
from tl_jax.tasks import pretraining
from tl_jax.text.subwords import Tokenizer, load_tokenizer
from tl_jax.training import checkpoint
from tl_jax.training.loop import Display, Evaluate, Habits, Training
from tl_jax.training.peak import matmul_peak
from tl_jax.training.placement import Placement, choose_placement
from tl_jax.training.processes import leads
from tl_jax.training.signals import StopRequest
from tl_jax.training.step import eval_step
from tl_jax.transfer.schedules import warmup_linear

KIND = "pretrain_bert"
MATMUL_PEAK = "matmul_peak"  # a step's share of it


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
      Interrupted: A stop was requested; `resume_pretrain_bert` goes on.
    """
    config.check()
    choose_placement(config.placement, config.devices)
    made = beginning(out, partial(_set_up, config, out), partial(_reopen, out, set()))
    with made as (job, params):
        return _course(job, out).take(out, params, display)


def resume_pretrain_bert(
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
    with going_on(run, partial(_reopen, run, allowed or set())) as (job, params):
        return _course(job, run).take(run, params, display)


def _set_up(config: PretrainBertConfig, out: Path) -> tuple[_Job, Params]:
    """Makes a run's vocabulary, data and first parameters, and writes them down."""
    tokenizer = choose_tokenizer(config)
    encoder, params = initial(config, tokenizer)
    parts = prepare_parts(config, tokenizer, out)
    job = _Job(config, build_model(encoder, nsp=config.nsp), tokenizer, parts)
    _write_setup(out, job)
    return job, params


def _write_setup(run: Path, job: _Job) -> None:
    source = job.config.from_weights
    told = {
        "kind": KIND,
        "config": asdict(job.config),
        "encoder": describe(job.model.encoder),
        "data": data_of(job.parts, run),
        "weights": {"source": source, "sha256": weights_hash(source)} if source else {},
        "versions": versions(),
    }
    write_setup(run, told, job.tokenizer.save)


def _reopen(run: Path, allowed: set[str]) -> tuple[_Job, Params | None]:
    """Loads a run as it was set up; its first parameters only if it has no others."""
    told = read_setup(run, KIND, allowed)
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


def _course(job: _Job, run: Path) -> Course:
    """How the run is trained to its end."""
    config = job.config
    training = training_of(config, job.model, job.tokenizer, job.parts["train"])
    return Course(
        training,
        job.model.init,
        Habits(
            eval_every=config.eval_every,
            save_every=config.save_every,
            max_skipped=config.max_skipped,
            score="mlm_accuracy",
        ),
        partial(_evaluate, job, training) if "dev" in job.parts else None,
        partial(_introduce, job, training, run),
        partial(_finish, job, run),
        config.tensorboard,
    )


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
        stages=ONE_STAGE,
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
        whole=pretraining.weigh_pairs if jax.process_count() > 1 else None,
        gauge=_gauge(config, model, placement),
        shown=("mlm_accuracy", *["nsp_accuracy"] * config.nsp, "padding", MATMUL_PEAK),
    )


def _gauge(
    config: PretrainBertConfig, model: Model, placement: Placement
) -> Callable[[Batch, float], dict[str, float]]:
    """Tells tokens a second, and the share of what matrix products could reach."""
    assert isinstance(model.encoder, Bert)
    sizes = model.encoder.config
    peak = matmul_peak(placement.devices, config.precision)

    def gauge(batch: Batch, seconds: float) -> dict[str, float]:
        return {
            "tokens_per_second": float(batch.mask.sum()) / seconds,
            MATMUL_PEAK: pretraining.matmul_flops(sizes, batch) / seconds / peak,
        }

    return gauge


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
    tell_devices(training.placement, run)


def _evaluate(job: _Job, training: Training, stop: StopRequest) -> Evaluate:
    """Scores parameters on the dev text, always behind the same masks."""
    placement = training.placement
    stream = stream_of(job.config, job.parts["dev"], job.tokenizer, placement.count)
    step = placement.evaluate(training.on_whole(eval_step(pretraining.loss(job.model))))

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
    job: _Job, run: Path, params: Params, steps: int, dev: dict[str, float]
) -> dict[str, Any]:
    """Exports the model and stores the results."""
    folder = run / MODEL
    results = {"steps": steps, "model": str(folder), "dev": dev}
    if not leads():
        return results
    shutil.rmtree(folder, ignore_errors=True)
    encoder = job.model.encoder
    assert isinstance(encoder, Bert)
    save_bert(folder, encoder.config, params, job.model.head, tokenizer=job.tokenizer)
    write_json(run / RESULTS, results)
    tell(f"`tl-jax finetune --weights {folder}` takes it from here")
    return results
