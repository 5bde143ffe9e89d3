"""Questions with windows on their texts, as examples.

Devlin et al. 2019, section 4.2; Google's ``run_squad.py`` for texts that are too long.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from tl_jax.data.examples import Examples, make_examples, ranges
from tl_jax.data.questions import Questions
from tl_jax.files.errors import ConfigError
from tl_jax.text.encodings import TextEncoder

START, END = "start", "end"


@dataclass(frozen=True, eq=False)
class Windows:
    """``W`` windows on the texts of questions, those of one question side by side.

    Attributes:
      examples: Question and window, one example each. The targets START and END are
        places of tokens in the example; both are 0 where the window lacks the answer.
      question: Number of each window's question, ascending.
      begins: Place in the example of the window's first piece of text.
      starts: Number of that piece in its text.
      lengths: How many pieces of text the window shows.
      offsets: First and one-past-last character of each piece, one array a context.
    """

    examples: Examples
    question: Int[np.ndarray, "W"]
    begins: Int[np.ndarray, "W"]
    starts: Int[np.ndarray, "W"]
    lengths: Int[np.ndarray, "W"]
    offsets: list[Int[np.ndarray, "_ 2"]]

    def __len__(self) -> int:
        return len(self.question)


def windows(
    encoder: TextEncoder,
    questions: Questions,
    *,
    max_length: int = 384,
    window_step: int = 128,
    max_query: int = 64,
) -> Windows:
    """Encodes each question with each window on its text.

    Windows begin every ``window_step`` pieces (``doc_stride`` of Google's run_squad.py;
    never so far apart that a piece is passed over) until one shows the text's end.

    Args:
      encoder: What cuts the texts into pieces and frames a pair.
      questions: The questions; the first answer of each becomes the target.
      max_length: The most tokens of an example.
      window_step: Pieces from one window's begin to the next.
      max_query: Pieces of a question; the rest of a longer one is dropped.

    Returns:
      The windows. They have targets if all the questions are labelled.

    Raises:
      ConfigError: A length is below 1, or a question leaves no room for its text.
    """
    if window_step < 1 or max_query < 1:
        raise ConfigError(
            f"window_step {window_step} and max_query {max_query} must be 1 or more."
        )
    queries = [ids[:max_query] for ids in encoder.pieces(questions.questions)]
    encoded = encoder.pieces_with_offsets(questions.contexts)
    pieces, offsets = [ids for ids, _ in encoded], [spans for _, spans in encoded]
    room = max_length - encoder.specials(pair=True) - lengths_of(queries)
    if (room < 1).any():
        raise ConfigError(
            f"max_length {max_length} leaves no room for text beside the "
            f"{len(queries[room.argmin()])} pieces of "
            f"{questions.places[room.argmin()]}: raise it, or lower max_query."
        )
    totals = lengths_of(pieces)[questions.context]
    question, starts, lengths = _cut(totals, room, window_step)
    framed = [
        encoder.frame(queries[q], pieces[questions.context[q]][begin : begin + length])
        for q, begin, length in zip(question, starts, lengths, strict=True)
    ]
    begins = np.array([f.second for f in framed], np.int64)
    targets = {}
    if questions.labelled:
        first, last = _answer_pieces(questions, offsets)[question].T - starts
        inside = (first >= 0) & (first <= last) & (last < lengths)
        targets = {START: inside * (begins + first), END: inside * (begins + last)}
    examples = make_examples(
        [f.tokens for f in framed], [f.types for f in framed], targets=targets
    )
    return Windows(examples, question, begins, starts, lengths, offsets)


def max_context(
    starts: Int[np.ndarray, "K"], lengths: Int[np.ndarray, "K"]
) -> Int[np.ndarray, "n"]:
    """Finds for each piece of a text the window that shows most around it.

    That of the greatest min(pieces to the left, to the right) + length / 100, the first
    of equals: ``_check_is_max_context`` of Google's run_squad.py.

    Args:
      starts: First piece of each of the text's ``K`` windows, ascending.
      lengths: Pieces of each window; together they show the ``n`` pieces of the text.
    """
    window = np.repeat(np.arange(len(starts)), lengths)
    piece = ranges(starts, lengths)
    left = piece - starts[window]
    around = 100 * np.minimum(left, lengths[window] - 1 - left) + lengths[window]
    most = np.zeros(int((starts + lengths).max()), np.int64)
    np.maximum.at(most, piece, around)
    found = np.full(len(most), len(starts))
    np.minimum.at(found, piece, np.where(around == most[piece], window, len(starts)))
    return found


def lengths_of(arrays: Sequence[np.ndarray]) -> Int[np.ndarray, "_"]:
    """The lengths of some arrays."""
    return np.array([len(array) for array in arrays], np.int64)


def _cut(
    totals: Int[np.ndarray, "N"], room: Int[np.ndarray, "N"], window_step: int
) -> tuple[Int[np.ndarray, "W"], Int[np.ndarray, "W"], Int[np.ndarray, "W"]]:
    """Lays windows over texts of so many pieces: question, first piece and length."""
    step = np.minimum(window_step, room)
    counts = 1 + np.maximum(0, -((room - totals) // step))
    question = np.repeat(np.arange(len(totals)), counts)
    starts = ranges(np.zeros_like(counts), counts) * step[question]
    return question, starts, np.minimum(room[question], totals[question] - starts)


def _answer_pieces(
    questions: Questions, offsets: Sequence[Int[np.ndarray, "_ 2"]]
) -> Int[np.ndarray, "N 2"]:
    """Finds first and last piece that share a character with each first answer.

    Both are -1 where there is none; last < first where the answer has no piece.
    """
    found = np.full((len(questions), 2), -1)
    for number, golds in enumerate(questions.answers):
        if golds:
            begins, ends = offsets[questions.context[number]].T
            start, end = golds[0].start, golds[0].start + len(golds[0].text)
            found[number, 0] = np.searchsorted(ends, start, side="right")
            found[number, 1] = np.searchsorted(begins, end, side="left") - 1
    return found
