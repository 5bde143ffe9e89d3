"""Windows of parallel streams of a text, for a language model in both directions."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Int

from tl_jax.data.word_text import WordText
from tl_jax.files.errors import ConfigError, DataError
from tl_jax.models.batch import Batch
from tl_jax.text.characters import word_characters
from tl_jax.text.vocabulary import BEGIN_ID, END_ID, UNKNOWN_ID

FORWARD, BACKWARD = "forward", "backward"  # targets; BACKWARD is an input, too
SPELLINGS = "spellings"
_WIDTHS = 8  # numbers of rows that a batch's table of characters may have


@dataclass(frozen=True, eq=False)
class WordStream:
    """Windows of a text, by random access.

    The neighbours in sentences, such as (<S>, w_1), (w_1, w_2), (w_2, </S>), are cut in
    their order into as many streams as a batch has rows, and each stream into windows.
    Step n of an epoch has the n-th window of each stream, whose first words foretell
    the second ones; and, for the backward direction, the n-th window from the end,
    whose second words foretell the first ones. So the states of either direction go on
    from step to step, all neighbours are seen once an epoch in both, and the text that
    a state remembers is all that is before, or after, in its stream.

    A batch's ``tokens`` are first words, ``inputs["backward"]`` second ones, and
    ``targets`` hold what they foretell. Positions are those in the stream, so an
    epoch begins, from a state of zeros, at position 0.

    Attributes:
      text: The words.
      rows: Number of streams.
      length: Neighbours of a window.
      max_characters: Characters of a word, if words are read by these; ``tokens`` are
        then rows of ``inputs["spellings"]``, which holds the batch's distinct words.
      blocks: Parts of a batch that are each read by themselves, with such a table of
        its own: the devices of a pmap.
    """

    text: WordText
    rows: int
    length: int
    max_characters: int | None = None
    blocks: int = 1

    def __post_init__(self) -> None:
        if self.rows < 1 or self.length < 1:
            raise ConfigError(
                "A batch needs a stream and a window of one word at least: they are "
                f"{self.rows} and {self.length}."
            )
        if len(self.text) < self.rows:
            raise DataError(
                f"A text of {len(self.text):,} words is too short for {self.rows:,} "
                "streams: take a smaller --batch-size, or more text."
            )

    @property
    def steps_per_epoch(self) -> int:
        """Windows of a stream."""
        return -(-self._stream_length // self.length)

    @property
    def _stream_length(self) -> int:
        """Neighbours of a stream; the last stream may have fewer."""
        return -(-len(self.text) // self.rows)

    @cached_property
    def _characters(self) -> Int[np.ndarray, "V C"]:
        assert self.max_characters is not None
        return word_characters(self.text.words, length=self.max_characters)

    def batch(self, step: int) -> Batch:
        """Returns the windows of a step, counted from 0, as numpy arrays."""
        epoch, window = divmod(step, self.steps_per_epoch)
        first, after, real = self._neighbours(window)
        last = self._neighbours(self.steps_per_epoch - 1 - window)
        before, second, real_behind = last
        read, inputs = self._inputs(np.stack([first, second], axis=1))
        start = window * self.length
        positions = np.arange(start, start + self.length, dtype=np.int32)
        column = np.arange(self.rows, dtype=np.int32)[:, None]
        return Batch(
            tokens=read[:, 0],
            types=np.zeros_like(first),
            positions=np.broadcast_to(positions, first.shape),
            example=real.astype(np.int32),
            ids=column,
            epochs=np.full_like(column, epoch),
            targets={FORWARD: self._known(after), BACKWARD: self._known(before)},
            weights={
                FORWARD: real.astype(np.float32),
                BACKWARD: real_behind.astype(np.float32),
            },
            inputs={BACKWARD: read[:, 1], **inputs},
        )

    def _neighbours(
        self, window: int
    ) -> tuple[Int[np.ndarray, "B T"], Int[np.ndarray, "B T"], Bool[np.ndarray, "B T"]]:
        """The first and the second words of a window, and where there are any."""
        own = window * self.length + np.arange(self.length)
        places = np.arange(self.rows)[:, None] * self._stream_length + own[None, :]
        real = (own[None, :] < self._stream_length) & (places < len(self.text))
        places = np.where(real, places, 0)
        tokens, end = self.text.tokens, len(self.text)
        first = tokens[places]
        second = np.where(places + 1 < end, tokens[(places + 1) % end], BEGIN_ID)
        return first, np.where(second == BEGIN_ID, END_ID, second), real

    def _known(self, words: Int[np.ndarray, "*M"]) -> Int[np.ndarray, "*M"]:
        return np.where(words < self.text.vocab_size, words, UNKNOWN_ID)

    def _inputs(
        self, words: Int[np.ndarray, "B 2 T"]
    ) -> tuple[Int[np.ndarray, "B 2 T"], dict[str, np.ndarray]]:
        """What is looked up for words: themselves, or rows of a table beside them."""
        if self.max_characters is None:
            return self._known(words), {}
        found = [
            np.unique(block, return_inverse=True)
            for block in np.split(words, self.blocks)
        ]
        # A table has a few rows a stream, so that devices can share them; of few
        # sizes, for each is compiled.
        own, step = self.rows // self.blocks, -(-2 * self.length // _WIDTHS)
        most = -(-max(len(distinct) for distinct, _ in found) // own)
        width = -(-most // step) * step
        table = np.zeros((self.blocks, own * width, self.max_characters), np.int32)
        for block, (distinct, _) in zip(table, found, strict=True):
            block[: len(distinct)] = self._characters[distinct]
        shape = self.rows, width, self.max_characters
        rows = np.concatenate([places.reshape(-1) for _, places in found])
        read = rows.reshape(words.shape).astype(np.int32)
        return read, {SPELLINGS: table.reshape(shape)}
