"""KorQuAD 1.0 as a data set of TFDS, with the features of TFDS's own ``squad``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from tl_jax.data.builders.manual import FilesBuilder
from tl_jax.data.squad import read_questions


class Korquad(FilesBuilder):
    """KorQuAD 1.0: questions on paragraphs of the Korean Wikipedia."""

    VERSION = tfds.core.Version("1.0.0")
    HOME = "https://korquad.github.io/KorQuad%201.0/"
    FILES: ClassVar = {
        "train": ("KorQuAD_v1.0_train.json", "train.json"),
        "validation": ("KorQuAD_v1.0_dev.json", "dev.json"),
    }

    def features(self) -> dict[str, Any]:
        """See `FilesBuilder`."""
        text = tfds.features.Text()
        answers = tfds.features.Sequence({"text": text, "answer_start": np.int32})
        return {
            "id": text,
            "title": text,
            "context": text,
            "question": text,
            "answers": answers,
        }

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
