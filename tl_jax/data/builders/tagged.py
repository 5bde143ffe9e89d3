"""KLUE-NER as a data set of TFDS: the characters of sentences, with their tags."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from tl_jax.data.builders.manual import FilesBuilder
from tl_jax.data.conll import read_tagged
from tl_jax.files.errors import DataError

KINDS = ("DT", "LC", "OG", "PS", "QT", "TI")
TAGS = ("O", *(f"{mark}-{kind}" for kind in KINDS for mark in "BI"))


class KlueNer(FilesBuilder):
    """KLUE-NER: dates, locations, organisations, persons, quantities and times."""

    VERSION = tfds.core.Version("1.1.0")
    HOME = "https://github.com/KLUE-benchmark/KLUE"
    FILES: ClassVar = {
        "train": ("klue-ner-v1.1_train.tsv", "train.tsv"),
        "validation": ("klue-ner-v1.1_dev.tsv", "dev.tsv"),
    }

    def features(self) -> dict[str, Any]:
        """See `FilesBuilder`."""
        return {
            "sentence": tfds.features.Text(),
            "characters": tfds.features.Sequence(tfds.features.Text()),
            "tags": tfds.features.Sequence(tfds.features.ClassLabel(names=list(TAGS))),
        }

    def _generate_examples(self, files: Sequence[Path]) -> Any:
        rows = read_tagged(files)
        for number, (characters, tags) in enumerate(
            zip(rows.sentences, rows.tags or [], strict=True)
        ):
            for place, tag in enumerate(tags):
                if tag not in TAGS:
                    where = rows.place(number, place)
                    raise DataError(f"{where}: {tag!r} is none of {', '.join(TAGS)}.")
            sentence = "".join(characters)
            example = {"sentence": sentence, "characters": characters, "tags": tags}
            yield number, example
