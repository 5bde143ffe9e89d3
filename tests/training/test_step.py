from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import (
    bag_loss,
    bag_params,
    drawn,
    farthest,
    same_bits,
    tiny_bert,
    uneven_batch,
)
from oracles import training as oracle

from tl_jax.interop.huggingface import load_bert, load_bert_model
from tl_jax.metrics.sums import Ratio, mean
from tl_jax.models.batch import Batch
from tl_jax.models.bert import Bert
from tl_jax.models.compose import compose
from tl_jax.models.heads import Classify
from tl_jax.tasks.classification import loss
from tl_jax.training.state import TrainState, rows
from tl_jax.training.step import create_state, eval_step, join, train_step
from tl_jax.transfer.plans import Plan, Rule
from tl_jax.transfer.schedules import warmup_then_linear

ALL = Plan(Rule(".*"))


def slope_loss(params, batch, key=None, *, train):
    """Σ weight · w · label: the gradient is the weighted mean of the labels."""
    del key, train
    weights = batch.weights["label"]
    total = (weights * params["w"] * batch.targets["label"]).sum()
    return {"loss": Ratio(total, weights.sum())}


def labelled(values, weights):
    batch = uneven_batch(rows=len(values))
    return batch.replace(
        targets={"label": np.array(values, np.float32)[:, None]},
        weights={"label": np.array(weights, np.float32)[:, None]},
    )


TRAP = labelled([8, 4, 1, 1], [1, 1, 4, 4])


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_sum_and_weight_are_divided_once(accumulate):
    """The masked mean of REFERENCE: 2.0, where means of parts' means give 3.5."""
    params = {"w": jnp.ones(())}
    sgd = optax.sgd(1.0)
    step = jax.jit(train_step(slope_loss, sgd, accumulate=accumulate))
    state, sums = step(create_state(params, sgd), TRAP)
    assert float(state.params["w"]) == 1.0 - 2.0
    assert mean(sums)["loss"] == 2.0
    assert mean(sums)["gradient_norm"] == 2.0
    assert int(state.step) == 1


def test_what_is_logged_is_the_norm_before_the_clip():
    params = {"w": jnp.ones(())}
    clipped = optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(1.0))
    state, sums = jax.jit(train_step(slope_loss, clipped))(
        create_state(params, clipped), TRAP
    )
    assert float(state.params["w"]) == 0.5
    assert mean(sums)["gradient_norm"] == 2.0


def counting_loss(params, batch, key, carry, *, train):
    """`slope_loss` plus what was carried; each row hands on its label, added up."""
    del key, train
    labels, weights = batch.targets["label"], batch.weights["label"]
    total = (weights * params["w"] * (labels + carry["seen"])).sum()
    return {"loss": Ratio(total, weights.sum())}, {"seen": carry["seen"] + labels}


def test_a_carry_goes_from_step_to_step():
    """The gradient is the mean of the labels and of those of all steps before."""
    params, sgd = {"w": jnp.ones(())}, optax.sgd(1.0)
    step = jax.jit(train_step(counting_loss, sgd))
    state = create_state(params, sgd, carry={"seen": np.zeros((2, 1), np.float32)})
    for number in (1, 2, 3):
        before = float(state.params["w"])
        state, _ = step(state, labelled([8, 4], [1, 1]))
        assert float(state.params["w"]) == before - 6 * number
        assert state.carry["seen"].tolist() == [[8 * number], [4 * number]]
    # A step that is not finite changes it as little as the parameters.
    after, sums = step(state, labelled([np.inf, 4], [1, 1]))
    assert mean(sums)["finite"] == 0
    assert same_bits(after.carry, state.carry)
    halves = train_step(counting_loss, sgd, accumulate=2)
    with pytest.raises(ValueError, match="as a whole"):
        halves(state, labelled([8, 4], [1, 1]))


def root_loss(params, batch, key=None, *, train):
    """√w, whose value at 0 is finite and whose slope is not."""
    del key, train
    return {"loss": Ratio(jnp.sqrt(params["w"]), batch.weights["label"].sum())}


BAD = {
    "NaN weight": (bag_loss, bag_params(), jnp.nan),
    "infinite weight": (bag_loss, bag_params(), jnp.inf),
    "infinite gradient alone": (root_loss, {"w": jnp.zeros(())}, 1.0),
}


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("case", BAD)
def test_a_step_that_is_not_finite_changes_nothing(case, accumulate):
    function, params, weight = BAD[case]
    optimizer = ALL.optimizer(params, 0.1)
    state = create_state(params, optimizer)
    step = jax.jit(train_step(function, optimizer, accumulate=accumulate))
    if function is bag_loss:
        # Means and counts that are not zero, so that any change of them shows.
        state, sums = step(state, uneven_batch())
        assert mean(sums)["finite"] == 1
    batch = uneven_batch(seed=1)
    batch.weights["label"][3] = weight
    after, sums = step(state, batch)
    assert mean(sums)["finite"] == 0
    assert same_bits(after.params, state.params)
    assert same_bits(after.opt_state, state.opt_state)
    assert int(after.step) == int(state.step) + 1


def test_a_batch_of_no_weight_is_no_nan():
    params = bag_params()
    optimizer = ALL.optimizer(params, 0.1, weight_decay=0.0)
    state = create_state(params, optimizer)
    batch = uneven_batch()
    batch.weights["label"][:] = 0
    after, sums = jax.jit(train_step(bag_loss, optimizer))(state, batch)
    assert mean(sums)["finite"] == 1
    assert same_bits(after.params, params)


def test_the_seed_keys_the_dropout():
    params = bag_params()
    optimizer = ALL.optimizer(params, 0.1)
    step = jax.jit(train_step(bag_loss, optimizer))
    losses = [
        mean(step(create_state(params, optimizer, seed=s), uneven_batch())[1])["loss"]
        for s in (0, 0, 1)
    ]
    assert losses[0] == losses[1] != losses[2]


def test_evaluation_drops_nothing_out_and_changes_with_no_key():
    params, batch = bag_params(), uneven_batch()
    sums = eval_step(bag_loss)(params, batch)
    assert mean(sums) == mean(bag_loss(params, batch, train=False))
    assert mean(sums) != mean(bag_loss(params, batch, jax.random.key(0), train=True))


def test_a_plan_and_a_state_that_agree():
    params = bag_params()
    plan = Plan(Rule("encoder/.*", frozen=True), Rule(".*"))
    state = create_state(params, plan.optimizer(params, 0.1), plan)
    held = sum(x.size for x in jax.tree.leaves(state.opt_state) if x.ndim)
    assert held == 2 * (4 * 3 + 3)
    assert same_bits(join(*plan.split(params)), params)
    assert isinstance(state, TrainState)


def test_rows_are_parted_in_order():
    batch = uneven_batch()
    parts = rows(batch, 4)
    assert parts["tokens"].shape == (4, 2, 16)
    np.testing.assert_array_equal(parts["tokens"][1], batch.tokens[2:4])
    weights = batch.weights["label"]
    np.testing.assert_array_equal(parts["weights"]["label"][3], weights[6:])


def test_the_step_copies_no_moments():
    """Selecting between old and new state would copy both of Adam's means."""
    params = bag_params()
    optimizer = ALL.optimizer(params, 0.1)
    step = train_step(bag_loss, optimizer)
    leaves, tree = jax.tree.flatten(create_state(params, optimizer))

    def of_leaves(leaves):
        return step(jax.tree.unflatten(tree, leaves), uneven_batch())

    compiled = jax.jit(of_leaves, donate_argnums=0).lower(leaves).compile()
    lines = compiled.as_text().splitlines()
    assert any("f32[50,4]" in line for line in lines)
    assert not [x for x in lines if " copy(" in x and "= f32[50,4]" in x]


def test_five_hundred_steps_twice_are_bitwise_equal():
    model = tiny_bert(num_layers=1, hidden_size=8, intermediate_size=8)
    params = drawn(model)
    optimizer = ALL.optimizer(params, 1e-3)
    step = jax.jit(train_step(loss(model), optimizer), donate_argnums=0)

    def run():
        state = create_state(jax.tree.map(jnp.array, params), optimizer)
        losses = []
        for n in range(500):
            batch = uneven_batch(seed=n % 5)
            batch = batch.replace(epochs=np.full_like(batch.epochs, n // 5))
            state, sums = step(state, batch)
            losses.append(sums["loss"].total)
        return np.array(jax.device_get(losses)), state

    (first, one), (second, two) = run(), run()
    assert first.tobytes() == second.tobytes()
    assert same_bits(one, two)
    assert len(set(first.tolist())) > 450
    assert farthest(one.params, params) > 0.01


# --- the same curve as torch's ---------------------------------------------------


def as_batch(given):
    """A padded batch of ours from what transformers is fed."""
    rows, length = given.tokens.shape
    number = np.arange(rows, dtype=np.int32)[:, None]
    return Batch(
        tokens=given.tokens,
        types=given.types,
        positions=np.tile(np.arange(length, dtype=np.int32), (rows, 1)),
        example=given.mask,
        ids=number,
        epochs=np.zeros_like(number),
        targets={"label": given.labels[:, None]},
        weights={"label": np.ones((rows, 1), np.float32)},
    )


def curve(encoder, params, classes, batches, peak):
    """Losses and norms of our own fine-tuning, and the parameters at the end."""
    config = replace(encoder.config, hidden_dropout=0.0, attention_dropout=0.0)
    model = compose(Bert(config), Classify(classes, dropout=0.0))
    schedule = warmup_then_linear(peak, len(batches), oracle.WARMUP)
    optimizer = ALL.optimizer(params, schedule, weight_decay=oracle.DECAY, clip=1.0)
    step = jax.jit(train_step(loss(model), optimizer), donate_argnums=0)
    state = create_state(jax.tree.map(jnp.array, params), optimizer)
    told = []
    for batch in batches:
        state, sums = step(state, as_batch(batch))
        told.append(mean(jax.device_get(sums)))
    losses, norms = (np.array([t[k] for t in told]) for k in ("loss", "gradient_norm"))
    return losses, norms, state.params


def test_the_curve_of_torch_and_transformers():
    expected = np.load(oracle.HERE / "training.npz")
    model, params = load_bert_model(oracle.MODEL)
    batches = [oracle.inputs(n, vocabulary=40, classes=3) for n in range(oracle.STEPS)]
    losses, norms, after = curve(model.encoder, params, 3, batches, oracle.PEAK)
    np.testing.assert_allclose(losses, expected["losses"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(norms, expected["norms"], rtol=1e-3)
    assert (expected["norms"] > 1).all()
    words = after["encoder"]["embeddings"]["word"]["embedding"]
    np.testing.assert_allclose(words, expected["words"], rtol=0, atol=1e-4)
    kernel = after["head"]["output"]["kernel"]
    np.testing.assert_allclose(kernel, expected["classifier"], rtol=0, atol=1e-4)


def test_what_was_recorded_is_what_transformers_does():
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    expected = np.load(oracle.HERE / "training.npz")
    for name, found in oracle.record().items():
        np.testing.assert_allclose(found, expected[name], atol=1e-5, err_msg=name)


def test_the_curve_of_minilm(minilm):
    """Real weights; two of the six layers, which compile in a third of the time."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    theirs = oracle.load(minilm, 2, num_hidden_layers=2)
    head = {
        "kernel": theirs.classifier.weight.detach().numpy().T.copy(),
        "bias": theirs.classifier.bias.detach().numpy().copy(),
    }
    encoder, weights = load_bert(minilm)
    encoder = Bert(replace(encoder.config, num_layers=2))
    kept = {k: v for k, v in weights.items() if k[-1] in "01" or k[:5] != "layer"}
    params = {"encoder": kept, "head": {"output": head}}
    batches = [oracle.inputs(n, vocabulary=30522, classes=2, rows=4) for n in range(20)]
    expected, norms_expected = oracle.train(theirs, batches, 5e-5)
    losses, norms, _ = curve(encoder, params, 2, batches, 5e-5)
    np.testing.assert_allclose(losses, expected, rtol=0, atol=1e-4)
    np.testing.assert_allclose(norms, norms_expected, rtol=1e-2)
