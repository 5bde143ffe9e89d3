"""A text file as one string; what is no UTF-8 text is refused with a hint."""

from pathlib import Path

from tl_jax.files.errors import DataError, did_you_mean


def read_text(path: Path) -> str:
    """Reads a text file; bytes that are not UTF-8 become surrogates, told row by row.

    Raises:
      DataError: The file is missing, unreadable, empty, compressed or UTF-16.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        near = _near(path)
        if str(path).startswith("tfds:"):
            near = " tfds: names labelled data, or raw text to pre-train on."
        raise DataError(f"{path}: there is no such file.{near}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}.") from error
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(f"{path}: is UTF-16; convert it to UTF-8 (iconv -t UTF-8).")
    if data.startswith((b"\x1f\x8b", b"PK\x03\x04")):
        raise DataError(f"{path}: is compressed; unpack it first.")
    text = data.decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    if not text.strip():
        raise DataError(f"{path}: the file is empty.")
    return text


def _near(path: Path) -> str:
    folder = path.parent
    try:
        return did_you_mean(path.name, [p.name for p in folder.iterdir()])
    except OSError:
        return f" Nor can its folder {folder} be read."
