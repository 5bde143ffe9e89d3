"""Scores of answers cut from a text, as the evaluation scripts of four sets count them.

Modes, each named after its script:

- ``squad``: SQuAD v1.1. Lower case, ASCII punctuation dropped, a / an / the dropped,
  spaces collapsed; F1 over words.
- ``squad-v2``: the same, but golds of which nothing is left are dropped, and where
  either side has no words, F1 is whether both have none.
- ``korquad``: KorQuAD v1. Quotes and brackets become spaces, then as SQuAD, articles
  kept; F1 over characters.
- ``klue-baseline``: KLUE-MRC as published. Its pattern of quotes and brackets closes
  its class too early, so that it replaces next to nothing: ASCII ones fall as
  punctuation, 《》〈〉‘’ stay. ROUGE-W instead of F1.
- ``klue-fixed``: the same with the pattern that was meant.

A question without a gold has no answer: what scores is a text of which normalising
leaves nothing. All scores are 0…1 for one question and percent in :func:`totals`.
"""

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from typing import NamedTuple

import numpy as np

from tl_jax.files.errors import ConfigError, did_you_mean

EXACT, F1, ROUGE_W = "exact_match", "f1", "rouge_w"

_QUOTES = re.compile("['\"《》<>〈〉()‘’]")
_QUOTES_AS_PUBLISHED = re.compile("['\"《》<>〈〉]" + re.escape("()‘’"))
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


class _Rules(NamedTuple):
    """What a mode does: replaced by a space, articles dropped, F1 of words, score."""

    spaced: re.Pattern[str] | None
    english: bool
    overlap: str
    drops_empty_golds: bool = False


MODES = {
    "squad": _Rules(None, True, F1),
    "squad-v2": _Rules(None, True, F1, drops_empty_golds=True),
    "korquad": _Rules(_QUOTES, False, F1),
    "klue-baseline": _Rules(_QUOTES_AS_PUBLISHED, False, ROUGE_W),
    "klue-fixed": _Rules(_QUOTES, False, ROUGE_W),
}


_BEYOND = 0.5  # how far a threshold keeps from the lowest or the highest odds


class Threshold(NamedTuple):
    """Where "no answer" pays best, and the score, in percent, that it gives there.

    No answer is given where the null odds are greater than ``threshold``.
    """

    threshold: float
    score: float


def normalise(text: str, mode: str) -> str:
    """Brings a text to what the mode's script compares.

    Raises:
      ConfigError: There is no such mode.
    """
    rules = _rules(mode)
    if rules.spaced is not None:
        text = rules.spaced.sub(" ", text)
    text = text.lower().translate(_PUNCTUATION)
    if rules.english:
        text = _ARTICLES.sub(" ", text)
    return " ".join(text.split())


def exact_match(prediction: str, golds: Sequence[str], mode: str) -> float:
    """1 if the prediction equals one of the golds after normalising, else 0."""
    return float(normalise(prediction, mode) in _normalised(golds, mode))


def f1(prediction: str, golds: Sequence[str], mode: str) -> float:
    """2PR / (P + R) of the words, as multisets, that are shared; the best of the golds.

    Korean modes count characters instead, spaces left out. Two texts without a word
    share nothing and score 0, except that :func:`normalise` leaves nothing of the
    right prediction where there is no answer (and in ``squad-v2``).
    """
    said = _units(normalise(prediction, mode), mode)
    agree_on_nothing = MODES[mode].drops_empty_golds or not golds
    return max(
        float(said == gold) if agree_on_nothing and not (said and gold) else score
        for gold in (_units(text, mode) for text in _normalised(golds, mode))
        for score in [_shared(said, gold)]
    )


def rouge_w(prediction: str, golds: Sequence[str], mode: str) -> float:
    """2PR / (P + R) of the longest run of characters in common; the best of the golds.

    KLUE's ROUGE-W with β = 1. The run is that of `difflib.SequenceMatcher` as it comes,
    which leaves frequent characters of golds of 200 or more out (``autojunk``).
    """
    said = normalise(prediction, mode)
    return max(_longest_run(said, gold) for gold in _normalised(golds, mode))


def totals(
    predictions: Mapping[str, str], golds: Mapping[str, Sequence[str]], mode: str
) -> dict[str, float]:
    """Scores a whole set, in percent, as the official scripts print it.

    Args:
      predictions: The answer to each question by its id, ``""`` for none. A question
        that is not among them counts 0, as in SQuAD v1.1 and KorQuAD; the scripts of
        SQuAD v2 and KLUE leave it out of the mean.
      golds: All right answers by id; none if there is no answer in the text.
      mode: One of `MODES`.

    Returns:
      ``exact_match`` and ``f1`` (in the modes of KLUE ``rouge_w``); and if only some
      questions have an answer, the same over those with one (``HasAns_…``) and those
      without (``NoAns_…``).

    Raises:
      ConfigError: There is no such mode.
      ValueError: There is no question.
    """
    if not golds:
        raise ValueError("no questions to score")
    by_name = _scores(predictions, golds, mode)
    has = np.array([bool(texts) for texts in golds.values()])
    parts = {"": np.ones_like(has)}
    if has.any() and not has.all():
        parts |= {"HasAns_": has, "NoAns_": ~has}
    return {
        # In this order of sums and products: the official scripts' last digit, too.
        prefix + name: 100.0 * sum(values[chosen].tolist()) / int(chosen.sum())
        for prefix, chosen in parts.items()
        for name, values in by_name.items()
    }


def best_threshold(
    predictions: Mapping[str, str],
    null_odds: Mapping[str, float],
    golds: Mapping[str, Sequence[str]],
    mode: str,
) -> dict[str, Threshold]:
    """Finds the null odds above which no answer is best given, for each score.

    SQuAD v2's ``find_best_thresh``: questions are answered in the order of their odds,
    till it no longer pays. There the threshold is the odds of the last one that pays;
    here it lies halfway to those of the next one, so that it answers the same questions
    where another batch or machine computes these odds a little differently. And what is
    returned is always reached by it: questions of equal odds are answered together, and
    where nothing pays, the threshold is 0 or below all odds.

    Args:
      predictions: The best span of each question, also where it would not be given.
      null_odds: By id, the score of no answer above that of the best span.
      golds: As for :func:`totals`.
      mode: One of `MODES`.

    Raises:
      ConfigError: There is no such mode.
      ValueError: There is no question, or one has no prediction or no odds.
    """
    missing = [i for i in golds if i not in predictions or i not in null_odds]
    if missing or not golds:
        raise ValueError(f"no prediction or odds for {missing[:5]} of {len(golds)}")
    answered = _scores(predictions, golds, mode)
    silent = _scores(dict.fromkeys(golds, ""), golds, mode)
    odds = np.array([null_odds[i] for i in golds], np.float64)
    order = np.argsort(odds, kind="stable")
    odds = odds[order]
    reachable = np.append(odds[1:] != odds[:-1], True)
    steps = odds[reachable]
    halfway = (steps + np.append(steps[1:], steps[-1] + 2 * _BEYOND)) / 2
    thresholds = np.append(min(0.0, odds[0] - _BEYOND), halfway)
    found = {}
    for name, values in answered.items():
        gains = np.cumsum((values - silent[name])[order])[reachable]
        sums = silent[name].sum() + np.append(0.0, gains)
        best = int(sums.argmax())
        found[name] = Threshold(
            float(thresholds[best]), 100 * float(sums[best]) / len(golds)
        )
    return found


def _rules(mode: str) -> _Rules:
    if mode not in MODES:
        raise ConfigError(
            f"There is no way of scoring {mode!r}; there are {', '.join(MODES)}."
            f"{did_you_mean(mode, MODES)}"
        )
    return MODES[mode]


def _scores(
    predictions: Mapping[str, str], golds: Mapping[str, Sequence[str]], mode: str
) -> dict[str, np.ndarray]:
    """Scores each question by each of the mode's two measures."""
    overlap = _rules(mode).overlap
    measures = {EXACT: exact_match, overlap: f1 if overlap == F1 else rouge_w}
    return {
        name: np.array(
            [
                measure(predictions[i], texts, mode) if i in predictions else 0.0
                for i, texts in golds.items()
            ]
        )
        for name, measure in measures.items()
    }


def _normalised(golds: Sequence[str], mode: str) -> list[str]:
    found = [normalise(gold, mode) for gold in golds]
    if _rules(mode).drops_empty_golds:
        found = [gold for gold in found if gold]
    return found or [""]


def _units(normal: str, mode: str) -> list[str]:
    words = normal.split()
    return words if MODES[mode].english else list("".join(words))


def _shared(said: list[str], gold: list[str]) -> float:
    same = (Counter(said) & Counter(gold)).total()
    return _harmonic(same, len(said), len(gold))


def _longest_run(said: str, gold: str) -> float:
    if not gold:
        return float(not said)
    same = SequenceMatcher(None, said, gold).find_longest_match().size
    return _harmonic(same, len(said), len(gold))


def _harmonic(same: int, said: int, gold: int) -> float:
    """2PR / (P + R) with P = same / said and R = same / gold; 0 if nothing is same."""
    if not same:
        return 0.0
    precision, recall = same / said, same / gold
    return 2 * precision * recall / (precision + recall)
