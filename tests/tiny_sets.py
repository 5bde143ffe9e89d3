"""Tiny prepared data sets of TFDS, of whatever features a test needs."""

from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds
from etils import epath


class Given(tfds.core.GeneratorBasedBuilder):
    """A data set of the features and examples that a test gives."""

    VERSION = tfds.core.Version("1.0.0")
    pkg_dir_path = epath.Path(__file__).parent
    FEATURES: ClassVar[dict[str, Any]] = {}
    EXAMPLES: ClassVar[list[dict[str, Any]]] = []

    def _info(self) -> Any:
        features = tfds.features.FeaturesDict(self.FEATURES)
        return self.dataset_info_from_configs(features=features)

    def _split_generators(self, manager: Any) -> dict[str, Any]:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Any:
        yield from enumerate(self.EXAMPLES)


def prepare_given(folder: Path, features: Any, *examples: dict[str, Any]) -> None:
    """Prepares ``tfds:given`` in a folder."""
    Given.FEATURES, Given.EXAMPLES = dict(features), list(examples)
    Given(data_dir=folder, file_format="array_record").download_and_prepare()
