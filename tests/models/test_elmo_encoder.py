"""The encoder that reads by ELMo: boundaries, mixes, packing, heads, frozen biLM."""

from dataclasses import replace
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tl_jax.data.examples import Examples, TokenInputs, make_examples
from tl_jax.data.packing import Layout, pack
from tl_jax.metrics.sums import Ratio
from tl_jax.models.compose import compose, flatten_paths, unflatten_paths
from tl_jax.models.elmo import BiLm, ElmoConfig
from tl_jax.models.elmo_encoder import Elmo, ElmoEncoderConfig, read_sentences
from tl_jax.models.heads import Classify, Span, Tag, TagCrf
from tl_jax.text.characters import SpeltWords, bounded, distinct_words, word_characters
from tl_jax.training.placement import choose_placement
from tl_jax.training.step import create_state, train_step
from tl_jax.transfer.plans import Plan, Rule

BILM = ElmoConfig(
    character_size=3,
    filters=((1, 4), (2, 4)),
    num_highways=1,
    max_characters=7,
    projection_size=4,
    cell_size=5,
    num_layers=2,
)
CONFIG = ElmoEncoderConfig(
    bilm=BILM, at="both", vocab_size=4, embedding_size=3, hidden_size=4
)
TEXTS = ["a film of joy", "dull", "no plot , no joy", "a bore", "fine !"]
PAIRS = ["joy", "a dull film", "no", "a bore , a bore", "plot"]


def examples_of(texts, pairs=None) -> Examples:
    text = SpeltWords(splits="spaces", length=BILM.max_characters)
    ids = text.pieces(texts)
    seconds = [None] * len(ids) if pairs is None else text.pieces(pairs)
    framed = [text.frame(a, b) for a, b in zip(ids, seconds, strict=True)]
    labels = np.arange(len(ids)) % 3
    examples = make_examples(
        [f.tokens for f in framed], [f.types for f in framed], targets={"label": labels}
    )
    found = text.spell(examples.tokens)
    inputs = TokenInputs(found.rows, {"characters": found.characters})
    return replace(examples, tokens=examples.tokens % 4, inputs=inputs)


def drawn(model, batch, seed=0):
    draw = np.random.default_rng(seed)
    shapes = jax.eval_shape(model.init, jax.random.key(0), batch)
    leaves = flatten_paths(shapes)
    return unflatten_paths(
        {p: draw.normal(0, 0.7, x.shape).astype(np.float32) for p, x in leaves.items()}
    )


def batch_of(examples, *, packed=False, rows_multiple_of=1):
    layout = Layout(packed=packed, max_length=16, narrowest=16, fewest_rows=1)
    indices = np.arange(len(examples))
    return pack(examples, indices, layout, rows_multiple_of=rows_multiple_of)


def by_example(batch, values):
    """Each example's tokens ``[T, …]``, by its number."""
    return {
        int(batch.ids[row, slot]): np.asarray(values)[
            row, batch.example[row] == slot + 1
        ]
        for row, slot in zip(*np.nonzero(batch.slots), strict=True)
    }


@pytest.fixture(scope="module")
def single():
    """A model, its parameters, and examples of one text."""
    examples = examples_of(TEXTS)
    model = compose(Elmo(CONFIG), Classify(3))
    return model, drawn(model, batch_of(examples)), examples


def test_the_boundaries_need_no_tokens(single):
    _, params, examples = single
    bilm, weights = BiLm(BILM), {"params": params["encoder"]["bilm"]}
    batch = batch_of(examples, packed=True)
    read = jax.jit(nn.apply(read_sentences, bilm))
    found = read(weights, batch.inputs["characters"], batch.example)
    # The other way: boundaries as words around each sentence, dropped from the output.
    words, index = distinct_words([bounded(t.split()) for t in TEXTS])
    padded = batch_of(make_examples(index))
    spelt = word_characters(words, length=BILM.max_characters)
    wanted, _ = jax.jit(bilm.apply)(weights, padded.tokens, padded.example, spelt)
    assert len(found.layers) == 3
    for mine, theirs in zip(found.layers, wanted.layers, strict=True):
        inside = by_example(padded, theirs)
        for number, states in by_example(batch, mine).items():
            np.testing.assert_allclose(states, inside[number][1:-1], atol=1e-5)


def test_the_texts_of_a_pair_are_sentences_by_themselves(single):
    _, params, _ = single
    weights = {"params": params["encoder"]}
    encoder = Elmo(replace(CONFIG, segments="compare"))
    read = jax.jit(lambda batch: encoder.apply(weights, batch).layers[0][..., 3:])
    pair = batch_of(examples_of(TEXTS, PAIRS))
    both = by_example(pair, read(pair))
    for texts in (TEXTS, PAIRS):
        batch = batch_of(examples_of(texts))
        alone = by_example(batch, read(batch))
        for number, text in enumerate(texts):
            n = len(text.split())
            part = both[number][:n] if texts is TEXTS else both[number][-n:]
            np.testing.assert_allclose(part, alone[number], atol=1e-5)
    for number, text in enumerate(TEXTS):  # the separator is no word
        assert not both[number][len(text.split())].any()


def test_mixes_stand_beside_the_words_and_the_states(single):
    model, params, examples = single
    params = params["encoder"]
    batch = batch_of(examples)
    found = jax.jit(model.encoder.apply)({"params": params}, batch)
    read = nn.apply(read_sentences, BiLm(BILM))
    bilm = read({"params": params["bilm"]}, batch.inputs["characters"], batch.example)
    for name, layer, offset in (("mix_input", 0, 3), ("mix_output", -1, 8)):
        s, gamma = params[name]["s"], params[name]["gamma"]
        weights = np.exp(s) / np.exp(s).sum()
        wanted = gamma * np.tensordot(weights, np.stack(bilm.layers), 1)
        mine = np.asarray(found.layers[layer])[..., offset:]
        assert mine.shape[-1] == 8
        real = np.asarray(batch.mask)
        np.testing.assert_allclose(mine[real], wanted[real], atol=1e-5)
    words = np.asarray(found.layers[0])[..., :3][batch.mask]
    table = params["embedding"]["embedding"]
    np.testing.assert_array_equal(words, table[batch.tokens[batch.mask]])
    assert found.pooled.shape[-1] == 16


@pytest.mark.parametrize("pooling", ["last", "max"])
def test_packed_is_padded_and_states_computed_before_are_the_same(pooling):
    examples = examples_of(TEXTS, PAIRS)
    config = replace(CONFIG, segments="compare", pooling=pooling, dropout=0.3)
    model = compose(Elmo(config), Classify(3))
    padded, packed = batch_of(examples), batch_of(examples, packed=True)
    assert len(packed.tokens) < len(padded.tokens)
    params = drawn(model, padded)
    logits = jax.jit(lambda batch: model.apply(params, batch, key, train=True))
    key = jax.random.key(3)
    wanted = np.asarray(logits(padded))[:, 0]
    found = np.asarray(logits(packed))
    for row, slot in zip(*np.nonzero(packed.slots), strict=True):
        number = int(packed.ids[row, slot])
        np.testing.assert_allclose(found[row, slot], wanted[number], atol=1e-5)
    # A biLM that is frozen need not be run again.
    words = padded.mask & padded.inputs["characters"].any(axis=-1)
    read = jax.jit(nn.apply(read_sentences, BiLm(BILM)))
    layers = read(
        {"params": params["encoder"]["bilm"]},
        padded.inputs["characters"],
        np.where(words, padded.example, 0),
    ).layers
    states = jnp.where(words[:, :, None, None], jnp.stack(layers, axis=2), 0)
    again = logits(replace(padded, inputs={"states": states}))[:, 0]
    np.testing.assert_allclose(again, wanted, atol=1e-5)


HEADS = {
    "input": (Classify(3), "compare"),
    "output": (Span(), "embed"),
    "both": (TagCrf(4), "embed"),
    "none": (Tag(4), "ignore"),
}


@pytest.mark.parametrize("at", ["input", "output", "both"])
def test_every_head_reads_it(at):
    batch = batch_of(examples_of(TEXTS, PAIRS), packed=True)
    for run, (head, segments) in HEADS.items():
        model = compose(Elmo(replace(CONFIG, at=at, segments=segments)), head)
        params = drawn(model, batch)  # which finds out the shapes of every layer
        mixes = {name for name in params["encoder"] if name.startswith("mix_")}
        assert mixes == {f"mix_{w}" for w in ("input", "output") if at in (w, "both")}
        if run == at:
            out = jax.jit(partial(model.apply, train=False))(params, batch)
            assert all(np.isfinite(x).all() for x in jax.tree.leaves(out))


def test_what_is_missing_is_told(single):
    model, params, examples = single
    bare = batch_of(replace(examples, inputs=None))
    with pytest.raises(ValueError, match="has none"):
        model.apply(params, bare, train=False)
    encoder = Elmo(replace(CONFIG, at="output", vocab_size=0))
    with pytest.raises(ValueError, match="nothing to read"):
        encoder.apply({"params": params["encoder"]}, batch_of(examples))


def loss_of(model):
    def loss(params, batch, key=None, *, train):
        logits = model.apply(params, batch, key, train=train)
        losses = optax.softmax_cross_entropy_with_integer_labels(
            logits, batch.targets["label"]
        )
        weights = batch.weights["label"]
        return {"loss": Ratio((weights * losses).sum(), weights.sum())}

    return loss


FROZEN = Plan(Rule("encoder/bilm/.*", frozen=True), Rule(".*"))


def test_a_frozen_bilm_costs_no_gradient_and_has_no_optimizer_state(single):
    model, params, examples = single
    batch = batch_of(examples)

    def cost(function, *inputs):
        leaves, tree = jax.tree.flatten(inputs)
        flat = jax.jit(lambda leaves: function(*jax.tree.unflatten(tree, leaves)))
        return flat.lower(leaves).compile().cost_analysis()["flops"]

    def step(plan):
        optimizer = plan.optimizer(params, 1e-3)
        state = create_state(params, optimizer, plan)
        names = jax.tree_util.tree_leaves_with_path(state.opt_state)
        held = [jax.tree_util.keystr(p) for p, x in names if x.size]
        step = train_step(loss_of(model), optimizer, plan)
        return cost(step, state, batch), [name for name in held if "bilm" in name]

    frozen, held = step(FROZEN)
    everything, all_held = step(Plan(Rule(".*")))
    read = nn.apply(read_sentences, BiLm(BILM))
    weights = {"params": params["encoder"]["bilm"]}
    forward = cost(read, weights, batch.inputs["characters"], batch.example)
    assert not held
    assert all_held
    # A backward pass costs about twice the forward one.
    assert everything - frozen > 1.5 * forward
    mean = cost(lambda p, b: loss_of(model)(p, b, train=False), params, batch)
    assert frozen < mean + everything - frozen


def test_devices_and_accumulation_give_the_same_step(single):
    model, params, examples = single
    batch = batch_of(examples, rows_multiple_of=8)
    optimizer = FROZEN.optimizer(params, 1e-2)
    found = []
    for kind, count, parts in (("jit", 1, 1), ("jit", 4, 2), ("pmap", 2, 2)):
        placement = choose_placement(kind, count)
        step = placement.train(
            train_step(loss_of(model), optimizer, FROZEN, accumulate=parts)
        )
        state = placement.replicate(create_state(params, optimizer, FROZEN))
        _, sums = step(state, batch)
        found.append([float(x) for x in (*sums["loss"], sums["gradient_norm"].total)])
    np.testing.assert_allclose(found[1], found[0], rtol=1e-5)
    np.testing.assert_allclose(found[2], found[0], rtol=1e-5)
