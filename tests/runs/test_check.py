"""The data check, against brute force and what is known of real data."""

import json
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tl_jax import cli
from tl_jax.data.checks import (
    Samples,
    duplicates,
    leaks,
    lengths_told,
    lost_separators,
    shares_told,
)
from tl_jax.files.errors import ConfigError, DataError, TlJaxError
from tl_jax.runs.check import CheckConfig, Checked, check_data


def write(file: Path, *lines: str) -> str:
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(file)


def told(checked: Checked, what: str) -> tuple[str, ...]:
    """The places of the one finding that begins so."""
    (finding,) = [f for f in checked.findings if f.what.startswith(what)]
    return finding.examples


def heads(checked: Checked) -> list[str]:
    return [finding.what for finding in checked.findings]


TEXTS = st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("01")), max_size=12)


def samples(rows: list[tuple[str, str]], name: str = "f") -> Samples:
    places = [f"{name}:{line}" for line in range(2, len(rows) + 2)]
    return Samples({"text": [t for t, _ in rows]}, [a for _, a in rows], places)


def counts(findings: list) -> dict[str, int]:
    return {
        what: int(number.split()[0])
        for what, number in (finding.what.split(": ") for finding in findings)
    }


@given(TEXTS)
def test_duplicates_are_those_of_all_pairs(rows: list[tuple[str, str]]) -> None:
    found = counts(duplicates(samples(rows)))
    texts = [text for text, _ in rows]
    first = {text: texts.index(text) for text in texts}
    later = [r for i, r in enumerate(rows) if first[r[0]] != i]
    same = sum(r[1] == rows[first[r[0]]][1] for r in later)
    assert found.get("repeated", 0) == same
    assert found.get("repeated with another answer", 0) == len(later) - same
    both = {a[0] for a, b in combinations(rows, 2) if a[0] == b[0] and a[1] != b[1]}
    assert ("repeated with another answer" in found) == bool(both)


@given(TEXTS, TEXTS)
def test_leaks_are_those_of_all_pairs(
    train: list[tuple[str, str]], dev: list[tuple[str, str]]
) -> None:
    found = counts(leaks(samples(train), samples(dev, "g")))
    same = [row for row in dev if any(row[0] == other[0] for other in train)]
    assert found.get("stands in train too", 0) == len(same)
    against = sum(row not in train for row in same)
    assert found.get("stands in train with other answers only", 0) == against


def test_a_pair_leaks_as_a_whole_or_by_one_text() -> None:
    train = Samples({"a": ["x", "y"], "b": ["p", "q"]}, None, ["f:2", "f:3"])
    dev = Samples({"a": ["x", "x", "z"], "b": ["p", "q", "p"]}, None, ["g:2"] * 3)
    assert counts(leaks(train, dev)) == {
        "stands in train too": 1,
        "a stands in train too": 2,
        "b stands in train too": 3,
    }


def test_lengths_and_shares_are_told() -> None:
    assert lengths_told(np.arange(1, 101)) == (
        "1 … 100 words, 50 % ≤ 50, 90 % ≤ 90, 99 % ≤ 99"
    )
    assert shares_told(Counter({"b": 1, "a": 3})) == "a: 3 (75.0 %), b: 1 (25.0 %)"
    many = shares_told(Counter({str(n): 1 for n in range(20)}))
    assert many.endswith("and 5 more")


def test_a_lost_separator_is_a_text_far_longer_than_others() -> None:
    texts = ["a b c"] * 50
    places = [f"f:{n}" for n in range(51)]
    (found,) = lost_separators(Samples({"text": [*texts, "a " * 201]}, None, places))
    assert found.examples == ("f:50: 201 words",)
    assert not lost_separators(Samples({"text": [*texts, "a " * 200]}, None, places))


def test_texts_are_counted_and_what_is_odd_is_placed(tmp_path: Path) -> None:
    train = write(
        tmp_path / "train.tsv",
        "sentence\tlabel",
        "good film\t1",
        "bad film\t0",
        "good film\t1",
        "bad film\t1",
        "too\tmany\tcolumns",
        " \t0",
        "a " * 300 + "\t0",
    )
    dev = write(tmp_path / "dev.tsv", "sentence\tlabel", "bad film\t2", "new\t0")
    checked = check_data(CheckConfig("classify", (train,), dev))
    assert checked.facts[0] == f"train: 6 examples of {train}"
    assert "0: 3 (50.0 %), 1: 3 (50.0 %)" in checked.facts[3]
    assert heads(checked) == [
        "train: 1 bad row",
        "train: blank sentence: 1 example",
        "train: repeated: 1 example",
        "train: repeated with another answer: 1 example, 1 different",
        "train: sentence of more than 200 words (is a separator lost?): 1 example",
        "dev: stands in train too: 1 example, 1 different",
        "dev: stands in train with other answers only: 1 example",
        "dev: labels that train does not have: 1 label",
    ]
    assert told(checked, "train: 1 bad") == (
        f"{train}:6: 3 columns, where the header has 2",
    )
    assert told(checked, "train: blank") == (f"{train}:7",)
    assert told(checked, "train: repeated:") == (f"{train}:4 = {train}:2: good film",)
    assert told(checked, "train: repeated with") == (
        f"{train}:5 = {train}:3: bad film (1, not 0)",
    )
    assert told(checked, "dev: labels") == (f"{dev}:2: 2",)
    assert str(checked).count("\n  ") >= 10


def test_any_number_of_bad_rows_is_a_finding(tmp_path: Path) -> None:
    rows = ["sentence\tlabel", *["a\tb\tc"] * 500, "good\t1", "bad\t0"]
    checked = check_data(CheckConfig("classify", (write(tmp_path / "a.tsv", *rows),)))
    assert heads(checked) == ["train: 500 bad rows"]
    assert any("500 bad ones" in fact for fact in checked.facts)


def test_what_keeps_a_task_from_training_is_a_finding(tmp_path: Path) -> None:
    one = write(tmp_path / "one.tsv", "sentence\tlabel", "good\t1", "fine\t1")
    assert "only the label '1'" in heads(check_data(CheckConfig("classify", (one,))))[0]
    assert "single texts" in heads(check_data(CheckConfig("pair", (one,))))[0]
    none = write(tmp_path / "none.tsv", "sentence", "good", "fine")
    checked = check_data(CheckConfig("classify", (none,), none))
    assert "train: " in heads(checked)[0]
    assert "no labels" in heads(checked)[0]
    assert any("dev: there is no label column" in head for head in heads(checked))
    pair = write(
        tmp_path / "p.tsv", "sentence1\tsentence2\tscore", "a\tb\tc", "a\tc\t1"
    )
    checked = check_data(CheckConfig("regress", (pair,)))
    head = "train: 1 labels are no values to learn"
    assert heads(checked) == [head]
    assert told(checked, head) == (f"{pair}:2: 'c' is no number",)
    checked = check_data(CheckConfig("classify", (one,), pair))
    assert "one part holds pairs of texts, the other does not" in heads(checked)
    characters = write(tmp_path / "k.tsv", "가\tB-PS", "나\tI-PS", "", "다\tO")
    found = heads(check_data(CheckConfig("tag", (characters,))))
    assert "--characters" in found[0]


def test_answers_that_are_not_in_their_context(tmp_path: Path) -> None:
    def qa(number: int, text: str, start: int) -> dict:
        answers = [{"text": text, "answer_start": start}]
        return {"id": f"q{number}", "question": f"who {number}?", "answers": answers}

    qas = [qa(0, "Ann", 0), qa(1, "Bob", 0), qa(2, "Eve", 2)]
    paragraphs = [{"context": "Ann met Eve.", "qas": qas}]
    file = tmp_path / "train.json"
    file.write_text(json.dumps({"data": [{"title": "t", "paragraphs": paragraphs}]}))
    checked = check_data(CheckConfig("span", (str(file),)))
    assert heads(checked) == ["train: 2 bad rows"]
    absent, moved = told(checked, "train: 2 bad rows")
    assert "question q1" in absent
    assert "nor does it occur elsewhere" in absent
    assert "question q2" in moved
    assert "it occurs at 8" in moved
    assert "train: 1 examples" in checked.facts[0]


def test_a_sentence_without_end_is_placed(tmp_path: Path) -> None:
    lines = ["good\tO", "", *["film\tB-X"] * 1001]
    file = write(tmp_path / "train.conll", *lines)
    checked = check_data(CheckConfig("tag", (file,)))
    assert told(checked, "train: 1 bad row") == (
        f"{file}:3: a sentence of 1001 tokens: are blank lines missing?",
    )


def test_roles_are_counted_and_sentences_placed(tmp_path: Path) -> None:
    rows = ["0\tHe\tP\t-\t-\t(ARG0*)", "1\truns\tV\trun\trun.01\t(V*)", ""]
    bare = ["# sent_id = x", "0\tHello\tU\t-\t-", ""]
    other = [rows[0].replace("ARG0", "ARGM-TMP"), *rows[1:]]
    train = write(tmp_path / "train.conll", *rows, *bare, *rows)
    dev = write(tmp_path / "dev.conll", *bare, *other)
    checked = check_data(CheckConfig("srl", (train,), dev))
    assert told(checked, "train: repeated:") == (f"{train}:7 = {train}:1: He runs",)
    assert told(checked, "dev: stands in train too") == (
        "sentence 1 (# sent_id = x) = sentence 2 (# sent_id = x): Hello",
        f"{dev}:4 = {train}:1: He runs",
    )
    assert told(checked, "dev: labels") == (f"{dev}:5: ARGM-TMP",)
    assert "ARG0: 2 (100.0 %)" in checked.facts[3]


def test_what_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    good = write(tmp_path / "a.tsv", "sentence\tlabel", "good\t1", "bad\t0")
    with pytest.raises(DataError, match="no such file"):
        check_data(CheckConfig("classify", (good,), str(tmp_path / "b.tsv")))
    bad = write(tmp_path / "c.tsv", "sentence\tlabel", "a\tb\tc")
    with pytest.raises(DataError, match=r"c\.tsv:2: 3 columns"):
        check_data(CheckConfig("classify", (bad,)))
    with pytest.raises(ConfigError, match="no column 'x'"):
        check_data(CheckConfig("classify", (good,), text_column="x"))
    with pytest.raises(ConfigError, match="--characters"):
        check_data(CheckConfig("classify", (good,), characters=True))


HOSTILE = [
    b"",
    b"\n\n\n",
    b"\xff\xfe\x00",
    b"sentence\tlabel\n\x00\t1\n\xff\t0\ngood\t1\n",
    b"sentence\tlabel\n" + b"x" * 100_000 + b"\t1\n",
    b"sentence\tlabel\n\t\n\t1\n",
    b"[1, 2",
    b'{"data": [{"paragraphs": [{"qas": []}]}, 3]}',
    b"a\tO\nb\n\nc\tI-X\n",
    b"0\ta\tb\t-\t-\t(V*\n\n0\ta\tb\t-\t-\t(V*)\n",
    b"[" * 10_000,
    "\ud7ff\u200b\tO\n".encode(),
]


@pytest.mark.parametrize("task", ["classify", "pair", "regress", "span", "tag", "srl"])
@pytest.mark.parametrize("suffix", [".tsv", ".json", ".conll", ".csv"])
def test_hostile_files_are_findings_or_typed_errors(
    task: str, suffix: str, tmp_path: Path
) -> None:
    for number, data in enumerate(HOSTILE):
        file = tmp_path / f"{number}{suffix}"
        file.write_bytes(data)
        try:
            config = CheckConfig(task, (str(file),), str(file))  # pyright: ignore
            assert str(check_data(config))
        except TlJaxError as error:
            assert str(file) in str(error)


def scored(folder: Path, step: float) -> str:
    """Fifty pairs with scores that are so far apart."""
    rows = [f"a {n}\tb\t{n * step}" for n in range(50)]
    return write(folder / "sts.tsv", "sentence1\tsentence2\tscore", *rows)


@pytest.mark.parametrize(("step", "expected"), [(0.1, 1), (1.0, 0)])
def test_scores_are_no_classes(tmp_path: Path, step: float, expected: int) -> None:
    found = heads(check_data(CheckConfig("pair", (scored(tmp_path, step),))))
    assert (
        len([h for h in found if "`finetune regress`" in h]) == expected == len(found)
    )


@pytest.mark.parametrize(
    ("step", "strict", "code"), [(0.1, True, 3), (0.1, False, 0), (1.0, True, 0)]
)
def test_strict_leaves_by_what_is_found(
    tmp_path: Path, step: float, strict: bool, code: int
) -> None:
    words = ["data", "check", "pair", "--train", scored(tmp_path, step)]
    with pytest.raises(SystemExit) as left:
        cli.main([*words, *["--strict"][: int(strict)]])
    assert left.value.code == code


def test_what_is_known_of_real_data_is_found(shared: Path) -> None:
    def check(task: str, folder: str, suffix: str = ".tsv") -> Checked:
        train, dev = (str(shared / folder / f"{p}{suffix}") for p in ("train", "dev"))
        return check_data(CheckConfig(task, (train,), dev))  # pyright: ignore

    nsmc = heads(check("classify", "sentiment/nsmc"))
    assert "dev: stands in train too: 116 examples, 85 different" in nsmc
    both = [head for head in nsmc if "repeated with another answer" in head]
    # 24 texts with both labels
    assert [int(head.split()[-2]) for head in both] == [21, 3]
    korsts = heads(check("regress", "pairs/korsts"))
    assert "dev: stands in train too: 3 examples, 3 different" in korsts
    assert heads(check("pair", "pairs/qnli")) == []
    assert heads(check("pair", "pairs/klue_nli", ".json")) == [
        "dev: premise stands in train too: 1 example, 1 different"
    ]


def test_what_is_known_of_propbank_is_found(shared: Path) -> None:
    folder = shared / "srl/ewt_propbank"
    train = tuple(map(str, sorted(folder.glob("train_*.conll"))))
    dev = str(folder / "dev_part00.conll")
    checked = check_data(CheckConfig("srl", train, dev))
    assert "12,506, of which" in checked.facts[2]
    assert any(head.endswith("68 examples, 36 different") for head in heads(checked))
