"""PropBank over the English Web Treebank as a data set of TFDS."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from tl_jax.data.builders.manual import FilesBuilder
from tl_jax.data.propbank import read_propositions


class EwtPropbank(FilesBuilder):
    """PropBank's roles of one predicate an example, as BIO tags of its words."""

    VERSION = tfds.core.Version("1.0.0")
    HOME = "https://github.com/propbank/propbank-release"
    FILES: ClassVar = {
        "train": ("train*.conll",),
        "validation": ("dev*.conll",),
        "test": ("test*.conll",),
    }

    def features(self) -> dict[str, Any]:
        """See `FilesBuilder`."""
        text = tfds.features.Text()
        return {
            "sentence": np.int64,
            "words": tfds.features.Sequence(text),
            "predicate": np.int64,
            "lemma": text,
            "roleset": text,
            "tags": tfds.features.Sequence(text),
        }

    def _generate_examples(self, files: Sequence[Path]) -> Any:
        rows = read_propositions(files)
        for number, tags in enumerate(rows.tags or []):
            sentence, predicate = (
                int(rows.sentence[number]),
                int(rows.predicate[number]),
            )
            fields = rows.sentences[sentence].fields[predicate].split("\t")
            yield (
                number,
                {
                    "sentence": sentence,
                    "words": rows.words(number),
                    "predicate": predicate,
                    "lemma": fields[3],
                    "roleset": fields[4],
                    "tags": tags,
                },
            )
