"""A data set that TFDS lacks, prepared from a person's files."""

from pathlib import Path

from tl_jax.data.builders import builder, prepare
from tl_jax.data.quiet import quiet_tfds
from tl_jax.runs.tell import tell


def prepare_data(name: str, folder: Path, data_dir: Path | None = None) -> list[str]:
    """Prepares one of our sets and tells where it is.

    Args:
      name: The set.
      folder: Where its files are.
      data_dir: Where prepared data go; TFDS's own folder by default.

    Returns:
      What each split is read by, and how many examples it has, a line each.

    Raises:
      SourceError: We have no such builder, or its files are not in the folder.
      DataError: A file has bad rows.
    """
    before = builder(name, data_dir)
    with quiet_tfds():
        there = before.is_prepared()
    if there:
        tell(f"{before.data_dir}: is there already; remove it to prepare it again")
    made = prepare(name, folder, data_dir)
    if not there:
        tell(f"{name} is prepared in {made.data_dir}")
    if data_dir is not None:
        tell(f"commands find it with TFDS_DATA_DIR={data_dir} in the environment")
    return [
        f"tfds:{name}:{split}  {info.num_examples:,} examples"
        for split, info in (made.info.splits or {}).items()
    ]
