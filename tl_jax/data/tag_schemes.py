"""How tags of spans are written: IOB2, IOB1, IO, BIOES and BILOU, all read as IOB2.

B-X begins an X, I-X goes on with it, E-X or L-X ends it, and S-X or U-X is all of it.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain, pairwise
from typing import Literal

Scheme = Literal["IOB2", "IOB1", "IO", "BIOES", "BILOU"]

# Where a token stands in its sentence, and what is wrong with it.
Faults = Iterable[tuple[int, str]]

_TAG = re.compile(r"O|[BIESLU]-.+")
_BILOU = str.maketrans("LU", "ES")


def is_tag(field: str) -> bool:
    """True if a field may be a tag, of whatever scheme."""
    return _TAG.fullmatch(field) is not None


def detect_scheme(tags: Iterable[Sequence[str]]) -> Scheme:
    """Finds the scheme that sentences are tagged in.

    E and S are BIOES's, L and U BILOU's. Without any B it is IO. IOB1 has B only
    between neighbours of one type, IOB2 at the beginning of every entity: where both
    seem to occur, it is the one that fewer tags offend against, or else IOB2.
    """
    marks: Counter[str] = Counter()
    bare_inside = early_begin = 0  # what IOB2, what IOB1 does not allow
    for sentence in tags:
        for before, tag in pairwise(["O", *sentence]):
            marks[tag[0]] += 1
            opens = before == "O" or before[2:] != tag[2:]
            bare_inside += tag[0] == "I" and opens
            early_begin += tag[0] == "B" and opens
    ended, lasting = marks["E"] + marks["S"], marks["L"] + marks["U"]
    if ended or lasting:
        return "BIOES" if ended >= lasting else "BILOU"
    if marks["I"] and not marks["B"]:
        return "IO"
    return "IOB2" if bare_inside <= early_begin else "IOB1"


def to_iob2(tags: Sequence[str]) -> list[str]:
    """Rewrites one sentence's tags, of any scheme, as IOB2.

    An entity begins where conlleval lets one begin: at B, S and U, after O, E, S, L and
    U, and where the type changes.
    """
    found = []
    for before, tag in pairwise(["O", *tags]):
        goes_on = before[0] in "BI" and before[2:] == tag[2:] and tag[0] not in "BSU"
        found.append(tag if tag == "O" else f"{'I' if goes_on else 'B'}-{tag[2:]}")
    return found


def iob2_fault(tags: Sequence[str]) -> tuple[int, str] | None:
    """Finds the first of one sentence's tags that is none of IOB2, and says why."""
    wrong = chain(
        tag_faults(tags), foreign_tags(tags, "IOB2"), misplaced_tags(tags, "IOB2")
    )
    return next(wrong, None)


def tag_faults(tags: Sequence[str]) -> Faults:
    """Finds what is no tag of any scheme."""
    for token, tag in enumerate(tags):
        if not is_tag(tag):
            yield token, f"{_short(tag)} is no tag; tags are O, B-TYPE, I-TYPE, …"


def foreign_tags(tags: Sequence[str], scheme: Scheme) -> Faults:
    """Finds the tags that are another scheme's."""
    alphabet = {"BIOES": "BIOES", "BILOU": "BILOU"}.get(scheme, "BIO")
    for token, tag in enumerate(tags):
        if tag[0] not in alphabet:
            yield token, f"{_short(tag)} is no tag of {scheme}"


def misplaced_tags(tags: Sequence[str], scheme: Scheme) -> Faults:
    """Finds the tags that may not stand where they do."""
    for token, (before, tag) in enumerate(pairwise(["O", *tags, "O"])):
        goes_on = before != "O" and before[2:] == tag[2:]
        if scheme in ("BIOES", "BILOU"):
            is_open = before.translate(_BILOU)[0] in "BI" and before != "O"
            inside = tag.translate(_BILOU)[0] in "IE"
            if is_open != inside or (inside and not goes_on):
                yield min(token, len(tags) - 1), _told(tag, before, scheme)
        elif tag[0] == {"IOB2": "I", "IOB1": "B"}.get(scheme) and not goes_on:
            yield token, _told(tag, before, scheme)


def _told(tag: str, before: str, scheme: Scheme) -> str:
    return f"{_short(tag)} may not follow {_short(before)} in {scheme}"


def _short(tag: str) -> str:
    return repr(tag if len(tag) <= 40 else f"{tag[:39]}…")
