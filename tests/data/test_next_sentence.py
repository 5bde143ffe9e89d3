"""Sentence pairs, against the rules of create_pretraining_data.py told once more."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tl_jax.data.next_sentence import Pair, PairRules, _cut, draw_pairs
from tl_jax.files.errors import ConfigError, DataError


def corpus(lengths, connected=None):
    """Offsets of documents given as lists of segment lengths."""
    flat = [n for document in lengths for n in document]
    segments = np.concatenate([[0], np.cumsum(flat)]).astype(np.int64)
    counts = [len(document) for document in lengths]
    documents = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    known = [True] * len(lengths) if connected is None else connected
    return segments, documents, np.array(known)


def random_corpus(documents, seed=0, most=30):
    draw = np.random.default_rng(seed)
    return corpus(
        [draw.integers(1, 40, draw.integers(1, most)) for _ in range(documents)]
    )


def owner(segments, documents, piece):
    """The document that a piece stands in."""
    bounds = segments[documents]
    return int(np.searchsorted(bounds, piece, "right")) - 1


def test_labels_mean_what_they_say_and_never_the_same_document():
    segments, documents, connected = random_corpus(300)
    rules = PairRules(64, passes=3)
    pairs = list(draw_pairs(segments, documents, connected, rules))
    kinds = Counter(p.random for p in pairs)
    for p in pairs:
        mine = owner(segments, documents, p.first)
        assert owner(segments, documents, p.first + p.first_length - 1) == mine
        other = owner(segments, documents, p.second)
        assert owner(segments, documents, p.second + p.second_length - 1) == other
        assert p.first_length >= 1
        assert p.second_length >= 1
        assert p.first_length + p.second_length <= 61
        assert (other != mine) == bool(p.random)
        if not p.random:
            assert p.second >= p.first + p.first_length
    assert kinds[0] > 1000
    assert 0.5 < kinds[1] / len(pairs) < 0.65  # single segments have random partners


def test_half_of_the_pairs_are_random_where_every_chunk_can_be_split():
    # Segments of 5 in room for 61: only what is left at a document's end is single.
    lengths = [[5] * 60 for _ in range(1000)]
    rules = PairRules(64, short=0.0)
    pairs = list(draw_pairs(*corpus(lengths), rules))
    share = np.mean([p.random for p in pairs])
    # Each chunk of 13 segments is random with p = .5; single leftovers add a little.
    assert len(pairs) > 5000
    assert abs(share - 0.5) < 4 * 0.5 / len(pairs) ** 0.5 + 0.03


def test_with_two_documents_the_random_one_is_always_the_other():
    segments, documents, connected = corpus([[9, 8, 7, 6] * 5, [3, 4, 5] * 5])
    pairs = list(draw_pairs(segments, documents, connected, PairRules(32, passes=20)))
    middle = segments[documents[1]]
    assert {(p.first < middle) != (p.second < middle) for p in pairs if p.random} == {
        True
    }


def test_random_documents_are_drawn_evenly_and_begin_anywhere():
    count = 6
    lengths = [[4] * 10 for _ in range(count)]
    segments, documents, connected = corpus(lengths)
    rules = PairRules(20, short=0.0, passes=300)
    pairs = [p for p in draw_pairs(segments, documents, connected, rules) if p.random]
    drawn = Counter(owner(segments, documents, p.second) for p in pairs)
    assert min(drawn.values()) > 0.9 * len(pairs) / count
    starts = Counter(p.second // 4 % 10 for p in pairs)
    assert len(starts) == 10


def test_segments_behind_a_random_partner_are_used_again():
    """Every segment is the first text's of some pair, or follows one in its pair."""
    segments, documents, connected = random_corpus(50, most=20)
    rules = PairRules(1000, short=0.0)  # nothing is cut
    covered = np.zeros(segments[-1], int)
    for p in draw_pairs(segments, documents, connected, rules):
        covered[p.first : p.first + p.first_length] += 1
        if not p.random:
            covered[p.second : p.second + p.second_length] += 1
    assert (covered == 1).all()


@settings(max_examples=200)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(2, 60), st.integers(0, 99))
def test_the_longer_text_is_cut_one_piece_at_a_time(a, b, room, seed):
    first, second = a, b
    while first + second > room:
        if first > second:
            first -= 1
        else:
            second -= 1
    cut = _cut(Pair(100, a, 500, b), room, np.random.default_rng(seed))
    assert (cut.first_length, cut.second_length) == (first, second)
    assert 100 <= cut.first <= 100 + a - first
    assert 500 <= cut.second <= 500 + b - second


def test_texts_are_cut_from_both_ends_evenly():
    draw = np.random.default_rng(0)
    fronts = [_cut(Pair(0, 30, 0, 10), 20, draw).first for _ in range(2000)]
    assert abs(np.mean(fronts) - 10) < 0.3  # 20 pieces go, half of them in front
    assert abs(np.var(fronts) - 5) < 0.7


def test_short_documents_are_as_many_as_asked_for():
    lengths = [[1] * 200 for _ in range(2000)]
    rules = PairRules(53, short=0.1)
    segments, documents, connected = corpus(lengths)
    longest = np.zeros(2000, int)
    for p in draw_pairs(segments, documents, connected, rules):
        number = owner(segments, documents, p.first)
        longest[number] = max(longest[number], p.first_length + p.second_length)
    short = np.mean(longest < 50)
    assert abs(short - 0.1 * 48 / 49) < 0.03


def test_texts_alone_hold_every_piece_once():
    segments, documents, connected = random_corpus(100)
    rules = PairRules(32, next_sentence=False, passes=2)
    covered = np.zeros(segments[-1], int)
    for p in draw_pairs(segments, documents, connected, rules):
        assert p.second_length == 0
        assert p.first_length <= 30
        covered[p.first : p.first + p.first_length] += 1
        last = p.first + p.first_length - 1
        assert owner(segments, documents, p.first) == owner(segments, documents, last)
    assert (covered == 2).all()


def test_unconnected_documents_make_no_pairs_and_are_nobodys_partner():
    lengths = [[5, 5, 5]] * 4
    parts = corpus(lengths, [True, False, True, False])
    pairs = list(draw_pairs(*parts, PairRules(12, passes=50)))
    for p in pairs:
        mine = owner(*parts[:2], p.first)
        assert (p.second_length > 0) == parts[2][mine]
        if p.second_length:
            assert owner(*parts[:2], p.second) in (0, 2)


def test_a_documents_pairs_depend_on_seed_pass_and_document_alone():
    lengths = [[7, 9, 4, 12] * 6] * 5
    both = list(draw_pairs(*corpus(lengths), PairRules(32, passes=2)))
    once = list(draw_pairs(*corpus(lengths), PairRules(32)))
    assert both[: len(once)] == once
    assert both[len(once) :] != once
    assert list(draw_pairs(*corpus(lengths), PairRules(32, seed=1))) != once


def test_what_cannot_be_is_told():
    with pytest.raises(DataError, match="two documents, and this text has 1"):
        list(draw_pairs(*corpus([[3, 4]]), PairRules(16)))
    with pytest.raises(ConfigError, match="no room"):
        PairRules(4)
    with pytest.raises(ConfigError, match="share"):
        PairRules(16, short=1.5)
