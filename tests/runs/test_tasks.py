"""Runs of every task but classification of single sentences, on tiny data."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_runs import sentences

from tl_jax.files.errors import ConfigError, DataError
from tl_jax.runs import evaluate as opened
from tl_jax.runs.config import FinetuneConfig
from tl_jax.runs.finetune import finetune


def write_pairs(file: Path, count: int, seed: int, value: Callable[[str], str]) -> str:
    """Pairs of sentences; what is to be learnt is told by the second one."""
    rows = [
        f"{a}\t{b}\t{value(label)}\n"
        for (a, _), (b, label) in zip(
            sentences(count, seed), sentences(count, seed + 1), strict=True
        )
    ]
    header = "sentence1\tsentence2\tlabel\n"
    file.write_text(header + "".join(rows), encoding="utf-8")
    return str(file)


def config_of(
    task: str, tiny: Path, tmp_path: Path, weights: str, value: Callable[[str], str]
) -> FinetuneConfig:
    return FinetuneConfig(
        task=task,  # pyright: ignore[reportArgumentType]
        train=(write_pairs(tmp_path / "train.tsv", 240, 0, value),),
        dev=write_pairs(tmp_path / "dev.tsv", 50, 7, value),
        weights=str(tiny / weights),
        max_length=32,
        batch_size=8,
        learning_rate=2e-2 if weights == "vectors.txt" else 1e-2,
        epochs=6 if task == "regress" else 3,
        devices=1,
        hidden_size=16,
        dropout=0.1,
    )


@pytest.mark.parametrize(
    ("task", "weights", "score"),
    [("pair", "vectors.txt", "accuracy"), ("regress", "bert", "spearman")],
)
def test_pairs_are_learnt_scored_predicted_and_verified(
    task: str, weights: str, score: str, tiny: Path, tmp_path: Path
) -> None:
    words = (
        {"0": "different", "1": "same"} if task == "pair" else {"0": "0", "1": "2.5"}
    )
    config = config_of(task, tiny, tmp_path, weights, words.__getitem__)
    run = tmp_path / "run"
    metrics = finetune(config, run)["parts"]["dev"]["metrics"]
    assert metrics[score] > 0.8
    again = opened.evaluate(run, config.dev, batch_size=16)["metrics"]
    assert again[score] == pytest.approx(metrics[score], abs=1e-6)
    assert opened.verify(run)[0].startswith("dev: 50 predictions equal")
    unlabelled = tmp_path / "new.tsv"
    unlabelled.write_text("sentence1\tsentence2\na good film\tis bad\n")
    assert opened.predict(run, str(unlabelled), tmp_path / "out.jsonl") == 1
    record = json.loads((tmp_path / "out.jsonl").read_text())
    if task == "pair":
        assert record["label"] == "different"
        assert set(record["probabilities"]) == {"different", "same"}
    else:
        assert record["value"] < 1.25


def test_values_that_are_no_numbers_are_placed(tiny: Path, tmp_path: Path) -> None:
    config = config_of("regress", tiny, tmp_path, "bert", lambda label: f"high{label}")
    with pytest.raises(DataError, match=r"train\.tsv:2: 'high[01]' is no number"):
        finetune(config, tmp_path / "run")


def test_single_texts_are_no_pairs(tiny: Path, tmp_path: Path) -> None:
    config = FinetuneConfig(
        "pair", (str(tiny / "train.tsv"),), str(tiny / "dev.tsv"), str(tiny / "bert")
    )
    with pytest.raises(DataError, match="single texts"):
        finetune(config, tmp_path / "run")


def test_an_option_of_another_task_is_refused(tiny: Path, tmp_path: Path) -> None:
    config = FinetuneConfig(
        "tag",
        (str(tiny / "train.tsv"),),
        str(tiny / "dev.tsv"),
        str(tiny / "bert"),
        label_column="label",
    )
    with pytest.raises(ConfigError, match="--label-column"):
        finetune(config, tmp_path / "run")
