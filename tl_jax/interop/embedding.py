"""Word vectors → the embedding table of a vocabulary."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32

from tl_jax.files.errors import WeightsError
from tl_jax.interop.word_vectors import WordVectorTable, read_word_vectors
from tl_jax.text.words import SPECIALS, WordVocabulary

_HEAD = 1000  # words that tell whether a file's words keep their capitals
_CASED = 0.01  # share of them that has one


def embedding_table(
    words: Sequence[str], vectors: WordVectorTable, *, seed: int = 0
) -> tuple[Float32[np.ndarray, "V D"], Bool[np.ndarray, " V"]]:
    """Lays loaded vectors into the rows of a vocabulary's words, or sub-words.

    A word without a vector gets one drawn from N(mean, std) of all loaded numbers, as
    in AllenNLP.

    Returns:
      The table, and which rows were loaded.

    Raises:
      WeightsError: Not one word of the vocabulary has a vector.
    """
    rows = vectors.index()
    places = np.array([rows.get(word, -1) for word in words])
    known = places >= 0
    _refuse_strangers(known)
    numbers = vectors.vectors
    drawn = np.random.default_rng(seed).normal(
        numbers.mean(), numbers.std(), (len(words), numbers.shape[1])
    )
    table = drawn.astype(np.float32)
    table[known] = numbers[places[known]]
    return table, known


def _refuse_strangers(known: Bool[np.ndarray, " V"]) -> None:
    if not known.any():
        raise WeightsError(
            f"None of the data's {len(known):,} words has a vector. Are the vectors of "
            "another language, or of words in upper case?"
        )


def is_cased(path: Path) -> bool:
    """True if the words of a file of vectors keep their capitals.

    So it is where of the first 1,000 words more than one in a hundred has one, as in
    word2vec's GoogleNews and in fastText's files; GloVe 6B is lower-cased.

    Raises:
      WeightsError: The file cannot be read.
    """
    head = _head(path, _HEAD)
    return sum(word != word.lower() for word in head) > _CASED * len(head)


def _head(path: Path, count: int) -> tuple[str, ...]:
    """A file's first words; those that it repeats are told when all is read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return read_word_vectors(path, limit=count).words


def read_embedding(
    path: Path, words: WordVocabulary, *, max_words: int, seed: int = 0
) -> tuple[WordVocabulary, Float32[np.ndarray, "V D"], int]:
    """Reads vectors for a vocabulary, and adds the file's first words to it.

    Words that no training text holds may stand in the texts to come, so the vocabulary
    is filled up to ``max_words`` rows from the head of the file, where the frequent
    words stand. ``words`` are lower-cased unless the file `is_cased`.

    Returns:
      The vocabulary, its table and how many words of ``words`` had a vector.

    Raises:
      WeightsError: The file cannot be read, or knows none of the words.
    """
    seen = set(words.words)
    # No text's word is looked up in upper case, if the vocabulary has none.
    added = [
        word
        for word in _head(path, max_words)
        if word not in seen and (not words.lowercase or word == word.lower())
    ]
    room = max(max_words - len(words), 0)
    full = WordVocabulary((*words.words, *added[:room]), words.lowercase)
    table, known = embedding_table(
        full.words, read_word_vectors(path, only=full.words), seed=seed
    )
    known = known[len(SPECIALS) : len(words)]
    _refuse_strangers(known)
    return full, table, int(known.sum())
