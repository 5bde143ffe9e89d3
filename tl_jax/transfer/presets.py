"""The plans that have a name, and plans read from a file of rules."""

import math
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from tl_jax.files.atomic import read_json
from tl_jax.files.errors import ConfigError, did_you_mean
from tl_jax.models.compose import Params
from tl_jax.transfer.plans import Plan, Rule, Stage, check_stages

# For word vectors: what becomes of the embedding. `random` and `initialise` train the
# same parameters; only the values that they start from differ.
WORD_VECTOR_PLANS = ("random", "initialise", "freeze", "slow")
# For ELMo: what becomes of its biLM.
ELMO_PLANS = ("freeze", "slow", "full")
# For encoders that come pretrained as a whole.
ENCODER_PLANS = ("full", "freeze", "slow", "layerwise", "gradual", "head-only")

SLOW_RATE = 0.1
# Sun et al. 2019, https://arxiv.org/abs/1905.05583, section 5.3.4: .95 for BERT.
LAYER_DECAY = 0.95


def named_plan(
    name: str, params: Params, *, vectors_read: bool = False
) -> tuple[Stage, ...]:
    """Makes the stages of a named plan for a model, or reads them from a file.

    For word vectors: ``random``, ``initialise`` (all learn), ``freeze`` (the embedding
    is fixed) and ``slow`` (it learns at a tenth of the rate). For ELMo: ``freeze`` (its
    biLM is fixed, as in the paper), ``slow`` (it learns at a tenth of the rate) and
    ``full``. For encoders: ``full`` (all learn); ``freeze`` (the layers are fixed,
    pooler and head learn); ``slow`` (the encoder learns at a tenth of the head's rate);
    ``layerwise`` (each layer at .95 of the rate of the one above it); ``gradual``
    (pooler and head first, then each epoch one more layer from the top); ``head-only``
    (the whole encoder is fixed: features only).

    Args:
      name: One of the names, or the path of a JSON file (`read_plan`).
      params: The model's parameters: their paths tell which plans apply.
      vectors_read: The word vectors beside ELMo were not drawn at random: they learn at
        a tenth of the rate, but in ``full``.

    Raises:
      ConfigError: The name is unknown for this kind of model, or the file is broken
        or does not fit the model.
    """
    if name.endswith(".json"):
        stages = read_plan(Path(name))
        check_stages(stages, params)
        return stages
    encoder = params["encoder"]
    if "bilm" in encoder:
        whose, names = "ELMo", ELMO_PLANS
    elif "embedding" in encoder:
        whose, names = "word vectors", WORD_VECTOR_PLANS
    else:
        whose, names = "encoders", ENCODER_PLANS
    if name not in names:
        raise ConfigError(
            f"No transfer plan is named {name!r} for {whose}."
            f"{did_you_mean(name, names)} Known: {', '.join(names)}, "
            "or a .json file of rules."
        )
    if names is ELMO_PLANS:
        slow_vectors = vectors_read and "embedding" in encoder
        return (Stage(0.0, _elmo_plan(name, slow_vectors=slow_vectors)),)
    if names is WORD_VECTOR_PLANS:
        return (Stage(0.0, _word_vector_plan(name)),)
    if name == "gradual":
        return gradual(_depth(encoder))
    return (Stage(0.0, _encoder_plan(name, encoder)),)


def _elmo_plan(name: str, *, slow_vectors: bool) -> Plan:
    bilm = "encoder/bilm/.*"
    rules = {
        "freeze": [Rule(bilm, frozen=True)],
        "slow": [Rule(bilm, rate=SLOW_RATE)],
        "full": [],
    }[name]
    if slow_vectors and name != "full":
        rules.append(Rule("encoder/embedding/.*", rate=SLOW_RATE))
    return Plan(*rules, Rule(".*"))


def _word_vector_plan(name: str) -> Plan:
    embedding = "encoder/embedding/.*"
    match name:
        case "freeze":
            return Plan(Rule(embedding, frozen=True), Rule(".*"))
        case "slow":
            return Plan(Rule(embedding, rate=SLOW_RATE), Rule(".*"))
    return Plan(Rule(".*"))


def _encoder_plan(name: str, encoder: Mapping[str, Any]) -> Plan:
    match name:
        case "freeze":
            fixed = Rule("encoder/(embeddings|layer_.*)/.*", frozen=True)
            return Plan(fixed, Rule(".*"))
        case "slow":
            return Plan(Rule("encoder/.*", rate=SLOW_RATE), Rule(".*"))
        case "head-only":
            return Plan(Rule("encoder/.*", frozen=True), Rule(".*"))
        case "layerwise":
            return layerwise(_depth(encoder))
    return Plan(Rule(".*"))


def _depth(encoder: Mapping[str, Any]) -> int:
    return sum(name.startswith("layer_") for name in encoder)


def layerwise(layers: int, decay: float = LAYER_DECAY) -> Plan:
    """Makes each layer learn at ``decay`` times the rate of the one above it."""
    return Plan(
        *(
            Rule(f"encoder/layer_{index}/.*", rate=decay ** (layers - index))
            for index in reversed(range(layers))
        ),
        Rule("encoder/embeddings/.*", rate=decay ** (layers + 1)),
        Rule(".*"),
    )


def gradual(layers: int) -> tuple[Stage, ...]:
    """Trains pooler and head for one epoch, then thaws one more layer each epoch.

    The pooler, which may be as new as the head, waits for none. The embeddings are
    thawed last. Howard & Ruder 2018, section 3.3.
    """
    parts = ["encoder/embeddings/.*", *(f"encoder/layer_{i}/.*" for i in range(layers))]
    top_first = parts[::-1]

    def plan(epoch: int) -> Plan:
        thawed = [Rule(p, since=n + 1.0) for n, p in enumerate(top_first[:epoch])]
        frozen = [Rule(pattern, frozen=True) for pattern in top_first[epoch:]]
        return Plan(*thawed, *frozen, Rule(".*"))

    return tuple(
        Stage(float(epoch), plan(epoch)) for epoch in range(len(top_first) + 1)
    )


def read_plan(path: Path) -> tuple[Stage, ...]:
    """Reads ``[rule, …]``, or ``[{"epoch": 0, "rules": [rule, …]}, …]`` for stages.

    A rule is ``{"pattern": …, "frozen": true}`` or ``{"pattern": …, "rate": 0.1}``;
    ``"since": 1`` stands with what the stage of epoch 1 thawed, then and later.

    Raises:
      ConfigError: The file cannot be read as that.
    """
    listed = read_json(path, error=ConfigError)
    try:
        return stages_from_json(listed)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(
            f"{path}: not a file of rules ({error}). It should hold a list like "
            '[{"pattern": "encoder/.*", "rate": 0.1}, {"pattern": ".*"}].'
        ) from None


def stages_from_json(listed: list[dict[str, Any]]) -> tuple[Stage, ...]:
    """Undoes `stages_to_json`; also takes a bare list of rules as one stage."""
    if listed and "rules" not in listed[0]:
        listed = [{"epoch": 0, "rules": listed}]
    stages = tuple(
        Stage(float(s["epoch"]), Plan(*(_rule(rule) for rule in s["rules"])))
        for s in listed
    )
    epochs = [stage.epoch for stage in stages]
    rising = all(a < b < math.inf for a, b in pairwise(epochs))
    if not epochs or epochs[0] != 0 or not rising:
        raise ValueError("the first stage begins at epoch 0, each other one later")
    return stages


def _rule(fields: dict[str, Any]) -> Rule:
    kinds = {"pattern": str, "frozen": bool, "rate": int | float, "since": int | float}
    for name, value in fields.items():
        if name not in kinds or not isinstance(value, kinds[name]):
            raise TypeError(f"{name} is {value!r}, or no rule has that")
    return Rule(
        fields["pattern"],
        bool(fields.get("frozen", False)),
        float(fields.get("rate", 1)),
        float(fields.get("since", 0)),
    )


def stages_to_json(stages: tuple[Stage, ...]) -> list[dict[str, Any]]:
    """Writes stages as plain lists and dicts."""
    return [
        {"epoch": s.epoch, "rules": [vars(rule) for rule in s.plan.rules]}
        for s in stages
    ]
