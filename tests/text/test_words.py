import itertools
import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tl_jax.files.errors import ConfigError, DataError
from tl_jax.text.words import WordVocabulary, split_words, word_offsets


@pytest.mark.parametrize(
    ("text", "words"),
    [
        # As the Penn Treebank's tokenizer splits clitics (GloVe's corpus follows it).
        ("They can't, I'm sure.", "they ca n't , i 'm sure ."),
        ("the director's cut isn’t his", "the director 's cut is n't his"),
        ("already tokenized , as mr is .", "already tokenized , as mr is ."),
        ("3.5 of 10,000 at 12:30 in the 1990s", "3.5 of 10,000 at 12:30 in the 1990s"),
        ("well-made -- and then ... !", "well - made -- and then ... !"),
        ("영화 정말 좋아요!! ㅋㅋ", "영화 정말 좋아요 ! ! ㅋㅋ"),
        ("cafe\u0301 😀\u200b\ufeff", "café 😀"),
        ("snake_case <b> 'quoted'", "snake_case < b > ' quoted '"),
        ("", ""),
    ],
)
def test_split_words(text, words):
    assert split_words(text, lowercase=True) == words.split()


def test_case_is_kept_on_demand():
    assert split_words("Don'T Stop", lowercase=False) == ["Do", "n'T", "Stop"]


def test_order_is_by_count_then_spelling():
    texts = ["b a c", "b c", "d", "B"]
    vocabulary = WordVocabulary.build(texts)
    assert vocabulary.words == ("<unk>", "<sep>", "b", "c", "a", "d")
    assert WordVocabulary.build(reversed(texts)) == vocabulary
    assert WordVocabulary.build(texts, min_count=2).words[2:] == ("b", "c")
    assert WordVocabulary.build(texts, max_size=3).words == ("<unk>", "<sep>", "b")
    cased = WordVocabulary.build(texts, lowercase=False)
    assert cased.words[2:] == ("b", "c", "B", "a", "d")


def test_encode_single_texts():
    vocabulary = WordVocabulary(("<unk>", "<sep>", "a", "b"))
    got = vocabulary.encode(["a b", "B z", "", "a a a a"], max_length=3)
    assert [t.tolist() for t in got.tokens] == [[2, 3], [3, 0], [0], [2, 2, 2]]
    assert [t.tolist() for t in got.types] == [[0, 0], [0, 0], [0], [0, 0, 0]]


def test_encode_pairs():
    vocabulary = WordVocabulary(("<unk>", "<sep>", "a", "b"))
    got = vocabulary.encode(["a", "a a a"], ["b b b b", ""], max_length=4)
    assert [t.tolist() for t in got.tokens] == [[2, 1, 3, 3], [2, 2, 1, 0]]
    assert [t.tolist() for t in got.types] == [[0, 0, 1, 1], [0, 0, 0, 1]]
    with pytest.raises(ConfigError, match="pairs"):
        vocabulary.encode(["a"], [], max_length=4)
    with pytest.raises(ConfigError, match="need 2 or more"):
        vocabulary.encode(["a"], ["b"], max_length=1)


def test_text_that_spells_a_special_word_is_text():
    vocabulary = WordVocabulary.build(["<sep> sep"])
    assert vocabulary.words[2:] == ("sep", "<", ">")


def test_saved_vocabulary_comes_back(tmp_path):
    vocabulary = WordVocabulary.build(["영화 x", 'quo"te'], lowercase=False)
    vocabulary.save(tmp_path / "words.json")
    assert WordVocabulary.load(tmp_path / "words.json") == vocabulary


@pytest.mark.parametrize(
    "state",
    [
        [],
        {"words": ["<unk>", "<sep>", 3], "lowercase": True},
        {"words": ["<unk>", "<sep>"]},
        {"words": ["a", "b"], "lowercase": True},
        {"words": ["<unk>", "<sep>", "a", "a"], "lowercase": True},
    ],
)
def test_broken_vocabulary_is_a_typed_error(tmp_path, state):
    (tmp_path / "words.json").write_text(json.dumps(state))
    with pytest.raises(DataError):
        WordVocabulary.load(tmp_path / "words.json")
    with pytest.raises(DataError):
        WordVocabulary.load(tmp_path / "none.json")


def test_bad_sizes_are_refused():
    with pytest.raises(ConfigError):
        WordVocabulary.build(["a"], min_count=0)
    with pytest.raises(ConfigError):
        WordVocabulary.build(["a"], max_size=1)


@given(st.text(max_size=40), st.booleans())
def test_offsets_cut_the_word_from_any_text(text: str, lowercase: bool) -> None:
    words = split_words(text, lowercase)
    offsets = word_offsets(text, lowercase)
    assert len(words) == len(offsets)
    for word, (start, end) in zip(words, offsets, strict=True):
        word = word.replace("ς", "σ") if lowercase else word
        cut = unicodedata.normalize("NFC", text[start:end]).replace("\u2019", "'")
        assert word in (cut.lower().replace("ς", "σ") if lowercase else cut)
    assert all(a <= b for (a, _), (b, _) in itertools.pairwise(offsets))


def test_offsets_of_decomposed_text() -> None:
    text = "cafe\u0301 un\u1112\u1161\u11ab!"  # é and 한 taken apart
    assert split_words(text, True) == ["café", "un한", "!"]
    assert word_offsets(text, True) == [(0, 5), (6, 11), (11, 12)]


@pytest.mark.parametrize("lowercase", [True, False])
def test_offsets_of_characters_that_are_not_normal_by_themselves(lowercase):
    """Compatibility ideographs, of Korean texts, do not combine with what is around."""
    text = "나(\uf914)와 \u212b\u2126 b"  # 樂, Å, Ω
    wanted = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (6, 8), (9, 10)]
    assert word_offsets(text, lowercase) == wanted


@pytest.mark.parametrize("lowercase", [True, False])
def test_offsets_behind_marks_that_are_reordered(lowercase):
    text = "a\u0316\u0301 b"  # normalised, the second mark comes first: á with U+0316
    assert split_words(text, lowercase) == ["á", "\u0316", "b"]
    assert word_offsets(text, lowercase) == [(0, 3), (0, 3), (4, 5)]


marks = st.sampled_from(
    "ae Iİ(\u0316\u0301\u0344\u0f71\u0f72\u0f73\u1112\u1161\uf914\u212b"
)


@given(st.text(marks, max_size=8), st.booleans())
def test_offsets_of_marks_do_not_shift_what_follows(text: str, lowercase: bool) -> None:
    begin = len(text) + 1
    assert word_offsets(f"{text} end", lowercase)[-1] == (begin, begin + 3)
