"""Raw text as documents of sentences."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tl_jax.data.documents import Document, read_documents, sentences
from tl_jax.files.errors import DataError


def write(file: Path, data: bytes) -> str:
    file.write_bytes(data)
    return str(file)


def test_blank_lines_and_file_ends_part_documents(tmp_path: Path) -> None:
    one = write(
        tmp_path / "one.txt",
        "\ufeff\n \nA b. C d!\r\nE f\r\n\t\n\n한글다. Yes.".encode(),
    )
    two = write(tmp_path / "two.txt", b"G.\n\n")
    lines = write(tmp_path / "lines.txt", b"H. I.\n\nJ\n")
    assert list(read_documents([one, two], [lines])) == [
        Document(["A b.", "C d!", "E f"], True),
        Document(["한글다.", "Yes."], True),
        Document(["G."], True),
        Document(["H.", "I."], False),
        Document(["J"], False),
    ]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ('He said "no." Then he left.', ['He said "no."', "Then he left."]),
        ("What?! (Yes.) End", ["What?!", "(Yes.)", "End"]),
        ("A price of 3.50 or 1.2.3 holds", ["A price of 3.50 or 1.2.3 holds"]),
        ("그는 갔다. 나는 있다…  끝", ["그는 갔다.", "나는 있다…", "끝"]),
        ("...", ["..."]),
    ],
)
def test_sentences_end_where_a_mark_is_followed_by_a_blank(
    text: str, parts: list[str]
) -> None:
    assert sentences(text) == parts


@given(st.text())
def test_sentences_lose_nothing_but_blanks(text: str) -> None:
    assert "".join("".join(sentences(text)).split()) == "".join(text.split())
    assert all(part == part.strip() != "" for part in sentences(text))


def test_bad_lines_are_told_at_once_with_their_places(tmp_path: Path) -> None:
    file = write(tmp_path / "bad.txt", b"fine\n\xff\xfe bad\n\nnul \0 here\nfine\n")
    with pytest.raises(DataError) as caught:
        list(read_documents([file]))
    told = str(caught.value)
    assert "bad.txt:2: byte 0xff is not UTF-8" in told
    assert "bad.txt:4: holds a NUL byte" in told
    skipped = list(read_documents([file], on_bad="skip"))
    assert skipped == [Document(["fine"]), Document(["fine"])]


def test_missing_files_are_all_told_before_anything_is_read(tmp_path: Path) -> None:
    there = write(tmp_path / "there.txt", b"text\n")
    with pytest.raises(DataError) as caught:
        next(read_documents([there, str(tmp_path / "ther.txt")], [str(tmp_path)]))
    assert "Did you mean 'there.txt'" in str(caught.value)
    assert "is a folder" in str(caught.value)


def test_text_without_text_is_an_error(tmp_path: Path) -> None:
    file = write(tmp_path / "empty.txt", b"\n \n\n")
    with pytest.raises(DataError, match=r"empty\.txt: no text"):
        list(read_documents([file]))


def test_the_documents_of_real_text(shared: Path) -> None:
    """Counts of an independent reading: runs of lines that are not blank."""
    file = shared / "lm" / "en" / "wikitext2_valid.txt"
    blocks = [b for b in file.read_text(encoding="utf-8").split("\n\n") if b.strip()]
    documents = list(read_documents([str(file)]))
    assert len(documents) == len(blocks) > 50
    assert all(len(d.segments) > 1 for d in documents)
