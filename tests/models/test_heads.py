import functools
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.batches import lay, random_examples, slot_values, token_values
from oracles.record import ARCHITECTURES, LENGTHS, VOCABULARY, run, tiny_model

from tl_jax.interop.huggingface import load_bert_model
from tl_jax.models import heads
from tl_jax.models.bert import Bert, BertConfig
from tl_jax.models.compose import Model, compose, flatten_paths
from tl_jax.models.layers import Features
from tl_jax.models.word_vectors import WordVectors, WordVectorsConfig

ORACLES = Path(__file__).parents[1] / "oracles"
TOLERANCE = 1e-5
# Both of one shape, so that they share a compilation.
PADDED = [[0], [1], [2], [3], [4]]
PACKED = [[], [4, 0, 3], [2], [1], []]
LENGTH, SLOTS = 16, 3
EXAMPLES = random_examples(LENGTHS, VOCABULARY)

SLOT_HEADS = {"classify": heads.Classify(3, 0.5), "next": heads.NextSentence()}
TOKEN_HEADS = {"tag": heads.Tag(4, 0.5), "span": heads.Span()}
TIED_HEADS = {"masked": heads.MaskedLanguageModel(), "pretrain": heads.Pretrain()}
BERT = BertConfig(
    vocab_size=VOCABULARY,
    hidden_size=16,
    num_layers=1,
    num_heads=4,
    intermediate_size=24,
    max_positions=20,
    hidden_dropout=0.4,
    attention_dropout=0.4,
)


def word_vectors(pooling, bidirectional=True):
    return WordVectors(
        WordVectorsConfig(
            VOCABULARY,
            embedding_size=6,
            hidden_size=5,
            bidirectional=bidirectional,
            pooling=pooling,
        )
    )


MODELS = {
    **{
        f"bert-{name}": compose(Bert(BERT), head)
        for name, head in (SLOT_HEADS | TOKEN_HEADS | TIED_HEADS).items()
    },
    **{
        f"words-{pooling}": compose(word_vectors(pooling), SLOT_HEADS["classify"])
        for pooling in ("last", "max", "mean")
    },
    "words-last-forward": compose(word_vectors("last", False), SLOT_HEADS["next"]),
    **{
        f"words-{name}": compose(word_vectors("none"), head)
        for name, head in (TOKEN_HEADS | TIED_HEADS).items()
        if name != "pretrain"
    },
}


def rows_of(rows):
    return lay(EXAMPLES, rows, LENGTH, slots=SLOTS, gap=1 if rows is PACKED else 0)


def drawn(tree, seed=0):
    """Draws parameters of the shapes of a tree, large so that faults show."""
    draw = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: draw.normal(0.1, 0.3, x.shape).astype(np.float32), tree
    )


@functools.lru_cache
def parameters(model):
    return drawn(jax.eval_shape(model.init, jax.random.key(0), rows_of(PADDED)))


def coefficients(batch, logits):
    """Draws a number for each logit, keyed by example and position, 0 elsewhere."""
    draw = np.random.default_rng(1)
    shape = logits.shape[2:]
    slot_wise = logits.shape[1] == SLOTS
    sizes = [shape if slot_wise else (n, *shape) for n in LENGTHS]
    values = [draw.normal(size=size) for size in sizes]
    out = np.zeros(logits.shape, np.float32)
    for row, ids in enumerate(batch.ids):
        for slot, number in enumerate(ids):
            if number >= 0:
                here = slot if slot_wise else batch.example[row] == slot + 1
                out[row, here] = values[number]
    return out


@functools.partial(jax.jit, static_argnums=0)
def predict(model, params, batch):
    return model.apply(params, batch, train=False)


@functools.partial(jax.jit, static_argnums=(0, 4))
def loss_and_gradient(model, params, batch, weights, train):
    def loss(params):
        logits = model.apply(params, batch, jax.random.key(7), train=train)
        terms = jax.tree.map(
            lambda x, c: (jax.nn.log_softmax(x) * c).sum(), logits, weights
        )
        return sum(jax.tree.leaves(terms)), logits

    return jax.value_and_grad(loss, has_aux=True)(params)


def evaluate(model, params, rows, train):
    batch = rows_of(rows)
    shapes = jax.eval_shape(lambda p: model.apply(p, batch, train=False), params)
    weights = jax.tree.map(lambda x: coefficients(batch, x), shapes)
    (loss, logits), gradient = loss_and_gradient(model, params, batch, weights, train)
    return loss, logits, gradient


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_packed_gives_the_losses_and_gradients_of_padded(name, train):
    model = MODELS[name]
    params = parameters(model)
    loss, _, gradient = evaluate(model, params, PADDED, train)
    packed, logits, packed_gradient = evaluate(model, params, PACKED, train)
    np.testing.assert_allclose(packed, loss, rtol=TOLERANCE, atol=TOLERANCE)
    wanted, found = flatten_paths(gradient), flatten_paths(packed_gradient)
    for path in wanted:
        np.testing.assert_allclose(
            found[path], wanted[path], rtol=1e-4, atol=TOLERANCE, err_msg=path
        )
    # Rows 0 and 4 are all padding, and some slots are empty.
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(logits))


@pytest.mark.parametrize("name", ["bert-classify", "bert-tag", "words-max"])
def test_training_drops_out_and_depends_on_the_key_alone(name):
    model, batch = MODELS[name], rows_of(PADDED)
    params = parameters(model)
    noisy = jax.jit(functools.partial(model.apply, train=True))
    one, two, again = (noisy(params, batch, jax.random.key(n)) for n in (1, 2, 1))
    np.testing.assert_array_equal(one, again)
    assert abs(one - two).max() > 0.01
    quiet = jax.jit(functools.partial(model.apply, train=False))
    one = quiet(params, batch, jax.random.key(1))
    np.testing.assert_array_equal(one, quiet(params, batch))


@pytest.mark.parametrize("head", [heads.Classify(3, 0.5), heads.Tag(3, 0.5)])
def test_the_heads_own_dropout_is_of_its_rate_and_keeps_the_mean(head):
    width = 4000
    batch = rows_of(PADDED)
    ones = np.ones((len(PADDED), LENGTH, width), np.float32)
    pooled = np.ones((len(PADDED), SLOTS, width), np.float32)
    features = Features((ones,), pooled)
    params = head.init(jax.random.key(0), features, batch)["params"]
    params["output"]["kernel"] = np.full((width, 3), 1 / width, np.float32)
    noise = np.random.default_rng(0).integers(0, 2**32, batch.tokens.shape, np.uint32)
    logits = head.apply({"params": params}, features, batch, noise)
    first = logits[:, 0]
    error = abs(first - 1)
    assert error.max() < 6 / np.sqrt(width)
    assert error.mean() > 0.3 / np.sqrt(width)  # the sums' deviation is 1 / √width


@pytest.mark.parametrize(
    ("head", "shapes"),
    [
        (heads.Classify(3), {"output/kernel": (16, 3), "output/bias": (3,)}),
        (heads.Tag(5), {"output/kernel": (16, 5), "output/bias": (5,)}),
        (
            heads.TagCrf(5),
            {
                "output/kernel": (16, 5),
                "output/bias": (5,),
                "start": (5,),
                "between": (5, 5),
                "end": (5,),
            },
        ),
        (heads.Span(), {"output/kernel": (16, 2), "output/bias": (2,)}),
        (heads.NextSentence(), {"output/kernel": (16, 2), "output/bias": (2,)}),
        (
            heads.MaskedLanguageModel(),
            {
                "transform/kernel": (16, 16),
                "transform/bias": (16,),
                "norm/scale": (16,),
                "norm/bias": (16,),
                "bias": (40,),
            },
        ),
        (
            heads.Pretrain(),
            {
                "masked_lm/transform/kernel": (16, 16),
                "masked_lm/transform/bias": (16,),
                "masked_lm/norm/scale": (16,),
                "masked_lm/norm/bias": (16,),
                "masked_lm/bias": (40,),
                "next_sentence/output/kernel": (16, 2),
                "next_sentence/output/bias": (2,),
            },
        ),
    ],
)
def test_parameter_paths_are_those_of_the_documentation(head, shapes):
    params = compose(Bert(BERT), head).init(jax.random.key(0), rows_of(PADDED))
    found = {path: x.shape for path, x in flatten_paths(params["head"]).items()}
    assert found == shapes


def test_a_crfs_emissions_are_the_scores_of_tag():
    batch = rows_of(PADDED)
    states = np.random.default_rng(0).normal(size=(5, LENGTH, 8)).astype(np.float32)
    features = Features((states,), None)
    head = heads.TagCrf(4, 0.5)
    initial = head.init(jax.random.key(0), features, batch)["params"]
    assert all(float(abs(initial[n]).max()) == 0 for n in ("start", "between", "end"))
    params = drawn(initial)
    noise = np.random.default_rng(0).integers(0, 2**32, batch.tokens.shape, np.uint32)
    scores = head.apply({"params": params}, features, batch, noise)
    tag = {"params": {"output": params["output"]}}
    wanted = heads.Tag(4, 0.5).apply(tag, features, batch, noise)
    np.testing.assert_array_equal(scores.emissions, wanted)
    for name, found in scores.transitions._asdict().items():
        np.testing.assert_array_equal(found, params[name])


def test_masked_lm_follows_its_formula():
    draw = np.random.default_rng(0)
    width = 6
    states = draw.normal(size=(5, LENGTH, 8)).astype(np.float32)
    table = draw.normal(size=(VOCABULARY, width)).astype(np.float32)
    head = heads.MaskedLanguageModel(activation="relu", layer_norm_eps=0.1)
    features, batch = Features((states,), None, table), rows_of(PADDED)
    params = drawn(head.init(jax.random.key(0), features, batch)["params"])
    p = jax.tree.map(np.float64, params)
    hidden = states @ p["transform"]["kernel"] + p["transform"]["bias"]
    hidden = np.maximum(hidden, 0)
    centred = hidden - hidden.mean(axis=-1, keepdims=True)
    normed = centred / np.sqrt(hidden.var(axis=-1, keepdims=True) + 0.1)
    normed = normed * p["norm"]["scale"] + p["norm"]["bias"]
    wanted = np.einsum("BTE,VE->BTV", normed, table) + p["bias"]
    found = head.apply({"params": params}, features, batch)
    np.testing.assert_allclose(found, wanted, rtol=TOLERANCE, atol=TOLERANCE)


def test_listed_tokens_get_the_scores_that_they_get_among_all():
    draw = np.random.default_rng(1)
    states = draw.normal(size=(5, LENGTH, 8)).astype(np.float32)
    table = draw.normal(size=(VOCABULARY, 8)).astype(np.float32)
    features, batch = Features((states,), None, table), rows_of(PADDED)
    head = heads.MaskedLanguageModel()
    params = {"params": drawn(head.init(jax.random.key(0), features, batch)["params"])}
    columns = draw.integers(0, LENGTH, (5, 3)).astype(np.int32)
    listed = replace(batch, targets={heads.SCORED: columns})
    every = np.asarray(head.apply(params, features, batch))
    some = head.apply(params, features, listed)
    wanted = np.stack([every[row, columns[row]] for row in range(5)])
    np.testing.assert_allclose(some, wanted, rtol=0, atol=TOLERANCE)


def test_the_tied_table_gets_the_gradient_of_both_its_uses():
    model = compose(Bert(BERT), heads.MaskedLanguageModel())
    batch = rows_of(PADDED)
    params = parameters(model)

    def unnormalised(params):
        logits = model.apply(params, batch, train=False)
        return jnp.where(batch.mask[:, :, None], logits, 0)[..., :5].sum()

    gradient = jax.jit(jax.grad(unnormalised))(params)
    table = np.asarray(gradient["encoder"]["embeddings"]["word"]["embedding"])
    seen = np.unique(batch.tokens[np.asarray(batch.mask)])
    unseen = np.setdiff1d(np.arange(VOCABULARY), seen)
    scored, neither = unseen[unseen < 5], unseen[unseen >= 5]
    assert len(scored) and len(neither)
    assert abs(table[scored]).max() > 0.1  # as an output only
    assert (table[neither] == 0).all()
    assert abs(table[seen[seen >= 5]]).max() > 0.1  # as an input only


@pytest.mark.parametrize(
    "head", [heads.Classify(2), heads.NextSentence(), heads.Pretrain()]
)
def test_heads_of_one_vector_refuse_an_encoder_that_makes_none(head):
    batch = rows_of(PADDED)
    states = np.zeros((5, LENGTH, 4), np.float32)
    features = Features((states,), None, np.zeros((VOCABULARY, 4), np.float32))
    with pytest.raises(ValueError, match="pooling"):
        head.init(jax.random.key(0), features, batch)


@pytest.mark.parametrize("head", list(TIED_HEADS.values()))
def test_tied_heads_refuse_an_encoder_without_a_word_embedding(head):
    states = np.zeros((5, LENGTH, 4), np.float32)
    features = Features((states,), np.zeros((5, SLOTS, 4), np.float32))
    with pytest.raises(ValueError, match="word embedding"):
        head.init(jax.random.key(0), features, rows_of(PADDED))


@pytest.mark.parametrize("name", SLOT_HEADS | TOKEN_HEADS | TIED_HEADS)
def test_logits_are_float32_and_close_in_bfloat16(name):
    head = (SLOT_HEADS | TOKEN_HEADS | TIED_HEADS)[name]
    batch = rows_of(PADDED)
    model = compose(Bert(BERT), head)
    params = parameters(model)
    rough = compose(Bert(replace(BERT, dtype="bfloat16")), head)
    pairs = zip(
        jax.tree.leaves(predict(rough, params, batch)),
        jax.tree.leaves(predict(model, params, batch)),
        strict=True,
    )
    for found, wanted in pairs:
        assert found.dtype == jnp.float32
        error = abs(found - wanted)
        assert 0 < error.max() < 0.3 and error.mean() < 0.05


def named_logits(architecture, logits, batch):
    """Cuts our logits into {transformers' name: {example: values}}."""
    if architecture == "BertForPreTraining":
        return {
            "prediction_logits": token_values(logits.masked_lm, batch),
            "seq_relationship_logits": slot_values(logits.next_sentence, batch),
        }
    if architecture == "BertForQuestionAnswering":
        return {
            "start_logits": token_values(logits[..., 0], batch),
            "end_logits": token_values(logits[..., 1], batch),
        }
    slot_wise = logits.shape[1] == SLOTS
    cut = slot_values if slot_wise else token_values
    return {"logits": cut(logits, batch)}


def assert_logits(architecture, model: Model, params, outputs):
    for rows in (PADDED, PACKED):
        batch = rows_of(rows)
        found = named_logits(architecture, predict(model, params, batch), batch)
        assert found.keys() == {name for name in outputs if "logits" in name}
        for name, values in found.items():
            assert sorted(values) == list(range(len(LENGTHS)))
            for example, value in values.items():
                wanted = outputs[name][example]
                if value.shape != wanted.shape:  # per token, with padding
                    wanted = wanted[: LENGTHS[example]]
                np.testing.assert_allclose(
                    value, wanted, rtol=TOLERANCE, atol=TOLERANCE
                )


WITH_HEADS = [name for name in ARCHITECTURES if name != "BertModel"]


@pytest.mark.parametrize("architecture", WITH_HEADS)
def test_recorded_models_give_their_logits(architecture):
    folder = ORACLES / "bert" / architecture
    outputs = np.load(folder / "expected.npz")
    assert_logits(architecture, *load_bert_model(folder), outputs)


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
@pytest.mark.parametrize("architecture", WITH_HEADS)
def test_logits_are_torchs(architecture, activation, tmp_path):
    pytest.importorskip("transformers")
    model = tiny_model(architecture, activation, seed=11)
    model.save_pretrained(tmp_path)
    batch = lay(EXAMPLES, PADDED, max(LENGTHS))
    outputs = run(model, batch.tokens, batch.types, batch.mask)
    assert_logits(architecture, *load_bert_model(tmp_path), outputs)
