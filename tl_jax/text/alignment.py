"""Words ↔ pieces: sentences that are tagged word by word, as examples of pieces."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from tl_jax.files.errors import ConfigError, DataError
from tl_jax.text.encodings import Ids, TextEncoder
from tl_jax.text.subwords import Tokenizer


@dataclass(frozen=True, eq=False)
class Aligned:
    """Examples of pieces that know the words they came from, one entry an example.

    Attributes:
      tokens: Ids, special pieces included.
      types: Segment ids.
      words: For each token the number of its word in the sentence; -1: a special piece.
      first: True at the first piece of a word.
      sentence: The number of the sentence that each example is (a part) of.
      ends: For each token one past the last word that it covers: ``words + 1``, and
        with characters for words perhaps more; -1 at special pieces.
    """

    tokens: list[Ids]
    types: list[Ids]
    words: list[Ids]
    first: list[Bool[np.ndarray, "_"]]
    sentence: Int[np.ndarray, "_"]
    ends: list[Ids]

    def __len__(self) -> int:
        return len(self.tokens)


class _Pieces(NamedTuple):
    """One sentence: of each piece id, word, end, being first, and beginning a word."""

    ids: Ids
    words: Ids
    ends: Ids
    first: Bool[np.ndarray, "_"]
    opens: Bool[np.ndarray, "_"]


def align(
    text: TextEncoder,
    sentences: Sequence[Sequence[str]],
    *,
    max_length: int,
    characters: bool = False,
) -> Aligned:
    """Tokenises sentences of words, and remembers which piece is of which word.

    A word is tokenised by itself behind a blank, as vocabularies expect that mark words
    by what stands before them (RoBERTa's ``Ġ``); for WordPiece that is tokenising the
    words joined by blanks. One that leaves no piece becomes the unknown one. Every word
    has exactly one first piece. A sentence that is too long becomes several examples,
    cut between words (within one only if it exceeds ``max_length`` by itself); one
    without words, none.

    With ``characters`` the words are the single characters of a raw text, blanks
    included, which is tokenised whole. A piece's word is then the first character that
    it covers and no piece before it does, and ``ends`` tells its last one; characters
    that no piece covers, such as blanks, stand in no interval. Cuts are made where
    something uncovered stands between pieces, if they can be.

    Args:
      text: Tokenizer or word vocabulary.
      sentences: The words of each sentence.
      max_length: The most tokens an example may have, special pieces included.
      characters: Whether words are the characters of a text.

    Raises:
      ConfigError: ``max_length`` leaves no room for a piece.
      DataError: A word cannot be encoded in UTF-8; or, with ``characters``, is not one
        character.
    """
    room = max_length - text.specials(pair=False)
    if room < 1:
        raise ConfigError(
            f"max_length is {max_length}, but {max_length - room} special pieces and a "
            f"piece of text need {max_length - room + 1} or more."
        )
    pieces = _of_characters if characters else _of_words
    found = Aligned([], [], [], [], np.zeros(0, np.int64), [])
    numbers: list[int] = []
    for number, sentence in enumerate(pieces(text, sentences)):
        for begin, end in _windows(sentence.opens, room):
            framed = text.frame(sentence.ids[begin:end])
            within = slice(framed.first, framed.first + end - begin)
            words, ends = (np.full(len(framed.tokens), -1, np.int32) for _ in range(2))
            first = np.zeros(len(framed.tokens), bool)
            words[within] = sentence.words[begin:end]
            ends[within] = sentence.ends[begin:end]
            first[within] = sentence.first[begin:end]
            found.tokens.append(framed.tokens)
            found.types.append(framed.types)
            found.words.append(words)
            found.ends.append(ends)
            found.first.append(first)
            numbers.append(number)
    return Aligned(
        found.tokens,
        found.types,
        found.words,
        found.first,
        np.array(numbers, np.int64),
        found.ends,
    )


def unknown_id(text: TextEncoder) -> int:
    """Returns the id of what stands for a text that has no pieces."""
    return text.special.unk if isinstance(text, Tokenizer) else 0


def _of_words(
    text: TextEncoder, sentences: Sequence[Sequence[str]]
) -> Iterator[_Pieces]:
    distinct = list(dict.fromkeys(chain.from_iterable(sentences)))
    unknown = np.array([unknown_id(text)], np.int32)
    found = text.pieces([f" {word}" for word in distinct])
    pieces = {
        word: ids if len(ids) else unknown
        for word, ids in zip(distinct, found, strict=True)
    }
    for sentence in sentences:
        parts = [pieces[word] for word in sentence]
        counts = np.array([len(part) for part in parts], np.int64)
        words = np.repeat(np.arange(len(parts), dtype=np.int32), counts)
        first = np.diff(words, prepend=-1) > 0
        ids = np.concatenate([np.zeros(0, np.int32), *parts])
        yield _Pieces(ids, words, words + np.int32(1), first, first)


def _of_characters(
    text: TextEncoder, sentences: Sequence[Sequence[str]]
) -> Iterator[_Pieces]:
    long = [i for i, s in enumerate(sentences) if any(len(c) != 1 for c in s)]
    if long:
        raise DataError(
            f"With characters=True every word must be one character, and in "
            f"{len(long)} sentences it is not, such as the one numbered {long[0]} "
            "(from 0): leave characters out."
        )
    whole = ["".join(sentence) for sentence in sentences]
    for ids, offsets in text.pieces_with_offsets(whole):
        covers = offsets[:, 0] < offsets[:, 1]
        ids, begins, ends = ids[covers], offsets[covers, 0], offsets[covers, 1]
        reached = np.concatenate([[0], np.maximum.accumulate(ends)])[:-1]
        reached = reached.astype(np.int32)[: len(ids)]
        new = np.maximum(begins, reached)
        first = new < ends
        words = np.where(first, new, begins)
        opens = begins > reached
        yield _Pieces(ids, words, ends, first, opens)


def _windows(opens: Bool[np.ndarray, "_"], room: int) -> Iterator[tuple[int, int]]:
    """Cuts pieces into runs of at most ``room``, each as long as it can be."""
    begin = 0
    while begin < len(opens):
        end = min(begin + room, len(opens))
        if end < len(opens):
            borders = np.flatnonzero(opens[begin + 1 : end + 1])
            end = begin + 1 + int(borders[-1]) if len(borders) else end
        yield begin, end
        begin = end
