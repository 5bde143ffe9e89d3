import copy
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tl_jax.data.questions import Gold
from tl_jax.data.squad import read_questions, write_predictions
from tl_jax.files.errors import ConfigError, DataError

CONTEXT = "Seoul is the capital. Busan is not, alas."


def asked(name="q1", **changes):
    plain = {
        "id": name,
        "question": "What is the capital?",
        "answers": [{"text": "Seoul", "answer_start": 0}],
    }
    return plain | changes


def article(*qas, title="Korea", context=CONTEXT):
    return {"title": title, "paragraphs": [{"context": context, "qas": list(qas)}]}


@pytest.fixture
def write(tmp_path):
    """Writes articles, or a file's bytes, and returns the path."""

    def make(*articles, name="squad.json"):
        path = tmp_path / name
        if len(articles) == 1 and isinstance(articles[0], bytes):
            path.write_bytes(articles[0])
        else:
            path.write_text(json.dumps({"data": list(articles)}, ensure_ascii=False))
        return path

    return make


def told(path, **options):
    with pytest.raises(DataError) as caught:
        read_questions(path, **options)
    return str(caught.value)


# Counts as shared/data/README.md gives them.
@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("squad_v1.1/dev.json", 1071),
        ("squad_v2.0/dev.json", 953),
        ("korquad_v1.0/dev.json", 5774),
    ],
)
def test_real_files_have_all_their_questions(shared, name, count):
    path = shared / "qa" / name
    data = read_questions(path)
    assert (len(data), data.skipped, data.labelled) == (count, 0, True)
    state = json.loads(path.read_text())["data"]
    paragraphs = [p for a in state for p in a["paragraphs"] if p["qas"]]
    assert data.ids == [qa["id"] for p in paragraphs for qa in p["qas"]]
    assert data.contexts == list(dict.fromkeys(p["context"] for p in paragraphs))
    contexts = [p["context"] for p in paragraphs for _ in p["qas"]]
    assert [data.contexts[i] for i in data.context] == contexts
    empty = [not qa["answers"] for p in paragraphs for qa in p["qas"]]
    np.testing.assert_array_equal(data.impossible, empty)
    assert data.impossible.any() == name.startswith("squad_v2")
    for context, golds in zip(contexts, data.answers, strict=True):
        for text, start in golds:
            assert context[start : start + len(text)] == text
    assert data.golds[data.ids[7]] == tuple(g.text for g in data.answers[7])


def test_titles_cut_korquad_into_parts(shared):
    folder = shared / "qa/korquad_v1.0"
    titles = folder / "split_by_title.json"
    parts = {
        part: read_questions(folder / "dev.json", titles=titles, part=part)
        for part in ("train", "dev", "test")
    }
    assert sum(len(data) for data in parts.values()) == 5774
    listed = json.loads(titles.read_text())
    for part, data in parts.items():
        assert set(data.titles) == set(listed[part])


def test_several_answers_files_and_paragraphs(write):
    two = [Gold("Seoul", 0), Gold("is", 28)]
    answers = [{"text": g.text, "answer_start": g.start} for g in two]
    first = write(article(asked(answers=answers)), article(asked("q2"), title="Seoul"))
    second = write(
        article(asked("q3"), context="Seoul!"), article(asked("q4")), name="b.json"
    )
    data = read_questions([first, second])
    assert data.answers[0] == tuple(two)
    assert data.contexts == [CONTEXT, "Seoul!"]
    np.testing.assert_array_equal(data.context, [0, 0, 1, 0])
    assert data.titles == ["Korea", "Seoul", "Korea", "Korea"]
    assert data.places[2] == f"{second}: question q3"
    some = data.first(2)
    assert (len(some), some.contexts, some.ids) == (2, [CONTEXT], ["q1", "q2"])
    assert data.first(None).ids == data.ids
    assert data.first(0).contexts == []


def test_klue_says_guid_and_plausible_answers(write):
    """The keys of klue-mrc-v1.1_dev.json."""
    wrong = [{"text": "Busan", "answer_start": 22}]
    guids = {"guid": "klue-mrc-v1_dev_0", "question_type": 3, "is_impossible": True}
    qa = {"question": "?", "answers": [], "plausible_answers": wrong, **guids}
    other = asked("") | {"guid": "klue-mrc-v1_dev_1", "is_impossible": False}
    state = article(qa, other) | {"news_category": "종합", "source": "hankyung"}
    data = read_questions(write(state))
    assert data.ids == ["klue-mrc-v1_dev_0", "klue-mrc-v1_dev_1"]
    assert data.impossible.tolist() == [True, False]
    assert data.golds["klue-mrc-v1_dev_0"] == ()


def test_questions_without_answers_are_to_be_answered(write):
    bare = {"id": "q1", "question": "What?"}
    path = write(article(bare, asked("q2", answers=[])))
    data = read_questions(path, labelled=False)
    assert data.answers == [(), ()]
    assert not data.labelled
    assert "there is no answers" in told(path)
    assert "q2: has no answers and is not marked is_impossible" in told(path)
    # Answers that are there are passed over: who predicts need not know them.
    path = write(article(asked(), asked("q2", answers=[{"text": "x"}])))
    assert read_questions(path, labelled=False).answers == [(), ()]
    assert "question q2" in told(path)


GOLD = {"text": "Seoul", "answer_start": 0}


@pytest.mark.parametrize(
    ("qa", "what"),
    [
        (asked(answers=[GOLD | {"answer_start": 1}]),
         "answer 'Seoul' is not at character 1, where 'eoul ' stands; it occurs at 0"),
        (asked(answers=[{"text": "is", "answer_start": 50}]),
         "where nothing stands; it occurs at 6, 28"),
        (asked(answers=[{"text": "a", "answer_start": 1}]), "occurs at 14, 18, 25, …"),
        (asked(answers=[{"text": ".", "answer_start": -1}]), "not at character -1"),
        (asked(answers=[GOLD, {"text": "seoul", "answer_start": 0}]),
         "where 'Seoul' stands; nor does it occur elsewhere"),
        (asked(answers=[{"text": "", "answer_start": 0}]), "text is blank"),
        (asked(answers=[{"text": "Seoul"}]), "answer_start must be a number"),
        (asked(answers=[GOLD | {"answer_start": True}]), "start must be a number"),
        (asked(answers=[GOLD | {"answer_start": "0"}]), "start must be a number"),
        (asked(answers=["Seoul"]), "an object {…} with text is needed, not 'Seoul'"),
        (asked(answers={"text": ["Seoul"], "answer_start": [0]}), "must be a list"),
        (asked(is_impossible=True), "is_impossible is true, but there are 1 answers"),
        (asked(is_impossible="no"), "is_impossible must be true or false, not 'no'"),
        (asked(question=None), "question must be a string, not 'None'"),
        (asked(question="a\0b"), "question holds a NUL byte"),
        (asked(question=" "), "question is blank"),
        ({"id": "q1", "answers": []}, "there is no question among its keys"),
    ],
)  # fmt: skip
def test_bad_questions_are_told_by_id(write, qa, what):
    path = write(article(asked("good"), qa))
    message = told(path)
    assert f"1 bad row:\n  {path}: question q1: " in message
    assert what in message
    data = read_questions(path, on_bad="skip")
    assert (data.ids, data.skipped) == (["good"], 1)


@pytest.mark.parametrize(
    ("bad", "where", "what"),
    [
        (
            article(asked() | {"id": None}),
            "article 1 ('Korea'), paragraph 1, qa 1",
            "no id",
        ),
        (
            article(asked() | {"id": 7}),
            "article 1 ('Korea'), paragraph 1, qa 1",
            "no id",
        ),
        (article("q"), "article 1 ('Korea'), paragraph 1, qa 1", "needed, not 'q'"),
        (article(context=""), "article 1 ('Korea'), paragraph 1", "context is blank"),
        (article(context="\udc80"), "paragraph 1", "byte 0x80 is not UTF-8"),
        (article(context="\ud800"), "paragraph 1", "half of a surrogate pair"),
        ({"title": "T", "paragraphs": [{"context": "x"}]}, "paragraph 1", "no qas"),
        (
            {"title": "T", "paragraphs": [["x"]]},
            "paragraph 1",
            "with context is needed",
        ),
        ({"title": "T", "paragraphs": []}, "article 1", "'T' has no paragraphs"),
        ({"title": "T"}, "article 1", "there is no paragraphs among its keys"),
        ({"title": 3, "paragraphs": []}, "article 1", "title must be a string"),
        ([], "article 1", "an object {…} with title is needed"),
    ],
)
def test_bad_articles_and_paragraphs_are_told_by_number(write, bad, where, what):
    state = json.dumps({"data": [bad, article(asked("good"))]}).encode()
    message = told(write(state))
    assert where in message
    assert what in message
    data = read_questions(write(state), on_bad="skip")
    assert (data.ids, data.skipped) == (["good"], 1)


def test_all_that_is_wrong_is_told_and_capped(write):
    path = write(article(*[asked(f"q{i}", question="") for i in range(12)], asked()))
    message = told(path)
    assert "12 bad rows" in message
    assert "question q9" in message
    assert "and 2 more" in message
    assert read_questions(path, on_bad="skip", max_bad=12).skipped == 12
    assert "More than 11 bad rows" in told(path, on_bad="skip", max_bad=11)
    path = write(
        article(asked(question="", answers=[{"text": "x", "answer_start": 0}]))
    )
    assert "there is not one good question" in told(path, on_bad="skip")
    both = asked(answers=[GOLD | {"answer_start": 2}, GOLD | {"answer_start": 3}])
    assert told(write(article(both))).count("is not at character") == 2


def test_an_id_that_stands_twice(write):
    first = write(article(asked()), name="a.json")
    second = write(article(asked("q2"), asked()), name="b.json")
    assert f"{second}: question q1: the id stands already in {first}" in told(
        [first, second]
    )
    assert read_questions([first, second], on_bad="skip").ids == ["q1", "q2"]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b'{"data": [\n  {"title": }]}', ":2: broken JSON at column 13"),
        (b'{"data": [{"title": "a\0b"}]}', ":1: broken JSON at column 23"),
        (b'{"data": ' + b"[" * 200_000, "nested too deeply"),
        (b'{"data": ' + b"9" * 5000 + b"}", "broken JSON"),
        (b"", "the file is empty"),
        (b" \n", "the file is empty"),
        ('{"data": []}'.encode("utf-16"), "is UTF-16"),
        (b"\x1f\x8b\x08", "is compressed"),
        (b'{"data": []}', "there is not one good question"),
        (b'{"data": {}}', "is not in SQuAD's format"),
        (b"[]", "is not in SQuAD's format"),
        (b"{}", "is not in SQuAD's format"),
    ],
)
def test_files_that_are_none(write, content, what):
    assert what in told(write(content))


def test_files_that_are_not_there(tmp_path, write):
    write(article(asked()))
    assert "Did you mean 'squad.json'?" in told(tmp_path / "sqad.json")
    assert "cannot be read" in told(tmp_path)
    assert "No data file" in told([])


def test_bytes_that_are_not_utf8_are_told_by_question(write):
    text = json.dumps({"data": [article(asked(question="caf?"), asked("q2"))]})
    path = write(text.encode().replace(b"caf?", b"caf\xe9"))
    assert f"{path}: question q1: question byte 0xe9 is not UTF-8" in told(path)
    marked = write(b"\xef\xbb\xbf" + text.encode())
    assert len(read_questions(marked)) == 2


def test_titles_are_checked(write, tmp_path):
    path = write(article(asked()), article(asked("q2", question=""), title="Busan"))
    titles = tmp_path / "titles.json"

    def cut(parts, **options):
        titles.write_text(json.dumps(parts))
        return read_questions(path, titles=titles, **options)

    # What is in another part is not even looked at.
    assert cut({"train": ["Korea"], "dev": ["Busan"]}, part="train").ids == ["q1"]
    with pytest.raises(ConfigError, match="Did you mean 'train'"):
        cut({"train": ["Korea"]}, part="trian")
    with pytest.raises(ConfigError, match="belong together"):
        cut({"train": ["Korea"]})
    with pytest.raises(ConfigError, match="belong together"):
        read_questions(path, part="train")
    with pytest.raises(DataError, match=r"1 titles of 'train'.*'Jeju'"):
        cut({"train": ["Korea", "Jeju"]}, part="train")
    with pytest.raises(DataError, match=r"another part as well, such as \['Korea'\]"):
        cut({"train": ["Korea"], "dev": ["Korea"]}, part="train")
    for broken in ([], {"train": "Korea"}, {"train": [1]}):
        with pytest.raises(DataError, match="an object of lists of titles"):
            cut(broken, part="train")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["title", "paragraphs", "context", "qas", "id", "text"]),
            inner,
        )
    ),
    max_leaves=6,
)


@given(st.data())
@settings(deadline=None, max_examples=150)
def test_anything_put_anywhere_is_read_or_told(tmp_path_factory, data):
    """One value of a good file is exchanged: a typed error, or questions."""
    state = {"data": [article(copy.deepcopy(asked()), asked("q2"))]}
    owner: Any = state
    key: Any = "data"
    while isinstance(owner[key], (dict, list)) and data.draw(st.booleans()):
        owner = owner[key]
        keys = list(owner) if isinstance(owner, dict) else range(len(owner))
        key = data.draw(st.sampled_from(keys))
    owner[key] = data.draw(json_values)
    path = tmp_path_factory.getbasetemp() / "fuzzed.json"
    path.write_text(json.dumps(state))
    for on_bad, labelled in (("raise", True), ("skip", True), ("raise", False)):
        try:
            found = read_questions(path, on_bad=on_bad, labelled=labelled)
        except DataError as error:
            assert str(path) in str(error)
        else:
            assert 0 < len(found) <= 2
            assert found.skipped == 0 or on_bad == "skip"


def test_predictions_are_written_as_the_scripts_read_them(tmp_path):
    path = tmp_path / "predictions.json"
    write_predictions(path, {"q1": "서울", "q2": ""}, {"q1": -3.5, "q2": 1.25})
    assert json.loads(path.read_text()) == {"q1": "서울", "q2": ""}
    odds = tmp_path / "predictions_null_odds.json"
    assert json.loads(odds.read_text()) == {"q1": -3.5, "q2": 1.25}
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(ValueError, match="JSON"):
        write_predictions(path, {"q1": "x"}, {"q1": float("nan")})
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    write_predictions(path, {"q1": "Busan"})
    assert json.loads(path.read_text()) == {"q1": "Busan"}
