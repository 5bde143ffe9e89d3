"""What our builders share: finding their files, and telling how."""

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path

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
