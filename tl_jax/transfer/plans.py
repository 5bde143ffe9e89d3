"""Transfer plans: an ordered table that says what is frozen and what learns how fast.

A plan is data. It compiles to labels, to the partitioned optimizer
(`optax.multi_transform`), to the subtree that is differentiated, and to the table that
is printed before training. The first rule that matches a parameter's path wins; a
parameter without a rule and a rule without a parameter are errors.
"""

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import jax
import optax

from tl_jax.files.errors import ConfigError, did_you_mean
from tl_jax.models.compose import Params, flatten_paths, unflatten_paths
from tl_jax.transfer.optimizers import adam, decays

FROZEN = "frozen"


@dataclass(frozen=True)
class Rule:
    """How the parameters whose whole path matches a pattern are trained.

    Attributes:
      pattern: Regular expression over paths like ``encoder/layer_3/attention/…``.
      frozen: No gradient, no optimizer state, no place in the clipped norm.
      rate: Factor on the learning rate.
      since: Epoch in which the parameters were thawed. Rules thawed apart count the
        steps of their bias correction apart.
    """

    pattern: str
    frozen: bool = False
    rate: float = 1.0
    since: float = 0.0

    def label(self, path: str) -> str:
        """Names the partition of the optimizer that the parameter at ``path`` is in.

        The rate has no part in it, so that a stage may change rates and keep the state.
        """
        if self.frozen:
            return FROZEN
        decay = "decay" if decays(path) else "no decay"
        return f"{decay}, since epoch {self.since:g}" if self.since else decay


class Plan:
    """An ordered table of rules; see the module's docstring."""

    def __init__(self, *rules: Rule) -> None:
        broken = [
            f"{rule.pattern!r}: {problem}"
            for rule in rules
            if (problem := _problem(rule)) is not None
        ]
        patterns = [rule.pattern for rule in rules]
        broken += [
            f"{pattern!r}: stands {patterns.count(pattern)} times; the first one wins"
            for pattern in dict.fromkeys(patterns)
            if patterns.count(pattern) > 1
        ]
        if broken or not rules:
            listed = "\n  ".join(broken) or "it has no rules"
            raise ConfigError(f"The transfer plan does not hold:\n  {listed}")
        self.rules = rules

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plan) and self.rules == other.rules

    def __hash__(self) -> int:
        return hash(self.rules)

    def __repr__(self) -> str:
        return f"Plan{self.rules!r}"

    def rule(self, path: str) -> Rule | None:
        """Finds the first rule that matches a parameter's whole path."""
        return next((r for r in self.rules if re.fullmatch(r.pattern, path)), None)

    def match(self, params: Params) -> dict[str, Rule]:
        """Finds every parameter's rule, by path.

        Raises:
          ConfigError: Names all parameters without a rule and all rules that match no
            parameter (or only ones that an earlier rule took).
        """
        found = {path: self.rule(path) for path in flatten_paths(params)}
        problems = [f"no rule matches {p}" for p, rule in found.items() if rule is None]
        used = set(found.values())
        problems += [
            f"rule {rule.pattern!r} matches no parameter that is left to it."
            + did_you_mean(rule.pattern, found)
            for rule in self.rules
            if rule not in used
        ]
        if problems:
            listed = "\n  ".join(problems)
            raise ConfigError(f"The transfer plan does not fit the model:\n  {listed}")
        return {path: rule for path, rule in found.items() if rule is not None}

    def labels(self, params: Params) -> Params:
        """Labels each leaf of a tree, or of a subtree, with its partition."""
        return unflatten_paths(
            {p: rule.label(p) for p in flatten_paths(params) if (rule := self.rule(p))}
        )

    def split(self, params: Params) -> tuple[Params, Params]:
        """Parts a tree into what is differentiated and what is frozen."""
        trained: dict[str, Any] = {}
        frozen: dict[str, Any] = {}
        for path, leaf in flatten_paths(params).items():
            rule = self.rule(path)
            (frozen if rule is None or rule.frozen else trained)[path] = leaf
        return unflatten_paths(trained), unflatten_paths(frozen)

    def optimizer(
        self,
        params: Params,
        schedule: optax.Schedule | float,
        *,
        weight_decay: float = 0.01,
        clip: float | None = 1.0,
        bias_correction: bool = True,
    ) -> optax.GradientTransformation:
        """Makes the partitioned AdamW of this plan.

        The gradients are clipped to a global norm over all that is trained, and only
        that; each partition has its own Adam and decay, each rule its factor on the
        rate. It works on the whole tree of parameters and as well on the trained part
        of it alone.

        Args:
          params: The parameters that the plan must fit.
          schedule: The learning rate by step, before the rules' factors.
          weight_decay: Decoupled decay of all but biases and LayerNorm's scales.
          clip: Largest global norm of the gradients; None clips nothing.
          bias_correction: Adam's; BERT was trained without.

        Raises:
          ConfigError: The plan does not fit the parameters.
        """
        partitions: dict[Hashable, optax.GradientTransformation] = {
            rule.label(path): self._partition(rule, path, weight_decay, bias_correction)
            for path, rule in self.match(params).items()
        }
        clips = [] if clip is None else [optax.clip_by_global_norm(clip)]
        return optax.chain(
            *(optax.masked(clipping, self._trained) for clipping in clips),
            optax.multi_transform(partitions, self.labels),
            optax.stateless(self._rated),
            optax.scale_by_learning_rate(schedule),
        )

    @staticmethod
    def _partition(
        rule: Rule, path: str, weight_decay: float, bias_correction: bool
    ) -> optax.GradientTransformation:
        if rule.frozen:
            return optax.set_to_zero()
        decay = weight_decay if decays(path) else 0.0
        return optax.chain(
            adam(bias_correction=bias_correction),
            *([optax.add_decayed_weights(decay)] if decay else []),
        )

    def _rated(
        self, updates: optax.Updates, params: optax.Params | None
    ) -> optax.Updates:
        del params
        leaves = flatten_paths(cast(Params, updates))
        for path, leaf in leaves.items():
            rule = self.rule(path)
            if rule is not None and rule.rate != 1:
                leaves[path] = leaf * rule.rate
        return unflatten_paths(leaves)

    def _trained(self, params: Params) -> Params:
        return jax.tree.map(lambda label: label != FROZEN, self.labels(params))

    def table(self, params: Params) -> str:
        """Lays out each rule's parameters, bytes, rate and decay, and the totals."""
        matched = self.match(params)
        leaves = flatten_paths(params)
        rows = [("pattern", "parameters", "bytes", "rate", "decay")]
        for rule in self.rules:
            paths = [path for path, found in matched.items() if found is rule]
            rate = FROZEN if rule.frozen else f"× {rule.rate:g}"
            decayed = _count(leaves, [p for p in paths if decays(p)])
            decay = "–" if rule.frozen or not decayed else f"{decayed:,}"
            rows.append((rule.pattern, *_sizes(leaves, paths), rate, decay))
        trained = [path for path, rule in matched.items() if not rule.frozen]
        rows.append(("trained", *_sizes(leaves, trained), "", ""))
        rows.append(("all", *_sizes(leaves, list(leaves)), "", ""))
        return _align(rows)


@dataclass(frozen=True)
class Stage:
    """A plan and the epoch from which it holds; gradual unfreezing is a list of them.

    Howard & Ruder 2018, https://arxiv.org/abs/1801.06146, section 3.3.
    """

    epoch: float
    plan: Plan


def check_stages(stages: Sequence[Stage], params: Params) -> None:
    """Checks that every stage fits the parameters and can carry the state over.

    Parameters of one ``since`` share the count of their steps, so what a stage thaws
    needs another than what has been trained before, and keeps it from then on.

    Raises:
      ConfigError: Names the stage, and what does not fit or to give which ``since``.
    """
    before: dict[str, str] = {}
    for stage in stages:
        try:
            rules = stage.plan.match(params)
        except ConfigError as error:
            raise ConfigError(f"Stage of epoch {stage.epoch:g}: {error}") from None
        labels = {p: r.label(p) for p, r in rules.items() if not r.frozen}
        kept = {p: label for p, label in labels.items() if p in before}
        wrong = [p for p in kept if kept[p] != before[p]]
        old = set(kept.values())
        wrong += [p for p in labels if before and p not in kept and labels[p] in old]
        if wrong:
            listed = "\n  ".join(wrong)
            raise ConfigError(
                f"Stage of epoch {stage.epoch:g}: Adam counts the steps of what is "
                "thawed apart. Give each of these a rule whose `since` is the epoch of "
                f"the stage that thawed it (0 if the first one did):\n  {listed}"
            )
        before = labels


def carry_over(old: optax.OptState, new: optax.OptState) -> optax.OptState:
    """Keeps the optimizer state of what was trained before a stage began.

    Args:
      old: State under the plan of the stage before.
      new: Fresh state under the plan of the stage that begins.

    Returns:
      ``new`` with each array replaced by ``old``'s at the same place, where there is
      one; newly thawed parameters keep their fresh state.
    """
    kept = {
        jax.tree_util.keystr(path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(old)
    }

    def choose(path: Any, fresh: Any) -> Any:
        return kept.get(jax.tree_util.keystr(path), fresh)

    return jax.tree_util.tree_map_with_path(choose, new)


def _problem(rule: Rule) -> str | None:
    try:
        re.compile(rule.pattern)
    except re.error as error:
        return f"no regular expression ({error})"
    if rule.frozen and rule.rate != 1:
        return "frozen and a rate exclude each other; give one of them"
    if not 0 < rule.rate < float("inf"):
        return f"the rate {rule.rate} must be above 0 (to freeze, say frozen)"
    return None


def _count(leaves: Mapping[str, Any], paths: list[str]) -> int:
    return sum(leaves[path].size for path in paths)


def _sizes(leaves: Mapping[str, Any], paths: list[str]) -> tuple[str, str]:
    return f"{_count(leaves, paths):,}", f"{sum(leaves[p].nbytes for p in paths):,}"


def _align(rows: list[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    rule = "─" * max(map(len, lines))
    return "\n".join([lines[0], rule, *lines[1:-2], rule, *lines[-2:]])
