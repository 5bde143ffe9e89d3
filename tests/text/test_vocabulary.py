"""A language model's vocabulary on disk, and what is looked up in it."""

import pytest

from tl_jax.files.errors import WeightsError
from tl_jax.text.characters import SpeltWords, speller
from tl_jax.text.vocabulary import (
    SPECIALS,
    by_count,
    look_up,
    read_vocabulary,
    save_vocabulary,
)

WORDS = (*SPECIALS, "the", "영화", "a")


def test_words_are_ordered_by_count_and_spelling():
    counts = {"b": 2, "a": 2, "<S>": 9, "<UNK>": 4, "c": 3}
    assert by_count(counts) == ["c", "a", "b"]


def test_what_is_saved_is_read(tmp_path):
    save_vocabulary(tmp_path / "v.txt", WORDS)
    assert read_vocabulary(tmp_path / "v.txt", 6) == WORDS


@pytest.mark.parametrize(
    ("words", "size", "message"),
    [
        (WORDS[1:], 5, "first three are not"),
        (WORDS, 7, "6 words, and the options tell 7"),
        ((*WORDS, "a"), 7, "twice"),
        (None, 7, "needs its vocabulary"),
    ],
)
def test_another_vocabulary_is_refused(words, size, message, tmp_path):
    if words is not None:
        save_vocabulary(tmp_path / "v.txt", words)
    with pytest.raises(WeightsError, match=message):
        read_vocabulary(tmp_path / "v.txt", size)


def test_ids_stand_one_higher_in_the_place_of_characters(tmp_path):
    numbers = {word: n for n, word in enumerate(WORDS)}
    found = look_up(["a", "the", "met", "<S>"], numbers)
    assert found.tolist() == [[6], [4], [3], [1]]
    text = SpeltWords(splits="spaces", known=WORDS)
    ids = text.pieces(["a the met"])[0]
    pair = text.frame(ids, ids[:1]).tokens
    # The separator is no word.
    assert text.spell(pair).characters[text.spell(pair).rows].tolist() == [
        *([6], [4], [3], [0], [6]),
    ]
    text.save(tmp_path)
    assert SpeltWords.load(tmp_path) == text
    assert speller((), 5)(["a"]).shape == (1, 5)
