"""Sentences on disk as numbers of words, for language models.

A folder holds two files, whose SHA-256 stand in its MANIFEST.json::

    tokens.bin   int32: sentence after sentence, <S> and then its words
    words.txt    the word of each number, one a line: first the vocabulary, then the
                 other words of this text

Each token but the last of a sentence precedes another one, and the last one </S>, so
``tokens.bin`` holds one token for every word to be predicted. The folder is made under
another name and renamed when it is whole; the file of tokens is mapped, not loaded.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from tl_jax.files.atomic import writing_folder
from tl_jax.files.errors import DataError
from tl_jax.files.manifest import verify_manifest, write_manifest
from tl_jax.text.vocabulary import (
    BEGIN_ID,
    SPECIALS,
    UNKNOWN_ID,
    by_count,
    save_vocabulary,
)

_TOKENS, _WORDS = "tokens.bin", "words.txt"
_SENTENCES_AT_ONCE = 8192
_TOKENS_AT_ONCE = 1 << 22


@dataclass(frozen=True, eq=False)
class WordText:
    """A text of numbered words.

    Attributes:
      tokens: Sentence after sentence, <S> and then its words.
      words: The word of each number; those of the vocabulary come first.
      vocab_size: How many are in the vocabulary; to it, all others are <UNK>.
      counts: How many sentences, words, distinct words and unknown words there are.
      source: What the text was prepared from.
    """

    tokens: Int[np.ndarray, " M"]
    words: tuple[str, ...]
    vocab_size: int
    counts: dict[str, int]
    source: dict[str, Any]

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """The words that the model predicts."""
        return self.words[: self.vocab_size]


def prepare_words(
    folder: Path,
    sentences: Iterable[Sequence[str]],
    source: dict[str, Any],
    *,
    vocabulary: Sequence[str] | None = None,
    vocab_size: int,
) -> None:
    """Numbers the words of sentences and writes them; all of it or nothing.

    Args:
      folder: Made; an older one of the name is replaced.
      sentences: Their words; those without any are left out.
      source: What identifies the preparation; `open_words` gives it back.
      vocabulary: The words that a model predicts, special ones first. By default the
        most frequent of this text.
      vocab_size: Most words of a vocabulary, special ones included.

    Raises:
      DataError: There are no words.
      OSError: The disk is full or fails.
    """
    with writing_folder(folder, replace=True) as fresh:
        found = _number(fresh / _TOKENS, sentences)
        tokens = np.memmap(fresh / _TOKENS, np.int32, "r+")
        size = len(found)
        each = (np.bincount(part, minlength=size) for part in _parts(tokens))
        counts = reduce(np.add, each)
        ranked = by_count(dict(zip(found, counts.tolist(), strict=True)))
        known = tuple(vocabulary or (*SPECIALS, *ranked)[:vocab_size])
        inside = set(known)
        words = [*known, *(word for word in ranked if word not in inside)]
        place = {word: number for number, word in enumerate(words)}
        numbers = np.array([place[word] for word in found], np.int32)
        for part in _parts(tokens):
            part[:] = numbers[part]
        tokens.flush()
        save_vocabulary(fresh / _WORDS, words)
        unknown = (numbers >= len(known)) | (numbers == UNKNOWN_ID)
        told = {
            "sentences": int(counts[BEGIN_ID]),
            "words": len(tokens) - int(counts[BEGIN_ID]),
            "distinct_words": len(ranked),
            "unknown_words": int(counts[unknown].sum()),
        }
        meta = {"vocab_size": len(known), "counts": told, "source": source}
        write_manifest(fresh, meta)


def open_words(folder: Path) -> WordText:
    """Opens what `prepare_words` wrote, after verifying it.

    Raises:
      IntegrityError: It was never finished, or files are not those written; they are
        named.
    """
    meta = verify_manifest(folder)
    words = (folder / _WORDS).read_text(encoding="utf-8").split("\n")[:-1]
    tokens = np.memmap(folder / _TOKENS, np.int32, "r")
    told = meta["vocab_size"], meta["counts"], meta["source"]
    return WordText(tokens, tuple(words), *told)


def _number(file: Path, sentences: Iterable[Sequence[str]]) -> list[str]:
    """Writes sentences by numbers in the order of appearance; returns the words."""
    # A special word that stands in the text is no boundary there.
    numbers: dict[str, int] = dict.fromkeys(SPECIALS, UNKNOWN_ID)
    left = iter(sentences)
    with open(file, "wb") as stream:
        while some := list(islice(left, _SENTENCES_AT_ONCE)):
            found: list[int] = []
            for words in filter(len, some):
                found.append(BEGIN_ID)
                found += [numbers.setdefault(word, len(numbers)) for word in words]
            stream.write(np.array(found, np.int32).data)
        if not stream.tell():
            raise DataError("The text holds no words.")
    return list(numbers)


def _parts(tokens: np.memmap) -> Iterator[np.ndarray]:
    for start in range(0, len(tokens), _TOKENS_AT_ONCE):
        yield tokens[start : start + _TOKENS_AT_ONCE]
