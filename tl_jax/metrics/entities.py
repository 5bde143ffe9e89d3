"""Scores of named entities: spans of IOB2 tags, and KLUE-NER's two.

Two rules make spans of tags that are no legal IOB2. ``conlleval`` is lenient, as the
script of the CoNLL shared tasks is: an I-X that follows no X begins an entity. ``IOB2``
is strict: what does not begin with B-X is no entity. On legal tags both are the same.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Literal, NamedTuple

import numpy as np

from tl_jax.metrics.classification import confusion_matrix, macro_f1

Rule = Literal["conlleval", "IOB2"]
Tags = Sequence[Sequence[str]]  # of sentences


class Entity(NamedTuple):
    """A span of words: its first, one past its last, and its type."""

    begin: int
    end: int
    kind: str


class Score(NamedTuple):
    """How many entities there are, were found and are right; 0 / 0 is 0.

    Attributes:
      gold: In the data.
      predicted: Found.
      right: Found with the very span and type of the data.
    """

    gold: int
    predicted: int
    right: int

    @property
    def precision(self) -> float:
        """Right / predicted."""
        return self.right / max(self.predicted, 1)

    @property
    def recall(self) -> float:
        """Right / gold."""
        return self.right / max(self.gold, 1)

    @property
    def f1(self) -> float:
        """2 · right / (gold + predicted)."""
        return 2 * self.right / max(self.gold + self.predicted, 1)


class EntityScores(NamedTuple):
    """Scores of all entities and of those of each type.

    Attributes:
      micro: Of all entities.
      kinds: Of the types that are gold or predicted, sorted.
    """

    micro: Score
    kinds: dict[str, Score]

    @property
    def macro_f1(self) -> float:
        """The mean F1 of the types; 0 if there is none."""
        return sum(s.f1 for s in self.kinds.values()) / max(len(self.kinds), 1)


def entities(tags: Sequence[str], rule: Rule) -> list[Entity]:
    """Finds the entities of one sentence.

    Args:
      tags: ``O``, ``B-TYPE`` and ``I-TYPE``.
      rule: What an I-X that follows no X is: an entity's beginning (``conlleval``) or
        nothing (``IOB2``).

    Raises:
      ValueError: There is another tag.
    """
    found: list[Entity] = []
    begin, open_kind = 0, None
    for place, tag in enumerate(chain(tags, ["O"])):
        mark, _, kind = tag.partition("-")
        if tag != "O" and (mark not in ("B", "I") or not kind):
            raise ValueError(f"{tag!r} is no tag of IOB2 (O, B-TYPE, I-TYPE)")
        if mark == "I" and kind == open_kind:
            continue
        if open_kind is not None:
            found.append(Entity(begin, place, open_kind))
        opens = mark == "B" or (mark == "I" and rule == "conlleval")
        begin, open_kind = place, kind if opens else None
    return found


def entity_scores(gold: Tags, predicted: Tags, rule: Rule) -> EntityScores:
    """Counts the entities of sentences, and those that are in both.

    Args:
      gold: The data's tags.
      predicted: As many, and for as many words.
      rule: As for `entities`.

    Raises:
      ValueError: The numbers of sentences or of words differ, or a tag is no IOB2.
    """
    _check(gold, predicted)
    counts: tuple[Counter[str], ...] = Counter(), Counter(), Counter()
    for wanted, found in zip(gold, predicted, strict=True):
        one, other = set(entities(wanted, rule)), set(entities(found, rule))
        for counter, spans in zip(counts, (one, other, one & other), strict=True):
            counter.update(span.kind for span in spans)
    kinds = sorted({kind for counter in counts for kind in counter})
    return EntityScores(
        micro=Score(*(counter.total() for counter in counts)),
        kinds={k: Score(*(counter[k] for counter in counts)) for k in kinds},
    )


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
