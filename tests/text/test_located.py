"""Texts and where their words stand in them."""

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from tl_jax.text.located import join, locate
from tl_jax.text.words import split_words


@given(st.text(max_size=40))
def test_words_are_cut_from_any_text_as_they_stand(text: str) -> None:
    located = locate(text)
    wanted = split_words(text, lowercase=False)
    assert len(located.words) == len(wanted)
    for number, (word, split) in enumerate(zip(located.words, wanted, strict=True)):
        passage = located.passage(number, number + 1)
        begin, end = passage["characters"]
        assert passage["text"] == word == text[begin:end]
        assert passage["words"] == [number, number + 1]
        normal = unicodedata.normalize("NFC", word).replace("\u2019", "'")
        assert split in normal


@given(
    st.lists(st.text(max_size=5), min_size=1, max_size=6), st.sampled_from(["", " "])
)
def test_joined_words_stand_in_the_joined_text(words: list[str], between: str) -> None:
    located = join(words, between)
    assert located.text == between.join(words)
    assert located.words == words
    for begin in range(len(words)):
        for end in range(begin + 1, len(words) + 1):
            assert located.passage(begin, end)["text"] == between.join(words[begin:end])


@given(st.text(max_size=20))
def test_characters_are_words_of_one(text: str) -> None:
    assert locate(text, characters=True).words == list(text)


def test_by_hand() -> None:
    located = locate("  Jos\u0065\u0301 don’t\u00a0go.")
    assert located.words == ["Jose\u0301", "do", "n’t", "go", "."]
    assert located.passage(1, 4) == {
        "text": "don’t\u00a0go",
        "words": [1, 4],
        "characters": [8, 16],
    }
    assert join([]).words == locate("").words == []
