"""What our builders share: finding their files, telling how, and what TFDS asks for."""

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds
from etils import epath

from tl_jax.files.errors import SourceError

# By split, the names that its files may have: the first that is there is taken.
Patterns = Mapping[str, Sequence[str]]


def instructions(home: str, patterns: Patterns) -> str:
    """Says where files come from and what they are to be called."""
    lines = [f"  {split}: {' or '.join(names)}" for split, names in patterns.items()]
    return "\n".join([f"Put the files of {home} into the folder, by split:", *lines])


def find_files(
    folder: str | PathLike[str], patterns: Patterns
) -> dict[str, list[Path]]:
    """Finds the files of each split; a split without any is left out.

    Raises:
      SourceError: There is none at all.
    """
    found: dict[str, list[Path]] = {}
    for split, names in patterns.items():
        for name in names:
            if files := sorted(Path(folder).glob(name)):
                found[split] = files
                break
    if not found:
        wanted = ", ".join(name for names in patterns.values() for name in names)
        raise SourceError(f"{folder}: holds none of the files {wanted}.")
    return found


class FilesBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A set that is made from files that the user has.

    A subclass tells `FILES` and `HOME`, its features, and reads examples.

    Attributes:
      HOME: Where the files come from.
      FILES: Their names.
    """

    HOME: ClassVar[str]
    FILES: ClassVar[Patterns]
    pkg_dir_path = epath.Path(__file__).parent

    def __init_subclass__(cls, **options: Any) -> None:
        """Tells TFDS where a subclass's files come from."""
        cls.MANUAL_DOWNLOAD_INSTRUCTIONS = instructions(cls.HOME, cls.FILES)
        super().__init_subclass__(**options)

    def features(self) -> dict[str, Any]:
        """What an example holds, by name."""
        raise NotImplementedError

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            homepage=self.HOME,
            features=tfds.features.FeaturesDict(self.features()),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> Any:
        files = find_files(dl_manager.manual_dir, self.FILES)
        return {split: self._generate_examples(found) for split, found in files.items()}
