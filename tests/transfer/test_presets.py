import json

import jax.numpy as jnp
import pytest
from helpers import drawn, tiny_bert, tiny_word_vectors

from tl_jax.files.errors import ConfigError
from tl_jax.models.compose import flatten_paths
from tl_jax.transfer.plans import Plan, Rule, Stage, check_stages
from tl_jax.transfer.presets import (
    ENCODER_PLANS,
    WORD_VECTOR_PLANS,
    named_plan,
    read_plan,
    stages_from_json,
    stages_to_json,
)

MODELS = {
    "pooler": tiny_bert(),
    "mean": tiny_bert(pooling="mean"),
    "words": tiny_word_vectors(),
    "words, one direction": tiny_word_vectors(bidirectional=False, num_layers=2),
}


@pytest.fixture(scope="module")
def params():
    return {name: drawn(model) for name, model in MODELS.items()}


def part(path):
    """``embeddings``, ``layer_0``, ``pooler``, …, or ``head``."""
    return path.split("/")[1] if path.startswith("encoder/") else "head"


def rates(plan, tree):
    """The factor on the rate of each part of a model; None where it is frozen."""
    found = {}
    for path, rule in plan.match(tree).items():
        rate = None if rule.frozen else rule.rate
        assert found.setdefault(part(path), rate) == rate
    return found


@pytest.mark.parametrize("kind", MODELS)
def test_every_preset_fits_its_models(params, kind):
    names = WORD_VECTOR_PLANS if kind.startswith("words") else ENCODER_PLANS
    for name in names:
        stages = named_plan(name, params[kind])
        check_stages(stages, params[kind])
        assert stages[0].epoch == 0


def test_word_vector_presets(params):
    def lstm(rate):
        parts = ("lstm_0_forward", "lstm_0_backward")
        return dict.fromkeys((*parts, "head"), rate)

    expected = {"random": 1.0, "initialise": 1.0, "freeze": None, "slow": 0.1}
    for name, rate in expected.items():
        (stage,) = named_plan(name, params["words"])
        found = rates(stage.plan, params["words"])
        assert found == {"embedding": rate, **lstm(1.0)}, name


def test_elmo_presets(params):
    """By paths alone: `freeze` is for the biLM, though vectors stand beside it."""
    beside = {"mix_input": {"s": jnp.ones(3)}, "lstm_0_forward": {"bias": jnp.ones(1)}}
    learns = dict.fromkeys((*beside, "head"), 1.0)
    bilm, table = (
        {"bilm": {"w": jnp.ones(1)}},
        {"embedding": {"embedding": jnp.ones(1)}},
    )
    for name, rate in {"freeze": None, "slow": 0.1, "full": 1.0}.items():
        for vectors, told, own in (
            ({}, True, {}),
            (table, False, {"embedding": 1.0}),
            (table, True, {"embedding": 1.0 if name == "full" else 0.1}),
        ):
            tree = {"encoder": bilm | beside | vectors, "head": {"bias": jnp.ones(1)}}
            stages = named_plan(name, tree, vectors_read=told)
            check_stages(stages, tree)
            found = rates(stages[0].plan, tree)
            assert found == {"bilm": rate, **own, **learns}, name


def test_encoder_presets(params):
    fixed = dict.fromkeys(("embeddings", "layer_0", "layer_1"))
    full = dict.fromkeys((*fixed, "pooler", "head"), 1.0)
    expected = {
        "full": full,
        "freeze": fixed | {"pooler": 1.0, "head": 1.0},
        "head-only": fixed | {"pooler": None, "head": 1.0},
        "slow": dict.fromkeys(full, 0.1) | {"head": 1.0},
        # Sun et al. 2019: η of layer k-1 is .95 · η of layer k.
        "layerwise": {
            "embeddings": 0.95**3,
            "layer_0": 0.95**2,
            "layer_1": 0.95,
            "pooler": 1.0,
            "head": 1.0,
        },
    }
    for name, found in expected.items():
        (stage,) = named_plan(name, params["pooler"])
        assert rates(stage.plan, params["pooler"]) == pytest.approx(found), name
        (stage,) = named_plan(name, params["mean"])
        found = {p: rate for p, rate in found.items() if p != "pooler"}
        assert rates(stage.plan, params["mean"]) == pytest.approx(found), name


@pytest.mark.parametrize("kind", ["pooler", "mean"])
def test_gradual_thaws_from_the_top_a_layer_an_epoch(params, kind):
    stages = named_plan("gradual", params[kind])
    assert [stage.epoch for stage in stages] == [0, 1, 2, 3]
    new = {"head", "pooler"} if kind == "pooler" else {"head"}
    trained = [
        {p for p, rate in rates(stage.plan, params[kind]).items() if rate is not None}
        for stage in stages
    ]
    assert trained == [
        new,
        new | {"layer_1"},
        new | {"layer_1", "layer_0"},
        new | {"layer_1", "layer_0", "embeddings"},
    ]


def test_ten_layers_are_not_taken_for_one():
    leaves = {f"layer_{n}": {"kernel": jnp.ones(1)} for n in range(12)}
    tree = {"encoder": {"embeddings": {"w": jnp.ones(1)}, **leaves}, "head": {}}
    tree["head"] = {"kernel": jnp.ones(1)}
    (stage,) = named_plan("layerwise", tree)
    found = rates(stage.plan, tree)
    assert found["layer_1"] == pytest.approx(0.95**11)
    assert found["layer_11"] == pytest.approx(0.95)


def test_an_unknown_name_is_told_with_those_that_are_known(params):
    with pytest.raises(ConfigError, match=r"Did you mean 'layerwise'\?.*gradual"):
        named_plan("layer-wise", params["pooler"])
    with pytest.raises(ConfigError, match="random, initialise, freeze, slow"):
        named_plan("layerwise", params["words"])


@pytest.mark.parametrize("kind", MODELS)
def test_stages_survive_json(params, kind):
    names = WORD_VECTOR_PLANS if kind.startswith("words") else ENCODER_PLANS
    for name in names:
        stages = named_plan(name, params[kind])
        assert (
            stages_from_json(json.loads(json.dumps(stages_to_json(stages)))) == stages
        )


def test_a_file_of_rules(params, tmp_path):
    file = tmp_path / "plan.json"
    file.write_text('[{"pattern": "encoder/.*", "rate": 0.1}, {"pattern": ".*"}]')
    plan = Plan(Rule("encoder/.*", rate=0.1), Rule(".*"))
    assert named_plan(str(file), params["pooler"]) == (Stage(0.0, plan),)


def test_a_file_of_stages(params, tmp_path):
    file = tmp_path / "plan.json"
    stages = named_plan("gradual", params["mean"])
    file.write_text(json.dumps(stages_to_json(stages)))
    assert named_plan(str(file), params["mean"]) == stages


TWO_STAGES = (
    '[{"epoch": 0, "rules": [{"pattern": ".*"}]}, {"epoch": %s, "rules": [%s]}]'
)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "broken JSON"),
        ("[{", "broken JSON at line 1"),
        ("[" * 100_000, "nested"),
        ("[]", "not a file of rules"),
        ("{}", "not a file of rules"),
        ("3", "not a file of rules"),
        ("null", "not a file of rules"),
        ('"rules"', "not a file of rules"),
        ('{"pattern": ".*"}', "not a file of rules"),
        ('["a"]', "not a file of rules"),
        ('[{"patern": ".*"}]', "patern"),
        ('[{"pattern": 3}]', "pattern is 3"),
        ('[{"pattern": ".*", "rate": "0.1"}]', "rate is '0.1'"),
        ('[{"pattern": ".*", "rate": null}]', "rate is None"),
        ('[{"pattern": ".*", "frozen": "false"}]', "frozen is 'false'"),
        ('[{"pattern": ".*", "since": []}]', r"since is \[\]"),
        ('[{"pattern": "("}]', r"'\('"),
        ('[{"pattern": ".*", "rate": 0}]', "rate 0"),
        ('[{"pattern": ".*", "rate": NaN}]', "rate nan"),
        ('[{"epoch": 1, "rules": [{"pattern": ".*"}]}]', "begins at epoch 0"),
        ('[{"rules": [{"pattern": ".*"}]}]', "epoch"),
        (TWO_STAGES % (0, '{"pattern": ".*"}'), "later"),
        (TWO_STAGES % ("NaN", '{"pattern": ".*"}'), "later"),
        (TWO_STAGES % (1, ""), "no rules"),
    ],
)
def test_broken_files_are_one_typed_error_with_the_path(tmp_path, text, told):
    file = tmp_path / "plan.json"
    file.write_text(text)
    with pytest.raises(ConfigError, match=told) as caught:
        read_plan(file)
    assert str(file) in str(caught.value)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match="no such"):
        read_plan(tmp_path / "plan.json")
    with pytest.raises(ConfigError, match="no such"):
        read_plan(tmp_path)
    file = tmp_path / "latin.json"
    file.write_bytes(b'[{"pattern": "caf\xe9"}]')
    with pytest.raises(ConfigError, match="UTF-8"):
        read_plan(file)


def test_a_file_that_does_not_fit_the_model_is_told_at_the_start(params, tmp_path):
    file = tmp_path / "plan.json"
    stage = '{"pattern": "encoder/embedding/.*"}'
    file.write_text(TWO_STAGES % (2, stage))
    with pytest.raises(ConfigError, match=r"epoch 2(.|\n)*no rule matches head"):
        named_plan(str(file), params["words"])


def test_paths_are_those_that_the_presets_name(params):
    parts = {part(path) for path in flatten_paths(params["pooler"])}
    assert parts == {"embeddings", "layer_0", "layer_1", "pooler", "head"}
