"""Scores of semantic roles: precision, recall and F1 of labelled spans.

A predicted span is right if its proposition has a gold span of the same words and
label (Carreras & Màrquez 2005). The predicate is given, so V and C-V are left out. A
C-X, which continues an X, is a span of its own label; the official ``srl-eval.pl``
joins it to that X, so its scores may differ.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tl_jax.data.propbank import PREDICATE, spans

LEFT_OUT = (PREDICATE, f"C-{PREDICATE}")


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


def role_counts(
    gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]
) -> dict[str, SpanCounts]:
    """Counts spans by role, in the order of the roles' names.

    Args:
      gold: BIO tags of each proposition's words.
      predicted: The same of the prediction. Spans are found by conlleval's lenient rule
        (`tl_jax.data.propbank.spans`): a stray I-X begins a span.

    Raises:
      ValueError: Not the same propositions, or not the same words in one.
    """
    right, said, due = Counter[str](), Counter[str](), Counter[str]()
    for number, (true, guess) in enumerate(zip(gold, predicted, strict=True)):
        if len(true) != len(guess):
            raise ValueError(
                f"proposition {number} has {len(true)} gold tags, "
                f"{len(guess)} predicted"
            )
        wanted, found = set(spans(true)), set(spans(guess))
        right.update(span.label for span in wanted & found)
        said.update(span.label for span in found)
        due.update(span.label for span in wanted)
    return {
        role: SpanCounts(right[role], said[role], due[role])
        for role in sorted({*said, *due} - {*LEFT_OUT})
    }


def total(roles: Mapping[str, SpanCounts]) -> SpanCounts:
    """Adds up all roles; its scores are the micro-averages that are reported."""
    return sum(roles.values(), SpanCounts())
