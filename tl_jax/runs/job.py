"""A run with all that it computes on: data, model and what the options leave open."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from tl_jax.data.examples import make_examples
from tl_jax.data.packing import Layout, pack
from tl_jax.data.stream import TrainingStream
from tl_jax.files.errors import ConfigError
from tl_jax.metrics.sums import Loss, Ratio, Sums
from tl_jax.models.batch import Batch
from tl_jax.models.bert import Bert, require_segments
from tl_jax.models.compose import Model, Params, compose, flatten_paths, init_from
from tl_jax.models.elmo_encoder import Elmo
from tl_jax.runs.config import FinetuneConfig
from tl_jax.runs.data import Part, kind_of_texts, read_part
from tl_jax.runs.elmo import mix_penalty, settle_elmo, spelt
from tl_jax.runs.elmo_cache import remember_states
from tl_jax.runs.encoders import (
    Encoder,
    Representation,
    TextEncoder,
    describe,
    load_representation,
    stages_of,
    usual_plan,
    weights_hash,
)
from tl_jax.runs.folder import Setup, versions
from tl_jax.runs.stored_head import stored_head
from tl_jax.runs.tasks import task_of
from tl_jax.runs.tell import tell
from tl_jax.tasks.task import Encoded, Segments, Task
from tl_jax.text.encodings import encode
from tl_jax.text.subwords import Tokenizer
from tl_jax.training.loop import Training
from tl_jax.training.placement import choose_placement
from tl_jax.training.predict import Predict, predictor
from tl_jax.transfer.plans import Stage
from tl_jax.transfer.presets import stages_from_json, stages_to_json
from tl_jax.transfer.schedules import warmup_then_linear

EVAL_BATCH = 64
MANY_UNKNOWN = 0.1  # a share of pieces that is told


@dataclass(frozen=True, eq=False)
class Job:
    """A run with all that it computes on.

    Attributes:
      setup: What it starts from.
      task: What is learnt, with its options.
      model: Encoder and head.
      text: The tokenizer or vocabulary.
      parts: The data by part: train, dev and perhaps test.
      encoded: The same as examples.
    """

    setup: Setup
    task: Task
    model: Model
    text: TextEncoder
    parts: Mapping[str, Part]
    encoded: Mapping[str, Encoded]


def prepare(config: FinetuneConfig) -> tuple[Job, Params]:
    """Reads data and weights, and settles what the options leave open.

    Returns:
      The job, and its parameters with the pretrained ones in their places.
    """
    config.check()
    config = config.anchored()
    task = task_of(config)
    parts = read_parts(config, task)
    train = parts["train"].rows
    labels = task.labels(train)
    segments = task.segments(train)
    representation = load_representation(config, task.texts(train), segments)
    tell(representation.told)
    config = _settle(config, task, representation)
    model = build_model(representation.encoder, task, labels)
    encoded = encode_parts(parts, task, representation.text, labels, config)
    sample = sample_batch(representation.text, config)
    stored = stored_head(config.weights, model, labels)
    params = init_from(
        model.init,
        jax.random.key(config.seed),
        sample,
        **representation.weights,
        **stored,
    )
    source = {"source": config.weights, "sha256": weights_hash(config.weights)}
    if config.vectors is not None:
        source["vectors_sha256"] = weights_hash(config.vectors)
    stages = stages_of(config, params)
    _refuse_idle(config, stages, params, representation.drawn)
    setup = Setup(
        config=config,
        encoder=describe(representation.encoder),
        segments=segments,
        labels=labels,
        plan=stages_to_json(stages),
        data={name: part.fingerprint() for name, part in parts.items()},
        weights=source,
        versions=versions(),
    )
    return Job(setup, task, model, representation.text, parts, encoded), params


def _refuse_idle(
    config: FinetuneConfig, stages: Sequence[Stage], params: Params, drawn: str | None
) -> None:
    """Refuses a plan that trains nothing, or not what was drawn beside the weights."""
    trained = {
        path for stage in stages for path in flatten_paths(stage.plan.split(params)[0])
    }
    if not trained:
        raise ConfigError(f"--plan {config.plan}: it leaves nothing to be trained.")
    if drawn is not None and not any(path.startswith(drawn) for path in trained):
        raise ConfigError(
            f"--plan {config.plan}: {config.weights} has no pooler, so that one was "
            "drawn at random, and the plan leaves it as it is. Do without it, by "
            "--pooling mean, or train it."
        )


def build_model(encoder: Encoder, task: Task, labels: Sequence[str]) -> Model:
    """Pairs an encoder with the task's head.

    BERT's vectors are dropped out again, as in the paper; the LSTM's already are.
    """
    dropout = 0.0
    if isinstance(encoder, Bert):
        dropout = encoder.config.hidden_dropout
        if task.by_segments:
            require_segments(encoder.config, f"{type(task).__name__}")
    return compose(encoder, task.head(labels, dropout))


def read_parts(config: FinetuneConfig, task: Task) -> dict[str, Part]:
    """Reads train, dev and, where it is named, test data."""
    files = {"train": config.train, "dev": config.dev, "test": config.test}
    parts = {
        part: read_part(name, part, task, config)
        for part, name in files.items()
        if name is not None
    }
    kinds: dict[str, Segments] = {
        part: task.segments(read.rows) for part, read in parts.items()
    }
    if len(set(kinds.values())) > 1:
        told = ", ".join(
            f"{part}: {kind_of_texts(kind)}" for part, kind in kinds.items()
        )
        raise ConfigError(f"The parts of the data are of different kinds ({told}).")
    return parts


def encode_parts(
    parts: Mapping[str, Part],
    task: Task,
    text: TextEncoder,
    labels: Sequence[str],
    config: FinetuneConfig,
) -> dict[str, Encoded]:
    """Encodes every part of the data, and the training part's targets."""
    for part in parts.values():
        task.check(part.rows, labels)
    return {
        name: encode_rows(
            part.rows, task, text, labels, config, targets=name == "train"
        )
        for name, part in parts.items()
    }


def encode_rows(
    rows: Any,
    task: Task,
    text: TextEncoder,
    labels: Sequence[str],
    config: FinetuneConfig,
    *,
    targets: bool,
) -> Encoded:
    """Encodes rows as the task does, with all that the run's encoder reads of them."""
    length = length_of(config)
    found = task.encode(text, rows, labels, max_length=length, targets=targets)
    if isinstance(text, Tokenizer):
        unknown = float(np.mean(found.examples.tokens == text.special.unk))
        if unknown > MANY_UNKNOWN:
            tell(
                f"{unknown:.0%} of all pieces are the unknown one: this vocabulary "
                "does not know the text's words"
            )
    return found._replace(examples=spelt(found.examples, text))


def with_states(job: Job, params: Params) -> Job:
    """Lets examples bring what a frozen biLM makes of them, computed once and kept."""
    encoder, setup = job.model.encoder, job.setup
    encoded = {
        name: part._replace(
            examples=remember_states(part.examples, setup, encoder, params)
        )
        for name, part in job.encoded.items()
    }
    return replace(job, encoded=encoded)


def length_of(config: FinetuneConfig) -> int:
    """Most tokens of an example, settled."""
    assert config.max_length is not None
    return config.max_length


def layout_of(config: FinetuneConfig) -> Layout:
    """How a run lays examples into rows."""
    return Layout(packed=bool(config.packed), max_length=length_of(config))


def task_predictor(
    task: Task, model: Model, config: FinetuneConfig, batch_size: int = EVAL_BATCH
) -> Predict:
    """What the task decides by, on the run's devices."""
    return predictor(
        task.outputs(model),
        choose_placement(config.placement, config.devices),
        layout_of(config),
        batch_size,
        per_token=task.per_token,
    )


def training_of(job: Job) -> Training:
    """What a job trains on what, and how."""
    config = job.setup.config
    assert config.learning_rate is not None
    placement = choose_placement(config.placement, config.devices)
    stream = TrainingStream(
        job.encoded["train"].examples,
        config.batch_size,
        layout_of(config),
        config.seed,
        rows_multiple_of=placement.count * config.accumulate,
        epochs=config.epochs,
    )
    total = config.epochs * stream.steps_per_epoch
    warmup = math.ceil(config.warmup * total)
    return Training(
        loss=_loss_of(job),
        stream=stream,
        stages=stages_from_json(job.setup.plan),
        schedule=warmup_then_linear(config.learning_rate, total, warmup),
        total_steps=total,
        placement=placement,
        weight_decay=config.weight_decay,
        clip=config.clip or None,
        bias_correction=config.bias_correction,
        accumulate=config.accumulate,
        seed=config.seed,
    )


def _loss_of(job: Job) -> Loss:
    """The task's loss; ELMo adds a penalty to its mean."""
    loss = job.task.loss(job.model)
    penalty = mix_penalty(job.setup.config, job.model.encoder)
    if penalty is None:
        return loss

    def penalised(
        params: Params, batch: Batch, key: jax.Array | None = None, *, train: bool
    ) -> Sums:
        sums = loss(params, batch, key, train=train)
        total, weight = sums["loss"]
        return {**sums, "loss": Ratio(total + weight * penalty(params), weight)}

    return penalised


def _settle(
    config: FinetuneConfig, task: Task, representation: Representation
) -> FinetuneConfig:
    recurrent = not isinstance(representation.encoder, Bert)
    if isinstance(representation.encoder, Elmo):
        config = settle_elmo(config)
    pooling = representation.encoder.config.pooling
    defaults: dict[str, Any] = {
        "max_length": min(task.max_length, representation.max_length),
        "plan": usual_plan(config.weights, representation.encoder),
        "learning_rate": 1e-3 if recurrent else 5e-5,
        "packed": not recurrent,
        "pooling": None if pooling == "none" else pooling,
    }
    open_ones = {k: v for k, v in defaults.items() if getattr(config, k) is None}
    return replace(config, **open_ones)


def sample_batch(text: TextEncoder, config: FinetuneConfig) -> Batch:
    """A batch of one short example, for the shapes of a model's parameters."""
    encoded = encode(text, ["?"], max_length=length_of(config))
    examples = spelt(make_examples(encoded.tokens, encoded.types), text)
    return pack(examples, [0], layout_of(config), batch_size=1)
