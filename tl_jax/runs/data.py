"""A run's data, read and fingerprinted."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tl_jax.data.readers import LabelledTexts, read_labelled
from tl_jax.runs.config import FinetuneConfig


@dataclass(frozen=True, eq=False)
class Part:
    """One part of a run's data: train, dev or test.

    Attributes:
      name: What it was read from.
      rows: Texts and labels as they were read.
    """

    name: str
    rows: LabelledTexts

    @property
    def kind(self) -> str:
        """Pairs of texts or single ones."""
        return "single texts" if self.rows.pairs is None else "pairs"

    def fingerprint(self) -> dict[str, Any]:
        """Name, number of examples and SHA-256 of all texts and labels in order."""
        rows = self.rows
        digest = hashlib.sha256()
        columns = [rows.texts, rows.pairs or [], rows.labels or []]
        for column in columns:
            digest.update(f"{len(column)}\n".encode())
            for value in column:
                raw = value.encode("utf-8", "surrogatepass")
                digest.update(f"{len(raw)}:".encode() + raw)
        sha256 = digest.hexdigest()
        return {"name": self.name, "examples": len(rows), "sha256": sha256}


def read_part(name: str | Sequence[str], config: FinetuneConfig) -> Part:
    """Reads files of examples by a run's options; labels are required."""
    rows = read_labelled(
        name,
        text_column=config.text_column,
        pair_column=config.pair_column,
        label_column=config.label_column,
        on_bad=config.on_bad,
    )
    return Part(name if isinstance(name, str) else " ".join(name), rows)
