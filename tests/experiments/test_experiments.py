"""Each experiment runs for two steps on tiny data."""

import csv
import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tyro
from tiny_elmo import save_tiny_elmo
from tiny_runs import sentences, write_tsv
from tiny_tasks import write_entities, write_pairs, write_questions, write_roles

from tl_jax.data.documents import read_documents
from tl_jax.files.errors import ConfigError
from tl_jax.interop.load import load as load_encoder
from tl_jax.metrics.bootstrap import spread
from tl_jax.models.elmo_encoder import Elmo
from tl_jax.runs import experiment
from tl_jax.runs.config import FinetuneConfig
from tl_jax.runs.finetune import finetune
from tl_jax.runs.pretrain_config import PretrainBertConfig
from tl_jax.runs.trial import Outcome
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


@pytest.mark.parametrize("name", [name for name in NAMES if name != "imdb_text"])
def test_docstring_tells_command_score_and_cost(name: str) -> None:
    told = load(name).__doc__ or ""
    for word in ("Command:", "Score:", "Cost:"):
        assert word in told
    assert f"experiments/{name}.py --train" in told


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
    seeds = 2 if name == "korean_nsmc" else 1
    if seeds == 1:
        monkeypatch.setattr(experiment, "finetune_seeds", one_seed)
    out = tmp_path / "runs"
    words = ["--train", files["train"], "--dev", files["dev"], "--out", out]
    words += ["--seeds", seeds, "--epochs", 1, "--batch-size", 8, "--max-length", 32]
    if name == "korean_nsmc":
        words += ["--weights", "random", "--units", "pieces", "--plan", "random"]
        words += ["--vector-size", 8, "--hidden-size", 8]
    else:
        words += ["--weights", tiny / "bert"]
    told = tyro.cli(load(name).main, args=[*map(str, words)]).splitlines()[0]
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


def test_pretraining_pays(tiny: Path, tmp_path: Path) -> None:
    """Every training is run once: what an earlier run has stored is looked up."""
    module = load("pretraining_pays")
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{s}\n" for s, _ in sentences(60, 3)), encoding="utf-8")
    pretrain = PretrainBertConfig(
        lines=(str(text),),
        from_weights=str(tiny / "bert"),
        nsp=False,
        max_length=32,
        batch_size=4,
        steps=2,
        devices=1,
    )
    config = module.Config(
        train=str(tiny / "train.tsv"),
        dev=str(tiny / "dev.tsv"),
        pretrain=pretrain,
        out=tmp_path / "out",
        labels=(),
        seeds=1,
        rates=(1e-3,),
        aside=208,
        epochs=1,
        least_steps=2,
        batch_size=16,
        max_length=32,
    )
    trained, asked, begun = module.train_and_score, [], []

    def counted(
        model: Any, params: Any, plan: Any, train: Any, on: Any, *rest: Any, **how: Any
    ) -> Outcome:
        asked.append((len(train), len(on)))
        begun.append(params["encoder"]["embeddings"]["word"]["embedding"])
        if asked != [(32, 208), (32, 50)]:
            return Outcome(0.5, 0, 0.0)  # once is enough: each compiles its steps anew
        return trained(model, params, plan, train, on, *rest, **how)

    module.train_and_score = counted
    table = module.main(config)
    # On the sentences set aside, then on dev, by each system.
    assert asked == [(32, 208), (32, 50)] * 2
    for folder, word in (
        (tmp_path / "out/pretrained/model", begun[0]),
        (tiny / "bert", begun[2]),
    ):
        _, weights = load_encoder(str(folder), pooling="mean")
        np.testing.assert_array_equal(weights["embeddings"]["word"]["embedding"], word)
    for told in ("pre-trained here", str(tiny / "bert"), "32 labels"):
        assert told in table
    assert module.main(config) == table
    assert len(asked) == 4
    module.main(replace(config, labels=(16,)))
    assert asked[4:] == [(16, 208), (16, 50)] * 2
    assert (tmp_path / "out" / "labels.png").stat().st_size > 0
    with pytest.raises(ConfigError, match="other options"):
        module.main(replace(config, epochs=9))


def test_elmo_transfer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both systems learn from few labels and from all; what is stored is not run."""
    monkeypatch.setenv("TL_JAX_CACHE", str(tmp_path / "cache"))
    module = load("elmo_transfer")
    for part, count in (("train", 16), ("dev", 8)):
        write_entities(tmp_path / f"{part}.conll", count, 1)
    config = module.Config(
        train=(str(tmp_path / "train.conll"),),
        dev=str(tmp_path / "dev.conll"),
        elmo=str(save_tiny_elmo(tmp_path)),
        task="tag",
        out=tmp_path / "out",
        labels=(8, 99),
        seeds=1,
        epochs=1,
        least_steps=2,
        batch_size=8,
        hidden_size=8,
        vector_size=4,
    )
    trained = module.score

    def some(config: Any, job: Any, params: Any, count: int) -> float:
        """Each system once, and each number of labels: every training compiles."""
        with_elmo = isinstance(job.model.encoder, Elmo)
        wanted = with_elmo == (count == 8)
        return trained(config, job, params, count) if wanted else 0.5

    monkeypatch.setattr(module, "score", some)
    table = module.main(config)
    assert "8 labels" in table and "16 labels" in table and "99" not in table
    stored = json.loads((tmp_path / "out" / "scores.json").read_text())["scores"]
    assert {name.rpartition(", seed")[0] for name in stored} == {
        f"{system}, {count} labels"
        for system in ("with ELMo", "without ELMo")
        for count in (8, 16)
    }
    assert (tmp_path / "out" / "labels.png").stat().st_size > 0
    # The frozen biLM's states of both parts were kept.
    assert len(list((tmp_path / "cache" / "elmo").glob("*/states.bin"))) == 2

    def refuse(*_: object) -> None:
        raise AssertionError("it is stored")

    monkeypatch.setattr(module, "score", refuse)
    assert module.main(config) == table
    with pytest.raises(ConfigError, match="other options"):
        module.main(replace(config, epochs=9))


def test_imdb_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        ("Good.<br /><br />Very good.", "imdb"),
        ("A sentence .", "rotten_tomatoes"),
        ("Bad,\nand long.", "imdb"),
        ("Good.<br /><br />Very good.", "imdb"),
    ]
    table = tmp_path / "reviews.csv"
    with table.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([("text", "source"), *rows])
    script = load("imdb_text")
    monkeypatch.setattr(script, "reviews_file", lambda: table)
    assert script.main(tmp_path / "text").startswith("2 reviews")
    documents = read_documents([str(tmp_path / "text")])
    assert [document.segments for document in documents] == [
        ["Good.", "Very good."],
        ["Bad,", "and long."],
    ]
