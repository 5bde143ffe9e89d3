import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tl_jax.files.errors import DataError
from tl_jax.text.characters import (
    SpeltWords,
    bounded,
    distinct_words,
    vector_words,
    word_characters,
)
from tl_jax.text.words import WordVocabulary

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


# Words that are read by their characters


def test_no_word_is_unknown_and_ids_lead_back_to_it():
    vocabulary = WordVocabulary(("<unk>", "<sep>", "joy", "film"))
    text = SpeltWords(vocabulary, length=8)
    joy, zorb = text.pieces(["Joy film", "zorb joy Joy"])
    found = text.spell(np.concatenate([joy, [1], zorb]))
    assert found.vectors.tolist() == [2, 3, 1, 0, 2, 2]
    words = ["Joy", "film", None, "zorb", "joy", "Joy"]
    for row, word in zip(found.rows, words, strict=True):
        wanted = np.zeros(8) if word is None else word_characters([word], length=8)[0]
        np.testing.assert_array_equal(found.characters[row], wanted)
    assert len(found.characters) == 5  # each distinct word once, and the separator


def test_words_that_look_special_are_words_in_a_text():
    text = SpeltWords(splits="spaces")
    ids = text.pieces(["<sep> <unk>", " "])
    assert min(ids[0]) > 1
    assert ids[1].tolist() == [0]
    assert text.spell(ids[0]).characters.all()


@given(st.lists(st.text(max_size=12), min_size=1, max_size=5))
def test_offsets_cut_out_the_words(texts):
    text = SpeltWords(splits="spaces")
    for source, (ids, offsets) in zip(
        texts, text.pieces_with_offsets(texts), strict=True
    ):
        assert len(ids) == len(offsets)
        words = [source[a:b] for a, b in offsets]
        assert words == (source.split() or [""])


def test_what_is_saved_gives_the_same_characters(tmp_path):
    text = SpeltWords(vector_words(["b a B c"], "spaces", max_size=4), "spaces", 9)
    assert text.vocabulary.words == ("<unk>", "<sep>", "b", "a")
    text.pieces(["other words met before"])
    text.save(tmp_path)
    again = SpeltWords.load(tmp_path)
    assert again == text
    spelt = [x.spell(x.pieces(["c B"])[0]) for x in (text, again)]
    for mine, theirs in zip(*spelt, strict=True):
        np.testing.assert_array_equal(mine[:1], theirs[:1])
    (tmp_path / "spelling.json").write_text('{"splits": "letters", "length": 9}')
    with pytest.raises(DataError, match="'splits'"):
        SpeltWords.load(tmp_path)
