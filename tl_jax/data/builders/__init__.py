"""Builders of TFDS for sets that it lacks, made from files that the user has.

Each reads its files from a folder (TFDS's ``manual_dir``) and needs neither a network
nor TensorFlow. What was prepared is read as ``tfds:NAME:SPLIT``.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tl_jax.data.builders.names import NAMES as NAMES
from tl_jax.data.quiet import quiet_tfds
from tl_jax.files.errors import SourceError, did_you_mean

if TYPE_CHECKING:
    import tensorflow_datasets as tfds


def builder(
    name: str, data_dir: str | Path | None = None
) -> "tfds.core.DatasetBuilder":
    """Makes the builder of one of our sets.

    Args:
      name: One of `NAMES`.
      data_dir: Where prepared data are; ``$TFDS_DATA_DIR``, or TFDS's own folder, by
        default.

    Raises:
      SourceError: We have no such builder.
    """
    if name not in NAMES:
        raise SourceError(
            f"There is no builder of {name!r} among {', '.join(NAMES)}."
            f"{did_you_mean(name, NAMES)}"
        )
    from tl_jax.data.builders import (
        propbank,
        questions,
        tagged,
        texts,
    )  # slow to import

    made = {
        "nsmc": texts.Nsmc,
        "korsts": texts.Korsts,
        "klue_nli": texts.KlueNli,
        "klue_ner": tagged.KlueNer,
        "korquad": questions.Korquad,
        "ewt_propbank": propbank.EwtPropbank,
    }
    folder = data_dir or os.environ.get("TFDS_DATA_DIR")
    folder = None if folder is None else str(folder)
    # TFDS's parquet loses examples, and reading tfrecord takes TensorFlow.
    with quiet_tfds():
        return made[name](data_dir=folder, file_format="array_record")


def prepare(
    name: str, manual_dir: str | Path, data_dir: str | Path | None = None
) -> "tfds.core.DatasetBuilder":
    """Prepares one of our sets from its files; what is prepared already is left alone.

    Args:
      name: One of `NAMES`.
      manual_dir: The folder of the set's files. Each builder tells their names.
      data_dir: Where prepared data go, as for `builder`.

    Raises:
      SourceError: We have no such builder, or its files are not in the folder.
      DataError: A file has bad rows.
    """
    made = builder(name, data_dir)
    if not Path(manual_dir).is_dir():
        raise SourceError(f"{manual_dir}: there is no such folder.")
    import tensorflow_datasets as tfds

    from tl_jax.data.builders.manual import find_files

    config = tfds.download.DownloadConfig(
        manual_dir=str(manual_dir), try_download_gcs=False
    )
    with quiet_tfds():
        if not made.is_prepared():
            # TFDS would only assert that the folder is not empty.
            find_files(manual_dir, cast(Any, made).FILES)
            made.download_and_prepare(download_config=config)
    return made
