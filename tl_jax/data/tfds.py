"""Data sets of TFDS, read without TensorFlow through array_record's random access."""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast
from urllib.parse import urlsplit

import numpy as np

from tl_jax.data.builders.names import NAMES
from tl_jax.data.quiet import quiet_tfds
from tl_jax.data.table import Problems, Table, bad_characters
from tl_jax.files.errors import DataError, SourceError, did_you_mean
from tl_jax.files.sources import fingerprint, unreachable

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

PREFIX = "tfds:"
TEXT = "text"
_READ = 1024  # examples read at once
_NAME = re.compile(
    r"tfds:(?P<name>[\w./+-]+?)(?::(?P<version>\d+\.\d+\.\d+))?(?::(?P<split>[A-Za-z].*))?"
)


class OpenSet(NamedTuple):
    """A split that is to be read.

    Attributes:
      features: What TFDS knows of each feature.
      examples: Place and features of each example, in turn.
    """

    features: dict[str, Any]
    examples: Iterator[tuple[str, dict[str, Any]]]


def read_tfds(
    source: str,
    problems: Problems | None = None,
    *,
    data_dir: str | Path | None = None,
) -> Table:
    """Reads ``tfds:NAME/CONFIG[:VERSION][:SPLIT]`` into a table of strings.

    SPLIT is ``train`` by default and may be a slice (``train[:10%]``). Bytes are
    decoded as UTF-8, a class label becomes its name, numbers their shortest decimal;
    features that are not scalars are left out. A set that is not prepared is prepared,
    if that can be done without TensorFlow and its host answers within 3 s.

    Args:
      source: The name.
      problems: Gathers examples that are not UTF-8.
      data_dir: Where prepared data are; ``$TFDS_DATA_DIR``, or TFDS's own, by default.

    Raises:
      SourceError: The set is unknown, not prepared as array_record, or cannot be
        prepared here; the message says what to install or to do.
      DataError: There is no such split, or no scalar feature.
    """
    features, examples = open_set(source, data_dir)
    columns = scalars(features)
    if not columns:
        raise DataError(f"{source}: none of its features is a text or a number.")
    problems = problems or Problems()
    values: dict[str, list[str | None]] = {name: [] for name in columns}
    where: list[tuple[int, int]] = []
    for number, (place, example) in enumerate(examples):
        row = [string_of(example[name], names) for name, names in columns.items()]
        if wrong := bad_characters(row):
            problems.add(place, wrong)
            continue
        for column, value in zip(values.values(), row, strict=True):
            column.append(value)
        where.append((0, number))
    return Table(values, (source,), where, unit="example")


def tfds_texts(
    source: str, problems: Problems, *, data_dir: str | Path | None = None
) -> Iterator[str]:
    """Yields the feature ``text`` of every example, in turn; arguments as `read_tfds`.

    Raises:
      SourceError: As `read_tfds`.
      DataError: There is no such split, or no such feature.
    """
    features, examples = open_set(source, data_dir)
    columns = scalars(features)
    if TEXT not in columns:
        raise DataError(
            f"{source}: there is no text feature {TEXT!r} among {sorted(columns)}."
        )
    for place, example in examples:
        text = string_of(example[TEXT]) or ""
        if wrong := bad_characters([text]):
            problems.add(place, wrong)
        else:
            yield text


def tfds_hash(source: str, *, data_dir: str | Path | None = None) -> str:
    """SHA-256 of all files of a prepared set; arguments and errors as `read_tfds`."""
    return fingerprint(Path(_open(source, data_dir)[0].data_dir))


def open_set(source: str, data_dir: str | Path | None = None) -> OpenSet:
    """Opens ``tfds:NAME/CONFIG[:VERSION][:SPLIT]``; errors as `read_tfds`."""
    builder, split = _open(source, data_dir)
    rows = _rows(builder, split, source)
    features = dict(cast(Any, builder.info.features) or {})
    return OpenSet(features, _examples(rows, source))


def scalars(features: Mapping[str, Any]) -> dict[str, list[str] | None]:
    """Returns the scalar features by name, with the class names of a label."""
    return {
        name: _names(feature)
        for name, feature in features.items()
        if getattr(feature, "shape", None) == () and hasattr(feature, "np_dtype")
    }


def sequences(features: Mapping[str, Any]) -> dict[str, list[str] | None]:
    """Returns the sequences of strings or labels by name, with a label's names."""
    return {
        name: _names(feature)
        for name, feature in features.items()
        if getattr(feature, "shape", None) == (None,)
        and (
            _names(feature)
            or np.dtype(getattr(feature, "np_dtype", None)).kind in "OSU"
        )
    }


def string_of(value: Any, names: list[str] | None = None) -> str | None:
    """Returns a value as text: a label by its name, bytes as UTF-8 (surrogateescape).

    None is what stands for a label that is not known.
    """
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, np.floating):
        return str(value)  # 3.8, where the number itself is 3.7999999523162842
    value = value.item() if isinstance(value, (np.generic, np.ndarray)) else value
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if names is not None:
        return names[value] if 0 <= value < len(names) else None
    return str(value)


def _names(feature: Any) -> list[str] | None:
    return list(getattr(feature, "names", None) or []) or None


def _open(
    source: str, data_dir: str | Path | None
) -> tuple["tfds.core.DatasetBuilder", str]:
    """Returns the builder of a prepared set, and the split that is asked for."""
    match = _NAME.fullmatch(source)
    if match is None:
        raise SourceError(f"{source!r} is not of the form tfds:NAME/CONFIG[:SPLIT].")
    name, version, split = match["name"], match["version"], match["split"]
    folder = data_dir or os.environ.get("TFDS_DATA_DIR")
    full = f"{name}:{version}" if version else name
    with quiet_tfds():
        builder = _builder(full, None if folder is None else str(folder))
        if not builder.is_prepared():
            if name in NAMES:
                raise _unprepared(full, folder)
            _prepare(builder, full)
    return builder, split or "train"


def _builder(name: str, data_dir: str | None) -> "tfds.core.DatasetBuilder":
    try:
        import tensorflow_datasets as tfds
        import tensorflow_datasets.text  # it registers the text sets
        from tensorflow_datasets.core.registered import DatasetNotFoundError
    except ImportError as error:
        raise SourceError(
            f"tfds:{name}: tensorflow-datasets cannot be imported ({error}); "
            "pip install tensorflow-datasets."
        ) from error
    # A set prepared earlier keeps its own file format: ask for it first.
    errors: list[Exception] = []
    options: tuple[dict[str, Any], ...] = ({}, {"file_format": "array_record"})
    for wanted in options:
        try:
            builder = tfds.builder(name, data_dir=data_dir, **wanted)
        except DatasetNotFoundError as error:
            if (own := _own(name)) in NAMES:
                raise _unprepared(name, data_dir) from error
            known = tfds.list_builders(with_community_datasets=False)
            near = did_you_mean(own, [*known, *NAMES])
            raise SourceError(
                f"tfds:{name}: TFDS has no such data set, and none of that name is "
                f"prepared in {data_dir or 'its data folder'}.{near}"
            ) from error
        except Exception as error:
            errors.append(error)
            continue
        if builder.is_prepared() or wanted:
            return builder
    raise SourceError(f"tfds:{name}: {_short(errors[-1])}") from errors[-1]


def _prepare(builder: "tfds.core.DatasetBuilder", name: str) -> None:
    """Downloads and prepares a set where that needs no TensorFlow."""
    by_hand = (
        "To prepare it elsewhere: pip install 'tl-jax[tfds]', then in Python "
        f"tfds.builder({name!r}, file_format='array_record').download_and_prepare(), "
        "and copy the data folder or name it in TFDS_DATA_DIR."
    )
    # An answer is due within 3 s: TFDS itself would retry for 205 s.
    urls = [urlsplit(url) for url in builder.url_infos or {}]
    hosts = sorted({f"{url.scheme}://{url.netloc}" for url in urls if url.hostname})
    if silent := [why for why in map(unreachable, hosts) if why]:
        raise SourceError(
            f"tfds:{name} is not prepared in {builder.data_dir}, and "
            f"{'; '.join(silent)}. {by_hand}"
        )
    try:
        builder.download_and_prepare()
    except Exception as error:
        needs = "tensorflow" in str(error).lower()
        why = "preparing it needs TensorFlow" if needs else _short(error)
        raise SourceError(
            f"tfds:{name} is not prepared in {builder.data_dir}: {why}. {by_hand}"
        ) from error


def _own(name: str) -> str:
    """The name of a set without its configuration and version."""
    return re.split("[/:]", name)[0]


def _unprepared(name: str, data_dir: str | Path | None) -> SourceError:
    """The error for a set of ours, which takes files that a person has."""
    there = "" if data_dir is None else f" --data-dir {data_dir}"
    return SourceError(
        f"tfds:{name} is not prepared in {data_dir or 'the data folder of TFDS'}. It "
        "is made of files that you have: "
        f"tl-jax data prepare {_own(name)} --from FOLDER{there} tells their names."
    )


def _rows(builder: "tfds.core.DatasetBuilder", split: str, source: str) -> Any:
    """The examples of a split, by random access."""
    known = builder.info.splits or {}
    for name in re.sub(r"\[[^]]*\]", "", split).split("+"):
        if name.strip() not in (*known, "all"):
            raise DataError(
                f"{source}: there is no split {name.strip()!r} among {sorted(known)}."
                f"{did_you_mean(name, known)}"
            )
    try:
        return cast(Any, builder).as_data_source(split=split)
    except Exception as error:
        raise SourceError(
            f"{source}: what is prepared in {builder.data_dir} cannot be read without "
            f"TensorFlow ({_short(error)}). Prepare it with file_format='array_record'."
        ) from error


def _examples(rows: Any, source: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for start in range(0, len(rows), _READ):
        numbers = list(range(start, min(start + _READ, len(rows))))
        for number, example in zip(numbers, _some(rows, numbers, source), strict=True):
            yield f"{source} example {number}", example


def _some(rows: Any, numbers: list[int], source: str) -> list[dict[str, Any]]:
    try:
        return list(rows.__getitems__(numbers))
    except Exception as error:
        raise SourceError(
            f"{source}: the prepared files are broken ({_short(error)}). "
            "Remove them and prepare the set again."
        ) from error


def _short(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200] if lines else ''}".rstrip(": ")
