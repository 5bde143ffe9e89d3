"""Runs of every task but classification of single sentences, on tiny data."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from tiny_runs import NEGATIVE, POSITIVE, sentences

from tl_jax.data.conll import read_tagged
from tl_jax.data.propbank import read_propositions
from tl_jax.files.errors import ConfigError, DataError
from tl_jax.interop.huggingface import load_bert, load_bert_model
from tl_jax.models.heads import Span
from tl_jax.runs import evaluate as opened
from tl_jax.runs.config import FinetuneConfig
from tl_jax.runs.export import export
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


def lstm_over(weights: str) -> dict[str, Any]:
    """A small LSTM, over vectors; an encoder has no such options."""
    return {} if weights == "bert" else {"hidden_size": 16, "dropout": 0.1}


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
        **lstm_over(weights),
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
    single = tmp_path / "single.tsv"
    single.write_text("sentence\na good film\n")
    with pytest.raises(DataError, match=r"single\.tsv.*: these are single texts"):
        opened.predict(run, str(single), tmp_path / "single.jsonl")
    if task == "pair":
        assert record["label"] == "different"
        assert set(record["probabilities"]) == {"different", "same"}
    else:
        assert record["value"] < 1.25


def write_questions(file: Path, count: int, seed: int) -> None:
    """Asks for the one loaded word of a sentence; every fourth has none."""
    paragraphs = []
    for number, (text, _) in enumerate(sentences(count, seed)):
        words = text.split()
        loaded = next(w for w in words if w in POSITIVE + NEGATIVE)
        qa: dict[str, Any] = {"id": f"q{number}", "question": "is the story"}
        if number % 4 == 3:
            words = [word for word in words if word != loaded]
            text = " ".join(words)
            qa |= {"answers": [], "is_impossible": True}
        else:
            start = f" {text} ".index(f" {loaded} ")
            qa["answers"] = [{"text": loaded, "answer_start": start}]
        paragraphs.append({"context": text, "qas": [qa]})
    data = {"data": [{"title": "t", "paragraphs": paragraphs}]}
    file.write_text(json.dumps(data), encoding="utf-8")


def write_entities(file: Path, count: int, seed: int) -> None:
    """A loaded word is an entity of its side, and so is an article before it."""
    lines = []
    for text, label in sentences(count, seed):
        kind = "POS" if label == "1" else "NEG"
        before = ""
        for word in text.split():
            loaded = word in POSITIVE + NEGATIVE
            tag = f"B-{kind}" if loaded else "O"
            if loaded and before == "the":
                lines[-1] = f"the\tB-{kind}"
                tag = f"I-{kind}"
            lines.append(f"{word}\t{tag}")
            before = word
        lines.append("")
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_roles(file: Path, count: int, seed: int) -> None:
    """The predicate is the last word; the loaded one is its ARG0 or its ARG1."""
    lines = []
    for text, label in sentences(count, seed):
        words = [*text.split(), "is"]
        for index, word in enumerate(words):
            role = f"(ARG{label}*)" if word in POSITIVE + NEGATIVE else "*"
            last = index == len(words) - 1
            fields = ["be", "be.01", "(V*)"] if last else ["-", "-", role]
            lines.append("\t".join([str(index), word, "X", *fields]))
        lines.append("")
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


WRITERS = {
    "span": (write_questions, ".json", "f1"),
    "tag": (write_entities, ".conll", "strict_iob2_f1"),
    "srl": (write_roles, ".conll", "f1"),
}


@pytest.mark.parametrize(
    ("task", "weights", "options"),
    [
        ("span", "bert", {}),
        ("span", "vectors.txt", {}),
        ("tag", "bert", {"crf": True}),
        ("srl", "random", {"units": "pieces"}),
    ],
)
def test_tokens_are_learnt_scored_predicted_and_verified(
    task: str, weights: str, options: dict[str, Any], tiny: Path, tmp_path: Path
) -> None:
    write, suffix, score = WRITERS[task]
    train, dev = tmp_path / f"train{suffix}", tmp_path / f"dev{suffix}"
    write(train, 240, 0)
    write(dev, 50, 7)
    config = FinetuneConfig(
        task=task,  # pyright: ignore[reportArgumentType]
        train=(str(train),),
        dev=str(dev),
        weights=weights if weights == "random" else str(tiny / weights),
        batch_size=8,
        learning_rate=1e-2 if weights == "bert" else 2e-2,
        epochs=4,
        devices=1,
        **lstm_over(weights),
    )
    run = tmp_path / "run"
    metrics = finetune(replace(config, **options), run)["parts"]["dev"]["metrics"]
    assert metrics[score] > (80 if task == "span" else 0.8)
    again = opened.evaluate(run, str(dev), batch_size=16)["metrics"]
    assert again[score] == pytest.approx(metrics[score], abs=1e-6)
    assert opened.verify(run)[0].startswith("dev: 50 predictions equal")

    output = tmp_path / f"predicted{suffix}"
    assert opened.predict(run, str(dev), output) == 50
    if task == "span":
        texts = json.loads(output.read_text())
        assert set(texts) == {f"q{n}" for n in range(50)}
        odds = json.loads((tmp_path / "predicted_null_odds.json").read_text())
        assert odds.keys() == texts.keys()
        right = sum(
            texts[qa["id"]] == (qa["answers"][0]["text"] if qa["answers"] else "")
            for paragraph in json.loads(dev.read_text())["data"][0]["paragraphs"]
            for qa in paragraph["qas"]
        )
        assert metrics["exact_match"] == pytest.approx(2 * right)
    elif task == "tag":
        gold, found = read_tagged(dev), read_tagged(output)
        assert found.sentences == gold.sentences
        assert read_tagged(output, tag_column=1).tags == gold.tags
        right = sum(a == b for a, b in zip(found.tags, gold.tags, strict=True))
        assert right >= 40
    else:
        gold, found = read_propositions(dev), read_propositions(output)
        assert found.tags is not None and gold.tags is not None
        right = sum(a == b for a, b in zip(found.tags, gold.tags, strict=True))
        assert right >= 40
    lines = tmp_path / "predicted.jsonl"
    assert opened.predict(run, str(dev), lines) == 50
    assert len(lines.read_text().splitlines()) == 50
    check_raw(task, run, tmp_path)


def check_raw(task: str, run: Path, folder: Path) -> None:
    """Predicts on raw text; what is found stands where it is said to."""
    text = "was  great, is"
    raw = {
        "span": json.dumps({"question": "is the story", "context": text}),
        "tag": f"  {text}  ",
        "srl": json.dumps({"text": text, "predicates": [3, [12, 14]]}),
    }
    file = folder / ("raw.txt" if task == "tag" else "raw.jsonl")
    file.write_text(raw[task] + "\n")
    count = opened.predict(run, str(file), folder / "found.jsonl")
    lines = (folder / "found.jsonl").read_text().splitlines()
    assert count == len(lines) == (2 if task == "srl" else 1)
    record = json.loads(lines[-1])
    if task == "span":
        assert record["answer"] == text[record["start"] : record["end"]]
        assert 0 <= record["n_best"][0]["probability"] <= 1
        return
    assert record["text"] == text
    (passage,) = record["entities" if task == "tag" else "roles"]
    assert (passage["text"], passage["characters"]) == ("great", [5, 10])
    assert 0 < passage["probability"] <= 1
    if task == "srl":
        assert record["predicate"]["characters"] == [12, 14]


def test_a_prepared_set_is_learnt_scored_predicted_and_verified(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tfds = pytest.importorskip("tensorflow_datasets")
    from tiny_sets import prepare_given

    file = tmp_path / "train.conll"
    write_entities(file, 300, 0)
    wanted = read_tagged(file)
    kinds = ["O", "B-POS", "I-POS", "B-NEG", "I-NEG"]
    features = {
        "tokens": tfds.features.Sequence(tfds.features.Text()),
        "ner": tfds.features.Sequence(tfds.features.ClassLabel(names=kinds)),
        "labels": tfds.features.Sequence(tfds.features.Text()),
    }
    rows = [
        {"tokens": tokens, "ner": tags, "labels": ["O"] * len(tags)}
        for tokens, tags in zip(wanted.sentences, wanted.tags or [], strict=True)
    ]
    prepare_given(tmp_path / "data", features, *rows)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    config = FinetuneConfig(
        "tag",
        ("tfds:given:train[:80%]",),
        "tfds:given:train[80%:]",
        str(tiny / "bert"),
        tag_column="ner",
        batch_size=8,
        learning_rate=1e-2,
        epochs=5,
        devices=1,
    )
    run = tmp_path / "run"
    found = finetune(config, run)["parts"]["dev"]
    assert found["metrics"]["strict_iob2_f1"] > 0.8
    assert opened.evaluate(run, "tfds:given")["examples"] == 300
    assert opened.verify(run)[0].startswith("dev: 60 predictions equal")
    output = tmp_path / "out.conll"
    assert opened.predict(run, config.dev, output) == 60
    gold = read_tagged(config.dev, tag_column="ner").tags
    assert read_tagged(output, tag_column=1).tags == gold


def test_a_span_model_is_exported_as_it_is(tiny: Path, tmp_path: Path) -> None:
    train = tmp_path / "train.json"
    write_questions(train, 16, 0)
    config = FinetuneConfig(
        "span", (str(train),), str(train), str(tiny / "bert"), epochs=1, devices=1
    )
    finetune(config, tmp_path / "run")
    export(tmp_path / "run", tmp_path / "folder")
    model, params = load_bert_model(tmp_path / "folder")
    assert isinstance(model.head, Span)
    kernel = opened.open_run(tmp_path / "run").params["head"]["output"]["kernel"]
    np.testing.assert_array_equal(params["head"]["output"]["kernel"], kernel)


def test_of_a_model_with_a_crf_the_encoder_is_exported(
    tiny: Path, tmp_path: Path
) -> None:
    train = tmp_path / "train.conll"
    write_entities(train, 16, 0)
    files, run = ((str(train),), str(train)), tmp_path / "run"
    config = FinetuneConfig("tag", *files, str(tiny / "bert"), crf=True, epochs=1)
    finetune(config, run)
    with pytest.raises(ConfigError, match="--encoder-only"):
        export(run, tmp_path / "folder")
    export(run, tmp_path / "folder", encoder_only=True)
    _, params = load_bert(tmp_path / "folder", pooling="none")
    trained = opened.open_run(run).params["encoder"]
    jax.tree.map(np.testing.assert_array_equal, params, trained)


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
