"""NSMC, KorSTS and KLUE-NLI as data sets of TFDS: texts and pairs with a label.

Labels and columns are called as in the files, so that a run may be trained on the one
and evaluated on the other.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from tl_jax.data import formats
from tl_jax.data.builders.manual import FilesBuilder
from tl_jax.data.table import Problems, bad_characters
from tl_jax.data.text_file import read_text
from tl_jax.files.errors import DataError


def read_rows(
    files: Sequence[Path], columns: Sequence[str], labels: Sequence[str] | None = None
) -> Iterator[dict[str, str]]:
    """Yields the rows of unquoted TSV files, or of lists of JSON objects.

    Args:
      files: The files.
      columns: The columns, that of the label last.
      labels: All labels that there are; None if a label is a number.

    Raises:
      DataError: A file cannot be read, a column is not there, or rows are bad.
    """
    problems = Problems()
    for file in files:
        parse = formats.json_list if file.suffix == ".json" else formats.tsv
        header, rows = parse(read_text(file), str(file))
        if lacking := [name for name in columns if name not in header]:
            raise DataError(f"{file}: has the columns {header}, and not {lacking}.")
        for line, row in rows:
            wrong = row if isinstance(row, str) else bad_characters(row)
            if wrong is None and len(row) != len(header):
                wrong = f"{len(row)} columns, where the header has {len(header)}"
            if wrong is not None:
                problems.add(f"{file}:{line}", wrong)
                continue
            values = dict(zip(header, row, strict=True))
            found = {name: str(values[name] or "") for name in columns}
            label = found[columns[-1]]
            if labels is None and not _is_number(label):
                problems.add(f"{file}:{line}", f"the label {label!r} is no number")
            elif labels is not None and label not in labels:
                told = f"the label {label!r} is none of {', '.join(labels)}"
                problems.add(f"{file}:{line}", told)
            else:
                yield found
    problems.finish()


def _is_number(label: str) -> bool:
    try:
        return math.isfinite(float(label))
    except ValueError:
        return False


class Nsmc(FilesBuilder):
    """Naver's movie reviews, positive (1) or negative (0)."""

    VERSION = tfds.core.Version("1.0.0")
    HOME = "https://github.com/e9t/nsmc"
    FILES: ClassVar = {
        "train": ("ratings_train.txt", "train.tsv"),
        "validation": ("dev.tsv",),
        "test": ("ratings_test.txt", "test.tsv"),
    }
    LABELS: ClassVar = ["0", "1"]

    def features(self) -> dict[str, Any]:
        """See `FilesBuilder`."""
        return {
            "id": tfds.features.Text(),
            "document": tfds.features.Text(),
            "label": tfds.features.ClassLabel(names=self.LABELS),
        }

    def _generate_examples(self, files: Sequence[Path]) -> Any:
        columns = ("id", "document", "label")
        yield from enumerate(read_rows(files, columns, self.LABELS))


class Korsts(FilesBuilder):
    """KorSTS: how similar two Korean sentences are in meaning, from 0 to 5."""

    VERSION = tfds.core.Version("1.0.0")
    HOME = "https://github.com/kakaobrain/kor-nlu-datasets"
    FILES: ClassVar = {
        "train": ("sts-train.tsv", "train.tsv"),
        "validation": ("sts-dev.tsv", "dev.tsv"),
        "test": ("sts-test.tsv", "test.tsv"),
    }
    TEXTS = ("genre", "filename", "year", "id", "sentence1", "sentence2")

    def features(self) -> dict[str, Any]:
        """See `FilesBuilder`."""
        texts = {name: tfds.features.Text() for name in self.TEXTS}
        return texts | {"score": np.float32}

    def _generate_examples(self, files: Sequence[Path]) -> Any:
        for number, row in enumerate(read_rows(files, (*self.TEXTS, "score"))):
            yield number, row | {"score": float(row["score"])}


class KlueNli(FilesBuilder):
    """KLUE-NLI: whether a premise entails a hypothesis, contradicts it, or neither."""

    VERSION = tfds.core.Version("1.1.0")
    HOME = "https://github.com/KLUE-benchmark/KLUE"
    FILES: ClassVar = {
        "train": ("klue-nli-v1.1_train.json", "train.json"),
        "validation": ("klue-nli-v1.1_dev.json", "dev.json"),
    }
    TEXTS = ("guid", "source", "premise", "hypothesis")
    LABELS: ClassVar = ["entailment", "contradiction", "neutral"]

    def features(self) -> dict[str, Any]:
        """See `FilesBuilder`."""
        texts = {name: tfds.features.Text() for name in self.TEXTS}
        label = tfds.features.ClassLabel(names=self.LABELS)
        return texts | {"gold_label": label}

    def _generate_examples(self, files: Sequence[Path]) -> Any:
        columns = (*self.TEXTS, "gold_label")
        yield from enumerate(read_rows(files, columns, self.LABELS))
