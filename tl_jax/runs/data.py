"""A run's data, read and fingerprinted."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from tl_jax.runs.config import FinetuneConfig
from tl_jax.runs.tell import tell
from tl_jax.tasks.task import Segments, Task

# What tells where rows came from, not what they hold.
ORIGIN = (
    "places",
    "files",
    "columns",
    "skipped",
    "notes",
    "comments",
    "lines",
    "fields",
    "located",
)


@dataclass(frozen=True, eq=False)
class Part:
    """One part of a run's data: train, dev or test.

    Attributes:
      name: What it was read from.
      rows: As the task read them.
    """

    name: str
    rows: Any

    def fingerprint(self) -> dict[str, Any]:
        """Name, number of rows and SHA-256 of all that the rows hold, in order."""
        digest = hashlib.sha256()
        for field in fields(self.rows):
            if field.name not in ORIGIN:
                value = getattr(self.rows, field.name)
                written = json.dumps(value, sort_keys=True, default=_plain)
                digest.update(f"{field.name}:{written}\n".encode())
        return {
            "name": self.name,
            "examples": len(self.rows),
            "sha256": digest.hexdigest(),
        }


def read_part(
    name: str | Sequence[str],
    part: str | None,
    task: Task,
    config: FinetuneConfig,
    *,
    labelled: bool = True,
) -> Part:
    """Reads files as one part (train, dev, test) of a run's data, or as a whole.

    What is bad and left out, if `on_bad` is so, is told, and what the rows note.
    """
    rows = task.read(name, part, on_bad=config.on_bad, labelled=labelled)
    told = name if isinstance(name, str) else " ".join(name)
    if rows.skipped:
        tell(f"{told}: {rows.skipped:,} of it could not be read and are left out")
    for note in getattr(rows, "notes", ()):
        tell(f"{told}: {note}")
    return Part(told, rows)


def kind_of_texts(segments: Segments) -> str:
    """Says what a task's rows are, by what segment ids mean in them."""
    return "pairs" if segments == "compare" else "single texts"


def _plain(value: Any) -> Any:
    """Arrays as lists, dataclasses as dicts."""
    return value.tolist() if hasattr(value, "tolist") else vars(value)
