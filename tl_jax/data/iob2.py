"""Spans of words as IOB2 tags: ``O``, ``B-TYPE`` and ``I-TYPE``, one a word.

Two rules make spans of tags that are no legal IOB2. ``conlleval`` is lenient, as the
script of the CoNLL shared tasks is: an I-X that follows no X begins a span. ``IOB2`` is
strict: what does not begin with B-X is no span. On legal tags both are the same.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Literal, NamedTuple

Rule = Literal["conlleval", "IOB2"]


class Span(NamedTuple):
    """A labelled span of words.

    Attributes:
      begin: The first word.
      end: One past the last word.
      kind: What it is called, such as ``PER``, ``ARG0`` or ``C-ARG1``.
    """

    begin: int
    end: int
    kind: str


def spans(tags: Sequence[str], rule: Rule) -> list[Span]:
    """Finds the spans of one sentence; a ``C-X`` is a kind of its own.

    Args:
      tags: ``O``, ``B-TYPE`` and ``I-TYPE``.
      rule: What an I-X that follows no X is: a span's beginning (``conlleval``) or
        nothing (``IOB2``).

    Raises:
      ValueError: There is another tag.
    """
    found: list[Span] = []
    begin, open_kind = 0, None
    for place, tag in enumerate(chain(tags, ["O"])):
        mark, _, kind = tag.partition("-")
        if tag != "O" and (mark not in ("B", "I") or not kind):
            raise ValueError(f"{tag!r} is no tag of IOB2 (O, B-TYPE, I-TYPE)")
        if mark == "I" and kind == open_kind:
            continue
        if open_kind is not None:
            found.append(Span(begin, place, open_kind))
        opens = mark == "B" or (mark == "I" and rule == "conlleval")
        begin, open_kind = place, kind if opens else None
    return found
