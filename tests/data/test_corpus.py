import pytest

from tl_jax.data.corpus import read_corpus
from tl_jax.files.errors import ConfigError, DataError
from tl_jax.text.words import split_words


def test_words_are_ranked_and_rare_ones_cut_out(tmp_path):
    one, two = tmp_path / "a.txt", tmp_path / "b.txt"
    one.write_text("The cat sat.\n\nthe CAT ran\n")
    two.write_text("a rare sat the\n")
    corpus = read_corpus([one, two], min_count=2)
    assert corpus.words == ("the", "cat", "sat")  # ties by spelling
    assert corpus.counts.tolist() == [3, 2, 2]
    assert corpus.tokens.tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert corpus.sentences.tolist() == [0, 0, 0, 2, 2, 3, 3]
    assert read_corpus([one], lowercase=False, min_count=1).index().keys() == {
        *("The", "the", "cat", "CAT", "sat", "ran", ".")
    }
    assert read_corpus([one], min_count=1, max_words=2).words == ("cat", "the")


def test_a_long_line_is_read_part_by_part(tmp_path, monkeypatch):
    words = [f"wörd{n % 97}" for n in range(20_000)] + ["end"] * 2
    lines = "\n".join(["a b", " ".join(words), "b" * 200_000 + " b", "", "a"])
    (tmp_path / "a.txt").write_text(lines)
    longest = 0

    def spied(text, lowercase):
        nonlocal longest
        longest = max(longest, len(text) if " " in text else 0)
        return split_words(text, lowercase)

    monkeypatch.setattr("tl_jax.data.corpus.split_words", spied)
    corpus = read_corpus([tmp_path / "a.txt"], min_count=2)
    assert longest < 66_000
    wanted = ["a", "b", *words, "b", "a"]  # the word of 200,000 letters is rare
    assert [corpus.words[n] for n in corpus.tokens] == wanted
    assert corpus.sentences.tolist() == [0, 0, *[1] * len(words), 2, 4]


def test_parts_end_with_sentences(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("a b c\na b\na b c d\na\n")
    corpus = read_corpus([file], min_count=1)
    assert list(corpus.parts(2)) == [(0, 3), (3, 5), (5, 9), (9, 10)]
    assert list(corpus.parts(4)) == [(0, 5), (5, 9), (9, 10)]
    assert list(corpus.parts(10)) == list(corpus.parts(99)) == [(0, 10)]


def test_bad_text_is_told_with_all_its_lines(tmp_path):
    file = tmp_path / "a.txt"
    file.write_bytes(b"fine\n\xff\nfine\nnul \0\n")
    with pytest.raises(DataError, match=r"2 bad rows") as caught:
        read_corpus([file], min_count=1)
    assert f"{file}:2: byte 0xff" in str(caught.value)
    assert f"{file}:4: holds a NUL" in str(caught.value)
    with pytest.raises(DataError, match="no such text file"):
        read_corpus([tmp_path / "none.txt"])
    file.write_text("only once each\n")
    with pytest.raises(DataError, match=r"a\.txt: of 3 words 0 stand 5 times"):
        read_corpus([file])
    (tmp_path / "empty.txt").touch()
    with pytest.raises(DataError, match=r"empty\.txt: of 0 words"):
        read_corpus([tmp_path / "empty.txt"])
    with pytest.raises(ConfigError, match="min_count"):
        read_corpus([file], min_count=0)
