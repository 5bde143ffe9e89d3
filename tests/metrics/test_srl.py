import re
from collections import Counter

import numpy as np
import pytest

from tl_jax.data.iob2 import spans
from tl_jax.data.propbank import brackets, read_propositions
from tl_jax.metrics.spans import SpanCounts, total
from tl_jax.metrics.srl import role_counts


def from_brackets(cells):
    """The labelled spans of a column, by a stack, V and C-V left out."""
    found, opened = Counter(), []
    for word, cell in enumerate(cells):
        for part in re.findall(r"\([^(*]+|\)", cell):
            if part == ")":
                label, start = opened.pop()
                found[label, start, word] += 1
            else:
                opened.append((part[1:], word))
    assert not opened
    return Counter({k: n for k, n in found.items() if not re.fullmatch("(C-)?V", k[0])})


def by_columns(gold, predicted):
    """Right, predicted and gold spans of all columns and by role."""
    sums = Counter()
    for true, guess in zip(gold, predicted, strict=True):
        wanted, found = from_brackets(true), from_brackets(guess)
        for k, group in enumerate((wanted & found, found, wanted)):
            for (label, *_), n in group.items():
                sums[label, k] += n
    return {
        role: tuple(sums[role, k] for k in range(3)) for role in {r for r, _ in sums}
    }


def as_tuples(counts):
    return {role: (c.right, c.predicted, c.gold) for role, c in counts.items()}


def disturbed(tags, draw):
    """Moves, drops and renames some spans."""
    out = ["O"] * len(tags)
    for start, end, label in spans(tags, "conlleval"):
        fate = 0 if label == "V" else draw.integers(8)
        if fate == 1:
            continue
        if fate == 2:
            end = max(start + 1, end - 1)
        if fate == 3:
            label = draw.choice(["ARG1", "ARG2", "C-ARG1", "R-ARG0", "C-V"])
        out[start:end] = [f"B-{label}"] + [f"I-{label}"] * (end - start - 1)
    return out


def test_counts_are_those_of_the_bracket_columns(shared):
    """The dev file's own columns, against others made of disturbed tags."""
    (file,) = (shared / "srl/ewt_propbank").glob("dev*")
    data = read_propositions(file)
    columns, rows = [], []
    for line in [*file.read_text().split("\n"), ""]:
        if line and line[0] != "#":
            rows.append(line.split("\t")[5:])
        elif not line and rows:
            columns += map(list, zip(*rows, strict=True))
            rows = []
    assert data.tags is not None
    assert len(columns) == len(data)
    draw = np.random.default_rng(0)
    guessed = [disturbed(tags, draw) for tags in data.tags]
    written = [
        brackets(tags, int(predicate))
        for tags, predicate in zip(guessed, data.predicate, strict=True)
    ]
    found = as_tuples(role_counts(data.tags, guessed))
    assert found == by_columns(columns, written)
    right, said, due = (sum(c[k] for c in found.values()) for k in range(3))
    assert 0 < right < said < due
    assert total(role_counts(data.tags, guessed)) == SpanCounts(right, said, due)
    perfect = total(role_counts(data.tags, data.tags))
    assert perfect == SpanCounts(due, due, due)
    assert perfect.f1 == 1


def test_counts_by_hand():
    gold = [["B-ARG0", "I-ARG0", "B-V", "B-ARG1", "I-ARG1", "O", "B-C-ARG1"]]
    said = [["B-ARG0", "I-ARG0", "B-V", "B-ARG1", "O", "B-ARG2", "B-C-ARG1"]]
    counts = role_counts(gold, said)
    assert list(counts) == ["ARG0", "ARG1", "ARG2", "C-ARG1"]
    assert as_tuples(counts) == {
        "ARG0": (1, 1, 1),
        "ARG1": (0, 1, 1),
        "ARG2": (0, 1, 0),
        "C-ARG1": (1, 1, 1),
    }
    whole = total(counts)
    assert (whole.precision, whole.recall) == (2 / 4, 2 / 3)
    assert whole.f1 == pytest.approx(2 * (1 / 2) * (2 / 3) / (1 / 2 + 2 / 3))
    assert (counts["ARG2"].precision, counts["ARG2"].recall, counts["ARG2"].f1) == (
        (0,) * 3
    )


@pytest.mark.parametrize("said", ["B-V I-V O O", "O B-V O B-C-V", "O O O O"])
def test_v_and_its_continuation_are_left_out(said):
    assert role_counts([["B-V", "O", "O", "B-C-V"]], [said.split()]) == {}
    assert total({}) == SpanCounts()
    assert (total({}).precision, total({}).recall, total({}).f1) == (0, 0, 0)


def test_a_continuation_is_not_joined_to_its_role():
    """srl-eval.pl would count one wrong argument here; we, one right, one missed."""
    gold = [["B-ARG1", "B-V", "B-C-ARG1"]]
    said = [["B-ARG1", "B-V", "O"]]
    assert as_tuples(role_counts(gold, said)) == {
        "ARG1": (1, 1, 1),
        "C-ARG1": (0, 0, 1),
    }


def test_a_stray_inside_begins_a_span():
    gold = [["O", "B-ARG0", "B-ARG1"]]
    said = [["O", "I-ARG0", "I-ARG1"]]
    assert total(role_counts(gold, said)) == SpanCounts(2, 2, 2)


def test_spans_of_one_proposition_do_not_match_another():
    gold = [["B-A", "O"], ["O", "B-A"]]
    assert total(role_counts(gold, gold[::-1])) == SpanCounts(0, 2, 2)


def test_different_lengths_are_refused():
    with pytest.raises(ValueError, match="proposition 1 has 2 gold tags, 1 predicted"):
        role_counts([["O"], ["O", "O"]], [["O"], ["O"]])
    with pytest.raises(ValueError):
        role_counts([["O"]], [["O"], ["O"]])


def test_micro_scores_are_those_of_seqeval():
    metrics = pytest.importorskip("seqeval.metrics")
    draw = np.random.default_rng(1)
    names = np.array(["O", "B-A", "I-A", "B-B", "I-B", "B-C-A", "I-C-A"])
    gold, said = (
        [[str(t) for t in draw.choice(names, n)] for n in range(1, 60)]
        for _ in range(2)
    )
    whole = total(role_counts(gold, said))
    assert whole.right > 20
    assert whole.precision == pytest.approx(metrics.precision_score(gold, said))
    assert whole.recall == pytest.approx(metrics.recall_score(gold, said))
    assert whole.f1 == pytest.approx(metrics.f1_score(gold, said))
