import itertools
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tl_jax.metrics.entities import (
    entity_scores,
    klue_ner,
    tag_accuracy,
)
from tl_jax.metrics.spans import SpanCounts

NAMES = ("O", "B-PS", "I-PS", "B-LC", "I-LC", "B-a-b", "I-a-b")
TAGS = st.sampled_from(NAMES)
PAIRS = st.lists(
    st.lists(st.tuples(TAGS, TAGS), max_size=12), min_size=1, max_size=5
).map(lambda pairs: tuple([[p[k] for p in s] for s in pairs] for k in (0, 1)))


GOLD = [["B-A", "I-A", "O", "B-B"], ["O", "B-A", "B-A"], ["O"]]
FOUND = [["B-A", "I-A", "O", "B-A"], ["O", "I-A", "B-A"], ["B-C"]]


def test_scores_by_hand():
    # Leniently: A02 A34 | A12 A23 | C01, of A02 B34 | A12 A23.
    found = entity_scores(GOLD, FOUND, "conlleval")
    assert found.micro == SpanCounts(gold=4, predicted=5, right=3)
    assert found.kinds == {
        "A": SpanCounts(gold=3, predicted=4, right=3),
        "B": SpanCounts(gold=1),
        "C": SpanCounts(predicted=1),
    }
    assert found.micro.precision == pytest.approx(3 / 5)
    assert found.micro.recall == pytest.approx(3 / 4)
    assert found.micro.f1 == pytest.approx(2 / 3)
    assert found.macro_f1 == pytest.approx((6 / 7 + 0 + 0) / 3)
    # Strictly: A02 A34 | A23 | C01.
    assert entity_scores(GOLD, FOUND, "IOB2").micro == SpanCounts(2, 4, 4)
    assert tag_accuracy(GOLD, FOUND) == pytest.approx(5 / 8)


def test_nothing_is_scored_as_zero():
    none = entity_scores([["O"], []], [["O"], []], "conlleval")
    assert none.micro == SpanCounts()
    assert (none.micro.f1, none.macro_f1, none.kinds) == (0, 0, {})
    assert tag_accuracy([], []) == 0


def test_what_does_not_match_is_refused():
    for predicted in ([["O"]], [["O", "O"], ["O", "O"]], [["O"], ["O", "O"]]):
        with pytest.raises(ValueError, match="2 sentences of 3 words"):
            entity_scores([["O", "O"], ["O"]], predicted, "IOB2")
        with pytest.raises(ValueError, match="2 sentences of 3 words"):
            tag_accuracy([["O", "O"], ["O"]], predicted)
    with pytest.raises(ValueError, match="B-X"):
        klue_ner([["B-X"]], [["O"]], NAMES)


@settings(deadline=None, max_examples=150)
@given(PAIRS, st.sampled_from(["conlleval", "IOB2"]))
def test_scores_are_seqevals(pair, rule):
    metrics = pytest.importorskip("seqeval.metrics")
    scheme = pytest.importorskip("seqeval.scheme")
    gold, predicted = pair
    strict = {"mode": "strict", "scheme": scheme.IOB2} if rule == "IOB2" else {}
    found = entity_scores(gold, predicted, rule)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for average, ours in (
            ("micro", found.micro.f1),
            ("macro", found.macro_f1),
        ):
            if not found.kinds and average == "macro":
                continue  # the mean of nothing; seqeval gives NaN
            theirs = metrics.f1_score(gold, predicted, average=average, **strict)
            assert ours == pytest.approx(theirs)
        precision = metrics.precision_score(gold, predicted, **strict)
        recall = metrics.recall_score(gold, predicted, **strict)
        assert (found.micro.precision, found.micro.recall) == pytest.approx(
            (precision, recall)
        )
        if not found.kinds:
            return
        report = metrics.classification_report(
            gold, predicted, output_dict=True, **strict
        )
    for kind, score in found.kinds.items():
        theirs = report[kind]
        assert score.f1 == pytest.approx(theirs["f1-score"])
        assert score.gold == theirs["support"]


@settings(deadline=None, max_examples=100)
@given(PAIRS)
def test_klue_scores_are_those_of_its_evaluation(pair):
    """KLUE-baseline's steps: [CLS] and [SEP] as O, all sentences in one, two scores."""
    metrics = pytest.importorskip("sklearn.metrics")
    sequences = pytest.importorskip("seqeval.metrics")
    scheme = pytest.importorskip("seqeval.scheme")
    flat = [
        list(itertools.chain.from_iterable(["O", *tags, "O"] for tags in side))
        for side in pair
    ]
    found = klue_ner(*pair, NAMES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        character = metrics.f1_score(
            *flat, labels=list(NAMES), average="macro", zero_division=1.0
        )
        entity = sequences.f1_score(
            *([side] for side in flat),
            average="macro",
            mode="strict",
            scheme=scheme.IOB2,
        )
    assert found["character_macro_f1"] == pytest.approx(character)
    if entity == entity:  # NaN where there is no entity at all
        assert found["entity_macro_f1"] == pytest.approx(entity)
