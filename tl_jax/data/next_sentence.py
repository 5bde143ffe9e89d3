"""Documents → pairs of segments, of which the second follows the first or does not.

Devlin et al. 2019, appendix A.2, as ``create_pretraining_data.py`` of
google-research/bert does it. A pair is drawn by (seed, pass, document) alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from tl_jax.files.errors import ConfigError, DataError


class Pair(NamedTuple):
    """Where the two texts of an example stand among all pieces of a corpus.

    Attributes:
      first: Number of the first text's first piece.
      first_length: Its pieces.
      second: The same of the second text.
      second_length: 0 if there is none.
      random: 1 if the second text is a random one, 0 if it follows the first.
    """

    first: int
    first_length: int
    second: int = 0
    second_length: int = 0
    random: int = 0


@dataclass(frozen=True)
class PairRules:
    """How documents are cut.

    Attributes:
      max_length: Most tokens of an example.
      specials: How many of them stand around one text, and around two.
      next_sentence: Make pairs; otherwise texts alone.
      short: Share of documents, or of texts alone, that are cut to a random length
        below that, since texts are short when the encoder is used.
      passes: Times that the corpus is gone through, each with its own draws
        (Google's ``dupe_factor``).
      seed: Keys the draws; 0 … 2**32 - 1.
    """

    max_length: int
    specials: tuple[int, int] = (2, 3)
    next_sentence: bool = True
    short: float = 0.1
    passes: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.room(paired=self.next_sentence) < 2:
            raise ConfigError(
                f"Examples of {self.max_length} tokens have no room for two pieces."
            )
        if not 0 <= self.short <= 1 or self.passes < 1:
            raise ConfigError(
                "The share of short examples is 0 … 1 and there is at least one pass: "
                f"they are {self.short} and {self.passes}."
            )

    def room(self, *, paired: bool) -> int:
        """Most pieces of a text alone, or of two together."""
        return self.max_length - self.specials[paired]

    def lengths(self, pairs: Int[np.ndarray, "N 5"]) -> Int[np.ndarray, "N"]:
        """Tokens of each example, columns as of `Pair`."""
        around = np.where(pairs[:, 3] > 0, *reversed(self.specials))
        return np.asarray(pairs[:, 1] + pairs[:, 3] + around, np.int64)


def draw_pairs(
    segments: Int[np.ndarray, "_"],
    documents: Int[np.ndarray, "_"],
    connected: Bool[np.ndarray, "_"],
    rules: PairRules,
) -> Iterator[Pair]:
    """Yields the examples of a corpus, document by document.

    A document that is not connected gives texts alone, whatever the rules.

    Args:
      segments: Where each segment's pieces begin; the last entry is where all end.
      documents: The same of each document's segments.
      connected: By document.
      rules: How documents are cut.

    Raises:
      DataError: Pairs are wanted, and there are no two connected documents.
    """
    others = np.flatnonzero(connected)
    if rules.next_sentence and len(others) < 2:
        raise DataError(
            f"Next-sentence prediction needs two documents, and this text has "
            f"{len(others)}: a random sentence comes from another one. Put blank lines "
            "between documents, or train the masked language model alone (--no-nsp)."
        )
    own = np.cumsum(connected) - 1  # a connected document's place among the others
    for number in range(rules.passes):
        for document in range(len(documents) - 1):
            key = np.array([(rules.seed << 32) + number, document], np.uint64)
            draw = np.random.Generator(np.random.Philox(key=key))
            begin, end = int(documents[document]), int(documents[document + 1])
            bounds = np.asarray(segments[begin : end + 1])
            if not (rules.next_sentence and connected[document]):
                yield from _texts(bounds, rules, draw)
                continue
            for pair in _pairs(bounds, rules, draw):
                if pair.random:
                    drawn = int(draw.integers(len(others) - 1))
                    other = int(others[drawn + (drawn >= own[document])])
                    pair = _fill(pair, segments, documents, other, draw)
                yield _cut(pair, rules.room(paired=True), draw)


def _texts(
    bounds: Int[np.ndarray, "_"], rules: PairRules, draw: np.random.Generator
) -> Iterator[Pair]:
    """Cuts a document into texts, each of a target length of its own."""
    begin, end = int(bounds[0]), int(bounds[-1])
    while begin < end:
        length = min(_target(rules.room(paired=False), rules.short, draw), end - begin)
        yield Pair(begin, length)
        begin += length


def _pairs(
    bounds: Int[np.ndarray, "_"], rules: PairRules, draw: np.random.Generator
) -> Iterator[Pair]:
    """Fills chunks of segments up to the target and splits each into two.

    Where the second text is to be random, ``second_length`` is the length it should
    have, and the segments after the first text are used again.
    """
    target = _target(rules.room(paired=True), rules.short, draw)
    count, at = len(bounds) - 1, 0
    while at < count:
        full = int(np.searchsorted(bounds, bounds[at] + target))
        stop = min(full, count)
        split = at + (1 if stop - at == 1 else int(draw.integers(1, stop - at)))
        first, second, end = (int(bounds[i]) for i in (at, split, stop))
        if stop - at == 1 or draw.random() < 0.5:
            yield Pair(first, second - first, 0, target - (second - first), 1)
            at = split
        else:
            yield Pair(first, second - first, second, end - second)
            at = stop


def _fill(
    pair: Pair,
    segments: Int[np.ndarray, "_"],
    documents: Int[np.ndarray, "_"],
    other: int,
    draw: np.random.Generator,
) -> Pair:
    """Takes segments of another document, from a random one on, till they suffice."""
    start, end = int(documents[other]), int(documents[other + 1])
    start = int(draw.integers(start, end))
    bounds = np.asarray(segments[start : end + 1])
    enough = int(np.searchsorted(bounds, bounds[0] + pair.second_length))
    stop = min(max(enough, 1), len(bounds) - 1)
    second, length = int(bounds[0]), int(bounds[stop] - bounds[0])
    return pair._replace(second=second, second_length=length)


def _cut(pair: Pair, room: int, draw: np.random.Generator) -> Pair:
    """Takes pieces off the longer text, each from its front or its back at random."""
    a, b = pair.first_length, pair.second_length
    if a + b <= room:
        return pair
    # One by one from the longer, and from the second of two equals, leaves these.
    first = min(a, max(room - b, -(-room // 2)))
    second = room - first
    front_a, front_b = draw.binomial([a - first, b - second], 0.5)
    return Pair(
        pair.first + int(front_a),
        first,
        pair.second + int(front_b),
        second,
        pair.random,
    )


def _target(room: int, short: float, draw: np.random.Generator) -> int:
    return int(draw.integers(2, room + 1)) if draw.random() < short else room
