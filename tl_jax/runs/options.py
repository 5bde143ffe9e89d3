"""What the options of a run may be."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any


def out_of_range(
    config: Any, least: Mapping[str, int], shares: Iterable[str]
) -> list[str]:
    """Says of each option whose value no run can have what it must be.

    Args:
      config: The options, a seed among them; those that are None are left open.
      least: The smallest value, by the option's name; infinite is none of them.
      shares: Names of those that are from 0 to below 1.
    """
    problems = []
    for name, low in least.items():
        value = getattr(config, name)
        if value is not None and not low <= value < math.inf:
            problems.append(f"{flag(name)} {value}: it must be {low} or more")
    for name in shares:
        value = getattr(config, name)
        if value is not None and not 0 <= value < 1:
            problems.append(f"{flag(name)} {value}: from 0 to below 1")
    if not 0 <= config.seed < 2**32:
        problems.append(f"--seed {config.seed}: it must be 0 … 2**32 - 1")
    return problems


def given(config: Any, names: Iterable[str]) -> list[str]:
    """Lists those of some options that are not left at their defaults, as flags."""
    defaults = {field.name: field.default for field in fields(config)}
    return [flag(name) for name in names if getattr(config, name) != defaults[name]]


def flag(name: str) -> str:
    """Names an option as the command does."""
    return f"--{name.replace('_', '-')}"
