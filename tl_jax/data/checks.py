"""What is odd about data, found before anything is trained on them.

Rows of any task are looked at as `Samples`: named texts, an answer, and a place.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np

SHOWN = 5  # places told of each finding
COMMON = 15  # answers told by name; the rest are counted
# A text of more than LOST times the median, and of more than LONG words, has probably
# lost a line end, a closing quote or a blank line.
LOST, LONG = 20, 200
_KEPT = 40  # characters shown of a text

Key = TypeVar("Key", str, tuple[str, ...])


@dataclass(frozen=True, eq=False)
class Samples:
    """Rows of data, whatever their task is.

    Attributes:
      texts: The texts of each sample, by the name of their column.
      answers: What is to be learnt of each sample; None if it is not there.
      places: Where each sample stands, such as ``FILE:LINE``.
    """

    texts: Mapping[str, Sequence[str]]
    answers: Sequence[str] | None
    places: Sequence[str]

    def __len__(self) -> int:
        return len(self.places)

    @property
    def keys(self) -> list[tuple[str, ...]]:
        """All texts of each sample: what tells it from others."""
        return list(zip(*self.texts.values(), strict=True))

    @property
    def known(self) -> Sequence[str]:
        """The answers; of samples without any they are all equal."""
        return [""] * len(self) if self.answers is None else self.answers


class Finding(NamedTuple):
    """Something to look at before training.

    Attributes:
      what: What was found, and how often.
      examples: Where the first ones stand.
    """

    what: str
    examples: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n".join([self.what, *(f"  {example}" for example in self.examples)])


def blanks(samples: Samples) -> list[Finding]:
    """Finds texts that hold nothing but white space."""
    return [
        finding
        for name, texts in samples.texts.items()
        for finding in _findings(
            f"blank {name}",
            [
                place
                for text, place in zip(texts, samples.places, strict=True)
                if not text.strip()
            ],
        )
    ]


def duplicates(samples: Samples) -> list[Finding]:
    """Finds samples of the same texts, character by character.

    Those of another answer than the first one of their texts are told apart: a model
    cannot learn both.
    """
    first: dict[tuple[str, ...], int] = {}
    again: list[str] = []
    against: list[str] = []
    keys = samples.keys
    differing: set[tuple[str, ...]] = set()
    for i, (key, answer) in enumerate(zip(keys, samples.known, strict=True)):
        j = first.setdefault(key, i)
        if j == i:
            continue
        where = _same(samples, i, samples, j, key)
        if answer == samples.known[j]:
            again.append(where)
        else:
            against.append(where + _against(answer, samples.known[j]))
            differing.add(key)
    return [
        *_findings("repeated", again),
        *_findings("repeated with another answer", against, len(differing)),
    ]


def leaks(train: Samples, dev: Samples) -> list[Finding]:
    """Finds samples of ``dev`` whose texts stand in ``train``, character by character.

    Where samples have several texts, those that share one of them are told too.
    """
    keys = dev.keys
    seen = _first(train.keys)
    same = [i for i, key in enumerate(keys) if key in seen]
    answers: dict[tuple[str, ...], set[str]] = {}
    for key, answer in zip(train.keys, train.known, strict=True):
        answers.setdefault(key, set()).add(answer)
    told = {i: _same(dev, i, train, seen[keys[i]], keys[i]) for i in same}
    against = [i for i in same if dev.known[i] not in answers[keys[i]]]
    found = [
        *_findings(
            "stands in train too", list(told.values()), len({keys[i] for i in same})
        ),
        *_findings(
            "stands in train with other answers only", [told[i] for i in against]
        ),
    ]
    if len(dev.texts) > 1:
        for name in dev.texts:
            found += _shared(name, train, dev)
    return found


def lost_separators(samples: Samples) -> list[Finding]:
    """Finds texts that are far longer than the others: several rows run together."""
    found = []
    for name, texts in samples.texts.items():
        lengths = words(texts)
        most = max(LONG, LOST * float(np.median(lengths)))
        long = [
            f"{samples.places[i]}: {lengths[i]:,} words"
            for i in np.flatnonzero(lengths > most).tolist()
        ]
        what = f"{name} of more than {most:,.0f} words (is a separator lost?)"
        found += _findings(what, long)
    return found


def unknown_answers(train: Mapping[str, str], dev: Mapping[str, str]) -> list[Finding]:
    """Finds what is to be answered in ``dev`` and never is in ``train``.

    Args:
      train: Where each label, type or role stands first.
      dev: The same of the held-out data.
    """
    strange = [f"{place}: {_short(n)}" for n, place in dev.items() if n not in train]
    return _findings("labels that train does not have", strange, unit="label")


def words(texts: Iterable[str]) -> np.ndarray:
    """Counts the words of texts: what stands between white space."""
    return np.array([len(text.split()) for text in texts], np.int64)


def lengths_told(lengths: np.ndarray) -> str:
    """Tells lengths by their ends, and by the least value that covers a share."""
    middle, ninety, most = np.percentile(
        lengths, [50, 90, 99], method="inverted_cdf"
    ).astype(int)
    return (
        f"{lengths.min():,} … {lengths.max():,} words, "
        f"50 % ≤ {middle:,}, 90 % ≤ {ninety:,}, 99 % ≤ {most:,}"
    )


def shares_told(counts: Counter[str]) -> str:
    """Tells counts with their shares, the most frequent ones first."""
    total = max(counts.total(), 1)
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    told = [
        f"{_short(name)}: {count:,} ({100 * count / total:.1f} %)"
        for name, count in ranked[:COMMON]
    ]
    rest = len(ranked) - COMMON
    return ", ".join([*told, f"and {rest:,} more"] if rest > 0 else told)


def _shared(name: str, train: Samples, dev: Samples) -> list[Finding]:
    """Finds samples of ``dev`` that share a text of one column with ``train``."""
    seen = _first(train.texts.get(name, ()))
    texts = dev.texts[name]
    same = [i for i, text in enumerate(texts) if text in seen]
    told = [_same(dev, i, train, seen[texts[i]], (texts[i],)) for i in same]
    different = len({texts[i] for i in same})
    return _findings(f"{name} stands in train too", told, different)


def _first(values: Iterable[Key]) -> dict[Key, int]:
    """Where each value stands first."""
    places: dict[Key, int] = {}
    for place, value in enumerate(values):
        places.setdefault(value, place)
    return places


def _same(one: Samples, i: int, other: Samples, j: int, key: tuple[str, ...]) -> str:
    return f"{one.places[i]} = {other.places[j]}: {_short(' | '.join(key))}"


def _against(answer: str, first: str) -> str:
    """Tells two answers, unless they are too long to be compared by eye."""
    short = max(len(answer), len(first)) <= _KEPT
    return f" ({answer or 'none'}, not {first or 'none'})" if short else ""


def _findings(
    what: str, places: Sequence[str], different: int = 0, unit: str = "example"
) -> list[Finding]:
    """One finding, or none if there is no place to tell."""
    if not places:
        return []
    told = f"{what}: {len(places):,} {unit}{'s' * (len(places) > 1)}"
    if different:
        told += f", {different:,} different"
    return [Finding(told, tuple(places[:SHOWN]))]


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _KEPT else text[: _KEPT - 1] + "…"
