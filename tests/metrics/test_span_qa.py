"""The rules of four evaluation scripts, by hand and by a second computation."""

import string
from itertools import groupby

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tl_jax.files.errors import ConfigError
from tl_jax.metrics.span_qa import (
    best_threshold,
    exact_match,
    f1,
    normalise,
    rouge_w,
    totals,
)

MODES = ("squad", "squad-v2", "korquad", "klue-baseline", "klue-fixed")
# What texts are drawn of: every rule meets them.
PARTS = ["The", "a", "an", "theory", "x", "Y", " ", "\u202f", "\n", ".", "'", "(", ")"]
KOREAN = ["서울", "서", "울", "시", "《", "》", "‘", "’", "〈", "<", "()‘’", "《()‘’"]
texts = st.lists(st.sampled_from(PARTS + KOREAN), max_size=6).map("".join)


@pytest.mark.parametrize(
    ("mode", "text", "normal"),
    [
        ("squad", "The  Cat, (a) dog\tand AN owl.", "cat dog and owl"),
        ("squad", "theory of an-other\u202fthing", "theory of another thing"),
        ("squad", "a.m. and A. M.", "am and m"),  # dots fall before articles
        ("squad", "the the", ""),
        ("squad", "《Über》 – “x”", "《über》 – “x”"),  # only ASCII punctuation falls
        ("squad-v2", "The U.S.", "us"),
        ("korquad", "《The》 A'b\"c <d>〈e〉(f)‘g’", "the a b c d e f g"),
        ("korquad", "1,000-2.000%", "10002000"),
        ("korquad", "“x”", "“x”"),
        # Of the published pattern only a class member before ()‘’ becomes a space.
        ("klue-baseline", "《The》 A'b\"c <d>〈e〉(f)‘g’", "《the》 abc d〈e〉f‘g’"),
        ("klue-baseline", "a《()‘’b", "a b"),
        ("klue-fixed", "《The》 A'b\"c <d>〈e〉(f)‘g’", "the a b c d e f g"),
        ("klue-fixed", "a《()‘’b", "a b"),
    ],
)
def test_normalising_by_hand(mode, text, normal):
    assert normalise(text, mode) == normal


@pytest.mark.parametrize(
    ("mode", "prediction", "golds", "exact", "overlap"),
    [
        ("squad", "The cat!", ["cat"], 1, 1),
        ("squad", "black cat", ["a cat"], 0, 2 / 3),  # P 1/2, R 1
        ("squad", "cat cat dog", ["cat dog dog"], 0, 2 / 3),  # multisets: 2 of 3
        ("squad", "cat", ["dog", "cat sat", "cat"], 1, 1),  # the best of the golds
        ("squad", "cat", ["dog", "cat sat on"], 0, 0.5),
        ("squad", "", ["cat"], 0, 0),
        ("squad", "a", ["the"], 1, 0),  # v1.1: nothing is shared, though equal
        ("squad-v2", "a", ["the"], 1, 1),  # v2: the gold falls, no answer is right
        ("squad-v2", "cat", ["the", "cat"], 1, 1),
        ("squad-v2", "", ["the", "cat"], 0, 0),  # and falls from several as well
        ("squad", "", ["the", "cat"], 1, 0),
        ("squad-v2", "", [], 1, 1),
        ("squad-v2", "cat", [], 0, 0),
        ("squad-v2", "the", [], 1, 1),
        ("squad", "", [], 1, 1),
        ("korquad", "서울 시", ["서울시"], 0, 1),  # characters, spaces apart
        ("korquad", "서울시", ["시청"], 0, 2 / 5),  # P 1/3, R 1/2
        ("korquad", "the cat", ["cat"], 0, 2 * 3 / 9),
        ("korquad", "《서울》", ["서울"], 1, 1),
    ],
)
def test_exact_match_and_f1_by_hand(mode, prediction, golds, exact, overlap):
    assert exact_match(prediction, golds, mode) == exact
    assert f1(prediction, golds, mode) == pytest.approx(overlap)


@pytest.mark.parametrize(
    ("mode", "prediction", "golds", "exact", "rouge"),
    [
        ("klue-fixed", "서울시청", ["서울시"], 0, 2 * 3 / 7),
        (
            "klue-fixed",
            "abXcd",
            ["abcd"],
            0,
            4 / 9,
        ),  # the longest run, not the sequence
        ("klue-fixed", "x", ["y", "x z"], 0, 0.5),  # the space counts
        ("klue-fixed", "", [], 1, 1),
        ("klue-fixed", "서울", [], 0, 0),
        ("klue-fixed", "", ["서울"], 0, 0),
        ("klue-fixed", "《서울》", ["서울"], 1, 1),
        ("klue-baseline", "《서울》", ["서울"], 0, 2 * 2 / 6),
        ("klue-baseline", "(서울)", ["서울"], 1, 1),  # punctuation falls in any case
    ],
)
def test_klue_by_hand(mode, prediction, golds, exact, rouge):
    assert exact_match(prediction, golds, mode) == exact
    assert rouge_w(prediction, golds, mode) == pytest.approx(rouge)


def test_rouge_leaves_frequent_characters_of_long_golds_out():
    """difflib's autojunk: in 200 characters or more, those above 1 % start no run."""
    assert rouge_w("b" * 3, ["ab" * 99], "klue-fixed") > 0
    assert rouge_w("b" * 3, ["ab" * 100], "klue-fixed") == 0


def second_normal(text, english):
    """Character by character, without patterns."""
    if not english:
        text = "".join(" " if c in "'\"《》<>〈〉()‘’" else c for c in text)
    kept = [c for c in text.lower() if c not in string.punctuation]
    runs = ["".join(run) for _, run in groupby(kept, key=str.isalnum)]
    dropped = ("a", "an", "the") if english else ()
    return "".join(" " if run in dropped else run for run in runs).split()


def second_f1(said, gold):
    left = list(gold)
    for unit in said:
        if unit in left:
            left.remove(unit)
    same = len(gold) - len(left)
    return 2 * same / (len(said) + len(gold)) if same else 0.0


@given(texts, st.lists(texts, min_size=1, max_size=3))
@settings(deadline=None, max_examples=200)
def test_scores_equal_a_second_computation(prediction, golds):
    said, gold = (
        second_normal(prediction, True),
        [second_normal(g, True) for g in golds],
    )
    assert exact_match(prediction, golds, "squad") == (said in gold)
    best = max(second_f1(said, g) for g in gold)
    assert f1(prediction, golds, "squad") == pytest.approx(best)
    kept = [g for g in gold if g] or [[]]
    best = max(second_f1(said, g) or float(not said and not g) for g in kept)
    assert exact_match(prediction, golds, "squad-v2") == (said in kept)
    assert f1(prediction, golds, "squad-v2") == pytest.approx(best)
    said = second_normal(prediction, False)
    gold = [second_normal(g, False) for g in golds]
    for mode in ("korquad", "klue-fixed"):
        assert exact_match(prediction, golds, mode) == (said in gold)
    best = max(second_f1("".join(said), "".join(g)) for g in gold)
    assert f1(prediction, golds, "korquad") == pytest.approx(best)


@given(texts, texts)
@settings(deadline=None, max_examples=100)
def test_rouge_equals_all_substrings(prediction, gold):
    said, due = normalise(prediction, "klue-fixed"), normalise(gold, "klue-fixed")
    runs = [n for i in range(len(said)) for n in range(1, len(said) - i + 1)
            if said[i : i + n] in due]  # fmt: skip
    same = 2 * max(runs, default=0)
    expected = same / (len(said) + len(due)) if due else float(not said)
    assert rouge_w(prediction, [gold], "klue-fixed") == pytest.approx(expected)


def test_totals_are_percent_and_unanswered_questions_count_0():
    golds = {"a": ["the cat"], "b": ["black dog"], "c": ["x"]}
    found = totals({"a": "cat", "b": "dog", "other": "x"}, golds, "squad")
    assert found == pytest.approx({"exact_match": 100 / 3, "f1": 100 * (1 + 2 / 3) / 3})
    with pytest.raises(ValueError, match="no questions"):
        totals({}, {}, "squad")


def test_totals_are_the_official_scripts_to_the_last_digit():
    golds = {name: ["cat"] for name in "abc"}
    found = totals({"a": "cat", "b": "cat", "c": "dog"}, golds, "squad")
    assert found["exact_match"] == 100.0 * (1.0 + 1.0 + 0.0) / 3 != 100 * (2.0 / 3)


def test_totals_tell_questions_with_and_without_answer_apart():
    golds = {"a": ["cat"], "b": ["black dog"], "c": [], "d": [], "e": [], "f": []}
    said = {"a": "cat", "b": "dog", "c": "", "d": "x", "e": ""}
    assert totals(said, golds, "squad-v2") == pytest.approx(
        {
            "exact_match": 50,
            "f1": 100 * (3 + 2 / 3) / 6,
            "HasAns_exact_match": 50,
            "HasAns_f1": 100 * (1 + 2 / 3) / 2,
            "NoAns_exact_match": 50,
            "NoAns_f1": 50,
        }
    )
    assert list(totals(said, golds, "klue-fixed"))[:2] == ["exact_match", "rouge_w"]
    assert set(totals({}, {"c": []}, "squad-v2")) == {"exact_match", "f1"}


cases = st.lists(
    st.tuples(
        st.sampled_from(["cat", "black cat", "dog", "the", ""]),
        st.sampled_from([["cat"], ["dog", "cat"], []]),
        st.integers(-3, 3).map(float),
    ),
    min_size=1,
    max_size=8,
)


def apply_threshold(said, odds, threshold):
    return {i: "" if odds[i] > threshold else text for i, text in said.items()}


@given(cases, st.sampled_from(["squad-v2", "klue-fixed"]))
@settings(deadline=None, max_examples=100)
def test_best_threshold_is_the_best_of_all_and_gives_its_score(drawn, mode):
    said, golds, odds = (
        {str(i): row[k] for i, row in enumerate(drawn)} for k in range(3)
    )
    found = best_threshold(said, odds, golds, mode)
    for name, (threshold, score) in found.items():
        at = totals(apply_threshold(said, odds, threshold), golds, mode)
        assert at[name] == pytest.approx(score)
        for other in [-9.0, *odds.values()]:
            at = totals(apply_threshold(said, odds, other), golds, mode)
            assert at[name] <= score + 1e-9


def test_best_threshold_is_squads_on_odds_that_differ():
    """find_best_thresh: from "nothing answered", one question more at a time."""
    draw = np.random.default_rng(0)
    for _ in range(20):
        ids = [str(i) for i in range(12)]
        has = dict(zip(ids, draw.random(12) < 0.6, strict=True))
        golds = {i: ["cat"] if has[i] else [] for i in ids}
        said = {i: str(draw.choice(["cat", "black cat", "dog"])) for i in ids}
        odds = dict(zip(ids, draw.random(12), strict=True))
        found = best_threshold(said, odds, golds, "squad-v2")
        for name, score in (("exact_match", exact_match), ("f1", f1)):
            now = best = sum(not has[i] for i in ids)
            threshold = 0.0
            for i in sorted(ids, key=odds.__getitem__):
                now += score(said[i], golds[i], "squad-v2") if has[i] else -1
                if now > best + 1e-9:
                    best, threshold = now, odds[i]
            # Ours answers the same ones, though all odds be a little different.
            ours, noise = found[name].threshold, draw.choice([-1e-7, 1e-7], 12)
            for i, change in zip(ids, noise, strict=True):
                assert (odds[i] + change <= ours) == (odds[i] <= threshold)
            assert found[name].score == pytest.approx(100 * best / 12)


def test_best_threshold_needs_every_question():
    with pytest.raises(ValueError, match="'b'"):
        best_threshold({"a": "", "b": ""}, {"a": 0.0}, {"a": [], "b": []}, "squad-v2")
    with pytest.raises(ValueError, match="of 0"):
        best_threshold({}, {}, {}, "squad-v2")


@pytest.mark.parametrize("score", [exact_match, f1, rouge_w])
def test_a_mode_that_is_none_is_told(score):
    with pytest.raises(ConfigError, match="Did you mean 'korquad'"):
        score("x", ["x"], "korqad")
    with pytest.raises(ConfigError, match=", ".join(MODES)):
        totals({}, {"a": []}, "glue")
