"""Each experiment runs for two steps on tiny data."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"


def load(name: str) -> ModuleType:
    """Imports an experiment from its file."""
    spec = importlib.util.spec_from_file_location(name, EXPERIMENTS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_all_experiments_are_tested_here() -> None:
    assert {path.stem for path in EXPERIMENTS.glob("*.py")} == {
        "bert_reviews",
        "word_vector_strategies",
    }


@pytest.mark.parametrize("name", ["bert_reviews", "word_vector_strategies"])
def test_docstring_tells_command_score_and_cost(name: str) -> None:
    told = load(name).__doc__ or ""
    for word in ("Command:", "Score:", "Cost:"):
        assert word in told


def test_word_vector_strategies(tiny: Path) -> None:
    module = load("word_vector_strategies")
    config = module.Config(
        train=str(tiny / "train.tsv"),
        dev=str(tiny / "dev.tsv"),
        vectors=str(tiny / "vectors.txt"),
        seeds=1,
        epochs=1,
        hidden_size=8,
        limit=64,
    )
    table = module.main(config)
    for strategy in ("random", "initialise", "freeze", "slow"):
        assert strategy in table


def test_bert_reviews(tiny: Path) -> None:
    module = load("bert_reviews")
    config = module.Config(
        train=str(tiny / "train.tsv"),
        dev=str(tiny / "dev.tsv"),
        weights=str(tiny / "bert"),
        seeds=1,
        epochs=1,
        limit=64,
    )
    assert "accuracy" in module.main(config)
