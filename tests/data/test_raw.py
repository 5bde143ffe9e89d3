"""Raw text to be predicted on."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tl_jax.data.conll import read_tagged, write_tagged
from tl_jax.data.raw import is_raw, read_asked, read_marked, read_sentences
from tl_jax.data.readers import read_labelled
from tl_jax.files.errors import DataError


def written(folder: Path, *rows: Any) -> str:
    file = folder / "raw.jsonl"
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    file.write_text("\n".join(lines), encoding="utf-8")
    return str(file)


def test_names_tell_what_is_raw() -> None:
    assert is_raw("a/b.TXT") and is_raw("b.jsonl")
    assert not is_raw("b.conll") and not is_raw(["b.txt"])


def test_sentences_are_cut_where_they_stand(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("\ufeffSeoul, now!\n\n  don't  go \r\n", encoding="utf-8")
    assert read_labelled(file).texts == ["Seoul, now!", "don't  go"]
    data = read_sentences(str(file), characters=False, on_bad="raise")
    assert data.sentences == [["Seoul", ",", "now", "!"], ["do", "n't", "go"]]
    assert data.places == [f"{file}:1", f"{file}:3"]
    assert data.located is not None and data.tags is None
    assert data.located[1].passage(1, 3)["characters"] == [2, 9]
    assert data.first(1).located == data.located[:1]
    raw = read_sentences(str(file), characters=True, on_bad="raise")
    assert raw.sentences[1] == list("don't  go")
    lines = written(tmp_path, {"text": "don't  go"})
    again = read_sentences(lines, characters=False, on_bad="raise")
    assert again.sentences == data.sentences[1:]
    spaced = read_sentences(
        written(tmp_path, {"text": "  don't\n"}), characters=False, on_bad="raise"
    )
    assert spaced.located is not None
    assert spaced.located[0].text == "  don't\n"  # as it was given, and so are places:
    assert spaced.located[0].passage(0, 1)["characters"] == [2, 4]
    for characters in (True, False):
        with pytest.raises(DataError, match="not one word"):
            read_sentences(
                written(tmp_path, {"text": " "}), characters=characters, on_bad="raise"
            )


@pytest.mark.parametrize("characters", [True, False])
def test_tags_of_raw_text_are_written_as_columns(
    characters: bool, tmp_path: Path
) -> None:
    """Characters may be blanks, and then tabs stand between the columns."""
    texts = ["가 나", "# x\ty\n z", " \u00a0-DOCSTART- a"]
    file = written(tmp_path, *({"text": text} for text in texts))
    data = read_sentences(file, characters=characters, on_bad="raise")
    tags = [["B-X"] * len(sentence) for sentence in data.sentences]
    write_tagged(tmp_path / "out.tsv", data, tags)
    again = read_tagged(tmp_path / "out.tsv")
    assert again.tags == tags
    shown = [re.sub("[\t\n]", " ", text) for text in texts]
    assert again.sentences == (
        [list(text) for text in shown] if characters else data.sentences
    )


def test_questions_without_answers(tmp_path: Path) -> None:
    rows = [{"question": f"q{n}?", "context": "c" * (n // 2 + 1)} for n in range(3)]
    rows[1]["id"] = "named"
    data = read_asked(written(tmp_path, *rows), on_bad="raise")
    assert data.ids == ["0", "named", "2"]
    assert data.questions == ["q0?", "q1?", "q2?"]
    assert (data.contexts, data.context.tolist()) == (["c", "cc"], [0, 0, 1])
    assert not data.labelled and not data.impossible.any()
    bad = [{"question": "q", "context": " "}, {"id": "named", **rows[2]}]
    file = written(tmp_path, *rows, *bad)
    with pytest.raises(DataError) as caught:
        read_asked(file, on_bad="raise")
    assert f"{file}:4: a question and a context are needed" in str(caught.value)
    assert f"{file}:5: the id 'named' stands already in {file}:2" in str(caught.value)
    data = read_asked(file, on_bad="skip")
    assert (data.ids, data.skipped) == (["0", "named", "2"], 2)
    told = r"no question and no context in it.*\(\.jsonl\) such as"
    with pytest.raises(DataError, match=told):
        read_asked(written(tmp_path, {"text": "a"}), on_bad="raise")


def test_predicates_by_number_and_by_characters(tmp_path: Path) -> None:
    text = "He  gave it up, sadly."
    rows = [
        {"text": text, "predicates": [1, [4, 8], [5, 6]]},
        {"text": "Nobody.", "predicates": []},
        {"words": ["Go", "away", "."], "predicates": [0]},
    ]
    with pytest.raises(DataError, match="no predicates in it"):
        read_marked(written(tmp_path, {"text": text}), on_bad="raise")
    data = read_marked(written(tmp_path, *rows), on_bad="raise")
    assert data.predicate.tolist() == [1, 1, 1, 0]
    assert data.sentence.tolist() == [0, 0, 0, 2]
    assert data.words(0) == ["He", "gave", "it", "up", ",", "sadly", "."]
    assert data.text(0).text == text
    assert data.text(0).passage(1, 3)["characters"] == [4, 11]
    assert data.text(3).text == "Go away ."
    assert data.sentences[2].fields == [
        "0\tGo\t-\t-\t-",
        "1\taway\t-\t-\t-",
        "2\t.\t-\t-\t-",
    ]


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"text": "a b", "predicates": [2]}, "the predicate 2 is none of its 2 words"),
        ({"text": "a b", "predicates": [-1]}, "none of its 2 words"),
        ({"text": "a b", "predicates": [True]}, "none of its 2 words"),
        ({"text": "a  b", "predicates": [[1, 3]]}, "none of its 2 words"),
        ({"text": "a", "predicates": [[0, 1, 2]]}, "none of its 1 words"),
        ({"text": "a", "predicates": ["a"]}, "none of its 1 words"),
        ({"text": "a", "predicates": 0}, "predicates must be a list"),
        ({"text": "a"}, "predicates must be a list"),
        ({"text": "a", "predicates": "[" * 100_000}, "recursion"),
        ({"predicates": [0]}, "either a text or words"),
        ({"text": "a", "words": ["a"], "predicates": [0]}, "either a text or words"),
        ({"words": ["a b"], "predicates": [0]}, "without white space"),
        ({"words": "a", "predicates": [0]}, "words must be a list"),
        ('{"text": "a", "predicates"', "broken JSON"),
    ],
)
def test_what_marks_no_predicate(row: Any, told: str, tmp_path: Path) -> None:
    file = written(tmp_path, {"text": "Go.", "predicates": [0]}, row)
    with pytest.raises(DataError) as caught:
        read_marked(file, on_bad="raise")
    assert f"{file}:2: " in str(caught.value) and told in str(caught.value)
    data = read_marked(file, on_bad="skip")
    assert (len(data), data.skipped) == (1, 1)


def test_a_file_without_predicates(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not one predicate"):
        read_marked(written(tmp_path, {"text": "a", "predicates": []}), on_bad="raise")


def test_columns_are_not_taken_for_prose(tmp_path: Path) -> None:
    file = tmp_path / "test.txt"
    file.write_text("-DOCSTART- O\n\nEU NNP B-ORG\nrejects VBZ O\n\nJoy NN O\n")
    with pytest.raises(DataError, match=r"test\.txt: .* name it \.conll"):
        read_sentences(str(file), characters=False, on_bad="raise")
    file.write_text("EU rejects O\nJoy to all\n")
    assert len(read_sentences(str(file), characters=False, on_bad="raise")) == 2
