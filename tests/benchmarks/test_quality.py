"""The comparison with transformers + torch, two steps a side on tiny data."""

import hashlib
import importlib
import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from tiny_runs import WORDS
from tiny_tasks import write_entities, write_pairs, write_questions, write_roles

from tl_jax.data.propbank import read_propositions
from tl_jax.data.squad import read_questions
from tl_jax.files.errors import ConfigError
from tl_jax.text.subwords import load_tokenizer

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def quality(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The benchmark, whose files import one another by name."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("quality")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """16 examples of each task to learn from and 8 more, where real ones would lie."""
    files = {
        "ner/wnut17/{}.conll": write_entities,
        "pairs/qnli/{}.tsv": write_pairs,
        "qa/squad_v1.1/{}.json": write_questions,
        "srl/ewt_propbank/{}_part00.conll": write_roles,
    }
    for pattern, write in files.items():
        for part, count, seed in (("train", 16, 1), ("dev", 8, 20)):
            file = tmp_path / pattern.format(part)
            file.parent.mkdir(parents=True, exist_ok=True)
            write(file, count, seed)
    return tmp_path


def options(quality: ModuleType, data: Path, tiny: Path, **more: Any) -> Any:
    sizes = quality.Sizes(squad_train=12, srl_train=10, srl_dev=5)
    results, weights = data / "results.jsonl", str(tiny / "bert")
    return quality.Config(data, results, weights, seeds=1, sizes=sizes, **more)


def test_what_is_chosen_by_hash(
    quality: ModuleType, data: Path, tmp_path: Path
) -> None:
    chosen = quality.make_task.__globals__["chosen"]
    keys = [f"question {n}" for n in range(1000)]
    kept = chosen(keys, 300)
    assert kept == sorted(set(kept)) and len(kept) == 300
    # By the keys alone, wherever they stand; more of them hold the fewer ones.
    back = chosen(keys[::-1], 300)
    assert {999 - n for n in back} == {*kept} < {*chosen(keys, 301)}
    least = min(range(1000), key=lambda n: hashlib.sha256(keys[n].encode()).hexdigest())
    assert chosen(keys, 1) == [least]
    assert chosen(keys, None) == list(range(1000)) == chosen(keys, 2000)

    sizes = quality.Sizes(12, 10, 5)
    for name, count in (("squad", 12), ("ewt", 10)):
        task = quality.make_task(name, data, "random", sizes, tmp_path)
        assert len(task.train) == count
    dev = read_propositions(data / "srl/ewt_propbank/dev_part00.conll")
    assert len(task.dev) == 5
    whole = {(*dev.words(n), *dev.tags[n]) for n in range(8)}
    assert {(*task.dev.words(n), *task.dev.tags[n]) for n in range(5)} < whole
    squad = quality.make_task("squad", data, "random", sizes, tmp_path).train
    assert {*squad.ids} < {*read_questions(data / "qa/squad_v1.1/train.json").ids}


def test_both_sides_learn_and_are_compared(
    quality: ModuleType,
    data: Path,
    tiny: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    config = options(quality, data, tiny)
    quality.main(replace(config, sides=("peer",)))
    quality.main(replace(config, only=("wnut17",)))
    rows = [json.loads(line) for line in config.results.read_text().splitlines()]
    units = [(row["task"], row["side"], row["seed"]) for row in rows]
    peers = [(name, "peer", 0) for name in quality.TASKS]
    assert units == [*peers, ("wnut17", "ours", 0)]
    for row in rows:
        assert row["score"] == row["metrics"][quality.TASKS[row["task"]].score]
        assert row["seconds"] > 0
    sizes = [(row["train"], row["dev"]) for row in rows]
    assert sizes == [(16, 8), (16, 8), (12, 8), (10, 5), (16, 8)]
    table = capsys.readouterr().out.rpartition("| train")[2]
    assert table.count("(1)") == 5
    # What is there is not run again, with --table nothing is.
    before = config.results.read_bytes()
    quality.main(replace(config, only=("wnut17",)))
    quality.main(replace(config, seeds=3, table=True))
    assert config.results.read_bytes() == before
    assert capsys.readouterr().out == f"| train{table}" * 2
    # Results of other weights, sizes or recipes are none of this table's.
    quality.main(replace(config, weights="other", table=True))
    assert "no results" in capsys.readouterr().out
    for name, recipe in quality.TASKS.items():
        monkeypatch.setitem(quality.TASKS, name, recipe._replace(rate=1.0))
    quality.main(replace(config, table=True))
    assert "no results" in capsys.readouterr().out


def test_sides_that_leave_nothing_to_chance_learn_the_same(
    quality: ModuleType, data: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    for name, recipe in quality.TASKS.items():  # so that the order tells
        monkeypatch.setitem(
            quality.TASKS, name, recipe._replace(batch_size=4, rate=1e-2)
        )
    config = options(quality, data, tiny, paired=True)
    quality.main(config)
    rows = [json.loads(line) for line in config.results.read_text().splitlines()]
    ours, peers = (
        {row["task"]: row["metrics"] for row in rows if row["side"] == side}
        for side in ("ours", "peer")
    )
    assert ours.keys() == quality.TASKS.keys()
    for name, metrics in ours.items():
        assert metrics == {k: pytest.approx(peers[name][k], abs=1e-6) for k in metrics}
    # They are not the units that are trained with dropout.
    unpaired = replace(config, paired=False)
    assert "no results" in quality.table(quality.read_results(unpaired))


def test_both_sides_see_the_same_examples(
    quality: ModuleType, data: Path, tiny: Path, tmp_path: Path
) -> None:
    """Their tokenizer, windows and labels against ours, on texts that are cut too."""
    transformers = pytest.importorskip("transformers")
    peer = importlib.import_module("quality_peer")
    long = " ".join(WORDS[n % len(WORDS)] for n in range(70))
    answer = {"text": WORDS[5], "answer_start": long.rindex(WORDS[5])}
    qa = {"id": "long", "question": "is the story", "answers": [answer]}
    told = {"title": "t", "paragraphs": [{"context": long, "qas": [qa]}]}
    file = data / "qa/squad_v1.1/train.json"
    whole = json.loads(file.read_text())
    file.write_text(json.dumps({"data": [*whole["data"], told]}))
    tokenizer = load_tokenizer(tiny / "bert")
    theirs = transformers.AutoTokenizer.from_pretrained(tiny / "bert")
    for name in quality.TASKS:
        sizes = quality.Sizes(None, None, None)
        task = quality.make_task(name, data, str(tiny / "bert"), sizes, tmp_path)
        labels = task.learnt.labels(task.train)
        encoded = task.learnt.encode(
            tokenizer, task.train, labels, max_length=32, targets=True
        )
        ours = encoded.examples
        reader = peer.Reader(theirs, labels, task, 32)
        encode = peer.KINDS[task.config.task][1]
        features = encode(reader, task.train, targets=True).features
        assert len(features) == len(ours) >= 16
        for number, feature in enumerate(features):
            one = ours.subset([number])
            assert one.tokens.tolist() == feature["input_ids"]
            assert one.types.tolist() == feature["token_type_ids"]
            wanted = [feature.get("labels")]
            if name == "squad":
                wanted = [feature["start_positions"], feature["end_positions"]]
            elif name in ("wnut17", "ewt"):
                (wanted,) = wanted
            found = np.concatenate([*one.targets.values()])
            for weights in one.weights.values():
                found[weights == 0] = peer.IGNORED
            assert found.tolist() == wanted


def test_the_table_tells_means_and_differences(quality: ModuleType) -> None:
    scores = {"ours": (0.5, 0.52), "peer": (0.50, 0.50)}
    rows = [
        {"task": "qnli", "side": side, "score": score, "examples_per_second": 10.0}
        | {"train": 3959, "dev": 607}
        for side, found in scores.items()
        for score in found
    ]
    line = quality.table(rows).splitlines()[2]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells == [
        "qnli, 3,959 / 607",
        "accuracy",
        "51.00 ± 1.41 (2)",
        "50.00 ± 0.00 (2)",
        "+1.00",
        "10",
        "10",
    ]
    assert "–" in quality.table(rows[:1]).splitlines()[2]


def test_unknown_tasks_are_refused(quality: ModuleType, data: Path, tiny: Path) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'squad'"):
        quality.main(options(quality, data, tiny, only=("sqad",)))
