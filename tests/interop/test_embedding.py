"""From a file of vectors to the table of a vocabulary."""

import warnings
from pathlib import Path

import numpy as np
import pytest

from tl_jax.files.errors import WeightsError
from tl_jax.interop.embedding import is_cased, read_embedding
from tl_jax.text.words import WordVocabulary


def written(folder: Path, *words: str) -> Path:
    lines = [f"{word} {n} {n + 0.5}" for n, word in enumerate(words, 1)]
    (folder / "v.txt").write_text("\n".join(lines))
    return folder / "v.txt"


def test_words_of_the_data_come_first_then_the_file_s(tmp_path: Path) -> None:
    file = written(tmp_path, "of", "the", "Rome", "and")
    words = WordVocabulary.build(["the the zebra"])
    full, table, known = read_embedding(file, words, max_words=5)
    # <unk>, <sep>, the, zebra; then the head of the file, in which Rome is no word of
    # lower-cased texts.
    assert full.words[2:] == ("the", "zebra", "of")
    assert known == 1
    np.testing.assert_array_equal(table[[2, 4]], [[2, 2.5], [1, 1.5]])


def test_vectors_of_a_cased_file_are_looked_up_as_they_are_written(
    tmp_path: Path,
) -> None:
    file = written(tmp_path, "of", "the", "Rome")
    assert is_cased(file)
    words = WordVocabulary.build(["the Rome rome"], lowercase=False)
    full, _, known = read_embedding(file, words, max_words=9)
    assert known == 2
    assert full.numbers["Rome"] != full.numbers["rome"]
    assert not is_cased(written(tmp_path, *(f"w{n}" for n in range(200)), "Rome"))


def test_real_files_are_cased_or_not(shared: Path) -> None:
    folder = shared / "embeddings"
    assert is_cased(folder / "gensim_lee_fasttext.vec")
    assert not is_cased(folder / "glove.6B.100d.sample.txt.gz")


def test_a_file_that_knows_no_word_of_the_data_is_refused(tmp_path: Path) -> None:
    words = WordVocabulary.build(["a b <unk>"])
    with pytest.raises(WeightsError, match="None of the data's 5 words has a vector"):
        read_embedding(written(tmp_path, "x", "y", "<unk>"), words, max_words=99)


def test_repeated_words_are_told_once(tmp_path: Path) -> None:
    file = written(tmp_path, "a", "b", "a")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        read_embedding(file, WordVocabulary.build(["a"]), max_words=9)
    assert [str(w.message) for w in told] == [
        f"{file}: 1 rows repeat a word; the first is kept"
    ]
