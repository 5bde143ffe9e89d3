"""The pre-training loss: against torch, packed against padded, and what it costs."""

import math
from dataclasses import replace
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import AS_FOR_USERS, farthest

from tl_jax.data.examples import make_examples
from tl_jax.data.masking import MASKED_LM, NEXT_SENTENCE, Masking, mask
from tl_jax.data.packing import Layout, pack
from tl_jax.interop.huggingface import load_bert_model
from tl_jax.metrics.sums import mean
from tl_jax.models.batch import Batch
from tl_jax.models.bert import Bert
from tl_jax.models.compose import compose, flatten_paths
from tl_jax.models.heads import SCORED, MaskedLanguageModel
from tl_jax.tasks import pretraining
from tl_jax.training.placement import choose_placement
from tl_jax.training.step import create_state, train_step
from tl_jax.transfer.plans import Plan, Rule
from tl_jax.transfer.schedules import warmup_linear

MODEL = Path(__file__).parents[1] / "oracles" / "bert" / "BertForPreTraining"
VOCABULARY = 40
MASKING = Masking(VOCABULARY, 3, (0, 1, 2, 3), rate=0.3, most=5)
LENGTH, ROWS = 16, 8
PADDED = Layout(packed=False, max_length=LENGTH)
STEPS, WARMUP, PEAK, DECAY = 20, 5, 2e-3, 0.01
PLAN = Plan(Rule(".*"))


@cache
def model_and_params(dropout=0.0):
    model, params = load_bert_model(MODEL)
    assert isinstance(model.encoder, Bert)
    config = replace(
        model.encoder.config, hidden_dropout=dropout, attention_dropout=dropout
    )
    return compose(Bert(config), model.head), params


def examples_of(seed, count=ROWS, paired=True):
    draw = np.random.default_rng(seed)
    tokens, types, labels, kinds = [], [], [], []
    for n in draw.integers(4, LENGTH + 1, count):
        row = draw.integers(4, VOCABULARY, n)
        row[0], row[-1] = 1, 2
        tokens.append(row)
        types.append((np.arange(n) > n // 2).astype(int))
        labels.append(int(row[1] % 2))
        kinds.append(paired and bool(draw.integers(0, 4)))
    return make_examples(
        tokens,
        types,
        targets={NEXT_SENTENCE: labels},
        weights={NEXT_SENTENCE: kinds},
        ids=np.arange(count) + 1000 * seed,
    )


def padded_batch(seed):
    batch = mask(pack(examples_of(seed), range(ROWS), PADDED), MASKING)
    # A random token may be id 0, whose row torch gives no gradient from the input.
    return replace(batch, tokens=np.where(batch.tokens == 0, 5, batch.tokens))


def torch_model():
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    return transformers.BertForPreTraining.from_pretrained(
        MODEL,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        attn_implementation="eager",
    ).train()


def torch_losses(bias_correction):
    """Twenty steps in torch: AdamW, or BERT's Adam written out."""
    model = torch_model()
    import torch

    plain = ("bias", "LayerNorm.weight")
    named = list(model.named_parameters())
    groups = [
        {"params": [p for n, p in named if n.endswith(plain)], "weight_decay": 0.0},
        {"params": [p for n, p in named if not n.endswith(plain)]},
    ]
    adamw = torch.optim.AdamW(groups, lr=PEAK, weight_decay=DECAY)
    means = {n: (torch.zeros_like(p), torch.zeros_like(p)) for n, p in named}
    losses = []
    for step in range(STEPS):
        rate = PEAK * (step / WARMUP if step < WARMUP else 1 - step / STEPS)
        batch = padded_batch(step)
        labels = np.full(batch.tokens.shape, -100)
        rows, places = np.nonzero(batch.weights[MASKED_LM])
        columns = batch.targets[SCORED][rows, places]
        labels[rows, columns] = batch.targets[MASKED_LM][rows, places]
        nsp = np.where(
            batch.weights[NEXT_SENTENCE] > 0, batch.targets[NEXT_SENTENCE], -100
        )
        inputs = {
            "input_ids": batch.tokens,
            "token_type_ids": batch.types,
            "attention_mask": batch.mask,
            "labels": labels,
            "next_sentence_label": nsp[:, 0],
        }
        tensors = {k: torch.tensor(np.asarray(v)).long() for k, v in inputs.items()}
        loss = model(**tensors).loss
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        if bias_correction:
            for group in adamw.param_groups:
                group["lr"] = rate
            adamw.step()
        else:
            with torch.no_grad():
                for name, p in named:
                    m, v = means[name]
                    m.mul_(0.9).add_(p.grad, alpha=0.1)
                    v.mul_(0.999).addcmul_(p.grad, p.grad, value=0.001)
                    update = m / (v.sqrt() + 1e-6)
                    if not name.endswith(plain):
                        update = update + DECAY * p
                    p.sub_(rate * update)
        losses.append(loss.item())
    return np.array(losses)


@pytest.mark.parametrize("bias_correction", [True, False], ids=["AdamW", "BERT's Adam"])
def test_twenty_losses_are_those_of_transformers(bias_correction):
    wanted = torch_losses(bias_correction)
    model, params = model_and_params()
    optimizer = PLAN.optimizer(
        params,
        warmup_linear(PEAK, STEPS, WARMUP),
        weight_decay=DECAY,
        clip=1.0,
        bias_correction=bias_correction,
    )
    step = jax.jit(train_step(pretraining.loss(model), optimizer, PLAN))
    state = create_state(jax.tree.map(jnp.asarray, params), optimizer, PLAN)
    found = []
    for n in range(STEPS):
        state, sums = step(state, padded_batch(n))
        found.append(mean(jax.device_get(sums))["loss"])
    assert wanted[0] - wanted[-1] > 0.1  # it learns, so the updates matter
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)


def test_the_loss_is_the_sum_of_both_means():
    model, params = model_and_params()
    batch = padded_batch(3)
    sums = jax.jit(lambda p, b: pretraining.loss(model)(p, b, train=False))(
        params, batch
    )
    found = mean(jax.device_get(sums))
    logits = model.apply(params, batch, train=False)
    words, pairs = (np.asarray(jax.nn.log_softmax(x), np.float64) for x in logits)
    rows, places = np.nonzero(batch.weights[MASKED_LM])
    wanted = batch.targets[MASKED_LM][rows, places]
    picked = words[rows, places]
    mlm = -picked[np.arange(len(rows)), wanted].mean()
    some = batch.weights[NEXT_SENTENCE][:, 0] > 0
    labels = batch.targets[NEXT_SENTENCE][some, 0]
    nsp = -pairs[some, 0][np.arange(len(labels)), labels].mean()
    assert 0 < some.sum() < ROWS
    assert found["mlm_loss"] == pytest.approx(mlm, abs=1e-5)
    assert found["nsp_loss"] == pytest.approx(nsp, abs=1e-5)
    assert found["loss"] == pytest.approx(mlm + nsp, abs=1e-5)
    assert found["mlm_accuracy"] == pytest.approx((picked.argmax(-1) == wanted).mean())
    right = pairs[some, 0].argmax(-1) == labels
    assert found["nsp_accuracy"] == pytest.approx(right.mean())


def gradient(model):
    loss = pretraining.loss(model)

    def total(params, batch):
        sums = loss(params, batch, jax.random.key(7), train=True)
        return sums["loss"].total / sums["loss"].weight, sums

    return jax.jit(jax.grad(total, has_aux=True))


def test_packed_is_padded_with_dropout_on():
    model, params = model_and_params(0.1)
    examples = examples_of(5, count=24)
    packed_layout = Layout(max_length=LENGTH, narrowest=32, fewest_rows=1)
    padded = mask(pack(examples, range(24), PADDED), MASKING)
    packed = mask(pack(examples, range(24), packed_layout), MASKING)
    assert len(packed.tokens) < len(padded.tokens) / 2
    one, sums = gradient(model)(params, padded)
    two, others = gradient(model)(params, packed)
    a, b = mean(jax.device_get(sums)), mean(jax.device_get(others))
    assert a == pytest.approx(b, abs=1e-5)
    assert farthest(one, two) < 1e-5


@pytest.mark.parametrize("kind", ["jit", "pmap"])
def test_devices_and_parts_add_up_to_one_batch(kind):
    """Pairs and masked tokens lie unevenly on the rows, and are still two means."""
    model, params = model_and_params()
    batch = padded_batch(6)
    halved = batch.weights[NEXT_SENTENCE].copy()
    halved[: ROWS // 2] = 0  # the first devices see no pair
    batch = replace(batch, weights=batch.weights | {NEXT_SENTENCE: halved})
    optimizer = PLAN.optimizer(params, lambda _: 0.1, weight_decay=0.0, clip=None)
    found = []
    for devices, accumulate in ((1, 1), (4, 2)):
        placement = choose_placement(kind, devices)
        step = placement.train(
            train_step(pretraining.loss(model), optimizer, PLAN, accumulate=accumulate)
        )
        state = placement.replicate(create_state(params, optimizer, PLAN))
        _, sums = step(state, batch)
        found.append(mean(jax.device_get(sums)))
    assert found[0] == pytest.approx(found[1], abs=1e-5)


def test_pairs_are_weighed_by_the_whole_batch():
    """Halves that were masked apart become what the whole was."""
    examples = examples_of(6, count=ROWS)
    whole = mask(pack(examples, range(ROWS), PADDED), MASKING)
    some = [slice(None, 3), slice(3, None)]
    parts = [mask(pack(examples, range(ROWS)[s], PADDED), MASKING) for s in some]
    room = whole.targets[SCORED].shape[1]
    assert {p.targets[SCORED].shape[1] for p in parts} == {room}
    joined = jax.tree.map(lambda *x: np.concatenate(x), *parts)
    wanted = whole.weights[NEXT_SENTENCE]
    assert np.abs(joined.weights[NEXT_SENTENCE] - wanted).max() > 0.01
    found = pretraining.weigh_pairs(joined).weights
    np.testing.assert_allclose(found[NEXT_SENTENCE], wanted, rtol=1e-6)
    np.testing.assert_array_equal(found[MASKED_LM], whole.weights[MASKED_LM])


def test_nothing_but_masked_positions_is_scored():
    """F = 2·(tokens scored)·D·(D + V) of the head and twice that backwards."""
    model, params = model_and_params()
    batch = padded_batch(0)
    every = np.tile(np.arange(LENGTH, dtype=np.int32), (ROWS, 1))
    wider = replace(
        batch,
        targets=batch.targets | {SCORED: every, MASKED_LM: np.zeros_like(every)},
        weights=batch.weights | {MASKED_LM: np.ones(every.shape, np.float32)},
    )

    def flops(batch: Batch) -> float:
        step = jax.jit(lambda p, fields: gradient(model)(p, Batch(**fields)))
        lowered = step.lower(params, vars(batch))
        cost = lowered.compile(AS_FOR_USERS).cost_analysis()
        assert cost is not None
        return cost["flops"]

    assert batch.targets[SCORED].shape[1] == LENGTH // 2
    assert isinstance(model.encoder, Bert)
    width = model.encoder.config.hidden_size
    spared = ROWS * LENGTH // 2
    products = 3 * 2 * spared * width * (width + VOCABULARY)
    assert flops(wider) - flops(batch) > 0.95 * products


def test_a_batch_without_pairs_has_the_masked_language_model_alone():
    model, params = model_and_params()
    head = MaskedLanguageModel(model.head.activation, model.head.layer_norm_eps)
    alone = compose(model.encoder, head)
    both = mask(pack(examples_of(1, paired=False), range(ROWS), PADDED), MASKING)
    one = {"encoder": params["encoder"], "head": params["head"]["masked_lm"]}
    a = mean(jax.device_get(pretraining.loss(alone)(one, both, train=False)))
    b = mean(jax.device_get(pretraining.loss(model)(params, both, train=False)))
    assert set(a) == {"loss", "mlm_loss", "mlm_accuracy"}
    assert b["loss"] == b["mlm_loss"] == a["loss"]
    assert np.isnan(b["nsp_loss"])
    assert set(flatten_paths(one)) < {
        p.replace("masked_lm/", "") for p in flatten_paths(params)
    }


def product_flops(jaxpr):
    """FLOPs of all matrix products of a program, those of its parts included."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            left, right = (v.aval.shape for v in equation.invars)
            (summed, _), (batched, _) = equation.params["dimension_numbers"]
            kept = math.prod(right) / math.prod(left[i] for i in (*summed, *batched))
            total += 2 * math.prod(left) * kept
        parts = jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
        )
        total += sum(product_flops(part) for part in parts if hasattr(part, "eqns"))
    return total


def test_flops_are_those_of_the_program():
    """What the formula leaves out, pooler and next sentence, is counted by hand."""
    model, params = model_and_params(dropout=0.1)
    batch = padded_batch(1)
    loss = pretraining.loss(model)

    def total(params):
        return loss(params, batch, jax.random.key(0), train=True)["loss"].total

    config = model.encoder.config
    small = 6 * ROWS * (config.hidden_size**2 + 2 * config.hidden_size)
    program = jax.make_jaxpr(jax.grad(total))(params).jaxpr
    told = pretraining.matmul_flops(config, batch)
    assert product_flops(program) == told + small
