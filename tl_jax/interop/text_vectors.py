"""Word vectors as text: word2vec's format with its header, and GloVe's without."""

import contextlib
import gzip
import io
import itertools
import statistics
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from tl_jax.files.errors import WeightsError
from tl_jax.interop.vector_rows import (
    BLOCK,
    BROKEN_GZIP,
    GATHER,
    NUMBER,
    Pick,
    announced_sizes,
    broken_gzip,
    is_gzip,
    unmarked,
)

_PASSED_OVER = (b"  ", b"\t", b"\r", b"\v", b"\f", b"\0")  # by numpy, between numbers
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_MAX_LINE = 1 << 18  # bytes; room for 20,000 numbers


def read_text(
    pick: Pick, stream: gzip.GzipFile | io.BufferedReader, *, headed: bool
) -> Float32[np.ndarray, "V D"]:
    """Reads the rows to keep of a text file; ``headed`` says that `V D` comes first."""
    lines = _lines(pick.path, stream)
    count = None
    if headed:
        count, width = announced_sizes(pick, next(lines, (1, b""))[1])
        size = pick.path.stat().st_size
        deflate = 1032 if is_gzip(pick.path) else 1  # its best ratio
        if 2 * width > _MAX_LINE or 2 * width * count > size * deflate:
            raise pick.error(f"no room for {count} rows of {width} numbers", "line 1")
    else:
        # No line says the width, and a word may have spaces: the commonest run wins.
        head = list(itertools.islice(lines, 100))
        runs = [_trailing_numbers(line) for _, line in head if line]
        width = max(statistics.multimode(runs), default=0)
        if width < 1:
            raise pick.error("no word with numbers behind it", "line 1")
        lines = itertools.chain(head, lines)
    vectors, filled = np.empty((0, width), np.float32), 0
    for block in _text_blocks(pick, lines, width, count):
        if filled + len(block) > len(vectors):
            rows = filled + filled // 4 + len(block)
            vectors.resize((rows, width), refcheck=False)
        vectors[filled : filled + len(block)] = block
        filled += len(block)
    vectors.resize((filled, width), refcheck=False)
    return vectors


def _trailing_numbers(line: bytes) -> int:
    fields = reversed(line.split(b" ")[1:])
    return sum(1 for _ in itertools.takewhile(NUMBER.fullmatch, fields))


def _text_blocks(
    pick: Pick, lines: Iterator[tuple[int, bytes]], width: int, count: int | None
) -> Iterator[Float32[np.ndarray, "V D"]]:
    """Yields the kept rows some at a time, and checks their number at the end."""
    kept: list[tuple[int, bytes]] = []
    read = blank = 0
    size = max(1, min(BLOCK, GATHER // width))
    for number, line in lines:
        if read == pick.limit:
            break
        if not line:
            blank = blank or number
            continue
        if blank or read == count:
            what = "an empty line" if blank else f"more than the header's {count} rows"
            raise pick.error(what, f"line {blank or number}")
        word, numbers = _split(pick, line, width, number)
        read += 1
        if pick.wants(pick.decode(word, f"line {number}"), f"line {number}"):
            kept.append((number, numbers))
        if len(kept) == size:
            yield _numbers(pick, kept, width)
            kept = []
    if kept:
        yield _numbers(pick, kept, width)
    if count is not None and read < pick.rows(count):
        raise pick.error(f"the header announces {count} rows, there are {read}")


def _split(pick: Pick, line: bytes, width: int, number: int) -> tuple[bytes, bytes]:
    """Splits a line into word and numbers, from the right: words may hold spaces."""
    spaces = line.count(b" ")
    if spaces == width:
        word, _, numbers = line.partition(b" ")
        return word, numbers
    if spaces > width:
        word = line.rsplit(b" ", width)[0]
        _, space, last = word.rstrip(b" ").rpartition(b" ")
        if not (space and NUMBER.fullmatch(last)):
            return word, line[len(word) + 1 :]
        if word.endswith(b" "):
            raise pick.error("more than one space between numbers", f"line {number}")
    what = f"{spaces} fields behind the word, where {width} numbers are due"
    raise pick.error(what, f"line {number}")


def _numbers(
    pick: Pick, rows: list[tuple[int, bytes]], width: int
) -> Float32[np.ndarray, "V D"]:
    """Reads all rows' numbers at once; only if that fails, one by one for the line."""
    text = b" ".join(numbers for _, numbers in rows)
    with contextlib.suppress(ValueError), np.errstate(all="ignore"):
        if not any(odd in text for odd in _PASSED_OVER):
            values = np.fromstring(text, np.float32, sep=" ")
            if values.size == len(rows) * width and np.isfinite(values).all():
                return values.reshape(len(rows), width)
    for number, numbers in rows:
        for field in numbers.split(b" "):
            if not NUMBER.fullmatch(field):
                raise pick.error(f"{field[:40]!r} is no number", f"line {number}")
            if not abs(float(field)) <= _FLOAT32_MAX:
                what = f"{field[:40]!r} is not finite in float32"
                raise pick.error(what, f"line {number}")
    raise pick.error("unreadable numbers", f"lines {rows[0][0]} to {rows[-1][0]}")


def _lines(
    path: Path, stream: gzip.GzipFile | io.BufferedReader
) -> Iterator[tuple[int, bytes]]:
    """Yields numbered lines without the space and line break at their end."""
    number = 0
    try:
        for number in itertools.count(1):
            line = stream.readline(_MAX_LINE + 1)
            if not line:
                return
            if len(line) > _MAX_LINE:
                what = f"longer than {_MAX_LINE} bytes; not a vector"
                raise WeightsError(f"{path}, line {number}: {what}.")
            yield number, (line if number > 1 else unmarked(line)).rstrip(b" \r\n")
    except BROKEN_GZIP as problem:
        raise broken_gzip(path, f"line {number}") from problem
