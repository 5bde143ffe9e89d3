import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tl_jax.files.errors import DataError
from tl_jax.text.characters import (
    batch_characters,
    bounded,
    distinct_words,
    word_characters,
)

PAD = 261  # 260 and one


def padded(*ids, length=50):
    return [*ids, *[PAD] * (length - len(ids))]


@pytest.mark.parametrize(
    ("word", "ids"),
    [
        # The first three are those of AllenNLP's own tests.
        ("<S>", padded(259, 257, 260)),
        ("</S>", padded(259, 258, 260)),
        ("\u0100t", padded(259, 197, 129, 117, 260)),
        ("한", padded(259, 0xED + 1, 0x95 + 1, 0x9C + 1, 260)),
        ("\0", padded(259, 1, 260)),
        ("", padded(259, 260)),
        ("<s>", padded(259, 61, 116, 63, 260)),
        ("a" * 48, [259, *[98] * 48, 260]),
        ("a" * 99, [259, *[98] * 48, 260]),
        ("a" + "é" * 40, [259, 98, *[0xC4, 0xAA] * 23, 0xC4, 260]),  # cut in a letter
    ],
)
def test_a_word_is_spelt_as_the_reference_spells_it(word, ids):
    assert word_characters([word]).tolist() == [ids]


def test_other_lengths_leave_room_for_the_marks():
    assert word_characters(["abc"], length=4).tolist() == [[259, 98, 99, 260]]
    assert word_characters([]).shape == (0, 50)


def test_words_that_are_not_text_are_told_together():
    with pytest.raises(DataError, match=r"2 words .*'\\ud800', 'a\\udfff'"):
        word_characters(["fine", "\ud800", "a\udfff"])


def test_boundaries_stand_around_a_sentence():
    assert bounded(["a", "b"]) == ["<S>", "a", "b", "</S>"]


SENTENCES = st.lists(st.lists(st.text(max_size=2), max_size=6), max_size=5)


@settings(deadline=None, max_examples=50)
@given(SENTENCES)
def test_distinct_words_give_the_sentences_back(sentences):
    words, index = distinct_words(sentences)
    assert len(set(words)) == len(words)
    assert [[words[i] for i in sentence] for sentence in index] == sentences
    assert list(words) == list(dict.fromkeys(w for s in sentences for w in s))


def test_a_batch_gets_the_characters_of_its_own_words():
    table = np.arange(1, 31, dtype=np.int32).reshape(10, 3)
    tokens = np.array([[7, 2, 7, 99], [2, 5, -1, 99]], np.int32)
    mask = np.array([[True, True, True, False], [True, True, False, False]])
    characters, index = batch_characters(tokens, mask, table, size=4)
    assert characters.shape == (4, 3)
    np.testing.assert_array_equal(characters[index][mask], table[tokens[mask]])
    np.testing.assert_array_equal(characters[3:], 0)
    np.testing.assert_array_equal(index[~mask], 0)
    with pytest.raises(DataError, match="3 distinct words, more than the 2"):
        batch_characters(tokens, mask, table, size=2)
