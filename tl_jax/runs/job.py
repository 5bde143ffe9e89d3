"""A run with all that it computes on: data, model and what the options leave open."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax

from tl_jax.data.examples import Examples, make_examples
from tl_jax.data.packing import Layout, pack
from tl_jax.data.stream import TrainingStream
from tl_jax.files.errors import ConfigError, DataError
from tl_jax.files.sources import fingerprint, resolve
from tl_jax.models.batch import Batch
from tl_jax.models.bert import Bert
from tl_jax.models.compose import Model, Params, compose, graft
from tl_jax.models.heads import Classify
from tl_jax.models.word_vectors import WordVectors
from tl_jax.runs.config import FinetuneConfig
from tl_jax.runs.data import Part, read_part
from tl_jax.runs.encoders import (
    Representation,
    TextEncoder,
    describe,
    load_representation,
)
from tl_jax.runs.folder import Setup, versions
from tl_jax.runs.tell import tell
from tl_jax.tasks import classification
from tl_jax.training.loop import Training
from tl_jax.training.placement import choose_placement
from tl_jax.training.predict import Predict, predictor
from tl_jax.transfer.presets import named_plan, stages_from_json, stages_to_json
from tl_jax.transfer.schedules import warmup_then_linear

EVAL_BATCH = 64


@dataclass(frozen=True, eq=False)
class Job:
    """A run with all that it computes on.

    Attributes:
      setup: What it starts from.
      model: Encoder and head.
      text: The tokenizer or vocabulary.
      parts: The data by part: train, dev and perhaps test.
      examples: The same, encoded.
    """

    setup: Setup
    model: Model
    text: TextEncoder
    parts: Mapping[str, Part]
    examples: Mapping[str, Examples]


def prepare(config: FinetuneConfig) -> tuple[Job, Params]:
    """Reads data and weights, and settles what the options leave open.

    Returns:
      The job, and its parameters with the pretrained ones in their places.
    """
    parts = read_parts(config)
    train = parts["train"]
    names = classification.label_names(train.rows.labels or [])
    if len(names) < 2:
        found = f"only the label {names[0]!r}" if names else "no labels"
        raise DataError(f"{train.name} holds {found}; two classes are the fewest.")
    texts = [*train.rows.texts, *(train.rows.pairs or [])]
    representation = load_representation(config, texts)
    tell(representation.told)
    config = _settle(config, representation)
    model = build_model(representation.encoder, len(names))
    examples = encode_parts(parts, representation.text, names, config.max_length)
    sample = sample_batch(representation.text, config)
    drawn = model.init(jax.random.key(config.seed), sample)
    params = graft(drawn, **representation.weights)
    assert config.plan is not None
    source = {"source": config.weights, "sha256": fingerprint(resolve(config.weights))}
    setup = Setup(
        config=config,
        encoder=describe(representation.encoder),
        labels=names,
        plan=stages_to_json(named_plan(config.plan, params)),
        data={name: part.fingerprint() for name, part in parts.items()},
        weights=source,
        versions=versions(),
    )
    return Job(setup, model, representation.text, parts, examples), params


def build_model(encoder: Bert | WordVectors, classes: int) -> Model:
    """Pairs an encoder with a classification head.

    BERT's pooled vector is dropped out again, as in the paper; the LSTM's states
    already are.
    """
    dropout = encoder.config.hidden_dropout if isinstance(encoder, Bert) else 0.0
    return compose(encoder, Classify(classes, dropout=dropout))


def read_parts(config: FinetuneConfig) -> dict[str, Part]:
    """Reads train, dev and, where it is named, test data."""
    parts = {
        "train": read_part(config.train, config),
        "dev": read_part(config.dev, config),
    }
    if config.test is not None:
        parts["test"] = read_part(config.test, config)
    paired = {name: part.rows.pairs is not None for name, part in parts.items()}
    if len(set(paired.values())) > 1:
        kinds = ", ".join(
            f"{n}: {'pairs' if p else 'texts'}" for n, p in paired.items()
        )
        raise ConfigError(f"The parts of the data are of different kinds ({kinds}).")
    return parts


def encode_parts(
    parts: Mapping[str, Part],
    text: TextEncoder,
    names: Sequence[str],
    max_length: int,
) -> dict[str, Examples]:
    """Encodes every part of the data with its labels."""
    return {
        name: classification.featurise_rows(
            text, part.rows, names, max_length=max_length
        )
        for name, part in parts.items()
    }


def layout_of(config: FinetuneConfig) -> Layout:
    """How a run lays examples into rows."""
    return Layout(packed=bool(config.packed), max_length=config.max_length)


def job_predictor(job: Job) -> Predict:
    """Log P of every class, by a job's model on its devices."""
    config = job.setup.config
    placement = choose_placement(config.placement, config.devices)
    function = classification.log_probabilities(job.model)
    return predictor(function, placement, layout_of(config), EVAL_BATCH)


def training_of(job: Job) -> Training:
    """What a job trains on what, and how."""
    config = job.setup.config
    assert config.learning_rate is not None
    placement = choose_placement(config.placement, config.devices)
    stream = TrainingStream(
        job.examples["train"],
        config.batch_size,
        layout_of(config),
        config.seed,
        rows_multiple_of=placement.count * config.accumulate,
        epochs=config.epochs,
    )
    total = config.epochs * stream.steps_per_epoch
    warmup = math.ceil(config.warmup * total)
    return Training(
        loss=classification.loss(job.model),
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


def _settle(config: FinetuneConfig, representation: Representation) -> FinetuneConfig:
    vectors = describe(representation.encoder)["kind"] == "word_vectors"
    defaults: dict[str, Any] = {
        "plan": "slow" if vectors else "full",
        "learning_rate": 1e-3 if vectors else 5e-5,
        "packed": not vectors,
        "pooling": representation.encoder.config.pooling,
    }
    open_ones = {k: v for k, v in defaults.items() if getattr(config, k) is None}
    return replace(config, **open_ones)


def sample_batch(text: TextEncoder, config: FinetuneConfig) -> Batch:
    """A batch of one short example, for the shapes of a model's parameters."""
    encoded = text.encode(["?"], max_length=config.max_length)
    examples = make_examples(encoded.tokens, encoded.types)
    return pack(examples, [0], layout_of(config), batch_size=1)
