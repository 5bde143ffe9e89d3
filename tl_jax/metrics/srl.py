"""Scores of semantic roles: precision, recall and F1 of labelled spans.

A predicted span is right if its proposition has a gold span of the same words and
label (Carreras & Màrquez 2005). The predicate is given, so V and C-V are left out. A
C-X, which continues an X, is a span of its own label; the official ``srl-eval.pl``
joins it to that X, so its scores may differ.
"""

from collections.abc import Sequence

from tl_jax.data.propbank import PREDICATE
from tl_jax.metrics.spans import SpanCounts, span_counts

LEFT_OUT = (PREDICATE, f"C-{PREDICATE}")


def role_counts(
    gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]
) -> dict[str, SpanCounts]:
    """Counts spans by role, in the order of the roles' names.

    Args:
      gold: BIO tags of each proposition's words.
      predicted: The same of the prediction. Spans are found by conlleval's lenient rule
        (`tl_jax.data.iob2.spans`): a stray I-X begins a span.

    Raises:
      ValueError: Not the same propositions, or not the same words in one.
    """
    for number, (true, guess) in enumerate(zip(gold, predicted, strict=True)):
        if len(true) != len(guess):
            raise ValueError(
                f"proposition {number} has {len(true)} gold tags, "
                f"{len(guess)} predicted"
            )
    counts = span_counts(gold, predicted, "conlleval")
    return {role: own for role, own in counts.items() if role not in LEFT_OUT}
