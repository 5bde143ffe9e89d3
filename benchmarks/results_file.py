"""Files of results: a JSON object a line, which runs append to and read back."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def append(file: Path, result: Mapping[str, Any]) -> None:
    """Writes one result behind the others; the file need not be there yet."""
    with file.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(result, ensure_ascii=False) + "\n")


def append_table(file: Path | None, rows: Sequence[Sequence[str]]) -> None:
    """Writes the rows of a printed table and the time; nothing without a file."""
    if file is not None:
        append(file, {"time": time.time(), "rows": rows})


def read(file: Path) -> list[dict[str, Any]]:
    """The results so far, the oldest first; none if there is no file."""
    if not file.exists():
        return []
    # Not splitlines(): strings keep their U+2028, and that ends no line of the file.
    lines = file.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines if line]
