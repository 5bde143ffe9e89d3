import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tl_jax.transfer.optimizers import adam, decays, scale_by_bert_adam
from tl_jax.transfer.plans import Plan, Rule
from tl_jax.transfer.schedules import warmup_linear, warmup_then_linear

PLAN = Plan(Rule("encoder/.*", rate=0.1), Rule(".*"))
SHAPES = {
    "encoder": {
        "dense": {"kernel": (3, 4), "bias": (4,)},
        "norm": {"scale": (4,), "bias": (4,)},
        "embedding": (5, 3),
    },
    "head": {"kernel": (4, 2), "bias": (2,)},
}
STEPS = 12


def draw(seed, size=1.0):
    numbers = np.random.default_rng(seed)
    return jax.tree.map(
        lambda shape: (size * numbers.normal(size=shape)).astype(np.float32),
        SHAPES,
        is_leaf=lambda x: isinstance(x, tuple),
    )


def gradients():
    """Some are below the clip of 1 and some far above."""
    return [draw(n + 1, size=10.0 ** (n % 4 - 3)) for n in range(STEPS)]


def run(optimizer, params):
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    for g in gradients():
        updates, state = update(g, state, params)
        params = optax.apply_updates(params, updates)
    return params


def reference(params, schedule, *, weight_decay, clip, bias_correction):
    """The formulas of google-research/bert's optimization.py (or AdamW's), float64."""
    eps = 1e-8 if bias_correction else 1e-6
    paths = {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.float64(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    m = {path: np.zeros_like(x) for path, x in paths.items()}
    v = {path: np.zeros_like(x) for path, x in paths.items()}
    for step, tree in enumerate(gradients()):
        g = dict(zip(paths, map(np.float64, jax.tree.leaves(tree)), strict=True))
        norm = np.sqrt(sum(np.sum(x * x) for x in g.values()))
        for path, x in paths.items():
            clipped = g[path] * (clip / max(norm, clip))
            m[path] = 0.9 * m[path] + 0.1 * clipped
            v[path] = 0.999 * v[path] + 0.001 * clipped**2
            n = step + 1 if bias_correction else np.inf
            mean, square = m[path] / (1 - 0.9**n), v[path] / (1 - 0.999**n)
            update = mean / (np.sqrt(square) + eps)
            # exclude_from_weight_decay=["LayerNorm", "layer_norm", "bias"]
            if "norm" not in path and "bias" not in path:
                update += weight_decay * x
            rate = schedule(step) * (0.1 if path.startswith("encoder/") else 1.0)
            paths[path] = x - rate * update
    return list(paths.values())


@pytest.mark.parametrize("bias_correction", [True, False])
def test_the_whole_optimizer_against_the_formulas(bias_correction):
    params = draw(0)
    schedule = warmup_linear(0.05, STEPS, 3)
    optimizer = PLAN.optimizer(
        params,
        schedule,
        weight_decay=0.1,
        clip=1.0,
        bias_correction=bias_correction,
    )
    found = run(optimizer, params)
    expected = reference(
        params,
        lambda n: 0.05 * (n / 3 if n < 3 else 1 - n / STEPS),
        weight_decay=0.1,
        clip=1.0,
        bias_correction=bias_correction,
    )
    for x, y in zip(jax.tree.leaves(found), expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=5e-6, atol=2e-7)


def test_adamw_equals_torch():
    torch = pytest.importorskip("torch")
    params = draw(0)
    optimizer = PLAN.optimizer(params, warmup_then_linear(0.05, STEPS, 3))
    found = run(optimizer, params)

    leaves = jax.tree_util.tree_leaves_with_path(params)
    names = [jax.tree_util.keystr(p, simple=True, separator="/") for p, _ in leaves]
    tensors = [torch.nn.Parameter(torch.tensor(np.array(x))) for _, x in leaves]
    groups = [
        {
            "params": [tensor],
            "lr": 0.05 * (0.1 if name.startswith("encoder/") else 1.0),
            "weight_decay": 0.01 if decays(name) else 0.0,
        }
        for name, tensor in zip(names, tensors, strict=True)
    ]
    theirs = torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-8)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        theirs, lambda n: n / 3 if n < 3 else (STEPS - n) / (STEPS - 3)
    )
    for tree in gradients():
        for tensor, g in zip(tensors, jax.tree.leaves(tree), strict=True):
            tensor.grad = torch.tensor(g)
        torch.nn.utils.clip_grad_norm_(tensors, 1.0)
        theirs.step()
        schedule.step()
    for x, tensor in zip(jax.tree.leaves(found), tensors, strict=True):
        np.testing.assert_allclose(x, tensor.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_bert_adam_by_hand():
    """g = 1, then -3: m = .1, v = .001; then m = .09 - .3, v = .000999 + .009."""
    tx = scale_by_bert_adam()
    state = tx.init(jnp.zeros(()))
    first, state = tx.update(jnp.ones(()), state)
    second, _ = tx.update(-3 * jnp.ones(()), state)
    np.testing.assert_allclose(first, 0.1 / (np.sqrt(0.001) + 1e-6), rtol=1e-6)
    np.testing.assert_allclose(second, -0.21 / (np.sqrt(0.009999) + 1e-6), rtol=1e-6)


def test_bias_correction_makes_the_first_step_the_sign():
    tx = adam()
    g = jnp.array([1e-3, -2.0, 40.0])
    update, _ = tx.update(g, tx.init(g))
    np.testing.assert_allclose(update, [1, -1, 1], rtol=2e-5)


@pytest.mark.parametrize("bias_correction", [True, False])
def test_decay_shrinks_a_weight_without_gradient(bias_correction):
    """flax's sst2 example had it the other way: w = 2 grew by 6e-6."""
    params = {"kernel": jnp.full((1,), 2.0), "bias": jnp.full((1,), 2.0)}
    optimizer = Plan(Rule(".*")).optimizer(
        params, 0.5, weight_decay=0.1, bias_correction=bias_correction
    )
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    np.testing.assert_allclose(updates["kernel"], [-0.5 * 0.1 * 2.0], rtol=1e-6)
    np.testing.assert_array_equal(updates["bias"], [0.0])


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("encoder/layer_0/attention/query/kernel", True),
        ("encoder/embeddings/word/embedding", True),
        ("encoder/lstm_0_forward/recurrent", True),
        ("encoder/layer_0/attention/query/bias", False),
        ("encoder/embeddings/norm/scale", False),
        ("encoder/bias_like/kernel", True),
        ("bias", False),
    ],
)
def test_what_decays(path, answer):
    assert decays(path) is answer
