"""ELMo's pre-training as a run: raw text in, a biLM in bilm-tf's files out.

::

    RUN/
      run.json       what the run starts from; setup/ seals it and holds the vocabulary
      data/          the numbered text by part: train and perhaps dev
      checkpoints/   the last, and the best on dev; the LSTMs' states are among it
      metrics.jsonl  one line a step and one an evaluation
      model/         options.json, lm_weights.hdf5 and vocabulary.txt at the end
      results.json   perplexities on dev
"""

import math
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from tl_jax.data.word_stream import BACKWARD, FORWARD, WordStream
from tl_jax.data.word_text import WordText, open_words
from tl_jax.files.atomic import write_json, writing_folder
from tl_jax.files.errors import DataError
from tl_jax.interop.elmo import save_elmo
from tl_jax.models.batch import Array, Batch
from tl_jax.models.compose import Params
from tl_jax.models.elmo import Carry
from tl_jax.runs.fitting import tell_devices
from tl_jax.runs.folder import (
    CHECKPOINTS,
    RESULTS,
    refuse_changes,
    versions,
    write_setup,
)
from tl_jax.runs.pretrain_config import PretrainElmoConfig
from tl_jax.runs.pretrain_elmo_setup import (
    build_model,
    data_of,
    devices_of,
    prepare_text,
)
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
from tl_jax.tasks.language_model import BiLanguageModel
from tl_jax.text.vocabulary import VOCABULARY, save_vocabulary
from tl_jax.training import checkpoint
from tl_jax.training.loop import Display, Evaluate, Habits, Training
from tl_jax.training.placement import Placement
from tl_jax.training.signals import StopRequest
from tl_jax.transfer.schedules import warmup_linear

KIND = "pretrain_elmo"


@dataclass(frozen=True, eq=False)
class Job:
    """A run with all that it computes on."""

    config: PretrainElmoConfig
    model: BiLanguageModel
    parts: dict[str, WordText]

    def stream(self, part: str, placement: Placement) -> WordStream:
        """The windows of a part of the data."""
        c = self.config
        blocks = placement.count if placement.kind == "pmap" else 1
        characters = c.max_characters if c.input == "characters" else None
        text = self.parts[part]
        try:
            return WordStream(text, c.batch_size, c.unroll, characters, blocks)
        except DataError as error:
            raise DataError(f"{part}: {error}") from error


def pretrain_elmo(
    config: PretrainElmoConfig, out: Path, display: Display | None = None
) -> dict[str, Any]:
    """Pre-trains a biLM on raw text, in a new run directory.

    Args:
      config: The options.
      out: The run directory. Text that an interrupted run had prepared there is used
        again if it is whole and was prepared in the same way.
      display: Is told of every step; by default a bar or lines on stderr.

    Returns:
      The results: perplexities on held-out text, and the folder of the model.

    Raises:
      TlJaxError: Of the kind that says what does not fit; nothing was trained.
      Interrupted: A stop was requested; `resume_pretrain_elmo` goes on.
    """
    config.check()
    devices_of(config)
    made = beginning(out, partial(_set_up, config, out), partial(_reopen, out, set()))
    with made as (job, params):
        return _course(job, out).take(out, params, display)


def resume_pretrain_elmo(
    run: Path, allowed: set[str] | None = None, display: Display | None = None
) -> dict[str, Any]:
    """Goes on with a run, exactly.

    Args:
      run: The run directory.
      allowed: Keys of run.json that may have been changed by hand since.
      display: As for `pretrain_elmo`.

    Raises:
      ConfigError: The folder is no such run, or run.json was changed.
      IntegrityError: The numbered text, the vocabulary or every checkpoint is damaged.
    """
    with going_on(run, partial(_reopen, run, allowed or set())) as (job, params):
        return _course(job, run).take(run, params, display)


def _set_up(config: PretrainElmoConfig, out: Path) -> tuple[Job, Params]:
    """Makes a run's data and first parameters, and writes down what it starts from."""
    parts = prepare_text(config, out)
    job = Job(config, build_model(config, len(parts["train"].vocabulary)), parts)
    told = {
        "kind": KIND,
        "config": asdict(config),
        "encoder": asdict(job.model.config),
        "data": data_of(parts, out),
        "versions": versions(),
    }
    params = _initial(job)
    vocabulary = parts["train"].vocabulary
    write_setup(out, told, lambda to: save_vocabulary(to / VOCABULARY, vocabulary))
    return job, params


def _reopen(run: Path, allowed: set[str]) -> tuple[Job, Params | None]:
    """Loads a run as it was set up; its first parameters only if it has no others."""
    told = read_setup(run, KIND, allowed)
    options: dict[str, Any] = dict(told["config"])
    options |= {name: tuple(options[name]) for name in ("text", "lines", "dev")}
    options["filters"] = tuple(map(tuple, options["filters"]))
    config = PretrainElmoConfig(**options)
    parts = {name: open_words(run / DATA / name) for name in told["data"]}
    data = {"data": data_of(parts, run)}
    refuse_changes(run, {"data": told["data"]}, data, allowed)
    job = Job(config, build_model(config, len(parts["train"].vocabulary)), parts)
    fresh = not checkpoint.committed(run / CHECKPOINTS)
    return job, _initial(job) if fresh else None


def _initial(job: Job) -> Params:
    """Draws the parameters of step 0.

    Raises:
      DataError: A part has fewer words than there are streams.
    """
    devices = devices_of(job.config)
    streams = {part: job.stream(part, devices) for part in job.parts}
    sample = streams["train"].batch(0)
    return job.model.init(jax.random.key(job.config.seed), sample)


def _course(job: Job, run: Path) -> Course:
    """How the run is trained to its end."""
    config = job.config
    training = training_of(job)
    return Course(
        training,
        job.model.init,
        Habits(
            eval_every=config.eval_every,
            save_every=config.save_every,
            max_skipped=config.max_skipped,
            score="log_likelihood",
        ),
        partial(_evaluate, job, training) if "dev" in job.parts else None,
        partial(_introduce, job, training, run),
        partial(_finish, job, run),
        config.tensorboard,
    )


def training_of(job: Job) -> Training:
    """What is trained on what, and how."""
    config = job.config
    placement = devices_of(config)
    stream = job.stream("train", placement)
    total = config.steps or config.epochs * stream.steps_per_epoch
    return Training(
        loss=job.model.loss,
        stream=stream,
        stages=ONE_STAGE,
        schedule=warmup_linear(
            config.learning_rate, total, math.ceil(config.warmup * total)
        ),
        total_steps=total,
        placement=placement,
        weight_decay=0.0,
        clip=config.clip or None,
        seed=config.seed,
        carry=job.model.carry(config.batch_size),
    )


def _introduce(job: Job, training: Training, run: Path) -> None:
    """Shows what is trained on what, where, before it begins."""
    c = job.config
    softmax = f"{c.sampled:,} sampled" if c.sampled else "the full softmax"
    tell(
        f"ELMo, {c.layers} layers of width 2 × {c.projection} with cells of {c.cell}, "
        f"by {c.input}; {job.model.vocab_size:,} words by {softmax}"
    )
    for name, part in job.parts.items():
        counts = part.counts
        unknown = counts["unknown_words"] / counts["words"]
        tell(
            f"{name}: {counts['words']:,} words in {counts['sentences']:,} sentences, "
            f"{unknown:.1%} of them <UNK>"
        )
    tell_devices(training.placement, run)


def _evaluate(job: Job, training: Training, stop: StopRequest) -> Evaluate:
    """Scores parameters on the dev text: every word once in each direction."""
    stream = job.stream("dev", training.placement)

    def read(params: Params, given: Batch) -> tuple[Float[Array, "B 2"], Carry]:
        carry = Carry(*(given.inputs[name] for name in Carry._fields))
        return job.model.losses(params, given, carry)

    take = training.placement.map(read)

    def evaluate(params: Params) -> dict[str, float] | None:
        carry, total = job.model.carry(stream.rows), np.zeros(2)
        for n in range(stream.steps_per_epoch):
            if stop.requested is not None:
                return None
            batch = stream.batch(n)
            batch = replace(batch, inputs={**batch.inputs, **carry._asdict()})
            found, carry = take(params, batch)
            total += np.asarray(found, np.float64).sum(axis=0)
        return perplexities(*(total / len(stream.text)))

    return evaluate


def perplexities(forward: float, backward: float) -> dict[str, float]:
    """The scores of held-out text, from the mean −log p of a word in each direction."""
    loss = (forward + backward) / 2
    means = {f"{FORWARD}_": forward, f"{BACKWARD}_": backward, "": loss}
    found = {f"{way}perplexity": math.exp(min(x, 700)) for way, x in means.items()}
    return {"loss": float(loss), "log_likelihood": -float(loss), **found}


def _finish(
    job: Job, run: Path, params: Params, steps: int, dev: dict[str, float]
) -> dict[str, Any]:
    """Exports the model and stores the results."""
    folder = run / MODEL
    with writing_folder(folder, replace=True) as fresh:
        files = fresh / "options.json", fresh / "lm_weights.hdf5"
        save_elmo(*files, job.model.config, params["encoder"])
        save_vocabulary(fresh / VOCABULARY, job.parts["train"].vocabulary)
    results = {"steps": steps, "model": str(folder), "dev": dev}
    write_json(run / RESULTS, results)
    tell(f"`tl-jax finetune --weights {folder}` takes it from here")
    return results
