"""What a run's predictions get right: by class, by type, by length, by confidence."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from tl_jax.data.checks import words
from tl_jax.data.conll import TaggedSentences
from tl_jax.data.iob2 import spans
from tl_jax.data.propbank import PREDICATE, Propositions
from tl_jax.data.questions import Questions
from tl_jax.data.readers import LabelledTexts
from tl_jax.metrics.classification import Calibration, calibration, confusion_matrix
from tl_jax.metrics.entities import entity_scores
from tl_jax.metrics.span_qa import exact_match, f1
from tl_jax.metrics.spans import total
from tl_jax.metrics.srl import role_counts
from tl_jax.tasks.classification import row_labels
from tl_jax.tasks.regression import row_values
from tl_jax.tasks.span_qa import SpanQa
from tl_jax.tasks.task import Task

Record = Mapping[str, Any]
BINS = 5  # of length; each holds about as many rows
CALIBRATION_BINS = 10


class Bin(NamedTuple):
    """Rows of about one length: from and up to how many words, and their score."""

    least: int
    most: int
    rows: int
    score: float


class TypeScore(NamedTuple):
    """A type of entity, or a role: its F1, and how many are gold."""

    name: str
    f1: float
    gold: int


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """What predictions get right. What a task does not have is None or empty.

    Attributes:
      score: The name of the bins' score, in 0 … 1; of values a mean absolute error.
      lengths: The score by number of words.
      labels: The classes, in the order of the confusion matrix.
      confusion: Counts of (gold, predicted) classes.
      types: Scores of entities' types or of roles, the most frequent ones first.
      kind: What these are: "type" or "role".
      confidence: How sure and how often right predictions are.
      values: Gold and predicted numbers.
    """

    score: str
    lengths: list[Bin]
    labels: tuple[str, ...] = ()
    confusion: Int[np.ndarray, "N N"] | None = None
    types: tuple[TypeScore, ...] = ()
    kind: Literal["type", "role"] = "type"
    confidence: Calibration | None = None
    values: tuple[Float[np.ndarray, " M"], Float[np.ndarray, " M"]] | None = None


def diagnose(
    task: Task, records: Sequence[Record], rows: Any, labels: Sequence[str]
) -> Diagnosis:
    """Compares predictions with the labelled rows that they were made for.

    Args:
      task: The run's task.
      records: What it wrote of each row (`Judged.records`).
      rows: As the task read them.
      labels: The run's classes.
    """
    match rows:
        case LabelledTexts() if records and "value" in records[0]:
            return _of_values(records, rows)
        case LabelledTexts():
            return _of_classes(records, rows, labels)
        case Questions():
            assert isinstance(task, SpanQa)
            return _of_answers(task, records, rows)
        case TaggedSentences():
            return _of_entities(task, records, rows)
        case _:
            return _of_roles(records, rows)


def by_length(
    lengths: Int[np.ndarray, " M"],
    score: Callable[[Int[np.ndarray, " n"]], float],
    bins: int = BINS,
) -> list[Bin]:
    """Scores rows of about one length together.

    The bins end at the lengths' quantiles, so that each holds about as many rows; those
    of the same end are one.

    Args:
      lengths: Of each row.
      score: Scores the rows of some positions.
      bins: Most bins.
    """
    if not len(lengths):
        return []
    last = -(-len(lengths) * np.arange(1, bins + 1) // bins) - 1
    ends = np.unique(np.sort(lengths)[last])
    place = np.searchsorted(ends, lengths)
    found = []
    for number in range(len(ends)):
        chosen = np.flatnonzero(place == number)
        own = lengths[chosen]
        found.append(Bin(int(own.min()), int(own.max()), len(chosen), score(chosen)))
    return found


def confidence(
    probabilities: Sequence[float], right: Sequence[bool]
) -> Calibration | None:
    """The calibration of single predictions; None if there are none."""
    if not len(probabilities):
        return None
    column = np.array(probabilities, np.float64)[:, None]
    wrong = (~np.array(right, bool)).astype(np.int64)
    return calibration(column, wrong, CALIBRATION_BINS)  # class 0 is "right"


def _of_classes(
    records: Sequence[Record], rows: LabelledTexts, labels: Sequence[str]
) -> Diagnosis:
    gold = row_labels(rows, labels)
    chances = np.array([[r["probabilities"][n] for n in labels] for r in records])
    numbers = {name: number for number, name in enumerate(labels)}
    predicted = np.array([numbers[r["label"]] for r in records], np.int32)
    right = predicted == gold
    return Diagnosis(
        "accuracy",
        by_length(_text_lengths(rows), lambda some: float(right[some].mean())),
        tuple(labels),
        confusion_matrix(gold, predicted, len(labels)),
        confidence=calibration(chances, gold, CALIBRATION_BINS),
    )


def _of_values(records: Sequence[Record], rows: LabelledTexts) -> Diagnosis:
    gold, predicted = row_values(rows), np.array([r["value"] for r in records], float)
    errors = np.abs(predicted - gold)
    lengths = by_length(_text_lengths(rows), lambda some: float(errors[some].mean()))
    return Diagnosis("mean absolute error", lengths, values=(gold, predicted))


def _of_answers(task: SpanQa, records: Sequence[Record], rows: Questions) -> Diagnosis:
    mode = task.mode_of(rows)
    pairs = [
        (record["answer"], tuple(gold.text for gold in golds))
        for record, golds in zip(records, rows.answers, strict=True)
    ]
    scores = np.array([f1(answer, own, mode) for answer, own in pairs])
    right = [exact_match(answer, own, mode) > 0 for answer, own in pairs]
    chances = [
        record["n_best"][0]["probability"]
        if record["answer"] and record["n_best"]
        else record["null_probability"]
        for record in records
    ]
    lengths = words(rows.contexts)[rows.context]
    return Diagnosis(
        "F1",
        by_length(lengths, lambda some: float(scores[some].mean())),
        confidence=confidence(chances, right),
    )


def _of_entities(
    task: Task, records: Sequence[Record], rows: TaggedSentences
) -> Diagnosis:
    gold = rows.tags or []
    predicted = [record["tags"] for record in records]
    chances: list[float] = []
    right: list[bool] = []
    for record, own in zip(records, gold, strict=True):
        there = set(spans(own, "IOB2"))
        for entity in record["entities"]:
            chances.append(entity["probability"])
            right.append((*entity["words"], entity["type"]) in there)
    kinds = entity_scores(gold, predicted, "IOB2").kinds

    def score(some: Int[np.ndarray, " n"]) -> float:
        parts = [gold[i] for i in some], [predicted[i] for i in some]
        return entity_scores(*parts, "IOB2").micro.f1

    return Diagnosis(
        "F1",
        by_length(words(task.texts(rows)), score),
        types=_ranked(TypeScore(name, s.f1, s.gold) for name, s in kinds.items()),
        confidence=confidence(chances, right),
    )


def _of_roles(records: Sequence[Record], rows: Propositions) -> Diagnosis:
    gold = rows.tags or []
    predicted = [record["tags"] for record in records]
    chances: list[float] = []
    right: list[bool] = []
    for record, own in zip(records, gold, strict=True):
        there = set(spans(own, "conlleval"))
        for role in record["roles"]:
            if role["role"] != f"C-{PREDICATE}":
                chances.append(role["probability"])
                right.append((*role["words"], role["role"]) in there)
    roles = role_counts(gold, predicted)

    def score(some: Int[np.ndarray, " n"]) -> float:
        parts = [gold[i] for i in some], [predicted[i] for i in some]
        return total(role_counts(*parts)).f1

    return Diagnosis(
        "F1",
        by_length(np.array([len(own) for own in gold], np.int64), score),
        types=_ranked(TypeScore(name, s.f1, s.gold) for name, s in roles.items()),
        kind="role",
        confidence=confidence(chances, right),
    )


def _ranked(scores: Any) -> tuple[TypeScore, ...]:
    return tuple(sorted(scores, key=lambda score: (-score.gold, score.name)))


def _text_lengths(rows: LabelledTexts) -> Int[np.ndarray, " M"]:
    lengths = words(rows.texts)
    return lengths if rows.pairs is None else lengths + words(rows.pairs)
