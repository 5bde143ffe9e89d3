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
import mmap
import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from tl_jax.files.atomic import writing
from tl_jax.files.errors import ConfigError, WeightsError, did_you_mean
from tl_jax.interop import fasttext
from tl_jax.interop.binary_vectors import read_binary
from tl_jax.interop.npy_vectors import read_npy
from tl_jax.interop.text_vectors import read_text
from tl_jax.interop.vector_rows import (
    BROKEN_GZIP,
    CONVERT,
    HEADER,
    NUMBER,
    Pick,
    broken_gzip,
    is_gzip,
    unmarked,
)

KINDS = ("word2vec-text", "word2vec-binary", "glove", "fasttext-binary", "npy")
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1f]")


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
    pick = Pick(path, encoding, None if only is None else frozenset(only), limit)
    with contextlib.ExitStack() as stack:
        if kind == "npy":
            vectors = read_npy(pick)
        elif kind in ("word2vec-text", "glove"):
            text = stack.enter_context(_open(path))
            vectors = read_text(pick, text, headed=kind == "word2vec-text")
        else:
            _refuse_unreadable(path)
            stream = stack.enter_context(open(path, "rb"))
            data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
            binary = kind == "word2vec-binary"
            vectors = (read_binary if binary else fasttext.read_fasttext)(pick, data)
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
    bar = rb"(?i)\n| (%b) *\Z" % NUMBER.pattern
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


def _check_encoding(encoding: str) -> None:
    try:
        fine = codecs.encode(" 1\n", encoding) == b" 1\n"
    except (LookupError, TypeError, ValueError):
        fine = False
    if not fine:
        raise ConfigError(f"{encoding!r} is no encoding that keeps ASCII; try utf-8.")


def _open(path: Path) -> gzip.GzipFile | io.BufferedReader:
    _refuse_unreadable(path)
    return gzip.open(path, "rb") if is_gzip(path) else open(path, "rb")


def _refuse_unreadable(path: Path) -> None:
    """Raises for what is no file of word vectors, by name and first bytes."""
    if path.is_dir():
        raise WeightsError(f"{path}: a folder, where a file is due; name the file.")
    with open(path, "rb") as stream:
        start = stream.read(8)
    pickled = (".pkl", ".pickle", ".pt", ".pth", ".joblib", ".dill")
    if path.suffix.lower() in pickled or re.match(rb"\x80[\x02-\x05]", start):
        raise WeightsError(f"{path}: a pickle. {CONVERT}")
    hints = {
        b"PK\x03\x04": f"a zip archive; unzip it. If torch wrote it: {CONVERT}",
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
            start = unmarked(stream.read(1 << 16))
        except BROKEN_GZIP as problem:
            raise broken_gzip(path, "at its start") from problem
    head, _, rest = start.partition(b"\n")
    header = HEADER.fullmatch(head)
    if start.startswith(fasttext.MAGIC):
        kind = "fasttext-binary"
    elif header is None:
        return "glove"
    else:
        # Text, unless the first row has bytes that no text has. Its own numbers are
        # asked first: few floats may by chance be without such bytes, or a word not.
        width = int(header[2])
        row = rest.partition(b"\n")[0].rstrip(b" \r").split(b" ")[-width:]
        as_text = len(row) == width and all(map(NUMBER.fullmatch, row))
        binary = _CONTROL.search(rest[: 4 * width + 100]) or path.suffix == ".bin"
        kind = "word2vec-binary" if binary and not as_text else "word2vec-text"
    if kind != "word2vec-text" and is_gzip(path):
        raise WeightsError(f"{path}: a gzipped {kind} file; gunzip it first.")
    return kind


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
