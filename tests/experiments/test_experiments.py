"""Each experiment runs for two steps on tiny data."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tiny_runs import sentences, write_tsv

from tl_jax.metrics.bootstrap import spread
from tl_jax.runs.config import FinetuneConfig
from tl_jax.runs.finetune import finetune
from tl_jax.training.log import read_log

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"


def load(name: str) -> ModuleType:
    """Imports an experiment from its file."""
    spec = importlib.util.spec_from_file_location(name, EXPERIMENTS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


NAMES = sorted(path.stem for path in EXPERIMENTS.glob("*.py"))


def test_every_experiment_is_tested_here() -> None:
    tested = {*TASKS, *(n.removeprefix("test_") for n in globals())}
    assert {*NAMES} <= tested
    assert {*TASKS} <= {*NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_docstring_tells_command_score_and_cost(name: str) -> None:
    told = load(name).__doc__ or ""
    for word in ("Command:", "Score:", "Cost:"):
        assert word in told
    assert f"experiments/{name}.py --train" in told


def write_pairs(file: Path, count: int, seed: int) -> None:
    """Pairs of sentences, as similar as their labels are."""
    rows = zip(sentences(count, seed), sentences(count, seed + 1), strict=True)
    lines = [f"{a}\t{b}\t{int(x == y)}\n" for (a, x), (b, y) in rows]
    file.write_text("sentence1\tsentence2\tlabel\n" + "".join(lines), encoding="utf-8")


def write_questions(file: Path, count: int, seed: int) -> None:
    """Asks for the first word of a sentence."""
    paragraphs: list[Any] = []
    for number, (text, _) in enumerate(sentences(count, seed)):
        answers = [{"text": text.split()[0], "answer_start": 0}]
        qa = {"id": f"{seed}-{number}", "question": "is the story", "answers": answers}
        paragraphs.append({"context": text, "qas": [qa]})
    data = {"data": [{"title": "t", "paragraphs": paragraphs}]}
    file.write_text(json.dumps(data), encoding="utf-8")


def write_entities(file: Path, count: int, seed: int) -> None:
    """Every sentence begins with an entity."""
    lines: list[str] = []
    for text, label in sentences(count, seed):
        first, *rest = text.split()
        lines += [f"{first}\tB-{label}", *(f"{word}\tO" for word in rest), ""]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_roles(file: Path, count: int, seed: int) -> None:
    """The last word is the predicate, the first one its role."""
    lines: list[str] = []
    for text, label in sentences(count, seed):
        first, *rest = text.split()
        lines.append(f"0\t{first}\tX\t-\t-\t(ARG{label}*)")
        lines += [f"{n}\t{word}\tX\t-\t-\t*" for n, word in enumerate(rest, 1)]
        lines += [f"{len(rest) + 1}\tis\tV\tbe\tbe.01\t(V*)", ""]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


# What is written for each task's experiment, and the score that it tells first.
TASKS = {
    "sentence_pairs": (write_pairs, ".tsv", "accuracy"),
    "sts": (write_pairs, ".tsv", "spearman"),
    "span_qa": (write_questions, ".json", "exact_match"),
    "ner": (write_entities, ".conll", "strict_iob2_f1"),
    "srl": (write_roles, ".conll", "f1"),
    "korean_nsmc": (write_tsv, ".tsv", "accuracy"),
}


def one_seed(options: FinetuneConfig, out: Path, seeds: int) -> dict[str, Any]:
    """As `finetune_seeds`, but the first seed only: each compiles its steps anew."""
    del seeds
    metrics = finetune(options, out / "seed-0")["parts"]["dev"]["metrics"]
    return {"dev": {name: spread([x])._asdict() for name, x in metrics.items()}}


@pytest.mark.parametrize("name", TASKS)
def test_tasks_run_two_steps_a_seed(
    name: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, suffix, score = TASKS[name]
    files = {part: tmp_path / f"{part}{suffix}" for part in ("train", "dev")}
    write(files["train"], 16, 1)
    write(files["dev"], 8, 2)
    module = load(name)
    seeds = 2 if name == "korean_nsmc" else 1
    if seeds == 1:
        monkeypatch.setattr(module, "finetune_seeds", one_seed)
    options = {"train": (str(files["train"]),), "dev": str(files["dev"])}
    if name == "korean_nsmc":
        options |= {"vector_size": 8, "hidden_size": 8}
    else:
        options |= {"weights": str(tiny / "bert")}
    out = tmp_path / "runs"
    config = module.Config(
        **options, out=out, seeds=seeds, epochs=1, batch_size=8, max_length=32
    )
    told = module.main(config).splitlines()[0]
    assert told.startswith(score)
    assert told.endswith(f"(n = {seeds})")
    for seed in range(seeds):
        log = read_log(out / f"seed-{seed}" / "metrics.jsonl")
        assert max(record["step"] for record in log) == 2


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
