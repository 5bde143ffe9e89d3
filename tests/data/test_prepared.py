"""Prepared sets of TFDS for questions, tags and roles: the readers' values of files."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tiny_sets import prepare_given
from tiny_tasks import head

from tl_jax.data.builders import prepare
from tl_jax.data.conll import read_tagged, write_tagged
from tl_jax.data.propbank import (
    Propositions,
    read_propositions,
    write_propositions,
)
from tl_jax.data.questions import Questions
from tl_jax.data.squad import read_questions
from tl_jax.files.errors import ConfigError, DataError
from tl_jax.runs.check import CheckConfig, check_data

tfds = pytest.importorskip("tensorflow_datasets")
qa_utils = pytest.importorskip("tensorflow_datasets.question_answering.qa_utils")
conll_lib = pytest.importorskip(
    "tensorflow_datasets.core.dataset_builders.conll.conll_dataset_builder_utils"
)

Prepare = Callable[..., None]


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Prepare:
    """Prepares ``tfds:given`` where the readers look for it."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    return partial(prepare_given, tmp_path)


def asked(rows: Questions) -> dict[str, tuple]:
    return {
        name: (
            rows.titles[n],
            rows.contexts[rows.context[n]],
            rows.questions[n],
            rows.answers[n],
            bool(rows.impossible[n]),
        )
        for n, name in enumerate(rows.ids)
    }


def test_korquad_as_its_file_is_read(shared: Path, tmp_path: Path) -> None:
    whole = json.loads((shared / "qa/korquad_v1.0/dev.json").read_text("utf-8"))
    file = tmp_path / "dev.json"
    file.write_text(json.dumps({"data": whole["data"][:5]}), "utf-8")
    prepare("korquad", tmp_path, tmp_path / "data")
    source = "tfds:korquad:validation"
    wanted = asked(read_questions(file))
    found = read_questions(source, data_dir=tmp_path / "data")
    assert asked(found) == wanted
    assert len(found.contexts) == len({context for _, context, *_ in wanted.values()})
    assert found.places[7] == f"{source} example 7"
    titles = tmp_path / "titles.json"
    titles.write_text(json.dumps({"train": [whole["data"][0]["title"]], "dev": []}))
    part = read_questions(
        source, titles=titles, part="train", data_dir=tmp_path / "data"
    )
    assert asked(part) == asked(read_questions(file, titles=titles, part="train"))
    both = read_questions(
        [file, f"{source}[:3]"], on_bad="skip", data_dir=tmp_path / "data"
    )
    assert both.skipped == 3  # their ids stand in the file


def test_klue_ner_as_its_file_is_read(shared: Path, tmp_path: Path) -> None:
    file = head(shared / "ner/klue_ner/dev.tsv", tmp_path / "dev.tsv", 5_000)
    prepare("klue_ner", tmp_path, tmp_path / "data")
    source = "tfds:klue_ner:validation"
    wanted = read_tagged(file)
    found = read_tagged(source, data_dir=tmp_path / "data")

    def rows(data: Any) -> list:
        return sorted(zip(data.sentences, data.tags, data.lines, strict=True))

    assert rows(found) == rows(wanted)
    assert found.scheme == wanted.scheme
    assert found.place(3, 0) == f"{source} example 3"
    assert found.place(3, 5) == f"{source} example 3, word 5"
    # The predictions' file is that of the lines, comments apart.
    write_tagged(tmp_path / "out.tsv", found, found.tags or [])
    again = read_tagged(tmp_path / "out.tsv")
    assert (again.sentences, again.tags) == (found.sentences, found.tags)


def test_ewt_propbank_as_its_file_is_read(shared: Path, tmp_path: Path) -> None:
    source = shared / "srl/ewt_propbank/dev_part00.conll"
    file = head(source, tmp_path / "dev.conll", 6_000)
    prepare("ewt_propbank", tmp_path, tmp_path / "data")
    wanted = read_propositions(file)
    named = "tfds:ewt_propbank:validation"
    found = read_propositions(named, data_dir=tmp_path / "data")

    def rows(data: Propositions) -> list:
        return sorted(
            (data.words(n), int(data.predicate[n]), (data.tags or [])[n])
            for n in range(len(data))
        )

    def lemmas(data: Propositions) -> list:
        used = [data.sentences[number] for number in {*data.sentence.tolist()}]
        fields = [[line.split("\t") for line in s.fields] for s in used]
        return sorted([row[:2] + row[3:] for row in rows] for rows in fields)

    assert rows(found) == rows(wanted)
    assert lemmas(found) == lemmas(wanted)
    place = found.places[0]
    assert place == f"{named} example {place.rsplit(' ', 1)[1]}"
    assert found.place(0, 0) == place
    assert found.place(0, 2) == f"{place}, word 2"
    unlabelled = read_propositions(named, labelled=False, data_dir=tmp_path / "data")
    assert unlabelled.tags is None
    assert unlabelled.predicate.tolist() == found.predicate.tolist()
    write_propositions(tmp_path / "out.conll", found, found.tags or [])
    assert rows(read_propositions(tmp_path / "out.conll")) == rows(wanted)


QUESTION = {"title": "t", "context": "가나 met Eve.", "question": "who?"}


def gold(text: str, start: int) -> dict[str, list]:
    return {"text": [text], "answer_start": [start]}


def test_squad_of_tfds(given: Prepare) -> None:
    given(
        qa_utils.squadlike_features(),
        QUESTION | {"id": "a", "answers": gold("Eve", 7)},
        QUESTION | {"id": "b", "answers": {"text": [], "answer_start": []}},
    )
    rows = asked(read_questions("tfds:given"))
    assert rows["a"] == ("t", QUESTION["context"], "who?", (("Eve", 7),), False)
    assert rows["b"][3:] == ((), True)  # nothing else could tell
    unlabelled = read_questions("tfds:given", labelled=False)
    assert not unlabelled.impossible.any()


def test_offsets_of_tfds_are_checked_as_those_of_files(given: Prepare) -> None:
    given(
        qa_utils.squadlike_features(),
        QUESTION | {"id": "a", "answers": gold("Eve", 7)},
        QUESTION | {"id": "b", "answers": gold("Eve", 11)},  # counted in bytes
    )
    with pytest.raises(DataError, match="it occurs at 7") as caught:
        read_questions("tfds:given")
    assert "tfds:given example" in str(caught.value)
    assert read_questions("tfds:given", on_bad="skip").ids == ["a"]
    (finding,) = check_data(CheckConfig("span", ("tfds:given",))).findings
    assert "1 bad row" in finding.what


def test_squad_2_of_tfds(given: Prepare) -> None:
    squad = pytest.importorskip(
        "tensorflow_datasets.datasets.squad.squad_dataset_builder"
    )
    none: dict[str, list] = {"text": [], "answer_start": []}
    given(
        squad._v2_features(),
        QUESTION
        | {
            "id": "a",
            "answers": none,
            "is_impossible": True,
            "plausible_answers": gold("Eve", 7),
        },
        QUESTION
        | {
            "id": "b",
            "answers": gold("Eve", 7),
            "is_impossible": False,
            "plausible_answers": none,
        },
        QUESTION
        | {
            "id": "c",
            "answers": none,
            "is_impossible": False,
            "plausible_answers": none,
        },
    )
    with pytest.raises(DataError, match="has no answers and is not marked"):
        read_questions("tfds:given")
    rows = asked(read_questions("tfds:given", on_bad="skip"))
    assert {name: row[3:] for name, row in rows.items()} == {
        "a": ((), True),
        "b": ((("Eve", 7),), False),
    }


def test_a_set_without_any_answer_is_not_one_of_unanswerable_questions(
    given: Prepare,
) -> None:
    none = {"text": [], "answer_start": []}
    given(qa_utils.squadlike_features(), QUESTION | {"id": "a", "answers": none})
    with pytest.raises(DataError, match="no question has an answer"):
        read_questions("tfds:given")
    assert len(read_questions("tfds:given", labelled=False)) == 1


WORDS = {"pos": ["NNP", "VBD"], "chunks": ["B-NP", "B-VP"]}


def test_conll2003_of_tfds(given: Prepare) -> None:
    given(
        conll_lib.CONLL_2003_ORDERED_FEATURES,
        WORDS | {"tokens": ["Ann", "ran"], "ner": ["B-PER", "O"]},
        WORDS | {"tokens": ["Bob\t", "New York"], "ner": ["O", "B-LOC"]},
        {"tokens": [], "ner": [], "pos": [], "chunks": []},
    )
    rows = read_tagged("tfds:given")
    assert rows.scheme == "IOB2"
    assert sorted(zip(rows.sentences, rows.tags or [], rows.lines, strict=True)) == [
        (["Ann", "ran"], ["B-PER", "O"], ["Ann\tB-PER", "ran\tO"]),
        (["Bob\t", "New York"], ["O", "B-LOC"], ["Bob \tO", "New York\tB-LOC"]),
    ]
    # A run's numbers of columns are of its files.
    assert read_tagged("tfds:given", token_column=1, tag_column=3).tags == rows.tags
    chunks = read_tagged("tfds:given", tag_column="chunks")
    assert chunks.tags == [["B-NP", "B-VP"]] * 2
    with pytest.raises(ConfigError, match=r"no sequence 'net' among .* mean 'ner'"):
        read_tagged("tfds:given", tag_column="net")
    # What is predicted on may lack the tags that a run learnt from.
    bare = read_tagged("tfds:given", tag_column="net", labelled=False)
    assert sorted(bare.lines) == [["Ann", "ran"], ["Bob ", "New York"]]


def words_and(*tags: str) -> dict[str, Any]:
    text = tfds.features.Sequence(tfds.features.Text())
    return {name: text for name in ("tokens", *tags)}


def test_features_that_could_be_meant_are_named(given: Prepare, tmp_path: Path) -> None:
    example = {"tokens": ["a"], "ner": ["B-X"], "labels": ["O"], "other": ["O"]}
    given(words_and("ner", "labels", "other"), example)
    with pytest.raises(DataError, match=r"it has ner and labels\..*--tag-column"):
        read_tagged("tfds:given")
    assert read_tagged("tfds:given", labelled=False).lines == [["a"]]
    assert read_tagged("tfds:given", tag_column="ner").tags == [["B-X"]]
    config = CheckConfig("tag", ("tfds:given",), tag_column="ner")
    assert "X: 1 (100.0 %)" in str(check_data(config))
    file = tmp_path / "a.conll"
    file.write_text("a\tO\n")
    with pytest.raises(ConfigError, match="have no names"):
        read_tagged(file, tag_column="ner")


def test_tags_of_tfds_are_checked_as_those_of_files(given: Prepare) -> None:
    given(
        words_and("tags"),
        {"tokens": ["a", "b"], "tags": ["B-X", "I-X"]},
        {"tokens": ["c", "d"], "tags": ["B-X", "I-Y"]},
        {"tokens": ["e", "f"], "tags": ["O"]},
        {"tokens": ["g", ""], "tags": ["O", "O"]},
        {"tokens": ["h", "i"], "tags": ["O", "X"]},
        {"tokens": ["j", "k\0"], "tags": ["O", "O"]},
    )
    with pytest.raises(DataError) as caught:
        read_tagged("tfds:given")
    for wrong in ("2 tokens, but 1 tags", ", word 1: no token", "'X' is no tag"):
        assert wrong in str(caught.value)
    assert ", word 1: holds a NUL byte" in str(caught.value)
    rows = read_tagged("tfds:given", on_bad="skip")
    assert (rows.sentences, rows.skipped) == ([["a", "b"], ["c", "d"]], 4)


ROLE = {"sentence": 0, "words": ["He", "ran"], "predicate": 1, "lemma": "run"}
ROLE |= {"roleset": "run.01", "tags": ["B-ARG0", "B-V"]}


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"predicate": 2}, "the predicate 2 is none of its 2 words"),
        ({"predicate": 0}, r"B-V at the words \[1\], not at the predicate"),
        ({"tags": ["B-ARG0"]}, "2 words, but 1 tags"),
        ({"tags": ["I-ARG0", "B-V"]}, "'I-ARG0' may not follow 'O'"),
        ({"tags": ["B-V", "B-V"]}, r"B-V at the words \[0, 1\]"),
        ({"tags": ["X", "B-V"]}, "'X' is no tag"),
        ({"words": ["", "ran"]}, "example [01]: no word"),
        ({"words": ["He", "r\0n"]}, "example [01], word 1: holds a NUL"),
        ({"words": [], "tags": []}, "the predicate 1 is none of its 0 words"),
    ],
)
def test_roles_of_tfds_are_checked(given: Prepare, changed: dict, told: str) -> None:
    from tl_jax.data.builders.propbank import EwtPropbank

    features = EwtPropbank().info.features
    given(features, ROLE, ROLE | {"sentence": 1} | changed)
    with pytest.raises(DataError, match=told):
        read_propositions("tfds:given")
    rows = read_propositions("tfds:given", on_bad="skip")
    assert (rows.tags, rows.skipped) == ([["B-ARG0", "B-V"]], 1)
    checked = check_data(CheckConfig("srl", ("tfds:given",)))
    assert "1 bad row" in checked.findings[0].what


def test_features_that_are_not_there_are_named(given: Prepare) -> None:
    given(words_and("other"), {"tokens": ["a"], "other": ["O"]})
    with pytest.raises(DataError, match="no id and no context and no question among"):
        read_questions("tfds:given")
    with pytest.raises(DataError, match=r"no words and no tags among its features"):
        read_propositions("tfds:given")
    with pytest.raises(DataError, match=r"it has \['other', 'tokens'\]"):
        read_tagged("tfds:given")
    with pytest.raises(DataError, match="no split 'dev'"):
        read_tagged("tfds:given:dev")
