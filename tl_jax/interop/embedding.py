"""Word vectors → the embedding table of a vocabulary."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32

from tl_jax.files.errors import WeightsError
from tl_jax.interop.word_vectors import WordVectorTable, read_word_vectors
from tl_jax.text.words import WordVocabulary


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
    if not known.any():
        raise WeightsError(
            f"None of the data's {len(words)} words has a vector. Are the vectors "
            "of another language, or of words in upper case?"
        )
    numbers = vectors.vectors
    drawn = np.random.default_rng(seed).normal(
        numbers.mean(), numbers.std(), (len(words), numbers.shape[1])
    )
    table = drawn.astype(np.float32)
    table[known] = numbers[places[known]]
    return table, known


def read_embedding(
    path: Path, words: WordVocabulary, *, max_words: int, seed: int = 0
) -> tuple[WordVocabulary, Float32[np.ndarray, "V D"], int]:
    """Reads vectors for a vocabulary, and adds the file's first words to it.

    Words that no training text holds may stand in the texts to come, so the vocabulary
    is filled up to ``max_words`` rows from the head of the file, where the frequent
    words stand.

    Returns:
      The vocabulary, its table and how many words of ``words`` had a vector.

    Raises:
      WeightsError: The file cannot be read, or knows none of the words.
    """
    head = read_word_vectors(path, limit=max_words)
    seen = set(words.words)
    # No text's word is looked up in upper case, if the vocabulary has none.
    added = [
        word
        for word in head.words
        if word not in seen and (not words.lowercase or word == word.lower())
    ]
    room = max(max_words - len(words), 0)
    full = WordVocabulary((*words.words, *added[:room]), words.lowercase)
    table, known = embedding_table(
        full.words, read_word_vectors(path, only=full.words), seed=seed
    )
    return full, table, int(known[: len(words)].sum())
