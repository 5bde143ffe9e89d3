"""PropBank over the English Web Treebank as a data set of TFDS."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from tl_jax.data.builders.manual import find_files, instructions
from tl_jax.data.propbank import read_propositions


class EwtPropbank(tfds.core.GeneratorBasedBuilder):
    """PropBank's roles of one predicate an example, as BIO tags of its words."""

    VERSION = tfds.core.Version("1.0.0")
    HOME = "https://github.com/propbank/propbank-release"
    FILES: ClassVar = {
        "train": ("train*.conll",),
        "validation": ("dev*.conll",),
        "test": ("test*.conll",),
    }
    MANUAL_DOWNLOAD_INSTRUCTIONS = instructions(HOME, FILES)
    pkg_dir_path = epath.Path(__file__).parent

    def _info(self) -> tfds.core.DatasetInfo:
        text = tfds.features.Text()
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            homepage=self.HOME,
            features=tfds.features.FeaturesDict(
                {
                    "sentence": np.int64,
                    "words": tfds.features.Sequence(text),
                    "predicate": np.int64,
                    "lemma": text,
                    "roleset": text,
                    "tags": tfds.features.Sequence(text),
                }
            ),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> Any:
        files = find_files(dl_manager.manual_dir, self.FILES)
        return {split: self._generate_examples(found) for split, found in files.items()}

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
