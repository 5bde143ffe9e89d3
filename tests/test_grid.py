"""The product: every representation with every head under every plan."""

from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pytest
from helpers import drawn, padded, random_examples, tiny_bert, tiny_word_vectors

from tl_jax.data.examples import Examples, make_examples
from tl_jax.data.packing import pack
from tl_jax.models import heads
from tl_jax.models.compose import Model, compose, flatten_paths
from tl_jax.tasks import (
    classification,
    regression,
    span_qa,
    span_windows,
    srl,
    tagging,
    word_tags,
)
from tl_jax.training.step import create_state, train_step
from tl_jax.transfer.presets import ENCODER_PLANS, WORD_VECTOR_PLANS, named_plan
from tl_jax.transfer.schedules import warmup_linear

TAGS = 5
REPRESENTATIONS = {
    "bert": (tiny_bert, {}),
    "roberta": (
        tiny_bert,
        {"type_vocab_size": 1, "position_offset": 2, "model_type": "roberta"},
    ),
    "electra": (tiny_bert, {"embedding_size": 8, "pooler_activation": "gelu"}),
    "words": (tiny_word_vectors, {}),
    "words, pairs compared": (tiny_word_vectors, {"segments": "compare"}),
    "words, segments embedded": (tiny_word_vectors, {"segments": "embed"}),
}
HEADS = {
    "classify": (heads.Classify(3), classification),
    "regress": (heads.Classify(1), regression),
    "tag": (heads.Tag(TAGS), tagging),
    "tag, crf": (heads.TagCrf(TAGS), tagging),
    "roles": (heads.Tag(TAGS), srl),
    "span": (heads.Span(), span_qa),
}


def all_targets() -> Examples:
    """Six examples with what each of the tasks is to learn."""
    plain = random_examples(6)
    draw = np.random.default_rng(0)
    cuts = plain.offsets[1:-1]
    lengths = plain.lengths
    return make_examples(
        np.split(plain.tokens, cuts),
        np.split(plain.types, cuts),
        targets={
            classification.LABEL: plain.targets["label"],
            regression.VALUE: draw.normal(size=6),
            span_windows.START: draw.integers(0, lengths),
            span_windows.END: draw.integers(0, lengths),
        },
        token_targets={word_tags.TAG: [draw.integers(0, 2, n) for n in lengths]},
    )


def model_of(representation: str, head: nn.Module) -> Model:
    make, changes = REPRESENTATIONS[representation]
    return compose(make(dropout=0.0, **changes).encoder, head)


BATCH = pack(all_targets(), range(6), padded(), batch_size=6)


@pytest.mark.parametrize("representation", REPRESENTATIONS)
@pytest.mark.parametrize("head", HEADS)
def test_every_head_fits_every_representation_under_every_plan(
    representation: str, head: str
) -> None:
    module, task = HEADS[head]
    model = model_of(representation, module)
    params = drawn(model)
    loss = task.loss(model)
    words = representation.startswith("words")
    plans = WORD_VECTOR_PLANS if words else ENCODER_PLANS
    # What differs within a kind of representation does not touch the plans.
    for name in plans if representation in ("bert", "words") else plans[:1]:
        for stage in named_plan(name, params)[-1:]:
            optimizer = stage.plan.optimizer(params, warmup_linear(1e-3, 10, 1))
            step = train_step(loss, optimizer, stage.plan)

            def take(params: Any, optimizer=optimizer, step=step, stage=stage) -> Any:
                state = create_state(params, optimizer, stage.plan)
                state, sums = step(state, BATCH)
                return flatten_paths(state.params), sums["loss"].total

            leaves, total = jax.eval_shape(take, params)
            before = {path: x.shape for path, x in flatten_paths(params).items()}
            assert {path: x.shape for path, x in leaves.items()} == before
            assert total.shape == ()


@pytest.mark.parametrize(
    ("representation", "head"),
    [
        ("words", "tag, crf"),
        ("words, segments embedded", "span"),
        ("bert", "roles"),
        ("electra", "regress"),
    ],
)
def test_frozen_parts_stay_and_the_rest_learns(representation: str, head: str) -> None:
    module, task = HEADS[head]
    model = model_of(representation, module)
    params = drawn(model)
    (stage,) = named_plan("freeze", params)
    optimizer = stage.plan.optimizer(params, lambda step: 1e-2, clip=1.0)
    step = jax.jit(train_step(task.loss(model), optimizer, stage.plan))
    state = create_state(params, optimizer, stage.plan)
    losses = []
    for _ in range(8):
        state, sums = step(state, BATCH)
        losses.append(float(sums["loss"].total / sums["loss"].weight))
    assert losses[-1] < losses[0]
    _, frozen = stage.plan.split(params)
    fixed = flatten_paths(frozen)
    assert fixed
    for path, leaf in flatten_paths(state.params).items():
        same = np.array_equal(leaf, flatten_paths(params)[path])
        assert same or path not in fixed, path
