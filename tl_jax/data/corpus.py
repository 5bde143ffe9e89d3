"""Raw text for word vectors: words by frequency, and the text as their numbers."""

import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int32, Int64

from tl_jax.data.table import Problems, bad_characters
from tl_jax.files.errors import ConfigError, DataError
from tl_jax.text.subwords import Tokenizer
from tl_jax.text.words import split_words

# Words of a line that are held together; a corpus may be a single line.
_PART = re.compile(r"(?s).{1,65536}\S*")


@dataclass(frozen=True, eq=False)
class Corpus:
    """A text of numbered words; words too rare to have a number are cut out of it.

    Attributes:
      words: The words, the most frequent first, ties by spelling.
      counts: How often each stands in the text.
      tokens: The text, sentence after sentence.
      sentences: The number of each token's sentence; it never falls.
    """

    words: tuple[str, ...]
    counts: Int64[np.ndarray, " V"]
    tokens: Int32[np.ndarray, " M"]
    sentences: Int32[np.ndarray, " M"]

    def __len__(self) -> int:
        return len(self.tokens)

    def index(self) -> dict[str, int]:
        """Returns the number of each word."""
        return {word: number for number, word in enumerate(self.words)}

    def parts(self, size: int) -> Iterator[tuple[int, int]]:
        """Cuts the text between sentences into ``(first, one past the last)`` token.

        A part has at least ``size`` tokens, but for the last one.
        """
        begin = 0
        while begin < len(self):
            end = begin + size
            if end < len(self):
                # The first token of the sentence after the one that holds end - 1.
                last = self.sentences[end - 1]
                end = int(np.searchsorted(self.sentences, last, side="right"))
            yield begin, min(end, len(self))
            begin = end


def read_corpus(
    files: Sequence[str | Path],
    *,
    lowercase: bool = True,
    min_count: int = 5,
    max_words: int | None = None,
    tokenizer: Tokenizer | None = None,
) -> Corpus:
    """Reads plain UTF-8 text, a sentence (or paragraph) a line.

    Lines are split by `tl_jax.text.words.split_words`, or into a tokenizer's pieces. As
    in word2vec and GloVe, rare words are cut out before windows are laid, so their
    neighbours draw together.
    A token takes eight bytes of memory, and some twenty while it is numbered; of the
    text itself a line at most is held.

    Args:
      files: The files, in this order.
      lowercase: Lower-case the text first.
      min_count: Words seen less often get no number.
      max_words: The most words that get one.
      tokenizer: Its pieces are the words; whether they are lower-cased is its own rule.

    Raises:
      ConfigError: ``min_count`` is below 1 or ``max_words`` below 2, or no file is
        given.
      DataError: A file is missing or has lines that are not UTF-8 or hold NUL; or all
        words are too rare.
    """
    if min_count < 1 or (max_words is not None and max_words < 2) or not files:
        raise ConfigError(
            "Word vectors need a text, min_count ≥ 1 and max_words ≥ 2; they are "
            f"{[str(f) for f in files]}, {min_count} and {max_words}."
        )
    numbers: dict[str, int] = {}
    tokens, lengths = array("i"), array("i")
    pieces = tokenizer.vocabulary if tokenizer is not None else ("",)
    for line in read_lines(files):
        before = len(tokens)
        for part in _PART.findall(line):
            if tokenizer is None:
                words = split_words(part, lowercase)
            else:
                words = [pieces[number] for number in tokenizer.pieces([part])[0]]
            tokens.extend([numbers.setdefault(w, len(numbers)) for w in words])
        lengths.append(len(tokens) - before)
    text = np.frombuffer(tokens, np.int32) if tokens else np.empty(0, np.int32)
    sentences = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    corpus = _numbered(list(numbers), text, sentences, min_count, max_words)
    if len(corpus.words) < 2:
        raise DataError(
            f"{', '.join(map(str, files))}: of {len(numbers):,} words "
            f"{len(corpus.words)} stand {min_count} times or more in the text; two at "
            "least are needed. Give more text or lower min_count."
        )
    return corpus


def read_lines(files: Sequence[str | Path]) -> Iterator[str]:
    """Yields the lines of text files, in this order.

    Raises:
      DataError: As `read_corpus`; bad lines are told when all are read.
    """
    problems = Problems()
    for file in files:
        yield from _lines(Path(file), problems)
    problems.finish()


def _numbered(
    words: list[str],
    text: Int32[np.ndarray, " M"],
    sentences: Int32[np.ndarray, " M"],
    min_count: int,
    max_words: int | None,
) -> Corpus:
    """Numbers words by frequency instead of appearance, and cuts out the rare ones."""
    counts = np.bincount(text, minlength=len(words))
    ranked = sorted(np.flatnonzero(counts >= min_count), key=words.__getitem__)
    ranked = sorted(ranked, key=lambda number: -counts[number])[:max_words]
    renumbered = np.full(len(words), -1, np.int32)
    renumbered[ranked] = np.arange(len(ranked))
    text = renumbered[text]
    kept = text >= 0
    return Corpus(
        tuple(words[number] for number in ranked),
        counts[ranked].astype(np.int64),
        text[kept],
        sentences[kept],
    )


def _lines(file: Path, problems: Problems) -> Iterator[str]:
    """Yields a file's good lines and notes the bad ones."""
    try:
        with open(file, encoding="utf-8-sig", errors="surrogateescape") as stream:
            for number, line in enumerate(stream, 1):
                if wrong := bad_characters([line]):
                    problems.add(f"{file}:{number}", wrong)
                else:
                    yield line
    except (FileNotFoundError, IsADirectoryError) as problem:
        raise DataError(f"{file}: there is no such text file; check it.") from problem
