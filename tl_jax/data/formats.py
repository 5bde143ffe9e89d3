"""The text of a file → its header and rows: TSV, CSV, JSON, JSON lines and lines."""

import json
import re
from collections.abc import Iterator
from typing import Any

from tl_jax.data.table import bad_characters
from tl_jax.files.errors import DataError

# One row: its line, and its values; or what is wrong with it.
Row = tuple[int, list[str | None] | str]
Parsed = tuple[list[str], Iterator[Row]]

# A field of RFC 4180 and what ends it. Possessive: linear time on any input.
_CSV_FIELD = re.compile(r'(?:"((?:[^"]++|"")*+)"|([^",\n][^,\n]*+)?)(,|\r?\n)')
_JSON_SPACE = re.compile(r"[ \t\r\n]*")


def _header(names: list[str | None], place: str) -> list[str]:
    """Checks the column names of a header line."""
    wrong = bad_characters(names)
    header = [(name or "").strip() for name in names]
    if wrong is None and not all(header):
        wrong = f"a column has no name: {header}"
    if wrong is None and len(set(header)) < len(header):
        wrong = f"a column name occurs twice: {header}"
    if wrong is not None:
        raise DataError(
            f"{place}:1: the header, the line that names the columns: {wrong}."
        )
    return header


def tsv(text: str, place: str) -> Parsed:
    """Splits lines by tabs alone: a quote is text."""
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    while not lines[-1]:
        lines.pop()

    def rows() -> Iterator[Row]:
        for number, line in enumerate(lines[1:], 2):
            yield number, [*line.split("\t")]

    return _header([*lines[0].split("\t")], place), rows()


def lines(text: str, place: str) -> Parsed:
    """Reads one text a line; blank lines are passed over."""
    del place
    numbered = enumerate(text.split("\n"), 1)
    return ["text"], ((n, [line.strip()]) for n, line in numbered if line.strip())


def csv(text: str, place: str) -> Parsed:
    """Splits records as RFC 4180 says; a quoted field may hold line ends."""
    rows = _csv_rows(text.rstrip("\r\n") + "\n")
    _, names = next(rows)
    if isinstance(names, str):
        raise DataError(
            f"{place}:1: the header, the line that names the columns: {names}."
        )
    return _header(names, place), rows


def _csv_rows(text: str) -> Iterator[Row]:
    """Splits RFC 4180; after a broken record it goes on at the next line."""
    at, line = 0, 1
    while at < len(text):
        start, row, broken = at, [], False
        end = ","
        while end == ",":
            field = _CSV_FIELD.match(text, at)
            if field is None:
                broken = True
                at = text.find("\n", at) + 1 or len(text)
                break
            quoted, bare, end = field.groups()
            if quoted is None:
                row.append((bare or "") if end == "," else (bare or "").rstrip("\r"))
            else:
                row.append(quoted.replace('""', '"'))
            at = field.end()
        yield line, "a quote is not closed, or stands inside a field" if broken else row
        line += text.count("\n", start, at)


def jsonl(text: str, place: str) -> Parsed:
    """Reads one JSON object a line; blank lines are passed over."""
    found: list[tuple[int, Any]] = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            found.append((number, _parsed(line)))
    return _objects(found, place)


def json_list(text: str, place: str) -> Parsed:
    """Reads a list of objects, or an object that holds one under ``"data"``."""
    decoder = json.JSONDecoder()
    try:
        # All of it first: what was cut, or joined to another, is no shorter list.
        json.loads(text)
        return _objects(list(_elements(text, decoder, place)), place)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{place}:{error.lineno}: broken JSON at column {error.colno}: {error.msg}."
        ) from error
    except RecursionError as error:
        raise DataError(f"{place}: JSON nested too deeply to be genuine.") from error
    except ValueError as error:  # an integer of thousands of digits
        raise DataError(f"{place}: broken JSON: {error}.") from error


def _elements(
    text: str, decoder: json.JSONDecoder, place: str
) -> Iterator[tuple[int, Any]]:
    """Yields line and value of each element of a list, or of that under "data"."""
    at = _skip(text, 0)
    if text[at : at + 1] == "{":
        at = _data_list(text, at, decoder, place)
    elif text[at : at + 1] != "[":
        raise DataError(
            f'{place}: JSON here must be a list of objects, or hold one under "data" '
            "(for one object a line, name the file .jsonl)."
        )
    line, seen = 1, 0
    at = _skip(text, at + 1)
    while text[at : at + 1] != "]":
        line += text.count("\n", seen, at)
        seen = at
        value, at = decoder.raw_decode(text, at)
        yield line, value
        at = _skip(text, at)
        if text[at : at + 1] == ",":
            at = _skip(text, at + 1)


def _data_list(text: str, at: int, decoder: json.JSONDecoder, place: str) -> int:
    """Returns where the list under an object's key "data" begins."""
    at = _skip(text, at + 1)
    while text[at : at + 1] == '"':
        key, at = decoder.raw_decode(text, at)
        at = _skip(text, _skip(text, at) + 1)  # behind the colon
        if key == "data" and text[at : at + 1] == "[":
            return at
        _, at = decoder.raw_decode(text, at)
        at = _skip(text, at)
        if text[at : at + 1] == ",":
            at = _skip(text, at + 1)
    raise DataError(
        f'{place}: a JSON object here must hold a list of objects under "data" '
        "(for one object a line, name the file .jsonl)."
    )


def _skip(text: str, at: int) -> int:
    found = _JSON_SPACE.match(text, at)
    return found.end() if found else at


def _parsed(line: str) -> Any:
    """Returns the value of one line, or the error that it is broken with."""
    try:
        return json.loads(line)
    except RecursionError:
        return DataError("JSON nested too deeply to be genuine")
    except json.JSONDecodeError as error:
        return DataError(f"broken JSON at column {error.colno}: {error.msg}")
    except ValueError as error:
        return DataError(f"broken JSON: {error}")


def _objects(found: list[tuple[int, Any]], place: str) -> Parsed:
    """Turns objects into rows; the columns are all keys, in order of appearance."""
    header = list(dict.fromkeys(k for _, o in found if isinstance(o, dict) for k in o))
    if not header and not any(isinstance(o, DataError) for _, o in found):
        raise DataError(f"{place}: there is no object with a key, so there is no row.")

    def rows() -> Iterator[Row]:
        for line, value in found:
            if isinstance(value, DataError):
                yield line, str(value)
            elif not isinstance(value, dict):
                yield line, f"an object {{…}} is needed, not {type(value).__name__}"
            else:
                yield line, [_string(value.get(name)) for name in header]

    return header, rows()


def _string(value: Any) -> str | None:
    """A JSON value as a string: text as it is, the rest as JSON writes it."""
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)
