"""What the readers of word vectors share: which rows to keep, and what to refuse."""

import codecs
import dataclasses
import gzip
import re
import warnings
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from tl_jax.files.errors import WeightsError

HEADER = re.compile(rb" *(\d{1,18})[ \t]+(\d{1,18})[ \t\r]*")
NUMBER = re.compile(rb"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?(nan|inf)", re.I)
MAX_WORD = 10_000  # bytes
BLOCK = 1024  # rows that are read or checked at once
GATHER = 1 << 21  # floats of them in memory at once
CONVERT = (
    "It is not opened, because reading it can run code. Where you trust it, load it "
    "with the library that wrote it and save it as text (gensim: "
    "`vectors.save_word2vec_format(FILE)`)."
)
BROKEN_GZIP = (EOFError, zlib.error, gzip.BadGzipFile)


@dataclasses.dataclass
class Pick:
    """Which rows to keep, and the words kept so far."""

    path: Path
    encoding: str
    only: frozenset[str] | None
    limit: int | None
    words: list[str] = dataclasses.field(default_factory=list)
    seen: set[str] = dataclasses.field(default_factory=set)
    repeated: int = 0

    def decode(self, raw: bytes, where: str) -> str:
        """Reads a word in the file's encoding."""
        try:
            return raw.decode(self.encoding)
        except UnicodeDecodeError as problem:
            raise self.error(
                f"a word is not {self.encoding} ({raw[:40]!r}). Convert the file, as "
                "by `iconv -f latin1 -t utf-8`, or in code pass its own encoding, as "
                'encoding="latin-1"',
                where,
            ) from problem

    def wants(self, word: str, where: str) -> bool:
        """Says whether to keep the row of a word, and if so keeps the word."""
        if self.only is not None and word not in self.only:
            return False
        if word in self.seen:
            self.repeated += 1
            # So that a small archive of one row a billion times is not read through.
            if self.repeated > 1000 + len(self.seen):
                raise self.error("most words are repeated; not word vectors", where)
            return False
        self.seen.add(word)
        self.words.append(word)
        return True

    def rows(self, count: int) -> int:
        """How many of ``count`` rows are to be read."""
        return count if self.limit is None else min(count, self.limit)

    def error(self, what: str, where: str = "") -> WeightsError:
        """Makes the error that names the file and the place in it."""
        return WeightsError(f"{self.path}{where and f', {where}'}: {what}.")

    def require_finite(self, vectors: Float32[np.ndarray, "V D"]) -> None:
        """Raises if the vector of a kept word is not."""
        for start in range(0, len(vectors), BLOCK):
            fine = np.isfinite(vectors[start : start + BLOCK]).all(axis=1)
            if not fine.all():
                row = start + int(np.argmin(fine))
                raise self.error(
                    f"the vector of {self.words[row]!r} is NaN or infinite"
                )

    def warn(self) -> None:
        """Tells of repeated words."""
        if self.repeated:
            warnings.warn(
                f"{self.path}: {self.repeated} rows repeat a word; the first is kept",
                stacklevel=3,
            )


def announced_sizes(pick: Pick, line: bytes) -> tuple[int, int]:
    """Reads word2vec's first line, ``V D``."""
    match = HEADER.fullmatch(line)
    if match is None:
        raise pick.error(f"no header `V D` but {line[:40]!r}; is it glove?", "line 1")
    count, width = int(match[1]), int(match[2])
    if count < 1 or width < 1:
        raise pick.error("the header announces no vectors", "line 1")
    return count, width


def unmarked(start: bytes) -> bytes:
    """A file's first bytes without UTF-8's byte order mark."""
    return start.removeprefix(codecs.BOM_UTF8)


def is_gzip(path: Path) -> bool:
    """True if the file's first bytes are gzip's."""
    with open(path, "rb") as stream:
        return stream.read(2) == b"\x1f\x8b"


def broken_gzip(path: Path, where: str) -> WeightsError:
    """Makes the error for a damaged archive."""
    what = "the gzip file is cut short or damaged; fetch it again"
    return WeightsError(f"{path}, {where}: {what}.")
