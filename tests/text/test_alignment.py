import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_tokenizers import byte_level, unigram

from tl_jax.files.errors import ConfigError, DataError
from tl_jax.text.alignment import align, unknown_id
from tl_jax.text.encodings import Framed
from tl_jax.text.subwords import load_tokenizer
from tl_jax.text.words import WordVocabulary

SPECIALS = "[PAD] [UNK] [CLS] [SEP] [MASK]"
PIECES = f"""
{SPECIALS} the man ##s play ##ing un ##aff ##able a ##a b ##b c ##c é e , . -
영 ##화 영화 좋 ##아 ##요 2 ##5
"""


@pytest.fixture(scope="session")
def encoders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocabulary")
    (folder / "vocab.txt").write_text("\n".join(PIECES.split()) + "\n")
    for kind, backend in (("bpe", byte_level(False)), ("unigram", unigram())):
        (folder / kind).mkdir()
        backend.save(str(folder / kind / "tokenizer.json"))
    return {
        "bpe": load_tokenizer(folder / "bpe"),
        "unigram": load_tokenizer(folder / "unigram"),
        "cased": load_tokenizer(folder / "vocab.txt", lowercase=False),
        "uncased": load_tokenizer(folder / "vocab.txt", lowercase=True),
        "words": WordVocabulary(("<unk>", "<sep>", "the", "man", "영화")),
    }


def names(encoder, ids):
    return [encoder.backend.id_to_token(int(i)) for i in ids]


def test_each_word_has_its_pieces(encoders):
    cased = encoders["cased"]
    found = align(cased, [["the", "unaffable", "\u200b", "man,s"]], max_length=20)
    assert names(cased, found.tokens[0]) == (
        ["[CLS]", "the", "un", "##aff", "##able", "[UNK]", "man", ",", "[UNK]", "[SEP]"]
    )
    assert found.words[0].tolist() == [-1, 0, 1, 1, 1, 2, 3, 3, 3, -1]
    assert found.ends[0].tolist() == [-1, 1, 2, 2, 2, 3, 4, 4, 4, -1]
    assert found.first[0].tolist() == [0, 1, 1, 0, 0, 1, 1, 0, 0, 0]
    assert found.types[0].tolist() == [0] * 10
    assert found.sentence.tolist() == [0]
    assert unknown_id(cased) == 1


def test_a_long_sentence_is_cut_between_words(encoders):
    cased = encoders["cased"]
    sentences = [["the", "unaffable", "man"], [], ["a"], ["aaaaaaa", "b"]]
    found = align(cased, sentences, max_length=6)
    assert [names(cased, t)[1:-1] for t in found.tokens] == [
        ["the", "un", "##aff", "##able"],
        ["man"],
        ["a"],
        ["a", "##a", "##a", "##a"],  # no window holds this word
        ["##a", "##a", "##a", "b"],
    ]
    assert found.sentence.tolist() == [0, 0, 2, 3, 3]
    assert found.words[4].tolist() == [-1, 0, 0, 0, 1, -1]
    assert found.first[4].tolist() == [0, 0, 0, 0, 1, 0]


def test_characters_go_to_the_piece_that_covers_them(encoders):
    cased = encoders["cased"]
    text = "영화 the 흉25 \u200b."
    found = align(cased, [list(text)], max_length=20, characters=True)
    assert names(cased, found.tokens[0])[1:-1] == ["영화", "the", "[UNK]", "."]
    covered = [
        text[b:e]
        for b, e in zip(found.words[0][1:-1], found.ends[0][1:-1], strict=True)
    ]
    assert covered == ["영화", "the", "흉25", "."]
    assert found.first[0].tolist() == [0, 1, 1, 1, 1, 0]


def test_characters_are_cut_at_blanks_where_they_can_be(encoders):
    cased = encoders["cased"]
    text = "영화 unaffable man aaaaaa"
    found = align(cased, [list(text)], max_length=6, characters=True)
    assert [names(cased, t)[1:-1] for t in found.tokens] == [
        ["영화", "un", "##aff", "##able"],
        ["man"],
        ["a", "##a", "##a", "##a"],
        ["##a", "##a"],
    ]
    assert all(f[1:-1].all() for f in found.first)


def test_one_character_of_several_pieces_belongs_to_the_first(encoders):
    # Uncased, NFD takes a syllable apart into jamo: the word becomes unknown, but é
    # with its accent is e alone.
    found = align(encoders["uncased"], [list("é,é")], max_length=9, characters=True)
    assert found.words[0].tolist() == [-1, 0, 1, 2, -1]
    vocabulary = WordVocabulary(("<unk>", "<sep>", "ca", "n't"))
    found = align(vocabulary, [list("can't  ")], max_length=9, characters=True)
    assert found.tokens[0].tolist() == [2, 3]
    assert found.words[0].tolist() == [0, 2]
    assert found.ends[0].tolist() == [2, 5]


class Halves:
    """Gives each character two pieces, the second of which reaches into the next."""

    def specials(self, *, pair):
        return 0

    def pieces(self, texts):
        raise NotImplementedError

    def pieces_with_offsets(self, texts):
        return [
            (
                np.arange(2 * len(t), dtype=np.int32),
                np.array(
                    [(i, min(i + k, len(t))) for i in range(len(t)) for k in (1, 2)],
                    np.int32,
                ).reshape(-1, 2),
            )
            for t in texts
        ]

    def frame(self, first, second=None):
        return Framed(first, np.zeros_like(first), 0, len(first))


def test_overlapping_pieces_share_no_character():
    found = align(Halves(), [list("abc")], max_length=9, characters=True)
    # (0,1) (0,2) (1,2) (1,3) (2,3) (2,3)
    assert found.first[0].tolist() == [1, 1, 0, 1, 0, 0]
    assert found.words[0][found.first[0]].tolist() == [0, 1, 2]


def test_what_does_not_fit_is_told(encoders):
    with pytest.raises(ConfigError, match="need 3 or more"):
        align(encoders["cased"], [["a"]], max_length=2)
    with pytest.raises(DataError, match="numbered 1"):
        align(encoders["cased"], [["a"], ["ab"]], max_length=9, characters=True)
    assert (
        len(align(encoders["cased"], [list("  ")], max_length=9, characters=True)) == 0
    )
    assert (
        len(align(encoders["words"], [list("  ")], max_length=9, characters=True)) == 0
    )
    assert len(align(encoders["words"], [], max_length=9)) == 0


WORDS = st.lists(
    st.one_of(
        st.text(st.characters(codec="utf-8"), max_size=8),
        st.sampled_from(
            ["the", "unaffable", "man", "영화좋아요", "aaaa", "don't", "", " "]
        ),
    ),
    max_size=8,
)


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(["cased", "uncased", "words", "bpe", "unigram"]),
    st.lists(WORDS, max_size=3),
    st.integers(3, 9),
)
def test_every_word_has_one_first_piece_and_no_piece_two_words(
    encoders, name, sentences, max_length
):
    text = encoders[name]
    found = align(text, sentences, max_length=max_length)
    extra = text.specials(pair=False)
    firsts = {number: [] for number in range(len(sentences))}
    pieces = {number: [] for number in range(len(sentences))}
    for i, number in enumerate(found.sentence):
        assert extra < len(found.tokens[i]) <= max_length
        inner = found.words[i] >= 0
        assert (~inner).sum() == extra
        assert (found.ends[i][inner] == found.words[i][inner] + 1).all()
        assert not found.first[i][~inner].any()
        firsts[number] += found.words[i][found.first[i]].tolist()
        pieces[number] += zip(
            found.words[i][inner].tolist(), found.tokens[i][inner].tolist(), strict=True
        )
    for number, sentence in enumerate(sentences):
        assert firsts[number] == list(range(len(sentence)))
        grouped = itertools.groupby(pieces[number], key=lambda pair: pair[0])
        for word, (place, group) in zip(sentence, grouped, strict=True):
            assert sentence[place] == word
            wanted = text.pieces([f" {word}"])[0].tolist() or [unknown_id(text)]
            assert [piece for _, piece in group] == wanted


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(["cased", "uncased", "words", "bpe", "unigram"]),
    st.text(st.characters(codec="utf-8"), max_size=30),
    st.integers(3, 9),
)
def test_no_character_is_covered_twice_and_no_piece_is_lost(
    encoders, name, sentence, max_length
):
    text = encoders[name]
    found = align(text, [list(sentence)], max_length=max_length, characters=True)
    tokens, covered = [], []
    for i in range(len(found)):
        inner = found.words[i] >= 0
        tokens += found.tokens[i][inner].tolist()
        first = found.first[i]
        for begin, end in zip(found.words[i][first], found.ends[i][first], strict=True):
            assert begin < end
            covered += range(begin, end)
    assert covered == sorted(set(covered))
    ids, offsets = text.pieces_with_offsets([sentence])[0]
    assert tokens == ids[offsets[:, 0] < offsets[:, 1]].tolist()
    reached = {c for begin, end in offsets for c in range(begin, end)}
    assert set(covered) == reached


@pytest.mark.parametrize("name", ["bpe", "unigram", "cased", "uncased"])
def test_words_have_the_pieces_that_they_have_in_a_text(encoders, name):
    """In RoBERTa's vocabulary the blank before a word is part of its first piece."""
    text = encoders[name]
    sentences = [["The", "film", "was", "good"], ["영화가", "정말", "재미있었다", "."]]
    found = align(text, sentences, max_length=99)
    for tokens, first, sentence in zip(
        found.tokens, found.first, sentences, strict=True
    ):
        (whole,) = text.pieces([" " + " ".join(sentence)])
        assert tokens[1:-1].tolist() == whole.tolist()
        assert first.sum() == len(sentence)
    if name == "bpe":
        assert names(text, found.tokens[0][1:-1]) == [
            "Ġ",
            "The",
            "Ġfilm",
            "Ġwas",
            "Ġgood",
        ]


def test_words_are_tokenised_as_the_sentence_is(shared):
    text = load_tokenizer(shared / "bert/bert-base-cased-vocab.txt", lowercase=False)
    blocks = (shared / "ner/wnut17/dev.conll").read_text().split("\n\n")
    sentences = [
        [line.split("\t")[0] for line in block.split("\n") if line]
        for block in blocks
        if block.strip()
    ]
    found = align(text, sentences, max_length=512)
    assert len(found) == len(sentences) == 1009
    whole = text.encode([" ".join(s) for s in sentences], max_length=512).tokens
    same = [np.array_equal(a, b) for a, b in zip(found.tokens, whole, strict=True)]
    assert all(same), json.dumps(sentences[same.index(False)])
