"""Bad data, reader by reader: told with file and line, or left out and counted."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tl_jax.data.conll import read_tagged
from tl_jax.data.corpus import read_corpus
from tl_jax.data.documents import read_documents
from tl_jax.data.propbank import read_propositions
from tl_jax.data.raw import read_asked, read_marked, read_sentences
from tl_jax.data.readers import read_labelled
from tl_jax.data.squad import read_questions
from tl_jax.files.errors import DataError, TlJaxError, WeightsError
from tl_jax.interop.word_vectors import read_word_vectors
from tl_jax.runs.features import features
from tl_jax.tasks.classification import row_labels
from tl_jax.tasks.regression import row_values
from tl_jax.tasks.word_tags import tag_ids


class Reader(NamedTuple):
    """A reader, and a file that it reads; ``@`` is a row's number, ``~`` its text.

    Attributes:
      name: The file's.
      read: Reads a file with ``on_bad``.
      row: A good row, of one line or with the blank one behind it.
      head: What stands before the rows.
      tail: What stands behind them: a row more.
    """

    name: str
    read: Callable[[str, str], Any]
    row: str
    head: str = ""
    tail: str = ""


def documents(file: str, on_bad: str) -> list[Any]:
    return list(read_documents([file], on_bad=on_bad))


def unrelated(file: str, on_bad: str) -> list[Any]:
    return list(read_documents([], [file], on_bad=on_bad))


def labelled(file: str, on_bad: str) -> Any:
    return read_labelled(file, on_bad=on_bad)


def tagged(file: str, on_bad: str) -> Any:
    return read_tagged(file, on_bad=on_bad)


QA = '{"id": "@", "question": "~", "answers": [{"text": "a", "answer_start": 0}]}'
READERS = {
    "tsv": Reader("a.tsv", labelled, "~\t1\n", "text\tlabel\n"),
    "csv": Reader("a.csv", labelled, "~,1\n", "text,label\n"),
    "jsonl": Reader("a.jsonl", labelled, '{"text": "~", "label": 1}\n'),
    "json": Reader(
        "a.json",
        labelled,
        '{"text": "~", "label": 1},\n',
        "[\n",
        '{"text": "a", "label": 1}]',
    ),
    "txt": Reader("a.txt", labelled, "~\n"),
    "squad": Reader(
        "a.json",
        lambda file, on_bad: read_questions(file, on_bad=on_bad),
        f"{QA},\n",
        '{"data": [{"title": "t", "paragraphs": [{"context": "a b", "qas": [',
        f"{QA.replace('@', 'last')}]}}]}}]}}",
    ),
    "tag": Reader("a.conll", tagged, "~\tO\n\n"),
    "tag by blanks": Reader("a.txt", tagged, "~ X O\n\n"),
    "klue-ner": Reader("a.tsv", tagged, "~\tB-A\n \tI-A\n\n"),
    "srl": Reader(
        "a.conll",
        lambda file, on_bad: read_propositions(file, on_bad=on_bad),
        "0\t~\tX\ta\ta.01\t(V*)\n\n",
    ),
    "raw sentences": Reader(
        "a.txt",
        lambda file, on_bad: read_sentences(file, characters=False, on_bad=on_bad),
        "~\n",
    ),
    "raw questions": Reader(
        "a.jsonl",
        lambda file, on_bad: read_asked(file, on_bad=on_bad),
        '{"question": "a?", "context": "~"}\n',
    ),
    "raw predicates": Reader(
        "a.jsonl",
        lambda file, on_bad: read_marked(file, on_bad=on_bad),
        '{"text": "~", "predicates": [0]}\n',
    ),
    "documents": Reader("a.txt", documents, "~\n\n"),
    "unrelated lines": Reader("a.txt", unrelated, "~\n"),
}
BYTE, NUL = "byte 0xff is not UTF-8", "holds a NUL byte"
FAULTS: list[tuple[str, bytes, str]] = [
    ("tsv", b"\xff\t1\n", BYTE),
    ("tsv", b"\0\t1\n", NUL),
    ("tsv", b"a\tb\t1\n", "3 columns, where the header has 2"),
    ("tsv", b"a\t \n", "no value in label"),
    ("csv", b"\xff,1\n", BYTE),
    ("csv", b"\0,1\n", NUL),
    ("csv", b"a\n", "1 columns, where the header has 2"),
    ("csv", b'"a"b,1\n', "a quote is not closed, or stands inside a field"),
    ("jsonl", b'{"text": "\xff", "label": 1}\n', BYTE),
    ("jsonl", b'{"text": "\\u0000", "label": 1}\n', NUL),
    ("jsonl", b'{"text": "a"\n', "broken JSON at column 13"),
    ("jsonl", b'{"text": "a"}\n', "no value in label"),
    ("json", b'{"text": "\xff", "label": 1},\n', BYTE),
    ("json", b'{"text": "\\u0000", "label": 1},\n', NUL),
    ("json", b'["a", 1],\n', "an object {…} is needed, not list"),
    ("txt", b"\xff\n", BYTE),
    ("txt", b"\0\n", NUL),
    ("squad", QA.replace("~", "\0").encode() + b",\n", "broken JSON"),
    ("squad", QA.replace("~", "\\u0000").encode() + b",\n", NUL),
    ("squad", QA.encode().replace(b"~", b"\xff") + b",\n", BYTE),
    (
        "squad",
        QA.replace(": 0", ": 1").encode() + b",\n",
        "answer 'a' is not at character 1, where ' ' stands; it occurs at 0",
    ),
    (
        "squad",
        QA.replace('"text": "a"', '"text": "c"').encode() + b",\n",
        "nor does it occur elsewhere in the paragraph",
    ),
    ("squad", QA.replace("answers", "answer").encode() + b",\n", "there is no answers"),
    ("tag", b"\xff\tO\n\n", BYTE),
    ("tag", b"\0\tO\n\n", NUL),
    ("tag", b"a\n\n", "1 columns, where the file has 2"),
    ("tag", b"a\tPER\n\n", "'PER' is no tag"),
    ("tag by blanks", b"a O\n\n", "2 columns, where the file has 3"),
    ("tag by blanks", b"\xff X O\n\n", BYTE),
    ("klue-ner", "가\tA\n\n".encode(), "'A' is no tag"),
    ("klue-ner", b"\xff\tO\n\n", BYTE),
    ("klue-ner", "가 O\n\n".encode(), "1 columns, where the file has 2"),
    ("srl", b"0\t\xff\tX\ta\ta.01\t(V*)\n\n", BYTE),
    ("srl", b"0\t\0\tX\ta\ta.01\t(V*)\n\n", NUL),
    ("srl", b"0\ta\tX\ta\n\n", "4 columns; due are index, word"),
    ("srl", b"0\ta\tX\ta\ta.01\t(V*\n\n", "column 6: (V* is not closed"),
    ("srl", b"0\ta\tX\ta\ta.01\t(A0*)\n\n", "0 predicates (V*, where one is due"),
    ("raw sentences", b"\xff\n", BYTE),
    ("raw sentences", b"\0\n", NUL),
    ("raw questions", b'{"question": "\xff", "context": "a"}\n', BYTE),
    ("raw questions", b'{"question": "a?"}\n', "a question and a context are needed"),
    ("raw predicates", b'{"text": "a", "predicates": [1]}\n', "none of its 1 words"),
    ("raw predicates", b'{"text": "\xff", "predicates": [0]}\n', BYTE),
    ("documents", b"\xff\n\n", BYTE),
    ("documents", b"\0\n\n", NUL),
    ("unrelated lines", b"\xff\n", BYTE),
    ("unrelated lines", b"\0\n", NUL),
]


def file_of(folder: Path, reader: Reader, *rows: bytes) -> str:
    """Writes rows between head and tail, each with its number and a text."""
    numbered = [row.replace(b"@", b"%d" % n) for n, row in enumerate(rows)]
    content = b"".join([reader.head.encode(), *numbered, reader.tail.encode()])
    (folder / reader.name).write_bytes(content.replace(b"~", b"a"))
    return str(folder / reader.name)


@pytest.mark.parametrize(("kind", "bad", "told"), FAULTS)
def test_bad_rows_are_told_in_their_place_or_counted(
    kind: str, bad: bytes, told: str, tmp_path: Path
) -> None:
    reader = READERS[kind]
    good = reader.row.encode()
    file = file_of(tmp_path, reader, good, bad, good)
    with pytest.raises(DataError) as caught:
        reader.read(file, "raise")
    line = (reader.head + reader.row).count("\n") + 1
    place = f"{file}:{line}: "
    if kind == "squad" and told != "broken JSON":
        place = f"{file}: question 1: "
    assert place in str(caught.value) and told in str(caught.value)
    if told == "broken JSON":
        return  # nothing of such a file can be used
    rows = reader.read(file, "skip")
    assert len(rows) == 2 + bool(reader.tail)
    assert getattr(rows, "skipped", 1) == 1
    many = file_of(tmp_path, reader, *[good] * 150, *[bad] * 101)
    with pytest.raises(DataError, match="More than 100 bad rows"):
        reader.read(many, "skip")


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xef\xbb\xbf"])
def test_files_without_data_are_told(kind: str, content: bytes, tmp_path: Path) -> None:
    reader = READERS[kind]
    file = tmp_path / reader.name
    file.write_bytes(content)
    for on_bad in ("raise", "skip"):
        with pytest.raises(DataError) as caught:
            reader.read(str(file), on_bad)
        assert str(file) in str(caught.value)


@pytest.mark.parametrize("kind", READERS)
def test_a_line_of_ten_megabytes_is_read(kind: str, tmp_path: Path) -> None:
    reader = READERS[kind]
    row = reader.row.encode()
    rows = row, row.replace(b"~", b"b" * 10_000_000)
    found = reader.read(file_of(tmp_path, reader, *rows), "raise")
    assert len(found) == 2 + bool(reader.tail)


def test_labels_that_are_unknown_are_told_in_their_place(tmp_path: Path) -> None:
    table = tmp_path / "a.tsv"
    table.write_text("text\tlabel\na\tgood\nb\tgod\n")
    rows = read_labelled(table)
    with pytest.raises(DataError, match=r"a\.tsv:3: 'god' Did you mean 'good'"):
        row_labels(rows, ["bad", "good"])
    with pytest.raises(DataError, match=r"a\.tsv:2: 'good' is no number"):
        row_values(rows)
    columns = tmp_path / "a.conll"
    columns.write_text("a\tO\n\nb\tO\nc\tB-PER\n")
    with pytest.raises(DataError, match=r"a\.conll:4: 'B-PER'"):
        tag_ids(read_tagged(columns), ["O", "B-LOC", "I-LOC"])
    roles = tmp_path / "roles.conll"
    roles.write_text("0\ta\tX\ta\ta.01\t(V*)\n1\tb\tX\t-\t-\t(ARG7*)\n")
    with pytest.raises(DataError, match=r"roles\.conll:2: 'B-ARG7'"):
        tag_ids(read_propositions(roles), ["O", "B-V", "I-V"])


# What reads text without leaving anything out.
TEXTS: list[tuple[str, str, bytes, str]] = [
    ("corpus", "a.txt", b"a b a b\n\xff\n", f":2: {BYTE}"),
    ("corpus", "a.txt", b"a b a b\n\0\n", f":2: {NUL}"),
    ("corpus", "a.txt", b"", "two at least are needed"),
    ("features", "a.txt", b"film\n\xff\n", f":2: {BYTE}"),
    ("features", "a.txt", b"film\n\0\n", f":2: {NUL}"),
    ("features", "a.txt", b"", "the file is empty"),
    ("features", "a.jsonl", b'{"text": "film"}\n{"text": "\xff"}\n', f":2: {BYTE}"),
    (
        "features",
        "a.jsonl",
        b'{"text": "film"}\n{"text": "\\ud800"}\n',
        ":2: holds half",
    ),
    (
        "features",
        "a.jsonl",
        b'{"text": "film"}\n{"tokens": ["\\u0000"]}\n',
        f":2: {NUL}",
    ),
    ("features", "a.jsonl", b'{"text": "film"}\n{"text"\n', ":2: no JSON"),
    ("features", "a.jsonl", b'{"text": "film"}\n{"txt": "a"}\n', ":2: needs an object"),
    ("features", "a.jsonl", b'{"text": "film"}\n' + b"[" * 100_000, ":2: no JSON"),
    ("vectors", "a.vec", b"a 1 2\n\xff 1 2\n", ", line 2: "),
    ("vectors", "a.vec", b"a 1 2\nb 1\n", ", line 2: 1 fields"),
    ("vectors", "a.vec", b"a 1 2\nb 1 \0\n", ", line 2: "),
    ("vectors", "a.vec", b"", "empty"),
]


@pytest.mark.parametrize(("kind", "name", "content", "told"), TEXTS)
def test_bad_text_is_told_in_its_place(
    kind: str, name: str, content: bytes, told: str, tiny: Path, tmp_path: Path
) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(TlJaxError) as caught:
        if kind == "corpus":
            read_corpus([file], min_count=1)
        elif kind == "features":
            features(str(tiny / "bert"), file, tmp_path / "out.npz", max_length=32)
        else:
            read_word_vectors(file)
    assert isinstance(caught.value, DataError | WeightsError)
    assert told in str(caught.value)
    assert (kind == "corpus" and not content) or str(file) in str(caught.value)
