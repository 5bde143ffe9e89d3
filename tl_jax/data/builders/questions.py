"""KorQuAD 1.0 as a data set of TFDS, with the features of TFDS's own ``squad``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from tl_jax.data.builders.manual import find_files, instructions
from tl_jax.data.squad import read_questions


class Korquad(tfds.core.GeneratorBasedBuilder):
    """KorQuAD 1.0: questions on paragraphs of the Korean Wikipedia."""

    VERSION = tfds.core.Version("1.0.0")
    HOME = "https://korquad.github.io/KorQuad%201.0/"
    FILES: ClassVar = {
        "train": ("KorQuAD_v1.0_train.json", "train.json"),
        "validation": ("KorQuAD_v1.0_dev.json", "dev.json"),
    }
    MANUAL_DOWNLOAD_INSTRUCTIONS = instructions(HOME, FILES)
    pkg_dir_path = epath.Path(__file__).parent

    def _info(self) -> tfds.core.DatasetInfo:
        text = tfds.features.Text()
        answers = tfds.features.Sequence({"text": text, "answer_start": np.int32})
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            homepage=self.HOME,
            features=tfds.features.FeaturesDict(
                {
                    "id": text,
                    "title": text,
                    "context": text,
                    "question": text,
                    "answers": answers,
                }
            ),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> Any:
        files = find_files(dl_manager.manual_dir, self.FILES)
        return {split: self._generate_examples(found) for split, found in files.items()}

    def _generate_examples(self, files: Sequence[Path]) -> Any:
        rows = read_questions(files)
        for number, (name, golds) in enumerate(
            zip(rows.ids, rows.answers, strict=True)
        ):
            yield (
                name,
                {
                    "id": name,
                    "title": rows.titles[number],
                    "context": rows.contexts[int(rows.context[number])],
                    "question": rows.questions[number],
                    "answers": [
                        {"text": gold.text, "answer_start": gold.start}
                        for gold in golds
                    ],
                },
            )
