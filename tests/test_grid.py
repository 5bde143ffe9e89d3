"""The product: every representation with every head under every plan."""

from dataclasses import replace
from functools import partial

import flax.linen as nn
import jax
import numpy as np
import pytest
from helpers import (
    VOCABULARY,
    drawn,
    padded,
    random_examples,
    tiny_bert,
    tiny_word_vectors,
)

from tl_jax.data.examples import Examples, TokenInputs, make_examples
from tl_jax.data.masking import NEXT_SENTENCE, Masking, mask
from tl_jax.data.packing import pack
from tl_jax.models import heads
from tl_jax.models.compose import Model, compose, flatten_paths
from tl_jax.models.elmo import ElmoConfig
from tl_jax.models.elmo_encoder import CHARACTERS, Elmo, ElmoEncoderConfig
from tl_jax.tasks import (
    classification,
    pretraining,
    regression,
    span_qa,
    span_windows,
    srl,
    tagging,
    word_tags,
)
from tl_jax.text.characters import word_characters
from tl_jax.training.step import create_state, train_step
from tl_jax.transfer.presets import (
    ELMO_PLANS,
    ENCODER_PLANS,
    WORD_VECTOR_PLANS,
    named_plan,
)

TAGS, LENGTH, RATE = 5, 6, 1e-2
BILM = ElmoConfig(
    character_size=4,
    filters=((1, 4),),
    num_highways=1,
    max_characters=6,
    projection_size=4,
    cell_size=4,
    num_layers=1,
)


one_layer = partial(tiny_bert, num_layers=1)


def tiny_elmo(*, dropout: float) -> Model:
    """Both of ELMo's mixes around a biLSTM, with word vectors beside the first."""
    config = ElmoEncoderConfig(
        BILM,
        at="both",
        vocab_size=VOCABULARY,
        embedding_size=8,
        hidden_size=8,
        dropout=dropout,
        mix_dropout=dropout,
    )
    return compose(Elmo(config), heads.Classify(3))


REPRESENTATIONS = {
    "bert": (one_layer, {}),
    "roberta": (
        one_layer,
        {"type_vocab_size": 1, "position_offset": 2, "model_type": "roberta"},
    ),
    "electra": (one_layer, {"embedding_size": 8, "pooler_activation": "gelu"}),
    "words": (tiny_word_vectors, {}),
    "words, pairs compared": (tiny_word_vectors, {"segments": "compare"}),
    "words, segments embedded": (tiny_word_vectors, {"segments": "embed"}),
    "elmo": (tiny_elmo, {}),
}
HEADS = {
    "classify": (heads.Classify(3), classification),
    "regress": (heads.Classify(1), regression),
    "tag": (heads.Tag(TAGS), tagging),
    "tag, crf": (heads.TagCrf(TAGS), tagging),
    "roles": (heads.Tag(TAGS), srl),
    "span": (heads.Span(), span_qa),
    "masked lm": (heads.MaskedLanguageModel(), pretraining),
    "next sentence": (heads.NextSentence(), classification),
    "pretrain": (heads.Pretrain(), pretraining),
}
# These are tied to the encoder's word embedding, and ELMo reads characters.
TIED = ("masked lm", "pretrain")


def all_targets() -> Examples:
    """Six examples with what each of the tasks is to learn, and words to spell."""
    plain = random_examples(6, longest=LENGTH)
    draw = np.random.default_rng(0)
    cuts = plain.offsets[1:-1]
    lengths = plain.lengths
    examples = make_examples(
        np.split(plain.tokens, cuts),
        np.split(plain.types, cuts),
        targets={
            classification.LABEL: plain.targets["label"] % 2,
            regression.VALUE: draw.normal(size=6),
            span_windows.START: draw.integers(0, lengths),
            span_windows.END: draw.integers(0, lengths),
            NEXT_SENTENCE: draw.integers(0, 2, 6),
        },
        token_targets={word_tags.TAG: [draw.integers(0, 2, n) for n in lengths]},
    )
    words = word_characters([f"w{n}" for n in range(VOCABULARY)], length=6)
    return replace(examples, inputs=TokenInputs(examples.tokens, {CHARACTERS: words}))


BATCH = pack(all_targets(), range(6), padded(LENGTH), batch_size=6)
MASKED = mask(BATCH, Masking(VOCABULARY, mask_id=3, special=(), rate=0.4))


def model_of(representation: str, head: nn.Module) -> Model:
    make, changes = REPRESENTATIONS[representation]
    return compose(make(dropout=0.0, **changes).encoder, head)


def plans_of(representation: str) -> tuple[str, ...]:
    """All plans of a kind of representation, or of its variants the most and least.

    What differs within a kind does not touch the plans but by its parameters' names.
    """
    plans = {"words": WORD_VECTOR_PLANS, "elmo": ELMO_PLANS}
    kind = representation.partition(",")[0]
    all_of_kind = plans.get(kind, ENCODER_PLANS)
    whole = representation in ("bert", "words", "elmo")
    return all_of_kind if whole else (all_of_kind[0], "freeze")


def unread(path: str, head: nn.Module) -> bool:
    """True for what the loss does not depend on.

    A softmax over tokens hears no constant, and heads of tokens do not read the pooler.
    """
    if path.startswith("encoder/pooler/"):
        pooled = heads.Classify | heads.NextSentence | heads.Pretrain
        return not isinstance(head, pooled)
    if path in ("head/output/bias", "encoder/layer_0/feed_forward_norm/bias"):
        return isinstance(head, heads.Span)
    return path.endswith("attention/key/bias")


@pytest.mark.parametrize("representation", REPRESENTATIONS)
@pytest.mark.parametrize("head", HEADS)
def test_every_head_learns_over_every_representation_under_every_plan(
    representation: str, head: str
) -> None:
    """Adam's first step is as long as the rate of the rule, and 0 where it freezes."""
    module, task = HEADS[head]
    model = model_of(representation, module)
    batch = MASKED if task is pretraining else BATCH
    if representation == "elmo" and head in TIED:
        with pytest.raises(ValueError, match="has none"):
            drawn(model, batch=batch)
        return
    params = drawn(model, batch=batch)
    before = flatten_paths(params)
    loss = task.loss(model)
    stages = {
        stage.plan: f"{name}, epoch {stage.epoch:g}"
        for name in plans_of(representation)
        for stage in named_plan(name, params, vectors_read=True)
    }
    for plan, told in stages.items():
        optimizer = plan.optimizer(params, RATE, weight_decay=0.0)
        step = train_step(loss, optimizer, plan)
        state = create_state(params, optimizer, plan)
        # Op by op is sooner than to compile so many programs, but for a biLM.
        with jax.disable_jit(representation != "elmo"):
            state, sums = jax.jit(step)(state, batch)
        assert np.isfinite(sums["loss"].total), told
        after = flatten_paths(state.params)
        assert after.keys() == before.keys()
        for path, rule in plan.match(params).items():
            if rule.frozen:
                same = np.array_equal(after[path], before[path])
                assert same, f"{told}: {path} has moved"
            elif not unread(path, module):
                moved = np.abs(after[path] - before[path]).max()
                wanted = pytest.approx(rule.rate * RATE, rel=0.02)
                assert moved == wanted, f"{told}: {path}"


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
