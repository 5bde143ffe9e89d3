"""Word vectors in the formats of word2vec, GloVe and fastText, read and written.

===================  ==================================================================
``word2vec-text``    a line ``V D``, then ``word x1 … xD`` a line; fastText's ``.vec``
``glove``            the same without the first line; a word may hold spaces
``word2vec-binary``  a line ``V D``, then ``word``, a space, D little-endian float32
``fasttext-binary``  fastText's native ``.bin`` of Bojanowski et al. 2017, not quantised
``npy``              a folder with one ``.npy`` [V, D] and one ``.parquet`` of V words
===================  ==================================================================

The first three may be told apart from their first bytes; text may be gzipped. Nothing
that can hold code (pickles, object arrays) is opened, and no size that a header
claims is believed before it is compared with the file's.
"""

import codecs
import contextlib
import dataclasses
import gzip
import io
import itertools
import mmap
import re
import statistics
import struct
import warnings
import zlib
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64, UInt32

from tl_jax.files.atomic import writing
from tl_jax.files.errors import ConfigError, WeightsError, did_you_mean

KINDS = ("word2vec-text", "word2vec-binary", "glove", "fasttext-binary", "npy")
_FASTTEXT = struct.pack("<i", 793712314)
_HEADER = re.compile(rb" *(\d{1,18})[ \t]+(\d{1,18})[ \t\r]*")
_NUMBER = re.compile(rb"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?(nan|inf)", re.I)
_PASSED_OVER = (b"  ", b"\t", b"\r", b"\v", b"\f", b"\0")  # by numpy, between numbers
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1f]")
_BROKEN_GZIP = (EOFError, zlib.error, gzip.BadGzipFile)
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_MAX_LINE = 1 << 18  # bytes; room for 20,000 numbers
_MAX_WORD = 10_000  # bytes
_BLOCK = 1024  # rows whose numbers are read at once
_GATHER = 1 << 21  # floats of n-gram rows in memory at once
_CONVERT = (
    "It is not opened, because reading it can run code. Where you trust it, load it "
    "with the library that wrote it and save it as text (gensim: "
    "`vectors.save_word2vec_format(FILE)`)."
)


@dataclasses.dataclass(frozen=True, eq=False)
class WordVectorTable:
    """Words and their vectors, row by row.

    Attributes:
      words: Distinct words, in the file's order.
      vectors: The vector of each, finite.
    """

    words: tuple[str, ...]
    vectors: Float32[np.ndarray, "V D"]

    def index(self) -> dict[str, int]:
        """Returns the row of each word."""
        return {word: row for row, word in enumerate(self.words)}


def read_word_vectors(
    path: Path,
    *,
    kind: str | None = None,
    encoding: str = "utf-8",
    only: Collection[str] | None = None,
    limit: int | None = None,
) -> WordVectorTable:
    """Reads a table of word vectors.

    Args:
      path: A file, or the folder of ``npy``.
      kind: One of :data:`KINDS`; recognised from the file if not given.
      encoding: How the file spells its words; any superset of ASCII.
      only: Keep just these words (those that are there); the other vectors are never
        held in memory, and a text file's other rows are only counted, not read.
      limit: Read only the file's first so many rows.

    Raises:
      WeightsError: The file is not what it says or is named as; where is said.
      ConfigError: There is no such kind or encoding.

    Warns:
      UserWarning: Words come more than once; the first vector of each is kept.
    """
    _check_encoding(encoding)
    if kind is not None and kind not in KINDS:
        known = ", ".join(KINDS) + "." + did_you_mean(kind, KINDS)
        raise ConfigError(f"{kind!r} is no kind of word vectors; there are {known}")
    if not path.exists():
        raise WeightsError(f"{path}: there is no such file; check the path.")
    kind = kind or _recognise(path)
    pick = _Pick(path, encoding, None if only is None else frozenset(only), limit)
    with contextlib.ExitStack() as stack:
        if kind == "npy":
            vectors = _read_npy(pick)
        elif kind in ("word2vec-text", "glove"):
            lines = _lines(path, stack.enter_context(_open(path)))
            vectors = _read_text(pick, lines, headed=kind == "word2vec-text")
        else:
            _refuse_unreadable(path)
            stream = stack.enter_context(open(path, "rb"))
            data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
            binary = kind == "word2vec-binary"
            vectors = (_read_binary if binary else _read_fasttext)(pick, data)
    pick.warn()
    return WordVectorTable(tuple(pick.words), vectors)


def write_word2vec_text(
    path: Path, table: WordVectorTable, *, encoding: str = "utf-8"
) -> None:
    """Writes word2vec's text format; reading it gives the same float32 bits.

    Raises:
      WeightsError: A word holds white space, which the format cannot say.
    """
    head = f"{len(table.words)} {table.vectors.shape[1]}\n".encode()
    _write(path, head, _text_rows(_spelled(path, table, encoding, rb"[ \n]"), table))


def write_glove_text(
    path: Path, table: WordVectorTable, *, encoding: str = "utf-8"
) -> None:
    """Writes GloVe's text format; reading it gives the same float32 bits.

    Raises:
      WeightsError: A word holds a line break, or ends with a space and a number.
    """
    bar = rb"(?i)\n| (%b)\Z" % _NUMBER.pattern
    _write(path, b"", _text_rows(_spelled(path, table, encoding, bar), table))


def write_word2vec_binary(
    path: Path, table: WordVectorTable, *, encoding: str = "utf-8"
) -> None:
    """Writes word2vec's binary format, each row ended by a line break as word2vec does.

    Raises:
      WeightsError: A word holds white space, which the format cannot say.
    """
    head = f"{len(table.words)} {table.vectors.shape[1]}\n".encode()
    words = _spelled(path, table, encoding, rb"[ \n]")
    rows = zip(words, table.vectors.astype("<f4", copy=False), strict=True)
    _write(path, head, (word + b" " + row.tobytes() + b"\n" for word, row in rows))


@dataclasses.dataclass
class _Pick:
    """Which rows to keep, and the words kept so far."""

    path: Path
    encoding: str
    only: frozenset[str] | None
    limit: int | None
    words: list[str] = dataclasses.field(default_factory=list)
    seen: set[str] = dataclasses.field(default_factory=set)
    repeated: int = 0

    def decode(self, raw: bytes, where: str) -> str:
        try:
            return raw.decode(self.encoding)
        except UnicodeDecodeError as problem:
            what = f"a word is not {self.encoding} ({raw[:40]!r}); pass the file's own "
            raise self.error(
                what + 'encoding, for instance encoding="latin-1"', where
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
        return WeightsError(f"{self.path}{where and f', {where}'}: {what}.")

    def require_finite(self, vectors: Float32[np.ndarray, "V D"]) -> None:
        for start in range(0, len(vectors), _BLOCK):
            fine = np.isfinite(vectors[start : start + _BLOCK]).all(axis=1)
            if not fine.all():
                row = start + int(np.argmin(fine))
                raise self.error(
                    f"the vector of {self.words[row]!r} is NaN or infinite"
                )

    def warn(self) -> None:
        if self.repeated:
            warnings.warn(
                f"{self.path}: {self.repeated} rows repeat a word; the first is kept",
                stacklevel=3,
            )


def _check_encoding(encoding: str) -> None:
    try:
        fine = codecs.encode(" 1\n", encoding) == b" 1\n"
    except (LookupError, TypeError, ValueError):
        fine = False
    if not fine:
        raise ConfigError(f"{encoding!r} is no encoding that keeps ASCII; try utf-8.")


def _open(path: Path) -> gzip.GzipFile | io.BufferedReader:
    _refuse_unreadable(path)
    return gzip.open(path, "rb") if _is_gzip(path) else open(path, "rb")


def _is_gzip(path: Path) -> bool:
    with open(path, "rb") as stream:
        return stream.read(2) == b"\x1f\x8b"


def _refuse_unreadable(path: Path) -> None:
    """Raises for what is no file of word vectors, by name and first bytes."""
    if path.is_dir():
        raise WeightsError(f"{path}: a folder, where a file is due; name the file.")
    with open(path, "rb") as stream:
        start = stream.read(8)
    pickled = (".pkl", ".pickle", ".pt", ".pth", ".joblib", ".dill")
    if path.suffix.lower() in pickled or re.match(rb"\x80[\x02-\x05]", start):
        raise WeightsError(f"{path}: a pickle. {_CONVERT}")
    hints = {
        b"PK\x03\x04": f"a zip archive; unzip it. If torch wrote it: {_CONVERT}",
        b"\x93NUMPY": "an array without words; name the folder that holds it and one "
        "parquet file of words",
        b"\x89HDF\r\n": "an HDF5 file; export it as word2vec text",
    }
    for magic, hint in hints.items():
        if start.startswith(magic):
            raise WeightsError(f"{path}: {hint}.")
    if path.suffix == ".ftz":
        raise WeightsError(
            f"{path}: a quantised fastText model, whose vectors are only approximate. "
            "Use the .bin or .vec that it was made from."
        )
    if not start:
        raise WeightsError(f"{path}: the file is empty; fetch it again.")


def _recognise(path: Path) -> str:
    if path.is_dir():
        return "npy"
    with _open(path) as stream:
        try:
            start = stream.read(1 << 16)
        except _BROKEN_GZIP as problem:
            raise _broken_gzip(path, "at its start") from problem
    head, _, rest = start.partition(b"\n")
    header = _HEADER.fullmatch(head)
    if start.startswith(_FASTTEXT):
        kind = "fasttext-binary"
    elif header is None:
        return "glove"
    else:
        # Text, unless the first row has bytes that no text has. Its own numbers are
        # asked first: few floats may by chance be without such bytes, or a word not.
        width = int(header[2])
        row = rest.partition(b"\n")[0].rstrip(b" \r").split(b" ")[-width:]
        as_text = len(row) == width and all(map(_NUMBER.fullmatch, row))
        binary = _CONTROL.search(rest[: 4 * width + 100]) or path.suffix == ".bin"
        kind = "word2vec-binary" if binary and not as_text else "word2vec-text"
    if kind != "word2vec-text" and _is_gzip(path):
        raise WeightsError(f"{path}: a gzipped {kind} file; gunzip it first.")
    return kind


def _broken_gzip(path: Path, where: str) -> WeightsError:
    what = "the gzip file is cut short or damaged; fetch it again"
    return WeightsError(f"{path}, {where}: {what}.")


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
            yield number, line.rstrip(b" \r\n")
    except _BROKEN_GZIP as problem:
        raise _broken_gzip(path, f"line {number}") from problem


def _header(pick: _Pick, line: bytes) -> tuple[int, int]:
    match = _HEADER.fullmatch(line)
    if match is None:
        raise pick.error(f"no header `V D` but {line[:40]!r}; is it glove?", "line 1")
    count, width = int(match[1]), int(match[2])
    if count < 1 or width < 1:
        raise pick.error("the header announces no vectors", "line 1")
    return count, width


def _read_text(
    pick: _Pick, lines: Iterator[tuple[int, bytes]], *, headed: bool
) -> Float32[np.ndarray, "V D"]:
    count = None
    if headed:
        count, width = _header(pick, next(lines, (1, b""))[1])
        size = pick.path.stat().st_size
        deflate = 1032 if _is_gzip(pick.path) else 1  # its best ratio
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
    return sum(1 for _ in itertools.takewhile(_NUMBER.fullmatch, fields))


def _text_blocks(
    pick: _Pick, lines: Iterator[tuple[int, bytes]], width: int, count: int | None
) -> Iterator[Float32[np.ndarray, "V D"]]:
    """Yields the kept rows some at a time, and checks their number at the end."""
    kept: list[tuple[int, bytes]] = []
    read = blank = 0
    size = max(1, min(_BLOCK, _GATHER // width))
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


def _split(pick: _Pick, line: bytes, width: int, number: int) -> tuple[bytes, bytes]:
    """Splits a line into word and numbers, from the right: words may hold spaces."""
    spaces = line.count(b" ")
    if spaces == width:
        word, _, numbers = line.partition(b" ")
        return word, numbers
    if spaces > width:
        word = line.rsplit(b" ", width)[0]
        if not _NUMBER.fullmatch(word.rpartition(b" ")[2]):
            return word, line[len(word) + 1 :]
    what = f"{spaces} fields behind the word, where {width} numbers are due"
    raise pick.error(what, f"line {number}")


def _numbers(
    pick: _Pick, rows: list[tuple[int, bytes]], width: int
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
            if not _NUMBER.fullmatch(field):
                raise pick.error(f"{field[:40]!r} is no number", f"line {number}")
            if not abs(float(field)) <= _FLOAT32_MAX:
                what = f"{field[:40]!r} is not finite in float32"
                raise pick.error(what, f"line {number}")
    raise pick.error("unreadable numbers", f"lines {rows[0][0]} to {rows[-1][0]}")


def _read_binary(pick: _Pick, data: mmap.mmap) -> Float32[np.ndarray, "V D"]:
    at = data.find(b"\n", 0, 64) + 1
    count, width = _header(pick, data[: max(at - 1, 0)])
    if count * (4 * width + 1) > len(data) - at:
        what = f"no room for the {count} rows of {width} floats that are announced"
        raise pick.error(f"cut short, or a wrong header: {what}", "header")
    starts: list[int] = []
    for row in range(pick.rows(count)):
        space = data.find(b" ", at, at + _MAX_WORD)
        end = space + 1 + 4 * width
        if space < 0 or end > len(data):
            what = f"no word, space and {width} floats: cut short, or a wrong header"
            raise pick.error(what, f"row {row + 1} of {count}, byte {at}")
        word = pick.decode(data[at:space].lstrip(b"\n"), f"row {row + 1}")
        if pick.wants(word, f"row {row + 1}"):
            starts.append(space + 1)
        at = end
    if pick.rows(count) == count and data[at : at + 2] not in (b"", b"\n"):
        raise pick.error(f"more than the header's {count} rows", f"byte {at}")
    vectors = np.empty((len(starts), width), np.float32)
    for row, start in enumerate(starts):
        vectors[row] = np.frombuffer(data, "<f4", width, start)
    pick.require_finite(vectors)
    return vectors


def _read_fasttext(pick: _Pick, data: mmap.mmap) -> Float32[np.ndarray, "V D"]:
    """Reads ``args``, ``dictionary`` and the input matrix of fastText's own format."""

    def take(form: str, at: int) -> tuple[int, ...]:
        if at + struct.calcsize(form) > len(data):
            raise pick.error("the file is cut short", f"byte {at}")
        return struct.unpack_from(form, data, at)

    magic, version, dim, *_, model, bucket, minn, maxn, _ = take("<14i", 0)
    size, words, labels, _, pruned = take("<3i2q", 64)
    if magic.to_bytes(4, "little", signed=True) != _FASTTEXT or version not in (11, 12):
        raise pick.error("not a fastText model of version 11 or 12", "header")
    if version == 11 and model == 3:
        maxn = 0  # as fastText does: these supervised models had no n-grams
    sane = dim > 0 and words > 0 and labels >= 0 and size == words + labels
    if not sane or bucket < 0 or maxn > 100 or size * 10 > len(data):
        raise pick.error("its sizes contradict each other", "header")
    raw, at = [], 92
    for row in range(size):
        end = data.find(b"\0", at, at + _MAX_WORD)
        if end < 0 or take("<qb", end + 1)[1] != (row >= words):
            raise pick.error("cut short or damaged", f"word {row + 1}, byte {at}")
        raw.append(data[at:end])
        at = end + 10
    quantised, rows, width = take("<B2q", at)
    if quantised or pruned >= 0:
        raise pick.error(
            "a quantised or pruned model; use the .bin or .vec before that"
        )
    after = at + 17 + 4 * rows * width
    if rows != words + bucket or width != dim or after > len(data):
        raise pick.error(f"no matrix of {words + bucket} rows of {dim}", f"byte {at}")
    _, out, hidden = take("<B2q", after)
    if out < 0 or hidden < 0 or after + 17 + 4 * out * hidden != len(data):
        raise pick.error("the output matrix is cut short or too long", f"byte {after}")
    matrix = np.frombuffer(data, "<f4", rows * width, at + 17).reshape(rows, width)
    keep = [
        row
        for row in range(pick.rows(words))
        if pick.wants(pick.decode(raw[row], f"word {row + 1}"), f"word {row + 1}")
    ]
    vectors = matrix[keep].astype(np.float32, copy=False)
    if maxn > 0 and bucket > 0:
        _add_subwords(vectors, [raw[row] for row in keep], matrix[words:], minn, maxn)
    pick.require_finite(vectors)
    return vectors


def _add_subwords(
    vectors: Float32[np.ndarray, "V D"],
    words: list[bytes],
    buckets: Float32[np.ndarray, "buckets D"],
    minn: int,
    maxn: int,
) -> None:
    """Makes each row the mean of the word's own vector and its n-grams', in place."""
    piece = max(1, _GATHER // vectors.shape[1])
    ends = np.cumsum([len(word) + 2 for word in words]) // 4096
    for block in np.split(np.arange(len(words)), np.flatnonzero(np.diff(ends)) + 1):
        if not len(block):
            continue
        total, count = vectors[block].astype(np.float64), np.ones(len(block))
        for owners, hashes in _ngrams([words[row] for row in block], minn, maxn):
            count += np.bincount(owners, minlength=len(block))
            for start in range(0, len(owners), piece):
                part = slice(start, start + piece)
                which, first = np.unique(owners[part], return_index=True)
                rows = buckets[hashes[part] % len(buckets)].astype(np.float64)
                total[which] += np.add.reduceat(rows, first, axis=0)
        vectors[block] = total / count[:, None]


def _ngrams(
    words: list[bytes], minn: int, maxn: int
) -> Iterator[tuple[Int64[np.ndarray, " grams"], UInt32[np.ndarray, " grams"]]]:
    """Yields, for each length, the n-grams' words (ascending) and FNV-1a hashes.

    A word is ``<word>``, an n-gram is n UTF-8 characters of it, and ``<`` and ``>``
    alone are none; the sentence end ``</s>`` has no n-grams. As in fastText, a byte is
    sign-extended before it enters the hash. All words' n-grams grow side by side, by
    one character a round.
    """
    spelled = [b"" if word == b"</s>" else b"<" + word + b">" for word in words]
    text = np.frombuffer(b"".join(spelled), np.int8)
    owner = np.repeat(np.arange(len(words)), [len(word) for word in spelled])
    starts = np.flatnonzero((text.view(np.uint8) & 0xC0) != 0x80)
    lengths, owner = np.diff(starts, append=len(text)), owner[starts]
    edge = np.diff(owner, prepend=-1) != 0
    edge |= np.diff(owner, append=-1) != 0
    begin, hashes = np.arange(len(starts)), np.full(len(starts), 2166136261, np.uint32)
    for n in range(1, maxn + 1):
        inside = begin + n - 1 < len(starts)
        inside[inside] = owner[begin[inside] + n - 1] == owner[begin[inside]]
        begin, hashes = begin[inside], hashes[inside]
        if not len(begin):
            return
        last = begin + n - 1
        for byte in range(int(lengths[last].max())):
            grows = lengths[last] > byte
            value = text[starts[last[grows]] + byte].astype(np.int32).view(np.uint32)
            hashes[grows] = (hashes[grows] ^ value) * np.uint32(16777619)
        if n >= minn:
            fine = ~edge[begin] if n == 1 else slice(None)
            yield owner[begin[fine]], hashes[fine]


def _read_npy(pick: _Pick) -> Float32[np.ndarray, "V D"]:
    array, index = _only_file(pick, "*.npy"), _only_file(pick, "*.parquet")
    try:
        matrix = np.load(array, mmap_mode="r", allow_pickle=False)
    except Exception as problem:  # a broken header makes numpy raise almost anything
        pickled = "Python objects" in str(problem) or "pickled" in str(problem)
        why = f"a pickle. {_CONVERT}" if pickled else f"not a whole array: {problem}."
        raise WeightsError(f"{array}: {why}") from problem
    numeric = isinstance(matrix, np.ndarray) and matrix.dtype.kind == "f"
    if not numeric or matrix.ndim != 2 or not matrix.size:
        raise WeightsError(f"{array}: not a table of floats [V, D].")
    words = _parquet_words(index, len(matrix))[: pick.rows(len(matrix))]
    keep = [row for row, word in enumerate(words) if pick.wants(word, f"row {row}")]
    part = matrix[: len(keep)] if len(keep) == len(words) else matrix[keep]
    with np.errstate(over="ignore"):  # a float64 too large becomes infinite, told below
        vectors = np.array(part, np.float32, order="C")
    pick.require_finite(vectors)
    return vectors


def _only_file(pick: _Pick, pattern: str) -> Path:
    if not pick.path.is_dir():
        raise pick.error("npy is a folder with one .npy and one .parquet file")
    found = sorted(pick.path.rglob(pattern))
    if len(found) != 1:
        listed = ", ".join(str(file.relative_to(pick.path)) for file in found) or "none"
        raise pick.error(f"one {pattern} file is due in the folder, there is: {listed}")
    return found[0]


def _parquet_words(path: Path, count: int) -> list[str]:
    """Reads the one column of strings; pyarrow comes with tensorflow-datasets."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            strings = (pa.string(), pa.large_string())
            names = [field.name for field in file.schema_arrow if field.type in strings]
            groups = range(file.metadata.num_row_groups)
            size = sum(file.metadata.row_group(n).total_byte_size for n in groups)
            if len(names) != 1 or file.metadata.num_rows != count:
                what = f"one column of {count} strings is due"
                raise WeightsError(f"{path}: {what}, one row a vector.")
            if size > (1 << 20) + 1000 * count:
                raise WeightsError(f"{path}: {size} bytes for {count} words.")
            words = file.read(columns=names).column(0).to_pylist()
    except (pa.ArrowException, OSError, ValueError) as problem:
        raise WeightsError(f"{path}: broken parquet: {problem}.") from problem
    if len(words) != count or None in words:
        raise WeightsError(f"{path}: a word is missing.")
    return words


def _spelled(
    path: Path, table: WordVectorTable, encoding: str, barred: bytes
) -> list[bytes]:
    _check_encoding(encoding)
    spelled: list[bytes] = []
    for word in table.words:
        try:
            spelled.append(word.encode(encoding))
        except UnicodeEncodeError as problem:
            raise WeightsError(f"{path}: {word!r} cannot be {encoding}.") from problem
        if re.search(barred, spelled[-1]):
            raise WeightsError(
                f"{path}: the format cannot hold the word {word!r}; leave it out or "
                "use glove, which allows spaces."
            )
    return spelled


def _text_rows(words: list[bytes], table: WordVectorTable) -> Iterator[bytes]:
    for word, row in zip(words, table.vectors, strict=True):
        # As strings, float32 are as short as can be read back without loss.
        yield word + b" " + " ".join(row.astype(str).tolist()).encode() + b"\n"


def _write(path: Path, head: bytes, rows: Iterable[bytes]) -> None:
    with writing(path) as stream:
        stream.write(head)
        stream.writelines(rows)
