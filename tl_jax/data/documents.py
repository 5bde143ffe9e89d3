"""Raw text → documents of sentences, one pass, a line at a time."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tl_jax.data.table import Problems, bad_characters
from tl_jax.data.tfds import PREFIX, tfds_texts
from tl_jax.files.errors import DataError, did_you_mean

_LONGEST = 1 << 26  # bytes of a line; a longer one is not text, and would not fit
# What ends a sentence, with the quotes and brackets that close behind it.
_END = re.compile(r"""[.!?…。！？]["'”’»)\]]*(?=\s)""")


class Document(NamedTuple):
    """A document of raw text.

    Attributes:
      segments: Its sentences, in order; none is blank.
      connected: They were written to be read one after the other. A line of a file of
        unrelated lines is a document that is not.
    """

    segments: list[str]
    connected: bool = True


def read_documents(
    files: Sequence[str], lines: Sequence[str] = (), *, on_bad: str = "raise"
) -> Iterator[Document]:
    """Yields the documents of text files; in memory there is one document at a time.

    Args:
      files: Blank lines stand between documents; a file's end ends one, too. Or
        ``tfds:NAME/CONFIG[:SPLIT]``, whose every example is one (`tfds_texts`).
      lines: Files of lines that have nothing to do with one another, and likewise.
      on_bad: What becomes of lines that are not UTF-8 or hold a NUL: ``raise``, once
        all files are read, or ``skip`` (at most 100).

    Raises:
      DataError: Files are missing, lines are bad, or there is no text; files and lines
        are named.
    """
    _check(files, lines)
    problems = Problems(on_bad)
    found = False
    for name in files:
        for document in _connected(name, problems):
            found = True
            yield document
    for name in lines:
        for line in _unrelated(name, problems):
            if segments := _sentences_of_lines(line):
                found = True
                yield Document(segments, connected=False)
    problems.finish()
    if not found:
        raise DataError(f"{', '.join((*files, *lines))}: no text, only blank lines.")


def sentences(text: str) -> list[str]:
    """Cuts a line after every ``.``, ``!``, ``?``, ``…`` that white space follows.

    Marks of closing belong to the sentence before them. An abbreviation ends one too
    early, which harms nobody here: sentences are where BERT's segments may end.
    """
    ends = [match.end() for match in _END.finditer(text)]
    bounds = zip([0, *ends], [*ends, len(text)], strict=True)
    return [part for a, b in bounds if (part := text[a:b].strip())]


def _sentences_of_lines(text: str) -> list[str]:
    return [sentence for line in text.splitlines() for sentence in sentences(line)]


def _unrelated(name: str, problems: Problems) -> Iterator[str]:
    """Yields the lines of a file, or the texts of a data set."""
    if name.startswith(PREFIX):
        return tfds_texts(name, problems)
    return _lines(Path(name), problems)


def _connected(name: str, problems: Problems) -> Iterator[Document]:
    if name.startswith(PREFIX):
        texts = map(_sentences_of_lines, tfds_texts(name, problems))
        return (Document(segments) for segments in texts if segments)
    return _documents(Path(name), problems)


def _documents(path: Path, problems: Problems) -> Iterator[Document]:
    segments: list[str] = []
    for line in _lines(path, problems):
        if line:
            segments += sentences(line)
        elif segments:
            yield Document(segments)
            segments = []
    if segments:
        yield Document(segments)


def _lines(path: Path, problems: Problems) -> Iterator[str]:
    """Yields the stripped lines, blank ones too; bad ones are noted and left out."""
    with open(path, "rb") as stream:
        number = 0
        while raw := stream.readline(_LONGEST):
            number += 1
            if len(raw) == _LONGEST:
                raise DataError(
                    f"{path}:{number}: a line of over {_LONGEST >> 20} MB. Put line "
                    "ends between its paragraphs."
                )
            line = raw.decode("utf-8", "surrogateescape")
            if number == 1:
                line = line.removeprefix("\ufeff")
            wrong = bad_characters([line])
            if wrong is None:
                yield line.strip()
            else:
                problems.add(f"{path}:{number}", wrong)


def _check(files: Sequence[str], lines: Sequence[str]) -> None:
    problems = []
    for name in (*files, *lines):
        path = Path(name)
        if name.startswith(PREFIX):
            continue  # looked for when it is opened
        if path.is_dir():
            problems.append(f"{path}: is a folder; name the files in it.")
        elif not path.is_file():
            there = path.parent.iterdir() if path.parent.is_dir() else ()
            near = did_you_mean(path.name, (other.name for other in there))
            problems.append(f"{path}: there is no such file.{near}")
    if problems:
        raise DataError("\n".join(problems))
