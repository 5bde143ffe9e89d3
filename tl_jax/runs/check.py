"""``tl-jax data check``: what is in data, and what is odd about them, before training.

Whatever can be read is told, and nothing but a file that cannot be read at all is an
error: bad rows are findings.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import numpy as np

from tl_jax.data.checks import (
    Finding,
    Samples,
    blanks,
    duplicates,
    leaks,
    lengths_told,
    lost_separators,
    shares_told,
    unknown_answers,
    words,
)
from tl_jax.data.conll import TaggedSentences, read_tagged
from tl_jax.data.iob2 import spans
from tl_jax.data.propbank import PREDICATE, Propositions, read_propositions
from tl_jax.data.questions import Questions
from tl_jax.data.readers import LabelledTexts, read_labelled
from tl_jax.data.squad import read_questions
from tl_jax.files.errors import DataError, TlJaxError
from tl_jax.runs.config import CheckConfig, FinetuneConfig
from tl_jax.runs.tasks import task_of
from tl_jax.tasks.classification import Classification
from tl_jax.tasks.regression import Regression
from tl_jax.tasks.span_qa import SpanQa
from tl_jax.tasks.tagging import Tagging
from tl_jax.tasks.task import Task


@dataclass(frozen=True)
class Checked:
    """What was found.

    Attributes:
      facts: What is in each part, a line each.
      findings: What is odd.
    """

    facts: list[str]
    findings: list[Finding]

    def __str__(self) -> str:
        count = len(self.findings)
        head = f"{count} finding{'s' * (count != 1)}" if count else "nothing is odd"
        return "\n".join([*self.facts, "", head, *map(str, self.findings)])


@dataclass(frozen=True, eq=False)
class _View:
    """Rows of one part as the check looks at them.

    Attributes:
      samples: The rows.
      facts: What there is to tell of their answers, by a word for it.
      labels: Where each label, type or role stands first.
    """

    samples: Samples
    facts: dict[str, str]
    labels: dict[str, str]


def check_data(config: CheckConfig) -> Checked:
    """Tells what is in data, and what is odd about them.

    Raises:
      ConfigError: An option belongs to another task, or names a column that is not
        there.
      DataError: A file cannot be read as what it is named as, or holds no good row.
      SourceError: A data set of TFDS cannot be had.
    """
    task = _task(config)
    files = {"train": config.train, "dev": config.dev}
    facts: list[str] = []
    findings: list[Finding] = []
    views: dict[str, _View] = {}
    kinds: dict[str, str] = {}
    for part, named in files.items():
        if named is None:
            continue
        rows, bad = _read(task, named, part)
        told = named if isinstance(named, str) else " ".join(named)
        view = views[part] = _view(task, rows)
        kinds[part] = task.segments(rows)
        facts += _facts(part, told, rows, view)
        odd = [*bad, *_unlearnable(task, rows, part), *_within(view.samples)]
        findings += _of(part, odd)
    if len(views) == 2:
        train, dev = views["train"], views["dev"]
        if len(set(kinds.values())) > 1:
            findings.append(
                Finding("one part holds pairs of texts, the other does not")
            )
        odd = leaks(train.samples, dev.samples)
        findings += _of("dev", [*odd, *unknown_answers(train.labels, dev.labels)])
    return Checked(facts, findings)


def _task(config: CheckConfig) -> Task:
    """The task that would be trained; what it would be trained with does not matter."""
    told: dict[str, Any] = {f.name: getattr(config, f.name) for f in fields(config)}
    told |= {"dev": config.dev or "", "weights": ""}
    return task_of(FinetuneConfig(**told))


def _read(
    task: Task, files: str | Sequence[str], part: str
) -> tuple[Any, list[Finding]]:
    """Reads the good rows of a part, and finds the bad ones."""
    read = _reader(task, files, part)
    try:
        return read(on_bad="raise"), []
    except DataError as error:
        try:
            rows = read(on_bad="skip", max_bad=sys.maxsize)
        except DataError:
            raise error from None  # it tells what is bad, where there is no good row
        return rows, [_finding(error)]


def _reader(task: Task, files: str | Sequence[str], part: str) -> Callable[..., Any]:
    """The reader that the task reads its training data by."""
    match task:
        case Classification() | Regression():
            return partial(read_labelled, files, columns=task.columns)
        case SpanQa():
            named = None if task.titles is None else part
            return partial(read_questions, files, titles=task.titles, part=named)
        case Tagging():
            token, tag = task.token_column, task.tag_column
            return partial(read_tagged, files, token_column=token, tag_column=tag)
        case _:
            return partial(read_propositions, files)


def _unlearnable(task: Task, rows: Any, part: str) -> Iterator[Finding]:
    """Finds what would keep the task from being trained on these rows, or scored."""
    if isinstance(task, Classification) and task.paired and rows.pairs is None:
        yield Finding(f"single texts, and the task is about pairs ({rows.places[0]})")
    if part != "train" and isinstance(task, Classification):
        if rows.labels is None:
            yield Finding(f"there is no label column ({rows.places[0]})")
        return
    if part == "train" or isinstance(task, Regression):
        try:
            task.labels(rows)
        except TlJaxError as error:
            yield _finding(error)


def _finding(error: TlJaxError) -> Finding:
    """An error's first line, and the places that it lists below."""
    head, *lines = str(error).splitlines()
    places = tuple(line.strip() for line in lines if line.startswith("  "))
    return Finding(head.rstrip(":"), places)


def _of(part: str, findings: Iterable[Finding]) -> list[Finding]:
    return [finding._replace(what=f"{part}: {finding.what}") for finding in findings]


def _within(samples: Samples) -> Iterator[Finding]:
    yield from blanks(samples)
    yield from duplicates(samples)
    yield from lost_separators(samples)


def _facts(part: str, name: str, rows: Any, view: _View) -> Iterator[str]:
    yield f"{part}: {len(rows):,} examples of {name}"
    facts = {} if not rows.skipped else {"left out": f"{rows.skipped:,} bad ones"}
    for column, texts in view.samples.texts.items():
        facts[column] = lengths_told(words(texts))
    facts |= view.facts
    for note in getattr(rows, "notes", ()):
        facts["note"] = note
    width = max(map(len, facts))
    for fact, told in facts.items():
        yield f"  {fact:{width}}  {told}"


def _view(task: Task, rows: Any) -> _View:
    match rows:
        case LabelledTexts():
            return _of_texts(rows, numbers=isinstance(task, Regression))
        case Questions():
            return _of_questions(rows)
        case TaggedSentences():
            return _of_sentences(task, rows)
        case _:
            return _of_propositions(rows)


def _of_texts(rows: LabelledTexts, *, numbers: bool) -> _View:
    names = rows.columns[: 1 if rows.pairs is None else 2]
    columns = [rows.texts] if rows.pairs is None else [rows.texts, rows.pairs]
    samples = Samples(dict(zip(names, columns, strict=True)), rows.labels, rows.places)
    if rows.labels is None:
        return _View(samples, {"labels": "none"}, {})
    if numbers:
        return _View(samples, {"values": _numbers_told(rows.labels)}, {})
    facts = {"labels": shares_told(Counter(rows.labels))}
    return _View(samples, facts, _first(zip(rows.labels, rows.places, strict=True)))


def _of_questions(rows: Questions) -> _View:
    texts = {
        "context": [rows.contexts[n] for n in rows.context],
        "question": rows.questions,
    }
    answers = [" | ".join(g.text for g in golds) for golds in rows.answers]
    first = [golds[0].text for golds in rows.answers if golds]
    facts = {
        "titles": f"{len(set(rows.titles)):,}, {len(rows.contexts):,} paragraphs",
        "answered": f"{len(first):,}; {len(rows) - len(first):,} have no answer",
    }
    if first:
        facts["answer"] = lengths_told(words(first))
    return _View(Samples(texts, answers, rows.places), facts, {})


def _of_sentences(task: Task, rows: TaggedSentences) -> _View:
    tags = rows.tags or []
    samples = Samples(
        {"sentence": task.texts(rows)}, [" ".join(own) for own in tags], rows.places
    )
    found = [
        (entity.kind, rows.place(number, entity.begin))
        for number, own in enumerate(tags)
        for entity in spans(own, "IOB2")
    ]
    kinds = Counter(kind for kind, _ in found)
    facts = {
        "tokens": f"{sum(map(len, rows.sentences)):,}, tagged as {rows.scheme}",
        "entities": f"{len(found):,}: {shares_told(kinds)}",
    }
    return _View(samples, facts, _first(found))


def _of_propositions(rows: Propositions) -> _View:
    tags = rows.tags or []
    own: list[list[str]] = [[] for _ in rows.sentences]
    places = [
        f"sentence {number} ({'; '.join(sentence.comments)})"
        for number, sentence in enumerate(rows.sentences, 1)
    ]
    roles: list[tuple[str, str]] = []
    for number, (sentence, row, place) in enumerate(
        zip(rows.sentence, tags, rows.places, strict=True)
    ):
        places[sentence] = rows.place(number, 0)
        own[sentence].append(" ".join(row))
        roles += [
            (s.kind, place) for s in spans(row, "conlleval") if s.kind != PREDICATE
        ]
    texts = [" ".join(sentence.words) for sentence in rows.sentences]
    samples = Samples({"sentence": texts}, [" / ".join(row) for row in own], places)
    bare = sum(not row for row in own)
    kinds = Counter(role for role, _ in roles)
    facts = {
        "sentences": f"{len(texts):,}, of which {bare:,} have no predicate",
        "roles": f"{len(roles):,}: {shares_told(kinds)}",
    }
    return _View(samples, facts, _first(roles))


def _numbers_told(labels: Sequence[str]) -> str:
    values = []
    for label in labels:
        try:
            values.append(float(label))
        except ValueError:
            continue
    finite = np.array([value for value in values if np.isfinite(value)])
    if not len(finite):
        return "none is a number"
    return (
        f"{finite.min():g} … {finite.max():g}, mean {finite.mean():.3g}, "
        f"standard deviation {finite.std():.3g}, {len(np.unique(finite)):,} different"
    )


def _first(found: Any) -> dict[str, str]:
    """Where each name stands first."""
    places: dict[str, str] = {}
    for name, place in found:
        places.setdefault(name, place)
    return places
