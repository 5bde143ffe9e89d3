"""Scores of named entities: spans of IOB2 tags, and KLUE-NER's two."""

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np

from tl_jax.data.iob2 import Rule
from tl_jax.metrics.classification import confusion_matrix, macro_f1
from tl_jax.metrics.spans import SpanCounts, Tags, span_counts, total


class EntityScores(NamedTuple):
    """Scores of all entities and of those of each type.

    Attributes:
      micro: Of all entities.
      kinds: Of the types that are gold or predicted, sorted.
    """

    micro: SpanCounts
    kinds: dict[str, SpanCounts]

    @property
    def macro_f1(self) -> float:
        """The mean F1 of the types; 0 if there is none."""
        return sum(s.f1 for s in self.kinds.values()) / max(len(self.kinds), 1)


def entity_scores(gold: Tags, predicted: Tags, rule: Rule) -> EntityScores:
    """Counts the entities of sentences, and those that are in both.

    Args:
      gold: The data's tags.
      predicted: As many, and for as many words.
      rule: As for `tl_jax.data.iob2.spans`.

    Raises:
      ValueError: The numbers of sentences or of words differ, or a tag is no IOB2.
    """
    _check(gold, predicted)
    kinds = span_counts(gold, predicted, rule)
    return EntityScores(total(kinds), kinds)


def tag_accuracy(gold: Tags, predicted: Tags) -> float:
    """The share of words whose tag is right; 0 for no words.

    Raises:
      ValueError: The numbers of sentences or of words differ.
    """
    _check(gold, predicted)
    pairs = zip(chain.from_iterable(gold), chain.from_iterable(predicted), strict=True)
    same = [wanted == found for wanted, found in pairs]
    return sum(same) / max(len(same), 1)


def klue_ner(gold: Tags, predicted: Tags, names: Sequence[str]) -> dict[str, float]:
    """KLUE-NER's scores (Park et al. 2021, section 4.3) of the characters' tags.

    ``entity_macro_f1`` is strict, macro over the types. ``character_macro_f1`` is macro
    over all names, O included; a name that is neither gold nor predicted counts as 1
    (scikit-learn's ``zero_division=True``). As in the evaluation of KLUE-baseline,
    blanks are to be left out beforehand, and [CLS] and [SEP] are two more characters of
    each sentence, both O.

    Args:
      gold: The data's tags, one a character that is no blank.
      predicted: As many.
      names: All tags that there are.

    Raises:
      ValueError: The numbers of sentences or of characters differ, or a tag is unknown.
    """
    entity = entity_scores(gold, predicted, "IOB2").macro_f1
    numbers = {name: number for number, name in enumerate(names)}

    def ids(tags: Tags) -> np.ndarray:
        unknown = set(chain(["O"], *tags)) - numbers.keys()
        if unknown:
            raise ValueError(f"tags that are not among the names: {sorted(unknown)}")
        around: Iterable[str] = chain.from_iterable(("O", *s, "O") for s in tags)
        return np.array([numbers[tag] for tag in around], np.int64)

    matrix = confusion_matrix(ids(gold), ids(predicted), len(names))
    unseen = (matrix.sum(axis=0) + matrix.sum(axis=1)) == 0
    return {
        "entity_macro_f1": entity,
        "character_macro_f1": macro_f1(matrix) + float(unseen.mean()),
    }


def _check(gold: Tags, predicted: Tags) -> None:
    sizes = [[len(tags) for tags in side] for side in (gold, predicted)]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"gold has {len(sizes[0])} sentences of {sum(sizes[0])} words, predicted "
            f"{len(sizes[1])} of {sum(sizes[1])}, or they are not the same ones"
        )
