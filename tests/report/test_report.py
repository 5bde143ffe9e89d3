"""Reports of runs: what predictions get right, and the pictures of it."""

import json
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.image import imread

from tl_jax.files.errors import ConfigError
from tl_jax.report.diagnosis import Diagnosis, by_length, confidence, diagnose
from tl_jax.report.drawing import draw_types
from tl_jax.report.runs import mean_mixes, report
from tl_jax.report.tables import markdown
from tl_jax.runs.config import FinetuneConfig
from tl_jax.runs.data import read_part
from tl_jax.runs.encoders import save_text_encoder
from tl_jax.runs.folder import Setup, versions, write_setup
from tl_jax.runs.tasks import task_of
from tl_jax.text.words import WordVocabulary


@given(st.lists(st.integers(0, 40), min_size=1, max_size=60))
def test_bins_of_length_part_the_rows(values: list[int]) -> None:
    lengths = np.array(values, np.int64)
    bins = by_length(lengths, lambda some: float(lengths[some].mean()))
    assert 1 <= len(bins) <= 5
    assert sum(own.rows for own in bins) == len(values)
    assert (bins[0].least, bins[-1].most) == (min(values), max(values))
    for one, other in pairwise(bins):
        assert one.most < other.least
    for own in bins:
        inside = [v for v in values if own.least <= v <= own.most]
        assert len(inside) == own.rows
        assert own.score == pytest.approx(sum(inside) / len(inside))


def test_bins_hold_about_as_many_rows() -> None:
    bins = by_length(np.arange(100), lambda some: 0.0)
    assert [(own.least, own.most, own.rows) for own in bins] == [
        (n, n + 19, 20) for n in range(0, 100, 20)
    ]


def test_confidence_is_compared_with_being_right() -> None:
    found = confidence([0.95, 0.95, 0.95, 0.95, 0.15], [True, True, True, False, True])
    assert found is not None
    assert found.counts.tolist() == [0, 1, 0, 0, 0, 0, 0, 0, 0, 4]
    assert found.accuracy[9] == pytest.approx(0.75)
    assert found.confidence[9] == pytest.approx(0.95)
    assert found.error == pytest.approx(0.8 * 0.2 + 0.2 * 0.85)
    assert confidence([], []) is None


# One part of data of each task, its gold labels and predictions of known scores.


def texts(folder: Path) -> tuple[Path, list[dict[str, Any]], tuple[str, ...]]:
    """Short texts are told right, long ones wrong."""
    rows = [("a b", "0", 1), ("c", "1", 1), ("d " * 9, "1", 0), ("e " * 9, "0", 0)]
    file = folder / "dev.tsv"
    lines = "".join(f"{text}\t{label}\n" for text, label, _ in rows)
    file.write_text(f"sentence\tlabel\n{lines}")
    records = []
    for _, label, right in rows:
        said = label if right else str(1 - int(label))
        chances = {said: 0.9, str(1 - int(said)): 0.1}
        records.append({"label": said, "probabilities": chances})
    return file, records, ("0", "1")


def numbers(folder: Path) -> tuple[Path, list[dict[str, Any]], tuple[str, ...]]:
    file = folder / "dev.tsv"
    file.write_text("sentence1\tsentence2\tscore\na\tb\t1\na b\tc d e\t4\n")
    return file, [{"value": 1.5}, {"value": 2.0}], ()


def answers(folder: Path) -> tuple[Path, list[dict[str, Any]], tuple[str, ...]]:
    """One is right, one half right, one is none and rightly so, one wrongly."""
    context = "the old man met the sea"

    def qa(number: int, text: str) -> dict[str, Any]:
        golds = [{"text": text, "answer_start": context.index(text)}] if text else []
        told = {"id": f"q{number}", "question": "who?", "answers": golds}
        return told | ({} if text else {"is_impossible": True})

    qas = [qa(0, "old man"), qa(1, "old man"), qa(2, ""), qa(3, "sea")]
    data = {"data": [{"title": "t", "paragraphs": [{"context": context, "qas": qas}]}]}
    file = folder / "dev.json"
    file.write_text(json.dumps(data))
    said = [("old man", 0.9), ("man", 0.6), ("", 0.8), ("", 0.7)]
    records = [
        {
            "answer": text,
            "n_best": [{"probability": chance}] if text else [],
            "null_probability": 0.0 if text else chance,
        }
        for text, chance in said
    ]
    return file, records, ("answer", "no_answer")


def tags(folder: Path) -> tuple[Path, list[dict[str, Any]], tuple[str, ...]]:
    file = folder / "dev.conll"
    file.write_text("Ann\tB-PER\nsaw\tO\nRome\tB-LOC\n\nBob\tB-PER\n")

    def entity(kind: str, begin: int, chance: float) -> dict[str, Any]:
        return {"type": kind, "words": [begin, begin + 1], "probability": chance}

    records = [
        {
            "tags": ["B-PER", "O", "B-PER"],
            "entities": [entity("PER", 0, 0.9), entity("PER", 2, 0.6)],
        },
        {"tags": ["B-PER"], "entities": [entity("PER", 0, 0.9)]},
    ]
    return file, records, ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")


def roles(folder: Path) -> tuple[Path, list[dict[str, Any]], tuple[str, ...]]:
    file = folder / "dev.conll"
    file.write_text(
        "0\tHe\tP\t-\t-\t(ARG0*)\n1\truns\tV\trun\trun.01\t(V*)\n"
        "2\tnow\tR\t-\t-\t(ARGM-TMP*)\n"
    )

    def role(name: str, begin: int, chance: float) -> dict[str, Any]:
        return {"role": name, "words": [begin, begin + 1], "probability": chance}

    record = {
        "tags": ["B-ARG0", "B-V", "B-ARG1"],
        "roles": [role("ARG0", 0, 0.9), role("ARG1", 2, 0.6)],
    }
    return file, [record], ("O", "B-ARG0", "I-ARG0", "B-ARG1", "I-ARG1", "B-V", "I-V")


TASKS = {
    "classify": texts,
    "regress": numbers,
    "span": answers,
    "tag": tags,
    "srl": roles,
}


def config_of(task: str, dev: Path) -> FinetuneConfig:
    return FinetuneConfig(
        task=task,  # pyright: ignore[reportArgumentType]
        train=(str(dev),),
        dev=str(dev),
        weights="some/where/encoder",
        plan="full",
        learning_rate=5e-5,
    )


def diagnosis_of(task: str, folder: Path) -> Any:
    file, records, labels = TASKS[task](folder)
    config = config_of(task, file)
    own = task_of(config)
    return diagnose(own, records, read_part(str(file), "dev", own, config).rows, labels)


def test_classes_are_confused_and_scored_by_length(tmp_path: Path) -> None:
    found = diagnosis_of("classify", tmp_path)
    assert found.confusion.tolist() == [[1, 1], [1, 1]]
    assert [(b.least, b.most, b.score) for b in found.lengths] == [
        (1, 1, 1.0),
        (2, 2, 1.0),
        (9, 9, 0.0),
    ]
    assert found.confidence.counts[8] == 4  # 0.9 ends the ninth bin
    assert found.confidence.error == pytest.approx(0.4)


def test_values_are_compared(tmp_path: Path) -> None:
    found = diagnosis_of("regress", tmp_path)
    assert [(b.least, b.score) for b in found.lengths] == [(2, 0.5), (5, 2.0)]
    assert found.values[0].tolist() == [1.0, 4.0]
    assert found.values[1].tolist() == [1.5, 2.0]


def test_answers_are_scored_by_the_official_rules(tmp_path: Path) -> None:
    found = diagnosis_of("span", tmp_path)
    (own,) = found.lengths
    assert (own.least, own.rows) == (6, 4)
    assert own.score == pytest.approx((1 + 2 / 3 + 1 + 0) / 4)
    right = 0.9 - 1, 0.6 - 0, 0.8 - 1, 0.7 - 0
    assert found.confidence.error == pytest.approx(sum(map(abs, right)) / 4)


def title_of(found: Diagnosis) -> str:
    axes = Figure().subplots()
    draw_types(axes, found.types, found.kind)
    return axes.get_title(loc="left") or axes.get_title()


def test_entities_and_roles_are_scored_by_type(tmp_path: Path) -> None:
    found = diagnosis_of("tag", tmp_path)
    assert [(k.name, k.gold, round(k.f1, 3)) for k in found.types] == [
        ("PER", 2, 0.8),
        ("LOC", 1, 0.0),
    ]
    assert [(b.least, round(b.score, 3)) for b in found.lengths] == [(1, 1.0), (3, 0.5)]
    # of three entities the one of 0.6 is wrong
    assert found.confidence.error == pytest.approx((2 * 0.1 + 0.6) / 3)
    assert title_of(found) == "F1 by type (gold count)"
    found = diagnosis_of("srl", tmp_path)
    assert title_of(found) == "F1 by role (gold count)"
    assert [(k.name, k.gold, k.f1) for k in found.types] == [
        ("ARG0", 1, 1.0),
        ("ARGM-TMP", 1, 0.0),
        ("ARG1", 0, 0.0),
    ]
    assert [own.score for own in found.lengths] == [0.5]
    assert found.confidence.counts.sum() == 2


def write_run(run: Path, task: str, folder: Path) -> Path:
    """A run directory as a finished run leaves it, but without its checkpoints."""
    file, records, labels = TASKS[task](folder)
    config = config_of(task, file)
    own = task_of(config)
    part = read_part(str(file), "dev", own, config)
    setup = Setup(
        config=config,
        encoder={},
        segments="ignore",
        labels=labels,
        plan=[],
        data={"train": part.fingerprint(), "dev": part.fingerprint()},
        weights={},
        versions=versions(),
    )
    words = WordVocabulary.build(["a b"])
    write_setup(run, asdict(setup), lambda to: save_text_encoder(words, to))
    log = [{"step": n, "loss": 2.0 / n} for n in range(1, 9)]
    log += [{"step": 8, f"dev_{own.score}": 0.5}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in log))
    (run / "predictions").mkdir()
    told = "".join(json.dumps(record) + "\n" for record in records)
    (run / "predictions" / "dev.jsonl").write_text(told)
    metrics = {own.score: 50.0 if task == "span" else 0.5}
    results = {"parts": {"dev": {"metrics": metrics}}}
    (run / "results.json").write_text(json.dumps(results))
    return run


@pytest.mark.parametrize("task", TASKS)
def test_each_task_has_its_row_and_picture(task: str, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", task, tmp_path)
    head, _, row, blank, told = report([run]).splitlines()
    assert [cell.strip() for cell in head.strip("|").split("|")][-3:] == [
        "score",
        "dev",
        "test",
    ]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:4] == [str(run), task, "where/encoder", "full"]
    assert cells[-2:] == ["50.00", "–"]
    assert blank == ""
    assert told == f"picture: {run / 'report.png'}"
    picture = imread(run / "report.png")
    assert picture.std() > 0.05
    assert picture.shape[:2] == (2 * 3.6 * 150, 10 * 150)


def test_without_its_data_only_the_training_is_drawn(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "classify", tmp_path)
    (tmp_path / "dev.tsv").write_text("sentence\tlabel\nother\t1\n")
    told = report([run])
    assert "not the data that the run read" in told
    assert f"picture: {run / 'report.png'}" in told
    assert imread(run / "report.png").shape[:2] == (3.6 * 150, 8 * 150)
    (tmp_path / "dev.tsv").unlink()
    assert "no such file" in report([run])
    (run / "results.json").unlink()
    assert "tl-jax resume" in report([run])
    with pytest.raises(ConfigError, match="not a run directory"):
        report([tmp_path / "nothing"])


def test_what_mixes_take_of_elmos_layers_is_drawn(tmp_path: Path) -> None:
    """Seeds are averaged, and several runs have one picture together."""
    mixes = [
        {"output": {"weights": [0.1, 0.2, 0.7], "gamma": 1.5}},
        {"output": {"weights": [0.3, 0.2, 0.5], "gamma": 0.5}},
    ]
    runs = (
        tmp_path / "seeds" / "seed-0",
        tmp_path / "seeds" / "seed-1",
        tmp_path / "tag",
    )
    for run, task, mix in zip(
        runs, ("classify", "classify", "tag"), (*mixes, mixes[0]), strict=True
    ):
        write_run(run, task, tmp_path)
        results = json.loads((run / "results.json").read_text())
        told = json.dumps(results | {"elmo_mixes": mix})
        (run / "results.json").write_text(told)
    (tmp_path / "seeds" / "seeds.json").write_text(json.dumps({"seeds": 2}))
    (found,) = mean_mixes(tmp_path / "seeds")
    assert found.name == "seeds, output"
    assert found.weights == pytest.approx([0.2, 0.2, 0.6])
    assert found.gamma == pytest.approx(1.0)
    told = report([tmp_path / "seeds", tmp_path / "tag"]).splitlines()
    assert told[-1] == f"picture: {tmp_path / 'elmo_layers.png'}"
    assert imread(tmp_path / "elmo_layers.png").std() > 0.05
    # Beside training, confusion, lengths and calibration there is a fifth panel.
    assert imread(runs[0] / "report.png").shape[:2] == (3 * 3.6 * 150, 10 * 150)
    assert mean_mixes(write_run(tmp_path / "bert", "regress", tmp_path)) == []


def test_a_markdown_table_is_aligned() -> None:
    assert markdown(("run", "dev"), [("x", "81.50"), ("long", "9")]).splitlines() == [
        "| run  |   dev |",
        "| ---- | ----: |",
        "| x    | 81.50 |",
        "| long |     9 |",
    ]


def test_runs_that_are_not_finished_are_told(tmp_path: Path) -> None:
    """Of five seeds one has begun, and it has not taken a step."""
    out = tmp_path / "seeds"
    run = write_run(out / "seed-0", "classify", tmp_path)
    (out / "seeds.json").write_text(json.dumps({"seeds": 5}))
    (run / "metrics.jsonl").unlink()
    (run / "results.json").unlink()
    told = report([out])
    assert told.splitlines()[2].count("–") == 2
    assert "tl-jax resume" in told and "seed-1" not in told
