"""Scores of tokens → the best spans of a text, or no answer, and their scores.

Devlin et al. 2019, sections 4.2 and 4.3 (SQuAD v1.1 and v2.0). The answer is searched
over all windows on a text.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from tl_jax.data.questions import Questions
from tl_jax.files.errors import ConfigError, DataError, NonFiniteError
from tl_jax.metrics import span_qa as metrics
from tl_jax.tasks.span_windows import Windows, lengths_of, max_context


class Candidate(NamedTuple):
    """A span of the text; ``start`` and ``end`` (one past) count its characters."""

    text: str
    start: int
    end: int
    score: float
    probability: float


@dataclass(frozen=True)
class Answer:
    """What is answered to one question.

    Attributes:
      text: The answer as it stands in the paragraph; ``""`` if none is given.
      start: Its first character.
      end: One past its last character.
      null_odds: The score of no answer less that of the best span.
      null_probability: That of no answer; 0 where each question is known to have one.
      n_best: The best spans that differ in text, the best first, whether given or not.
    """

    text: str
    start: int
    end: int
    null_odds: float
    null_probability: float
    n_best: tuple[Candidate, ...]


def decode(
    scores: Sequence[Float[np.ndarray, "_ 2"]],
    windows: Windows,
    questions: Questions,
    *,
    impossible: bool,
    null_threshold: float = 0.0,
    n_best: int = 20,
    max_answer: int = 30,
) -> list[Answer]:
    """Searches each question's best spans, exactly, over all its windows.

    A span scores start + end. It begins at a piece to which its window gives the most
    context (`max_context`), and ends in the same window. Of equal scores the earlier
    start, then the earlier end comes first. No answer scores the least start + end of
    the windows' first tokens, [CLS] in BERT's.

    Args:
      scores: Start and end score of each token, one array a window.
      windows: The windows that were scored.
      questions: The questions that they were made of.
      impossible: Whether there may be no answer (SQuAD v2, KLUE-MRC).
      null_threshold: No answer is given where the null odds are greater than this.
      n_best: How many spans are kept (at least 1).
      max_answer: The most pieces of an answer (at least 1).

    Returns:
      One answer a question; ``""`` and a best score of 0 where a text has no piece.

    Raises:
      ConfigError: ``n_best`` or ``max_answer`` is below 1.
      DataError: The scores are not those of the windows.
      NonFiniteError: A score is NaN or infinite.
    """
    if n_best < 1 or max_answer < 1:
        raise ConfigError(
            f"n_best {n_best} and max_answer {max_answer} must be 1 or more."
        )
    _check_scores(scores, windows, questions)
    bounds = np.searchsorted(windows.question, np.arange(len(questions) + 1))
    answers = []
    for number, own in enumerate(map(slice, bounds[:-1], bounds[1:])):
        null = min(float(np.sum(s[0], dtype=np.float64)) for s in scores[own])
        totals = _span_scores(scores[own], windows, own, max_answer)
        context = questions.context[number]
        text, offsets = questions.contexts[context], windows.offsets[context]
        spans = _n_best(totals, text, offsets, n_best)
        answers.append(_answer(spans, null, impossible))
    return with_threshold(answers, null_threshold if impossible else np.inf)


def with_threshold(answers: Sequence[Answer], threshold: float) -> list[Answer]:
    """Gives the best span, or no answer where the null odds exceed the threshold."""
    found = []
    for answer in answers:
        none = answer.null_odds > threshold or not answer.n_best
        text, start, end = ("", 0, 0) if none else answer.n_best[0][:3]
        found.append(replace(answer, text=text, start=start, end=end))
    return found


def tune_threshold(
    answers: Sequence[Answer], questions: Questions, mode: str
) -> dict[str, metrics.Threshold]:
    """Finds the threshold that serves each score of a mode best on these questions.

    See :func:`tl_jax.metrics.span_qa.best_threshold`; `with_threshold` applies it.
    """
    best = predictions(with_threshold(answers, np.inf), questions)
    odds = {i: a.null_odds for i, a in zip(questions.ids, answers, strict=True)}
    return metrics.best_threshold(best, odds, _golds(questions), mode)


def predictions(answers: Sequence[Answer], questions: Questions) -> dict[str, str]:
    """The text answered by the question's id, as official scripts take it."""
    return {i: a.text for i, a in zip(questions.ids, answers, strict=True)}


def scores(
    answers: Sequence[Answer], questions: Questions, mode: str
) -> dict[str, float]:
    """Scores answers in percent: :func:`tl_jax.metrics.span_qa.totals`.

    Raises:
      ConfigError: There is no such mode.
      DataError: A question's right answer is not known.
    """
    return metrics.totals(predictions(answers, questions), _golds(questions), mode)


def _check_scores(
    scores: Sequence[np.ndarray], windows: Windows, questions: Questions
) -> None:
    asked = len(np.unique(windows.question))
    due = windows.examples.lengths
    if asked != len(questions) or not np.array_equal(lengths_of(scores), due):
        raise DataError(
            f"Scores of {sum(map(len, scores))} tokens in {len(scores)} windows do not "
            f"belong to {due.sum()} tokens in {len(due)} windows on {asked} questions, "
            f"or these not to the {len(questions)} questions given."
        )
    for number, values in enumerate(scores):
        if not np.isfinite(values).all():
            place = questions.places[windows.question[number]]
            raise NonFiniteError(f"{place}: a token's score is NaN or infinite.")


def _span_scores(
    scores: Sequence[np.ndarray], windows: Windows, own: slice, max_answer: int
) -> Float[np.ndarray, "n A"]:
    """Scores spans by first piece and pieces after it; -inf beyond the window."""
    starts, lengths = windows.starts[own], windows.lengths[own]
    window = max_context(starts, lengths)
    flat = np.concatenate(scores).astype(np.float64)
    tokens = np.cumsum(lengths_of(scores)) - lengths_of(scores)
    piece = np.arange(len(window))
    row = (tokens + windows.begins[own] - starts)[window] + piece
    ahead = np.arange(min(max_answer, len(window)))
    ends = np.minimum(row[:, None] + ahead, len(flat) - 1)
    inside = ahead < ((starts + lengths)[window] - piece)[:, None]
    return np.where(inside, flat[row, 0][:, None] + flat[ends, 1], -np.inf)


def _n_best(
    totals: Float[np.ndarray, "n A"],
    text: str,
    offsets: Int[np.ndarray, "n 2"],
    n_best: int,
) -> list[Candidate]:
    """Takes the best spans of different texts; their probabilities are left at 0."""
    found: dict[str, Candidate] = {}
    count = n_best
    while True:
        for flat in _greatest(totals.ravel(), count):
            piece, more = divmod(int(flat), totals.shape[1])
            start, end = int(offsets[piece, 0]), int(offsets[piece + more, 1])
            span = Candidate(text[start:end], start, end, float(totals.flat[flat]), 0.0)
            found.setdefault(span.text, span)
            if len(found) == n_best:
                return list(found.values())
        if count >= totals.size:
            return list(found.values())
        count *= 2


def _greatest(values: Float[np.ndarray, "n"], count: int) -> Int[np.ndarray, "m"]:
    """Sorts the places of the ``count`` greatest finite values, and of their equals."""
    least = -np.inf
    if len(values) > count:
        least = np.partition(values, len(values) - count)[len(values) - count]
    chosen = np.flatnonzero((values >= least) & (values > -np.inf))
    return chosen[np.argsort(-values[chosen], kind="stable")]


def _answer(spans: list[Candidate], null: float, impossible: bool) -> Answer:
    """Weighs spans and no answer by a softmax over them; gives none of them yet."""
    logits = np.array([span.score for span in spans] + [null] * impossible)
    exponents = np.exp(logits - logits.max(initial=-np.inf))
    shares = exponents / exponents.sum()
    n_best = tuple(
        span._replace(probability=float(share))
        for span, share in zip(spans, shares, strict=False)
    )
    odds = null - (spans[0].score if spans else 0.0)
    none = float(shares[-1]) if impossible else 0.0
    return Answer("", 0, 0, odds, none, n_best)


def _golds(questions: Questions) -> dict[str, tuple[str, ...]]:
    """The right answers by id; a DataError if one is not known."""
    if not questions.labelled:
        raise DataError(
            f"{questions.places[0]}: to score answers, each question needs right ones "
            "or is_impossible."
        )
    return questions.golds
