"""Spans of tags, legal and not, by hand and against seqeval."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tl_jax.data.iob2 import spans

TAGS = st.lists(
    st.sampled_from(["O", "B-V", "I-V", "B-A", "I-A", "B-C-V", "B-R-A", "I-R-A"]),
    min_size=1,
    max_size=9,
)


# By hand, from conlleval's rules of where a chunk starts and ends, and from IOB2's.
@pytest.mark.parametrize(
    ("tags", "lenient", "strict"),
    [
        ("", "", ""),
        ("O O", "", ""),
        ("B-A I-A O B-A", "A02 A34", "A02 A34"),
        ("B-A B-A I-A", "A01 A13", "A01 A13"),
        ("I-A I-A O", "A02", ""),
        ("B-A I-B I-B", "A01 B13", "A01"),
        ("O I-A B-A I-A", "A12 A24", "A24"),
        ("B-A O I-A", "A01 A23", "A01"),
        ("I-A I-B I-A", "A01 B12 A23", ""),
        ("B-A I-C-A O", "A01 C-A12", "A01"),
        ("B-M-T I-M-T", "M-T02", "M-T02"),
    ],
)
def test_spans_by_hand(tags, lenient, strict):
    for rule, wanted in (("conlleval", lenient), ("IOB2", strict)):
        found = spans(tags.split(), rule)
        assert [f"{e.kind}{e.begin}{e.end}" for e in found] == wanted.split()


@pytest.mark.parametrize("tag", ["b-A", "E-A", "B", "B-", "-A", "", "OO", "O-A"])
def test_other_tags_are_refused(tag):
    with pytest.raises(ValueError, match="IOB2"):
        spans([tag], "conlleval")


@settings(deadline=None, max_examples=200)
@given(TAGS)
def test_spans_are_those_of_seqeval(tags):
    """Its default mode follows conlleval; it takes its types from behind the mark."""
    entities = pytest.importorskip("seqeval.metrics.sequence_labeling").get_entities
    found = [(label, start, end - 1) for start, end, label in spans(tags, "conlleval")]
    assert found == entities(tags)
