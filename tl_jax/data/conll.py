"""Tagged sentences in CoNLL's columns: a token a line, a blank line between sentences.

Fields stand between tabs if most lines have one, else between blanks. Tags are read in
any of the usual schemes and given as IOB2 (B-X begins an X, I-X goes on with it).
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from tl_jax.data.prepared import tfds_tagged
from tl_jax.data.table import Problems, bad_characters, one_field, word_place
from tl_jax.data.tag_schemes import (
    Faults,
    Scheme,
    detect_scheme,
    foreign_tags,
    is_tag,
    misplaced_tags,
    tag_faults,
    to_iob2,
)
from tl_jax.data.text_file import read_text
from tl_jax.data.tfds import PREFIX
from tl_jax.files import atomic
from tl_jax.files.errors import ConfigError, DataError
from tl_jax.text.located import Located

LONGEST = 1000  # tokens; a sentence of more has lost its blank lines
DOCUMENT = "-DOCSTART-"
KLUE = "## "  # before a sentence's id, a tab and its text
_COMMENT = re.compile(r"#+ ")
_BLANKS = re.compile("[ \t]+")


@dataclass(frozen=True, eq=False)
class TaggedSentences:
    """Sentences of tokens with a tag each, and the lines they came from.

    Attributes:
      sentences: The tokens of each sentence.
      tags: Their tags, as IOB2 whatever the file has; None if they were not read.
      places: ``FILE:LINE`` of each sentence's first token, or the sentence's place in a
        data set.
      lines: The line of each token.
      comments: The comments and ``-DOCSTART-`` lines before each sentence.
      scheme: What the tags were written in; None if they were not read.
      skipped: How many bad sentences were left out.
      notes: What was read otherwise than it stands.
      located: The texts of the sentences, where they were cut out of raw ones.
    """

    sentences: list[list[str]]
    tags: list[list[str]] | None
    places: list[str]
    lines: list[list[str]]
    comments: list[list[str]]
    scheme: Scheme | None
    skipped: int = 0
    notes: tuple[str, ...] = ()
    located: list[Located] | None = None

    def __len__(self) -> int:
        return len(self.sentences)

    def place(self, sentence: int, token: int) -> str:
        """Returns the place of a token."""
        return word_place(self.places[sentence], token)

    def first(self, count: int | None) -> "TaggedSentences":
        """The first ``count`` sentences; all of them if it is None."""
        return replace(
            self,
            sentences=self.sentences[:count],
            tags=None if self.tags is None else self.tags[:count],
            places=self.places[:count],
            lines=self.lines[:count],
            comments=self.comments[:count],
            located=None if self.located is None else self.located[:count],
        )


class _Block(NamedTuple):
    """A sentence as it stands in its file, and the fields of each of its lines."""

    file: str
    place: str  # of its first line
    lines: list[str]
    comments: list[str]
    rows: list[list[str]]
    width: int  # the number of fields that the file's lines have
    token: int  # the column of the tokens
    tag: int
    wrong: str | None = None  # what is known to be wrong with it


def read_tagged(
    files: str | Path | Sequence[str | Path],
    *,
    on_bad: str = "raise",
    max_bad: int = 100,
    token_column: int | str = 0,
    tag_column: int | str = -1,
    labelled: bool = True,
    data_dir: str | Path | None = None,
) -> TaggedSentences:
    """Reads one or more files, in order; `scheme` tells how the tags were written.

    A line of blanks ends a sentence, and so does ``-DOCSTART-``. A comment stands
    before a sentence's first token, begins with ``# `` or ``## ``, and cannot be a
    token's line; where tabs part the fields, ``## `` always is one, as in KLUE-NER, and
    a token may be a blank, as some of its characters are.

    A tag that its scheme does not allow where it stands is read as conlleval reads it,
    an entity's beginning, and that is noted.

    A data set of TFDS has its tokens in a sequence of strings (tokens, words or
    characters) and its tags in one of labels or strings (ner, ner_tags, tags, labels).

    Args:
      files: Paths of UTF-8 files, or ``tfds:NAME/CONFIG[:SPLIT]``.
      on_bad: ``"raise"``: what is bad is told in one error. ``"skip"``: sentences with
        something bad are left out and counted.
      max_bad: With ``"skip"``, more faults than this are an error.
      token_column: Where the tokens stand, from 0; -1 is the last column. Of a data set
        a feature's name; a number stands for the usual ones.
      tag_column: Where the tags stand.
      labelled: Read the tags.
      data_dir: Where TFDS keeps prepared data; ``$TFDS_DATA_DIR`` by default.

    Raises:
      ConfigError: A file has no such column.
      SourceError: A data set of TFDS cannot be had.
      DataError: A file is missing or empty or has no good sentence; or a sentence is
        bad: not UTF-8, NUL, another number of columns than the file has, no token, more
        than 1,000 tokens, something that is no tag or none of the scheme.
    """
    paths = [files] if isinstance(files, (str, Path)) else list(files)
    if not paths:
        raise DataError("No data file was named.")
    problems = Problems(on_bad, max_bad)
    blocks: list[_Block] = []
    for path in map(str, paths):
        if path.startswith(PREFIX):
            blocks += _prepared(path, token_column, tag_column, labelled, data_dir)
        else:
            columns = _number(path, token_column), _number(path, tag_column)
            blocks += _blocks(Path(path), *columns, labelled)
    _check_columns(blocks, labelled)
    good = [b for b in blocks if not _tell(b, _row_faults(b), problems)]
    raw: list[list[str]] = []
    scheme = None
    if labelled:
        good = [b for b in good if not _tell(b, tag_faults(_tags(b)), problems)]
        raw = [_tags(block) for block in good]
        scheme = detect_scheme(raw)
        good = [
            block
            for block, tags in zip(good, raw, strict=True)
            if not _tell(block, foreign_tags(tags, scheme), problems)
        ]
        raw = [_tags(block) for block in good]
    problems.finish()
    if not good:
        raise DataError(f"{', '.join(map(str, paths))}: there is no good sentence.")
    return TaggedSentences(
        sentences=[[row[block.token] for row in block.rows] for block in good],
        tags=None if scheme is None else [to_iob2(tags) for tags in raw],
        places=[block.place for block in good],
        lines=[block.lines for block in good],
        comments=[block.comments for block in good],
        scheme=scheme,
        skipped=len(blocks) - len(good),
        notes=() if scheme is None else _mended(good, scheme),
    )


def looks_tagged(lines: Sequence[str]) -> bool:
    """True if lines are rather a column file's than prose: all end in what is a tag."""
    rows = [_BLANKS.split(line.strip()) for line in lines if line.strip()]
    rows = [row for row in rows if row[0] not in (DOCUMENT, "#", "##")]
    return len(rows) > 1 and all(len(row) > 1 and is_tag(row[-1]) for row in rows)


def write_tagged(
    path: Path, data: TaggedSentences, tags: Sequence[Sequence[str]]
) -> None:
    """Writes each token's line as it was read, with a tag as its last column.

    A ``-DOCSTART-`` line gets an ``O``, so that conlleval reads the file. What follows
    a token that is a blank, of raw text, follows all of them: a tab.

    Args:
      path: The file, written atomically.
      data: What the tags were predicted for.
      tags: A tag for each token.
    """
    found: list[str] = []
    tabs = any(line == " " for sentence in data.lines for line in sentence)
    for sentence, comments, own in zip(data.lines, data.comments, tags, strict=True):
        for comment in comments:
            document = comment.startswith(DOCUMENT)
            found += [_with_last(comment, "O", tabs), ""] if document else [comment]
        found += [_with_last(*row, tabs) for row in zip(sentence, own, strict=True)]
        found.append("")
    atomic.write_text(path, "\n".join(found) + "\n")


def _prepared(
    source: str,
    token: int | str,
    tag: int | str,
    labelled: bool,
    data_dir: str | Path | None,
) -> Iterator[_Block]:
    """Lays the sentences of a data set out as lines; empty ones are passed over."""
    for place, (tokens, tags) in tfds_tagged(
        source,
        tokens=token if isinstance(token, str) else None,
        tags=tag if isinstance(tag, str) else None,
        labelled=labelled,
        data_dir=data_dir,
    ):
        columns = [tokens] if tags is None else [tokens, tags]
        rows = [list(row) for row in zip(*columns, strict=False)]
        wrong = None
        if tags is not None and len(tags) != len(tokens):
            wrong = f"{len(tokens)} tokens, but {len(tags)} tags"
        if rows or wrong:
            lines = ["\t".join(map(one_field, row)) for row in rows]
            yield _Block(source, place, lines, [], rows, len(columns), 0, -1, wrong)


def _number(file: str, column: int | str) -> int:
    if isinstance(column, str):
        raise ConfigError(
            f"{file}: its columns have no names, so there is none that is {column!r}. "
            "They count from 0, and from -1 backwards."
        )
    return column


def _blocks(
    path: Path, token_column: int, tag_column: int, labelled: bool
) -> Iterator[_Block]:
    """Cuts a file into sentences."""
    text = [line.removesuffix("\r") for line in read_text(path).split("\n")]
    plain = [s for s in text if s.strip(" \t") and not s.startswith(("#", DOCUMENT))]
    tabs = sum("\t" in line for line in plain) * 2 > len(plain)
    widths = Counter(map(len, _fields(plain, tabs)))
    width = widths.most_common(1)[0][0] if widths else 1

    def is_row(line: str) -> bool:
        (row,) = _fields([line], tabs)
        return len(row) == width and (
            not labelled or (-width <= tag_column < width and is_tag(row[tag_column]))
        )

    comments: list[str] = []
    lines: list[str] = []
    for number, line in enumerate([*text, ""]):
        blank, document = not line.strip(" \t"), line.startswith(DOCUMENT)
        if lines and (blank or document):
            rows = _fields(lines, tabs)
            columns = width, token_column, tag_column
            place = f"{path}:{number - len(lines) + 1}"
            yield _Block(str(path), place, lines, comments, rows, *columns)
            comments, lines = [], []
        surely = tabs and (not labelled or line.startswith(KLUE))
        remark = not lines and _COMMENT.match(line) and (surely or not is_row(line))
        if document or remark:
            comments.append(line)
        elif not blank:
            lines.append(line)


def _fields(lines: Sequence[str], tabs: bool) -> list[list[str]]:
    if tabs:
        return [line.split("\t") for line in lines]
    return [_BLANKS.split(line.strip(" \t")) for line in lines]


def _with_last(line: str, tag: str, tabs: bool) -> str:
    """Adds a field to a line, after what stands between its others."""
    if tabs or "\t" in line:
        return f"{line}\t{tag}"
    return f"{line.rstrip(' ')} {tag}"


def _tags(block: _Block) -> list[str]:
    return [row[block.tag] for row in block.rows]


def _check_columns(blocks: Sequence[_Block], labelled: bool) -> None:
    """Refuses files that lack a column that was named."""
    for file, block in {block.file: block for block in blocks}.items():
        width, token, tag = block.width, block.token, block.tag
        for column in (token, tag) if labelled else (token,):
            if not -width <= column < width:
                raise ConfigError(
                    f"{file}: has {width} columns, so there is no column {column}. "
                    "Columns count from 0, and from -1 backwards."
                )
        if labelled and token % width == tag % width:
            raise ConfigError(
                f"{file}: has {width} columns, so token and tag would be the same one. "
                "Name token_column and tag_column, or read without tags."
            )


def _tell(block: _Block, faults: Faults, problems: Problems) -> bool:
    """Adds a sentence's faults to the problems; True if there are any."""
    found = list(faults)
    for token, wrong in found:
        problems.add(word_place(block.place, token), wrong)
    return bool(found)


def _row_faults(block: _Block) -> Faults:
    if block.wrong is not None:
        yield 0, block.wrong
        return
    if len(block.rows) > LONGEST:
        yield 0, f"a sentence of {len(block.rows)} tokens: are blank lines missing?"
        return
    for token, row in enumerate(block.rows):
        if (wrong := bad_characters(row)) is not None:
            yield token, wrong
        elif len(row) != block.width:
            yield token, f"{len(row)} columns, where the file has {block.width}"
        elif not row[block.token]:
            yield token, "no token"


def _mended(blocks: Sequence[_Block], scheme: Scheme) -> tuple[str, ...]:
    """Notes that tags which may not stand where they do were read all the same."""
    found = [
        f"{word_place(block.place, token)}: {wrong}"
        for block in blocks
        for token, wrong in misplaced_tags(_tags(block), scheme)
    ]
    if not found:
        return ()
    more = f", and {len(found) - 1:,} more such tags" if len(found) > 1 else ""
    return (f"{found[0]}{more}; read as conlleval does",)
