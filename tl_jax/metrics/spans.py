"""Counts of labelled spans, and precision, recall and F1 of them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tl_jax.data.iob2 import Rule, spans

Tags = Sequence[Sequence[str]]  # of sentences


@dataclass(frozen=True)
class SpanCounts:
    """Counts of spans; they are added up, and divided once. Scores lie in 0 … 1.

    Attributes:
      right: Spans that are gold and predicted.
      predicted: All predicted spans.
      gold: All gold spans.
    """

    right: int = 0
    predicted: int = 0
    gold: int = 0

    def __add__(self, other: "SpanCounts") -> "SpanCounts":
        return SpanCounts(
            self.right + other.right,
            self.predicted + other.predicted,
            self.gold + other.gold,
        )

    @property
    def precision(self) -> float:
        """Right / predicted; 0 where nothing was predicted."""
        return self.right / max(self.predicted, 1)

    @property
    def recall(self) -> float:
        """Right / gold; 0 where nothing is gold."""
        return self.right / max(self.gold, 1)

    @property
    def f1(self) -> float:
        """2 · right / (predicted + gold), their harmonic mean; 0 without spans."""
        return 2 * self.right / max(self.predicted + self.gold, 1)


def span_counts(gold: Tags, predicted: Tags, rule: Rule) -> dict[str, SpanCounts]:
    """Counts the spans of sentences by kind, sorted; right ones have the same words.

    Args:
      gold: The data's tags.
      predicted: As many.
      rule: As for `tl_jax.data.iob2.spans`.
    """
    right, said, due = Counter[str](), Counter[str](), Counter[str]()
    for wanted, guessed in zip(gold, predicted, strict=True):
        one, other = set(spans(wanted, rule)), set(spans(guessed, rule))
        right.update(span.kind for span in one & other)
        said.update(span.kind for span in other)
        due.update(span.kind for span in one)
    return {
        kind: SpanCounts(right[kind], said[kind], due[kind])
        for kind in sorted({*said, *due})
    }


def total(counts: Mapping[str, SpanCounts]) -> SpanCounts:
    """Adds up all kinds; its scores are the micro-averages that are reported."""
    return sum(counts.values(), SpanCounts())
