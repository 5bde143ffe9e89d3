"""Reads and writes safetensors files: a JSON header, then the tensors' plain bytes.

https://github.com/huggingface/safetensors#format. The safetensors library reads them.
Its reading is checked before any tensor is read, so that a hostile or cut file costs
neither time nor memory; no pickle is ever opened.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy  # noqa: F401  (numpy knows bfloat16 by it)
import numpy as np
from safetensors import SafetensorError, safe_open

from tl_jax.files.atomic import read_object, writing
from tl_jax.files.errors import WeightsError
from tl_jax.files.sources import CONVERT

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_MAX_HEADER = 1 << 20  # bytes; BERT-large's header has 60 kB
_MAX_JSON = 4 << 20  # bytes; a config may name many labels
_MAX_NAME = 500
_MAX_AXES = 8
_FLOATS = ("F32", "F16", "BF16")


@dataclass(frozen=True)
class Entry:
    """Where a tensor stands.

    Attributes:
      file: The safetensors file.
      name: Its name there.
      dtype: The format's name of its type, such as ``F32``.
      shape: Its shape.
    """

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def is_float(self) -> bool:
        """True for the types that `read_floats` turns into float32."""
        return self.dtype in _FLOATS


def list_tensors(folder: Path) -> dict[str, Entry]:
    """Lists the tensors of ``model.safetensors``, or of the shards that an index names.

    Raises:
      WeightsError: There is no such file (a pickle is refused with a hint how to
        convert it), or a header or the index is broken.
    """
    if (folder / WEIGHTS).is_file():
        return read_header(folder / WEIGHTS)
    if (folder / INDEX).is_file():
        return _list_shards(folder)
    pickles = sorted(folder.glob("*.bin")) + sorted(folder.glob("*.pt"))
    if pickles:
        raise WeightsError(
            f"{folder}: only {pickles[0].name} is there, a pickle that could run code "
            f"when read, so it is not opened. {CONVERT}"
        )
    raise WeightsError(
        f"{folder}: neither {WEIGHTS} nor {INDEX} is there. Name the folder that "
        "transformers' save_pretrained wrote."
    )


def read_header(file: Path) -> dict[str, Entry]:
    """Lists the tensors of one safetensors file, every byte of it accounted for.

    Raises:
      WeightsError: The file is cut, or its header is not sound.
    """
    with open(file, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = stream.read(length) if length <= _MAX_HEADER else b""
    if length > _MAX_HEADER:
        raise _unsound(
            file,
            f"it would begin with a header of {length} bytes, more than the "
            f"{_MAX_HEADER} that any real model needs",
        )
    try:
        with _opened(file) as tensors:
            slices = {n: tensors.get_slice(n) for n in tensors.offset_keys()}
        table = json.loads(header, object_pairs_hook=_no_doubles)
    except (SafetensorError, ValueError, RecursionError) as problem:
        raise _unsound(file, str(problem)) from problem
    entries = {
        name: Entry(file, name, found.get_dtype(), tuple(found.get_shape()))
        for name, found in slices.items()
    }
    problems = [
        f"{name[:_MAX_NAME]!r}: {problem}"
        for name, entry in entries.items()
        if (problem := _oddity(entry, table.get(name))) is not None
    ]
    raise_all(f"{file}: its header is not sound", problems, "Fetch the file again.")
    return entries


def read_floats(entry: Entry) -> np.ndarray:
    """Reads one F32, F16 or BF16 tensor as float32."""
    try:
        with _opened(entry.file) as tensors:
            value = tensors.get_tensor(entry.name)
    except SafetensorError as problem:
        raise WeightsError(
            f"{entry.file}: changed while it was read: {problem}. Load it again."
        ) from problem
    return value.astype(np.float32, copy=False)


def write_tensors(file: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes float32 tensors, atomically, one after the other by name.

    The metadata are those that transformers asks for, ``{"format": "pt"}``. The
    library's ``save_file`` would need every tensor contiguous at once, a second copy of
    those that are transposed, and renames a file of its own making, which is not
    brought to the disk and is readable by its owner only.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name in sorted(tensors):
        shape = tensors[name].shape
        end = start + 4 * math.prod(shape)
        offsets = [start, end]
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": offsets}
        start = end
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    with writing(file) as stream:
        stream.write(len(raw).to_bytes(8, "little") + raw)
        for name in sorted(tensors):
            stream.write(np.ascontiguousarray(tensors[name], "<f4").data)


def raise_all(what: str, problems: list[str], mend: str) -> None:
    """Raises one WeightsError that lists the problems, if there are any."""
    if not problems:
        return
    shown = sorted(problems)[:40]
    more = len(problems) - len(shown)
    rest = f"\n  … and {more} more" if more else ""
    listed = "".join(f"\n  {problem}" for problem in shown)
    raise WeightsError(f"{what}:{listed}{rest}\n{mend}")


def read_small_json(file: Path) -> dict[str, Any]:
    """Reads a JSON object of at most 4 MiB.

    Raises:
      WeightsError: It is missing, larger, broken, or not an object.
    """
    if file.is_file() and file.stat().st_size > _MAX_JSON:
        raise WeightsError(f"{file}: larger than any real one; it is not read.")
    if file.exists() and not file.is_file():
        raise WeightsError(f"{file}: not a regular file.")
    return read_object(file, error=WeightsError)


def _list_shards(folder: Path) -> dict[str, Entry]:
    where = read_small_json(folder / INDEX).get("weight_map")
    if not isinstance(where, dict) or not where:
        raise WeightsError(f"{folder / INDEX}: no weight_map. Fetch the file again.")
    entries: dict[str, Entry] = {}
    problems: list[str] = []
    for shard in sorted({str(shard) for shard in where.values()}):
        file = folder / shard
        if Path(shard).name != shard or not file.is_file():
            problems.append(f"{shard[:_MAX_NAME]!r}: no such file beside the index")
            continue
        found = read_header(file)
        named = {name for name, place in where.items() if place == shard}
        problems += [f"{name}: not in {shard}" for name in named - found.keys()]
        problems += [f"{name}: in {shard} only" for name in found.keys() - named]
        entries |= found
    raise_all(f"{folder / INDEX} does not fit", problems, "Fetch the folder again.")
    return entries


def _opened(file: Path) -> safe_open:
    # Not mapped: a file that is cut while it is read would end the process.
    return safe_open(file, "np", backend="pread")


def _unsound(file: Path, what: str) -> WeightsError:
    told = "".join(c if c.isprintable() else "?" for c in what[:_MAX_NAME])
    return WeightsError(
        f"{file}: not a safetensors file, or cut or damaged: {told}. Fetch it again."
    )


def _no_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        seen: set[str] = set()
        doubles = {name for name, _ in pairs if name in seen or seen.add(name)}
        raise ValueError(f"names that stand twice: {sorted(doubles)[:5]}")
    return table


def _oddity(entry: Entry, fields: Any) -> str | None:
    """Says what the library lets pass in a tensor's line of the header."""
    name = entry.name
    if not name or len(name) > _MAX_NAME or not name.isprintable():
        return "not a name for a tensor"
    if len(entry.shape) > _MAX_AXES:
        return f"more than {_MAX_AXES} axes"
    told = {"dtype": entry.dtype, "shape": list(entry.shape)}
    if not isinstance(fields, dict) or fields != told | {
        "data_offsets": fields.get("data_offsets")
    }:
        return "needs dtype, shape and data_offsets, and nothing else"
    return None
