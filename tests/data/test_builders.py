"""Our builders of TFDS: what they prepare is what the readers read."""

import json
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from tiny_tasks import head

from tl_jax import cli
from tl_jax.data.builders import NAMES, builder, prepare
from tl_jax.data.conll import read_tagged
from tl_jax.data.propbank import read_propositions
from tl_jax.data.readers import read_labelled
from tl_jax.data.squad import read_questions
from tl_jax.files.errors import DataError, SourceError

pytest.importorskip("tensorflow_datasets")

# Their importing must not have brought TensorFlow.
WITHOUT = "tensorflow" not in sys.modules


def rows_of(name: str, split: str, folder: Path) -> list:
    return list(cast(Any, builder(name, folder)).as_data_source(split=split))


def text(value: bytes) -> str:
    return value.decode("utf-8")


@pytest.mark.parametrize(
    ("name", "folder", "official"),
    [
        ("nsmc", "sentiment/nsmc", "ratings_train.txt"),
        ("korsts", "pairs/korsts", "sts-train.tsv"),
    ],
)
def test_tables_come_back_as_the_file_has_them(
    name: str, folder: str, official: str, shared: Path, tmp_path: Path
) -> None:
    manual = tmp_path / "manual"
    given = head(shared / folder / "train.tsv", tmp_path / "given.tsv", 301)
    head(given, manual / official, 301)
    head(shared / folder / "dev.tsv", manual / "dev.tsv", 51)
    prepare(name, manual, tmp_path / "data")
    found = read_labelled(f"tfds:{name}:train", data_dir=tmp_path / "data")
    wanted = read_labelled(given)
    assert found.columns == wanted.columns

    def rows(data, number):
        label = data.labels[number]
        # TFDS keeps numbers in 32 bits.
        label = np.float32(label) if name == "korsts" else label
        return data.texts[number], data.pairs and data.pairs[number], label

    # TFDS keeps the examples in hash order.
    assert sorted(rows(found, n) for n in range(300)) == sorted(
        rows(wanted, n) for n in range(300)
    )
    dev = read_labelled(f"tfds:{name}:validation", data_dir=tmp_path / "data")
    assert len(dev) == 50
    assert ("tensorflow" not in sys.modules) == WITHOUT


def test_klue_nli(shared: Path, tmp_path: Path) -> None:
    given = json.loads((shared / "pairs/klue_nli/dev.json").read_text("utf-8"))[:200]
    (tmp_path / "klue-nli-v1.1_dev.json").write_text(json.dumps(given), "utf-8")
    prepare("klue_nli", tmp_path, tmp_path / "data")
    found = read_labelled("tfds:klue_nli:validation", data_dir=tmp_path / "data")
    assert sorted(
        zip(found.texts, found.pairs or [], found.labels or [], strict=True)
    ) == sorted((r["premise"], r["hypothesis"], r["gold_label"]) for r in given)


def test_klue_ner(shared: Path, tmp_path: Path) -> None:
    file = head(shared / "ner/klue_ner/dev.tsv", tmp_path / "dev.tsv", 5_000)
    prepare("klue_ner", tmp_path, tmp_path / "data")
    wanted = read_tagged(file)
    info = builder("klue_ner", tmp_path / "data").info
    names = cast(Any, info.features)["tags"].feature.names
    found = [
        ([text(c) for c in row["characters"]], [names[t] for t in row["tags"]])
        for row in rows_of("klue_ner", "validation", tmp_path / "data")
    ]
    assert len(found) > 50
    assert any(" " in characters for characters, _ in found)
    assert sorted(found) == sorted(
        zip(wanted.sentences, wanted.tags or [], strict=True)
    )


def test_korquad(shared: Path, tmp_path: Path) -> None:
    whole = json.loads((shared / "qa/korquad_v1.0/dev.json").read_text("utf-8"))
    file = tmp_path / "KorQuAD_v1.0_dev.json"
    file.write_text(json.dumps({"data": whole["data"][:5]}), "utf-8")
    prepare("korquad", tmp_path, tmp_path / "data")
    wanted = read_questions(file)
    found = rows_of("korquad", "validation", tmp_path / "data")
    assert len(found) == len(wanted) > 100
    for row in found:
        number = wanted.ids.index(text(row["id"]))
        golds = row["answers"]
        pairs = zip(golds["text"], golds["answer_start"], strict=True)
        assert [(text(t), int(start)) for t, start in pairs] == [
            tuple(gold) for gold in wanted.answers[number]
        ]
        context = text(row["context"])
        assert context == wanted.contexts[wanted.context[number]]
        assert context.startswith(text(golds["text"][0]), golds["answer_start"][0])
        assert text(row["question"]) == wanted.questions[number]


def test_ewt_propbank(shared: Path, tmp_path: Path) -> None:
    source = shared / "srl/ewt_propbank/dev_part00.conll"
    for part in ("0", "1"):
        head(source, tmp_path / f"train_{part}.conll", 3_000)
    prepare("ewt_propbank", tmp_path, tmp_path / "data")
    wanted = read_propositions(sorted(tmp_path.glob("*.conll")))
    found = {
        (int(row["sentence"]), int(row["predicate"]), " ".join(map(text, row["tags"])))
        for row in rows_of("ewt_propbank", "train", tmp_path / "data")
    }
    assert found == {
        (int(s), int(p), " ".join(tags))
        for s, p, tags in zip(
            wanted.sentence, wanted.predicate, wanted.tags or [], strict=True
        )
    }
    row = rows_of("ewt_propbank", "train", tmp_path / "data")[0]
    assert text(row["roleset"]).startswith(text(row["lemma"]))
    sentence = wanted.sentences[int(row["sentence"])]
    assert list(map(text, row["words"])) == sentence.words


def test_what_is_not_there_or_bad_is_told(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="Did you mean 'korquad'"):
        prepare("korquads", tmp_path, tmp_path)
    with pytest.raises(SourceError, match="no such folder"):
        prepare("nsmc", tmp_path / "nothing", tmp_path)
    for name in NAMES:
        with pytest.raises(SourceError, match="holds none of the files"):
            prepare(name, tmp_path, tmp_path / "data")
        assert not builder(name, tmp_path / "data").is_prepared()
    file = tmp_path / "train.tsv"
    file.write_text("id\tdocument\tlabel\n1\ta\n2\tb\t1\n3\n")
    with pytest.raises(DataError, match=r"2 bad rows:\n.*train\.tsv:2: 2 columns"):
        prepare("nsmc", tmp_path, tmp_path / "data")
    file.write_text("document\tlabel\na\t1\n")
    with pytest.raises(DataError, match=r"train\.tsv: has the columns .*\['id'\]"):
        prepare("nsmc", tmp_path, tmp_path / "data")
    assert not builder("nsmc", tmp_path / "data").is_prepared()


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        (
            "nsmc",
            "id\tdocument\tlabel\n1\ta\t0\n2\tb\t7\n3\tc\t\n",
            r"2 bad rows:\n.*train\.tsv:3: the label '7' is none of 0, 1",
        ),
        (
            "korsts",
            "genre\tfilename\tyear\tid\tscore\tsentence1\tsentence2\n"
            "g\tf\ty\t1\t2.5\ta\tb\ng\tf\ty\t2\tnan\ta\tb\n",
            r"1 bad row:\n.*train\.tsv:3: the label 'nan' is no number",
        ),
        (
            "klue_ner",
            "가\tB-PS\n나\tB-XX\n",
            r"train\.tsv:2: 'B-XX' is none of O, B-DT",
        ),
    ],
)
def test_labels_that_a_set_does_not_have_are_told(
    name: str, content: str, told: str, tmp_path: Path
) -> None:
    (tmp_path / "train.tsv").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=told):
        prepare(name, tmp_path, tmp_path / "data")
    assert not builder(name, tmp_path / "data").is_prepared()


def test_an_unprepared_set_tells_the_command_that_prepares_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the code of our builders was imported before or not."""
    for name in ("nsmc", "nsmc:1.0.0"):
        with pytest.raises(SourceError) as caught:
            read_labelled(f"tfds:{name}", data_dir=tmp_path)
        command = f"tl-jax data prepare nsmc --from FOLDER --data-dir {tmp_path}"
        assert f"{command} tells" in str(caught.value)
        builder("nsmc", tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(SourceError, match=f"--data-dir {tmp_path}"):
        read_labelled("tfds:korsts")
    with pytest.raises(SourceError, match="Did you mean 'nsmc'"):
        read_labelled("tfds:nscm")


def test_the_command_prepares_what_the_others_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def left_with(*words: object) -> int:
        with pytest.raises(SystemExit) as stopped:
            cli.main(["data", *map(str, words)])
        return int(stopped.value.code or 0)

    files, data = tmp_path / "files", tmp_path / "data"
    files.mkdir()
    words = ("prepare", "nsmc", "--from", files, "--data-dir", data)
    assert left_with(*words) == 3
    assert "holds none of the files ratings_train.txt" in capsys.readouterr().err
    (files / "train.tsv").write_text("id\tdocument\tlabel\n1\tgood\t1\n2\tbad\t0\n")
    assert left_with(*words) == 0
    told = capsys.readouterr()
    assert told.out == "tfds:nsmc:train  2 examples\n"  # what TFDS says is not there
    assert f"TFDS_DATA_DIR={data}" in told.err
    assert "WARNING" not in told.err
    assert left_with(*words) == 0
    assert "is there already" in capsys.readouterr().err
    monkeypatch.setenv("TFDS_DATA_DIR", str(data))
    assert left_with("check", "classify", "--train", "tfds:nsmc:train") == 0
    assert "2 examples of tfds:nsmc:train" in capsys.readouterr().out
    assert left_with("prepare", "nscm", "--from", files) == 3
    assert "Did you mean 'nsmc'?" in capsys.readouterr().err


def test_every_builder_says_which_files_it_needs(tmp_path: Path) -> None:
    for name in NAMES:
        told = builder(name, tmp_path).MANUAL_DOWNLOAD_INSTRUCTIONS or ""
        assert "https://" in told
        assert "train:" in told
