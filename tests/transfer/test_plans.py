import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import (
    AS_FOR_USERS,
    bag_loss,
    bag_params,
    drawn,
    farthest,
    same_bits,
    tiny_bert,
    tiny_word_vectors,
    uneven_batch,
)

from tl_jax.files.errors import ConfigError
from tl_jax.models.compose import flatten_paths
from tl_jax.tasks.classification import loss
from tl_jax.training.state import TrainState
from tl_jax.training.step import create_state, join, train_step
from tl_jax.transfer.plans import Plan, Rule, Stage, carry_over, check_stages

TREE = {
    "encoder": {
        "embedding": {"embedding": jnp.ones((5, 2))},
        "layer": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)},
    },
    "head": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)},
}


def test_the_first_rule_that_matches_wins():
    plan = Plan(
        Rule("encoder/embedding/.*", frozen=True),
        Rule("encoder/.*", rate=0.5),
        Rule(".*"),
    )
    rules = plan.match(TREE)
    assert {path: (rule.frozen, rule.rate) for path, rule in rules.items()} == {
        "encoder/embedding/embedding": (True, 1.0),
        "encoder/layer/kernel": (False, 0.5),
        "encoder/layer/bias": (False, 0.5),
        "head/kernel": (False, 1.0),
        "head/bias": (False, 1.0),
    }


def test_a_pattern_must_match_the_whole_path():
    assert Plan(Rule("head/kernel")).rule("head/kernel_2") is None
    assert Plan(Rule("kernel")).rule("head/kernel") is None


def test_both_kinds_of_mismatch_are_told_at_once():
    plan = Plan(
        Rule("encoder/.*"), Rule("encoder/layer/bias"), Rule("encodr/layer/kernel")
    )
    with pytest.raises(ConfigError) as caught:
        plan.match(TREE)
    told = str(caught.value)
    assert "no rule matches head/kernel" in told
    assert "no rule matches head/bias" in told
    assert "'encoder/layer/bias' matches no parameter" in told
    assert "Did you mean 'encoder/layer/kernel'?" in told
    assert "no rule matches encoder" not in told


def test_broken_rules_are_told_at_once():
    with pytest.raises(ConfigError) as caught:
        Plan(
            Rule("(", frozen=True),
            Rule("a", frozen=True, rate=0.5),
            Rule("b", rate=0.0),
            Rule("c", rate=float("nan")),
            Rule("d", rate=float("inf")),
            Rule("e"),
            Rule("e"),
        )
    told = str(caught.value)
    for part in ("'('", "'a'", "'b'", "'c'", "'d'", "'e': stands 2 times"):
        assert part in told
    with pytest.raises(ConfigError, match="no rules"):
        Plan()


def test_table_counts_by_hand():
    plan = Plan(
        Rule("encoder/embedding/.*", frozen=True),
        Rule("encoder/.*", rate=0.25),
        Rule(".*"),
    )
    rows = [line.split() for line in plan.table(TREE).splitlines()]
    # 5·2; 2·3 + 3, of which 6 decay; 3·2 + 2, of which 6 decay. Four bytes each.
    assert rows[0] == ["pattern", "parameters", "bytes", "rate", "decay"]
    assert rows[2] == ["encoder/embedding/.*", "10", "40", "frozen", "–"]
    assert rows[3] == ["encoder/.*", "9", "36", "×", "0.25", "6"]
    assert rows[4] == [".*", "8", "32", "×", "1", "6"]
    assert rows[6] == ["trained", "17", "68"]
    assert rows[7] == ["all", "27", "108"]


def test_table_of_a_bert_counts_by_hand():
    params = drawn(tiny_bert())
    plan = Plan(Rule("encoder/(embeddings|layer_.*)/.*", frozen=True), Rule(".*"))
    rows = [line.split() for line in plan.table(params).splitlines()]
    embeddings = (50 + 16 + 2) * 16 + 2 * 16
    attention, fed, norms = 4 * (16 * 16 + 16), 2 * 16 * 32 + 32 + 16, 4 * 16
    encoder = embeddings + 2 * (attention + fed + norms)
    rest = (16 * 16 + 16) + (16 * 3 + 3)
    assert rows[2][1:3] == [f"{encoder:,}", f"{4 * encoder:,}"]
    assert rows[3][1:3] == [f"{rest:,}", f"{4 * rest:,}"]
    assert rows[3][-1] == str(16 * 16 + 16 * 3)
    assert rows[-1][1] == "5,891"


def test_split_and_join_are_inverse():
    plan = Plan(Rule("encoder/layer/kernel|head/bias", frozen=True), Rule(".*"))
    trained, frozen = plan.split(TREE)
    assert set(flatten_paths(frozen)) == {"encoder/layer/kernel", "head/bias"}
    assert not set(flatten_paths(trained)) & set(flatten_paths(frozen))
    assert same_bits(join(trained, frozen), TREE)


def test_plans_are_values():
    assert Plan(Rule("a")) == Plan(Rule("a")) != Plan(Rule("b"))
    assert len({Plan(Rule("a")), Plan(Rule("a"))}) == 1
    assert eval(repr(Plan(Rule("a", rate=0.5)))) == Plan(Rule("a", rate=0.5))


# --- frozen means frozen ---------------------------------------------------------


def compiled(function, *arguments, donate=()):
    """Compiles a function of trees, given their leaves.

    (jax's ``lower`` builds trees of argument descriptions, which the types of our
    dataclasses refuse while the hook of the tests is on.)
    """
    flat = [jax.tree.flatten(argument) for argument in arguments]

    def of_leaves(*leaves):
        trees = [t for _, t in flat]
        return function(*map(jax.tree.unflatten, trees, leaves))

    lowered = jax.jit(of_leaves, donate_argnums=donate).lower(*(x for x, _ in flat))
    return lowered.compile(AS_FOR_USERS)


def compiled_step(model, plan, params):
    optimizer = plan.optimizer(params, 1e-3, clip=1.0)
    state = create_state(params, optimizer, plan)
    step = train_step(loss(model), optimizer, plan)
    return compiled(step, state, uneven_batch(), donate=0), state


def bytes_of(tree):
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def test_a_frozen_embedding_has_no_gradient_and_no_state():
    V, D = 53, 7
    model = tiny_word_vectors(vocab_size=V, embedding_size=D)
    params = drawn(model)
    fixed = Plan(Rule("encoder/embedding/.*", frozen=True), Rule(".*"))
    full, full_state = compiled_step(model, Plan(Rule(".*")), params)
    part, part_state = compiled_step(model, fixed, params)

    def gradient(hlo):
        """Lines that scatter into, or zero, an array of the embedding's shape."""
        made = [x for x in hlo.splitlines() if f" = f32[{V},{D}]" in x]
        return [x for x in made if "parameter(" not in x and "tuple-element" not in x]

    assert any("scatter" in line for line in gradient(full.as_text()))
    assert gradient(part.as_text()) == []
    saved = bytes_of(full_state.opt_state) - bytes_of(part_state.opt_state)
    assert saved == 2 * V * D * 4


def test_a_frozen_encoder_costs_its_forward_pass_alone():
    """The clip is on: it must not ask for the gradients of what is frozen."""
    model = tiny_bert(dropout=0.0, num_layers=1)
    params = drawn(model)
    alone = compiled(
        lambda p, b: model.apply(p, b, train=False), params, uneven_batch()
    )
    full, _ = compiled_step(model, Plan(Rule(".*")), params)
    forward, everything = (c.cost_analysis()["flops"] for c in (alone, full))
    for frozen in ("encoder/(embeddings|layer_.*)/.*", "encoder/.*"):
        plan = Plan(Rule(frozen, frozen=True), Rule(".*"))
        part, _ = compiled_step(model, plan, params)
        flops = part.cost_analysis()["flops"]
        assert flops < 0.4 * everything, frozen
        assert flops < 1.15 * forward, frozen


BAG = Plan(Rule("encoder/.*", frozen=True), Rule(".*"))


def test_frozen_parameters_stay_bit_equal_and_the_others_move():
    params = bag_params()
    optimizer = BAG.optimizer(params, 1e-2)
    state = create_state(params, optimizer, BAG)
    step = jax.jit(train_step(bag_loss, optimizer, BAG))
    for _ in range(3):
        state, _ = step(state, uneven_batch())
    for path, leaf in flatten_paths(state.params).items():
        before = flatten_paths(params)[path]
        assert same_bits(leaf, before) == path.startswith("encoder/"), path


def mean_loss(params, batch, key):
    ratio = bag_loss(params, batch, key, train=True)["loss"]
    return ratio.total / ratio.weight


def test_the_norm_is_that_of_what_is_trained():
    params, batch = bag_params(), uneven_batch()
    clip = 0.05
    optimizer = BAG.optimizer(params, 1e-3, clip=clip, weight_decay=0.0)
    state = create_state(params, optimizer, BAG)
    after, sums = jax.jit(train_step(bag_loss, optimizer, BAG))(state, batch)
    gradients = flatten_paths(jax.grad(mean_loss)(params, batch, state.key))
    squares = {p: np.sum(np.float64(g) ** 2) for p, g in gradients.items()}
    norm = np.sqrt(squares["head/kernel"] + squares["head/bias"])
    assert norm > 2 * clip
    assert norm < 0.9 * np.sqrt(sum(squares.values()))
    np.testing.assert_allclose(sums["gradient_norm"].total, norm, rtol=1e-5)
    # After one step Adam's first mean is a tenth of the clipped gradient.
    (mean,) = (
        leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(after.opt_state)
        if jax.tree_util.keystr(path, simple=True, separator="/").endswith(
            "mu/head/kernel"
        )
    )
    expected = 0.1 * np.asarray(gradients["head/kernel"]) * clip / norm
    np.testing.assert_allclose(mean, expected, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("bias_correction", [True, False])
def test_the_optimizer_works_on_the_whole_tree_as_well(bias_correction):
    params = bag_params()
    plan = Plan(
        Rule("encoder/.*", rate=0.1), Rule("head/bias", frozen=True), Rule(".*")
    )
    optimizer = plan.optimizer(
        params, lambda n: 1e-2 / (n + 1), clip=0.1, bias_correction=bias_correction
    )
    state = create_state(params, optimizer, plan)
    step = jax.jit(train_step(bag_loss, optimizer, plan))

    @jax.jit
    def plain(whole, opt_state, batch):
        gradients = jax.grad(mean_loss)(whole, batch, state.key)
        updates, opt_state = optimizer.update(gradients, opt_state, whole)
        return optax.apply_updates(whole, updates), opt_state

    whole, opt_state = params, optimizer.init(params)
    for seed in range(3):
        state, _ = step(state, uneven_batch(seed=seed))
        whole, opt_state = plain(whole, opt_state, uneven_batch(seed=seed))
    assert farthest(state.params, params) > 1e-3
    assert farthest(state.params, whole) < 1e-6
    assert same_bits(whole["head"]["bias"], params["head"]["bias"])
    assert bytes_of(opt_state) == bytes_of(state.opt_state)


# --- stages ----------------------------------------------------------------------

FIRST = Plan(Rule("encoder/.*", frozen=True), Rule(".*"))
LAYER = Rule("encoder/layer/.*", since=1.0)
SECOND = Plan(LAYER, Rule("encoder/.*", frozen=True), Rule(".*"))
THIRD = Plan(LAYER, Rule("encoder/.*", since=2.0), Rule(".*", rate=0.5))


def draw_gradients(step, tree):
    draw = np.random.default_rng(step)
    return jax.tree.map(lambda x: jnp.array(draw.normal(size=x.shape), x.dtype), tree)


def reference_adam(steps, value, gradients, rate, decay, bias_correction):
    """AdamW of one parameter in float64, from a fresh state."""
    eps = 1e-8 if bias_correction else 1e-6
    m = v = np.zeros_like(value)
    for n, (g, factor) in enumerate(zip(gradients, rate, strict=True), 1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        corrected = (m / (1 - 0.9**n), v / (1 - 0.999**n))
        a, b = corrected if bias_correction else (m, v)
        value = value - factor * (a / (np.sqrt(b) + eps) + decay * value)
    assert n == steps
    return value


@pytest.mark.parametrize("bias_correction", [True, False])
def test_what_is_thawed_starts_fresh_and_the_others_go_on(bias_correction):
    """Two steps a stage, against Adam by hand that knows when each leaf began."""
    stages = (Stage(0.0, FIRST), Stage(1.0, SECOND), Stage(2.0, THIRD))
    check_stages(stages, TREE)
    params, opt_state = TREE, None
    for number, stage in enumerate(stages):
        optimizer = stage.plan.optimizer(
            TREE, 0.01, clip=None, bias_correction=bias_correction
        )
        trained, frozen = stage.plan.split(params)
        fresh = optimizer.init(trained)
        opt_state = fresh if opt_state is None else carry_over(opt_state, fresh)
        for step in (2 * number, 2 * number + 1):
            gradients, _ = stage.plan.split(draw_gradients(step, TREE))
            updates, opt_state = optimizer.update(gradients, opt_state, trained)
            trained = optax.apply_updates(trained, updates)
        params = join(trained, frozen)
    begins = {"encoder/embedding/embedding": 4, "encoder/layer": 2, "head": 0}
    for path, leaf in flatten_paths(params).items():
        begin = next(n for prefix, n in begins.items() if path.startswith(prefix))
        gradients = [
            np.float64(flatten_paths(draw_gradients(n, TREE))[path])
            for n in range(begin, 6)
        ]
        halved = path.startswith("head")
        rates = [0.005 if halved and n >= 4 else 0.01 for n in range(begin, 6)]
        decay = 0.0 if path.endswith("bias") else 0.01
        expected = reference_adam(
            6 - begin,
            np.float64(flatten_paths(TREE)[path]),
            gradients,
            rates,
            decay,
            bias_correction,
        )
        np.testing.assert_allclose(leaf, expected, rtol=2e-6, err_msg=path)


def test_the_schedule_goes_on_across_stages():
    old = FIRST.optimizer(TREE, lambda n: 0.1 * n)
    new = SECOND.optimizer(TREE, lambda n: 0.1 * n)
    trained, _ = FIRST.split(TREE)
    state = old.init(trained)
    for step in range(3):
        gradients, _ = FIRST.split(draw_gradients(step, TREE))
        _, state = old.update(gradients, state, trained)
    thawed, _ = SECOND.split(TREE)
    carried = carry_over(state, new.init(thawed))
    assert optax.tree.get(carried[-1], "count") == 3


def test_stages_are_checked_before_any_of_them_begins():
    shared = Plan(Rule(".*"))
    with pytest.raises(ConfigError) as caught:
        check_stages((Stage(0.0, FIRST), Stage(1.5, shared)), TREE)
    told = str(caught.value)
    assert "epoch 1.5" in told
    assert "since" in told
    assert "encoder/layer/kernel" in told
    assert "head/kernel" not in told
    dropped = Plan(Rule("encoder/layer/.*"), Rule("encoder/.*", since=2.0), Rule(".*"))
    with pytest.raises(ConfigError, match="encoder/layer/bias"):
        check_stages((Stage(0.0, FIRST), Stage(1.0, SECOND), Stage(2.0, dropped)), TREE)
    with pytest.raises(ConfigError, match=r"epoch 3: (.|\n)*no rule matches head/bias"):
        check_stages((Stage(0.0, FIRST), Stage(3.0, Plan(Rule("encoder/.*")))), TREE)


def test_a_state_is_arrays_alone():
    optimizer = SECOND.optimizer(TREE, 0.1)
    state = create_state(TREE, optimizer, SECOND)
    assert isinstance(state, TrainState)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))
