"""PropBank's propositions in the columns of CoNLL-2005: who did what to whom.

A word a line, a blank line after each sentence, comments behind ``#``. Tabs stand
between the fields: index, word, part of speech, a predicate's lemma and roleset (``-``
at other words), then one column a predicate with its roles in brackets, ``(ARG0*`` …
``*)`` (Carreras & Màrquez 2005). The predicate is the word where its column has
``(V*``, roleset or not; its V may go on over further words (*pick up*).
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from tl_jax.data.iob2 import Span, spans
from tl_jax.data.prepared import Marked, tfds_marked
from tl_jax.data.table import Problems, bad_characters, one_field, word_place
from tl_jax.data.tag_schemes import iob2_fault
from tl_jax.data.text_file import read_text
from tl_jax.data.tfds import PREFIX
from tl_jax.files import atomic
from tl_jax.files.errors import DataError
from tl_jax.text.located import Located, join

FIELDS = ("index", "word", "part of speech", "lemma", "roleset")
PREDICATE = "V"
OUTSIDE = "O"
NOTHING = "-"  # the lemma and the roleset of a word that is no predicate
LONGEST = 1000  # words; a sentence of more has lost its blank line
_BRACKET = re.compile(r"(?:\(([^()*\s]+))?\*(\))?")
_MARK = f"({PREDICATE}*"
_EMPTY = "*"  # nothing begins or ends at a word, as at most of them


@dataclass(frozen=True, eq=False)
class Sentence:
    """One sentence as it stands in its file, without the columns of roles.

    Attributes:
      words: The words.
      fields: The line of each word, cut after the five `FIELDS`.
      comments: The lines that begin with ``#``.
    """

    words: list[str]
    fields: list[str]
    comments: list[str]


@dataclass(frozen=True, eq=False)
class Propositions:
    """``N`` propositions, in the order of the files, their sentences and columns.

    Attributes:
      sentences: All sentences, also those without a predicate.
      sentence: The number of each proposition's sentence.
      predicate: The word that is its predicate. Two propositions may share one.
      tags: BIO tags of its sentence's words; None if they were not read.
      places: ``FILE:LINE`` of the predicate, or the proposition's place in a data set.
      skipped: How many bad sentences were left out.
      located: The texts of all sentences, where they were cut out of raw ones.
    """

    sentences: list[Sentence]
    sentence: Int[np.ndarray, "N"]
    predicate: Int[np.ndarray, "N"]
    tags: list[list[str]] | None
    places: list[str]
    skipped: int = 0
    located: list[Located] | None = None

    def __len__(self) -> int:
        return len(self.places)

    def place(self, number: int, word: int) -> str:
        """Returns the place of a word."""
        return word_place(self.places[number], word, int(self.predicate[number]))

    def words(self, number: int) -> list[str]:
        """Returns the words of a proposition's sentence."""
        return self.sentences[self.sentence[number]].words

    def text(self, number: int) -> Located:
        """Returns the text of a proposition's sentence: its words between blanks."""
        if self.located is None:
            return join(self.words(number))
        return self.located[self.sentence[number]]


class _Read(NamedTuple):
    """A sentence with its propositions, or what is wrong with it."""

    sentence: Sentence | None
    found: list[tuple[int, list[str], str]]  # predicate, tags and place
    faults: list[tuple[str, str]]  # where, and what


# A line's number and its fields.
_Row = tuple[int, list[str]]
# Where a word stands in its sentence, and what is wrong with it.
_Fault = tuple[int, str]


def read_propositions(
    files: str | Path | Sequence[str | Path],
    *,
    on_bad: str = "raise",
    max_bad: int = 100,
    labelled: bool = True,
    data_dir: str | Path | None = None,
) -> Propositions:
    """Reads one or more files, in order, one proposition a predicate.

    A data set of TFDS has the features of our ``ewt_propbank``: one example a
    proposition, so that sentences without any are not there.

    Args:
      files: Paths of UTF-8 files, or ``tfds:NAME/CONFIG[:SPLIT]``.
      on_bad: ``"raise"``: what is bad is told in one error. ``"skip"``: sentences with
        something bad are left out and counted.
      max_bad: With ``"skip"``, more faults than this are an error.
      labelled: Read the roles. Otherwise only ``(V*`` is read of each column; and in a
        sentence without columns each word with a lemma or a roleset is a predicate.
      data_dir: Where TFDS keeps prepared data; ``$TFDS_DATA_DIR`` by default.

    Raises:
      SourceError: A data set of TFDS cannot be had.
      DataError: A file is missing or empty, or no predicate is marked; or a sentence
        is bad: it is not UTF-8 or holds NUL, its columns are ragged, its index does not
        count up, it has more than 1,000 words, a bracket is malformed, nested or not
        closed, a column has not exactly one ``(V*``, a predicate has no column.
    """
    paths = [files] if isinstance(files, (str, Path)) else list(files)
    if not paths:
        raise DataError("No data file was named.")
    problems = Problems(on_bad, max_bad)
    sentences: list[Sentence] = []
    found: list[tuple[int, int, list[str], str]] = []
    skipped = 0
    for path in map(str, paths):
        if path.startswith(PREFIX):
            read = _prepared(path, labelled, data_dir)
        else:
            read = _file(path, labelled)
        for sentence, own, faults in read:
            for where, wrong in faults:
                problems.add(where, wrong)
            if sentence is None:
                skipped += 1
                continue
            found += [(len(sentences), *proposition) for proposition in own]
            sentences.append(sentence)
    problems.finish()
    if not found:
        raise DataError(
            f"{', '.join(map(str, paths))}: there is no proposition in "
            f"{len(sentences)} good sentences. A predicate's column marks it by (V*."
        )
    numbers, predicates, tags, places = zip(*found, strict=True)
    return Propositions(
        sentences=sentences,
        sentence=np.array(numbers, np.int64),
        predicate=np.array(predicates, np.int64),
        tags=list(tags) if labelled else None,
        places=list(places),
        skipped=skipped,
    )


def write_propositions(
    path: Path, propositions: Propositions, tags: Sequence[Sequence[str]]
) -> None:
    """Writes the sentences with the tags as their columns, atomically.

    What was read comes back byte for byte with its own tags, if its lines end in a line
    feed and each sentence in one blank line.

    Args:
      path: The file.
      propositions: What the tags were predicted for.
      tags: BIO tags of each proposition's words; made columns by `brackets`.
    """
    columns: list[list[list[str]]] = [[] for _ in propositions.sentences]
    for number, predicate, labels in zip(
        propositions.sentence, propositions.predicate, tags, strict=True
    ):
        columns[number].append(brackets(labels, int(predicate)))
    lines: list[str] = []
    for sentence, own in zip(propositions.sentences, columns, strict=True):
        lines += sentence.comments
        rows = zip(sentence.fields, *own, strict=True)
        lines += ["\t".join(row) for row in rows]
        lines.append("")
    atomic.write_text(path, "\n".join(lines) + "\n")


def settle(tags: Sequence[str], predicate: int) -> list[str]:
    """Makes predicted BIO tags those of a predicate, as its column can hold them.

    Which word is the predicate is given, not predicted: V begins there and nowhere
    else. A predicted V elsewhere is dropped; a role that covers the predicate is cut
    there.
    """
    said = spans(tags, "conlleval")
    own = [s for s in said if s.kind == PREDICATE and s.begin == predicate]
    found = own or [Span(predicate, predicate + 1, PREDICATE)]
    for span in said:
        if span.kind != PREDICATE:
            found += _around(span, predicate)
    settled = [OUTSIDE] * len(tags)
    for begin, end, kind in found:
        settled[begin:end] = [f"B-{kind}", *[f"I-{kind}"] * (end - begin - 1)]
    return settled


def brackets(tags: Sequence[str], predicate: int) -> list[str]:
    """Writes BIO tags as a predicate's column, once they are settled (`settle`)."""
    cells = ["*"] * len(tags)
    for begin, end, kind in spans(settle(tags, predicate), "conlleval"):
        cells[begin] = f"({kind}*"
        cells[end - 1] += ")"
    return cells


def _around(span: Span, word: int) -> list[Span]:
    """Cuts a word out of a span."""
    if not span.begin <= word < span.end:
        return [span]
    parts = (span._replace(end=word), span._replace(begin=word + 1))
    return [part for part in parts if part.begin < part.end]


def _file(path: str, labelled: bool) -> Iterator[_Read]:
    """Reads the sentences of a file."""
    for comments, rows in _blocks(read_text(Path(path))):
        propositions, faults = _propositions(rows, labelled)
        if faults:
            told = [(f"{path}:{rows[word][0]}", wrong) for word, wrong in faults]
            yield _Read(None, [], told)
            continue
        found = [
            (predicate, tags, f"{path}:{rows[predicate][0]}")
            for predicate, tags in propositions
        ]
        yield _Read(_sentence(rows, comments), found, [])


def _prepared(
    source: str, labelled: bool, data_dir: str | Path | None
) -> Iterator[_Read]:
    """Gathers the propositions of a data set by their sentences; it has them apart."""
    gathered: dict[tuple[int, tuple[str, ...]], tuple[list[_Row], _Read]] = {}
    for place, marked in tfds_marked(source, labelled=labelled, data_dir=data_dir):
        rows = [(n, [str(n), w, *[NOTHING] * 3]) for n, w in enumerate(marked.words)]
        if (fault := _marked_fault(marked, rows)) is not None:
            yield _Read(None, [], [(word_place(place, fault[0]), fault[1])])
            continue
        key = marked.sentence, tuple(marked.words)
        rows, read = gathered.setdefault(key, (rows, _Read(None, [], [])))
        rows[marked.predicate][1][3:] = marked.lemma, marked.roleset
        read.found.append((marked.predicate, marked.tags or [], place))
    for rows, read in gathered.values():
        found = sorted(read.found, key=lambda proposition: proposition[0])
        yield _Read(_sentence(rows, []), found, [])


def _marked_fault(marked: Marked, rows: list[_Row]) -> _Fault | None:
    """Says what is wrong with a proposition of a data set."""
    words, predicate, tags = marked.words, marked.predicate, marked.tags
    if not 0 <= predicate < len(words):
        return 0, f"the predicate {predicate} is none of its {len(words)} words"
    if (fault := _row_fault(rows)) is not None:
        return fault
    if wrong := bad_characters([marked.lemma, marked.roleset]):
        return predicate, wrong
    if tags is None:
        return None
    if len(tags) != len(words):
        return 0, f"{len(words)} words, but {len(tags)} tags"
    if wrong := bad_characters(tags):
        return 0, wrong
    begins = [word for word, tag in enumerate(tags) if tag == f"B-{PREDICATE}"]
    if begins != [predicate]:
        return predicate, f"B-{PREDICATE} at the words {begins}, not at the predicate"
    return iob2_fault(tags)


def _blocks(text: str) -> Iterator[tuple[list[str], list[_Row]]]:
    """Yields comments and rows of each sentence."""
    comments: list[str] = []
    rows: list[_Row] = []
    for number, line in enumerate([*text.split("\n"), ""], 1):
        line = line.removesuffix("\r")
        if line.startswith("#"):
            comments.append(line)
        elif line.strip():
            rows.append((number, line.split("\t")))
        elif rows:
            yield comments, rows
            comments, rows = [], []


def _sentence(rows: list[_Row], comments: list[str]) -> Sentence:
    return Sentence(
        words=[fields[1] for _, fields in rows],
        fields=["\t".join(map(one_field, row[: len(FIELDS)])) for _, row in rows],
        comments=comments,
    )


def _propositions(
    rows: list[_Row], labelled: bool
) -> tuple[list[tuple[int, list[str]]], list[_Fault]]:
    """Finds predicate and tags of each column of a sentence, or what is wrong."""
    if (fault := _row_fault(rows)) is not None:
        return [], [fault]
    named = [i for i, (_, row) in enumerate(rows) if {*row[3:5]} != {NOTHING}]
    columns = list(zip(*(row[len(FIELDS) :] for _, row in rows), strict=True))
    if not columns and labelled and named:
        return [], [(named[0], "a predicate without a column of roles")]
    if not columns:
        return [(word, []) for word in named], []
    found, faults = [], []
    for number, cells in enumerate(columns, len(FIELDS) + 1):
        tags, fault = _tags(cells) if labelled else ([], None)
        marked = [i for i, cell in enumerate(cells) if cell.startswith(_MARK)]
        if fault is None and len(marked) != 1:
            word = marked[1] if marked else 0
            fault = word, f"{len(marked)} predicates (V*, where one is due"
        if fault is None:
            found.append((marked[0], tags))
        else:
            faults.append((fault[0], f"column {number}: {fault[1]}"))
    return found, faults


def _row_fault(rows: list[_Row]) -> _Fault | None:
    """Says what is wrong with a sentence's rows, whatever their brackets are."""
    if len(rows) > LONGEST:
        return 0, f"a sentence of {len(rows)} words: are blank lines missing?"
    widths = Counter(len(fields) for _, fields in rows)
    width = widths.most_common(1)[0][0]
    for word, (_, fields) in enumerate(rows):
        if (wrong := bad_characters(fields)) is not None:
            return word, wrong
        if len(fields) < len(FIELDS):
            return (
                word,
                f"{len(fields)} columns; due are {', '.join(FIELDS)}, and roles",
            )
        if len(fields) != width:
            return word, f"{len(fields)} columns, where the sentence has {width}"
        if fields[0] != str(word):
            return word, f"index {fields[0]!r}, where {word} is due: is a line missing?"
        if not fields[1].strip():
            return word, "no word"
    return None


def _tags(cells: Sequence[str]) -> tuple[list[str], _Fault | None]:
    """Turns a column's brackets into BIO tags, up to the first fault."""
    tags: list[str] = []
    label, start = "", 0  # of the open bracket
    for word, cell in enumerate(cells):
        if cell == _EMPTY:
            tags.append(f"I-{label}" if label else "O")
            continue
        match = _BRACKET.fullmatch(cell)
        if match is None:
            told = cell if len(cell) <= 40 else cell[:39] + "…"
            return tags, (word, f"{told!r} is none of (LABEL* * *) (LABEL*)")
        opened, closed = match.groups()
        if opened and label:
            return tags, (word, f"({opened}* within ({label}*: brackets may not nest")
        if closed and not (opened or label):
            return tags, (word, "a bracket is closed that was not opened")
        label, start = (opened, word) if opened else (label, start)
        tags.append(f"{'B' if opened else 'I'}-{label}" if label else "O")
        label = "" if closed else label
    return tags, (start, f"({label}* is not closed") if label else None
