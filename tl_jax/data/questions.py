"""Questions on paragraphs, and their right answers, whatever file they came from."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int


class Gold(NamedTuple):
    """A right answer: its text, and the character of the paragraph where it begins."""

    text: str
    start: int


@dataclass(frozen=True, eq=False)
class Questions:
    """``N`` questions, each on one of the paragraphs.

    Attributes:
      contexts: The paragraphs, each once.
      context: Number of each question's paragraph.
      titles: Title of each question's article.
      ids: Each question's own id.
      questions: The questions.
      answers: All right answers of each question; the first one is trained on.
      impossible: True where the paragraph has no answer.
      places: ``FILE: question ID`` of each question, or its place in a data set.
      skipped: How many bad questions or paragraphs were left out.
    """

    contexts: list[str]
    context: Int[np.ndarray, "N"]
    titles: list[str]
    ids: list[str]
    questions: list[str]
    answers: list[tuple[Gold, ...]]
    impossible: Bool[np.ndarray, "N"]
    places: list[str]
    skipped: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def labelled(self) -> bool:
        """True if each question has an answer or is known to have none."""
        return all(
            bool(golds) or bool(none)
            for golds, none in zip(self.answers, self.impossible, strict=True)
        )

    @property
    def golds(self) -> dict[str, tuple[str, ...]]:
        """The texts of the right answers by the question's id."""
        return {
            name: tuple(gold.text for gold in golds)
            for name, golds in zip(self.ids, self.answers, strict=True)
        }

    def first(self, count: int | None) -> "Questions":
        """The first ``count`` questions; all of them if it is None."""
        context = self.context[:count]
        return replace(
            self,
            contexts=self.contexts[: int(context.max(initial=-1)) + 1],
            context=context,
            titles=self.titles[:count],
            ids=self.ids[:count],
            questions=self.questions[:count],
            answers=self.answers[:count],
            impossible=self.impossible[:count],
            places=self.places[:count],
        )


class Question(NamedTuple):
    """One row of `Questions`."""

    title: str
    context: str
    id: str
    question: str
    answers: tuple[Gold, ...]
    impossible: bool
    place: str


def questions_of(rows: list[Question], skipped: int) -> Questions:
    """Gathers questions, and their paragraphs once each."""
    contexts: dict[str, int] = {}
    context = [contexts.setdefault(row.context, len(contexts)) for row in rows]
    return Questions(
        contexts=list(contexts),
        context=np.array(context, np.int64),
        titles=[row.title for row in rows],
        ids=[row.id for row in rows],
        questions=[row.question for row in rows],
        answers=[row.answers for row in rows],
        impossible=np.array([row.impossible for row in rows], bool),
        places=[row.place for row in rows],
        skipped=skipped,
    )
