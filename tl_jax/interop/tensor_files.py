"""Reads and writes safetensors files: a JSON header, then the tensors' plain bytes.

https://github.com/huggingface/safetensors#format. The header is checked in full before
any tensor is read, so that a hostile or cut file costs neither time nor memory; no
pickle is ever opened.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from tl_jax.files.atomic import read_json, writing
from tl_jax.files.errors import WeightsError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_MAX_HEADER = 1 << 20  # bytes; BERT-large's header has 60 kB
_MAX_JSON = 4 << 20  # bytes; a config may name many labels
_MAX_NAME = 500
_DTYPES: Mapping[str, np.dtype] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(jnp.bfloat16),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
_FLOATS = ("F32", "F16", "BF16")
_CONVERT = (
    "Convert once, where you trust the file, with transformers and torch: "
    "AutoModel.from_pretrained(FOLDER).save_pretrained(NEW, safe_serialization=True); "
    "then load NEW. (A model with a head: its own class in place of AutoModel.)"
)


@dataclass(frozen=True)
class Entry:
    """Where a tensor stands.

    Attributes:
      file: The safetensors file.
      dtype: The format's name of its type, such as ``F32``.
      shape: Its shape.
      start: Its first byte, from the beginning of the file.
    """

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int

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
            f"when read, so it is not opened. {_CONVERT}"
        )
    raise WeightsError(
        f"{folder}: neither {WEIGHTS} nor {INDEX} is there. Name the folder that "
        "transformers' save_pretrained wrote."
    )


def read_header(file: Path) -> dict[str, Entry]:
    """Lists the tensors of one safetensors file, every byte of it accounted for.

    Raises:
      WeightsError: The file is cut, or its header is not sound; all problems are named.
    """
    size = file.stat().st_size
    with open(file, "rb") as stream:
        first = stream.read(8)
        length = int.from_bytes(first, "little")
        if len(first) < 8 or length > size - 8:
            raise WeightsError(
                f"{file}: not a safetensors file, or cut short ({size} bytes). "
                "Fetch it again."
            )
        if length > _MAX_HEADER:
            raise WeightsError(
                f"{file}: a header of {length} bytes, more than the {_MAX_HEADER} that "
                "any real model needs. It is not read."
            )
        raw = stream.read(length)
    table = _parse(file, raw)
    table.pop("__metadata__", None)
    entries: dict[str, Entry] = {}
    spans: list[tuple[int, int, str]] = []
    problems: list[str] = []
    for name, fields in table.items():
        try:
            dtype, shape, start, end = _fields(name, fields)
        except ValueError as problem:
            problems.append(f"{name[:_MAX_NAME]!r}: {problem}")
            continue
        entries[name] = Entry(file, dtype, shape, 8 + length + start)
        spans.append((start, end, name))
    if not problems:
        problems = _gaps(sorted(spans), size - 8 - length)
    raise_all(f"{file}: its header is not sound", problems, "Fetch the file again.")
    return entries


def read_floats(entry: Entry) -> np.ndarray:
    """Reads one F32, F16 or BF16 tensor as float32."""
    dtype = _DTYPES[entry.dtype]
    with open(entry.file, "rb") as stream:
        stream.seek(entry.start)
        flat = np.fromfile(stream, dtype, math.prod(entry.shape))
    if flat.size != math.prod(entry.shape):
        raise WeightsError(f"{entry.file}: cut short while it was read. Load it again.")
    return flat.reshape(entry.shape).astype(np.float32, copy=False)


def write_tensors(file: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes float32 tensors, atomically, one after the other by name.

    The metadata are those that transformers asks for, ``{"format": "pt"}``.
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
    found = read_json(file, error=WeightsError)
    if not isinstance(found, dict):
        raise WeightsError(f"{file}: not a JSON object. Restore the file.")
    return found


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


def _parse(file: Path, raw: bytes) -> dict[str, Any]:
    try:
        table = json.loads(raw.decode(), object_pairs_hook=_no_doubles)
    except (ValueError, RecursionError) as problem:
        what = str(problem)[:_MAX_NAME]
        raise WeightsError(
            f"{file}: its header is not sound: {what}. Fetch the file again."
        ) from problem
    if not isinstance(table, dict):
        raise WeightsError(f"{file}: its header is no JSON object. Fetch it again.")
    return table


def _no_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        seen: set[str] = set()
        doubles = {name for name, _ in pairs if name in seen or seen.add(name)}
        raise ValueError(f"names that stand twice: {sorted(doubles)[:5]}")
    return table


def _fields(name: str, fields: Any) -> tuple[str, tuple[int, ...], int, int]:
    """Checks one tensor's line of the header; ValueError says what is wrong."""
    if not name or len(name) > _MAX_NAME or not name.isprintable():
        raise ValueError("not a name for a tensor")
    if not isinstance(fields, dict) or set(fields) != {
        "dtype",
        "shape",
        "data_offsets",
    }:
        raise ValueError("needs dtype, shape and data_offsets, and nothing else")
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise ValueError(f"unknown dtype {str(dtype)[:40]!r}")
    if not _naturals(shape) or len(shape) > 8:
        raise ValueError("its shape is not a list of sizes")
    if not _naturals(offsets) or len(offsets) != 2:
        raise ValueError("its data_offsets are not two positions")
    needed = math.prod(shape) * _DTYPES[dtype].itemsize
    if offsets[1] - offsets[0] != needed:
        raise ValueError("its data_offsets do not fit its shape and dtype")
    return dtype, tuple(shape), offsets[0], offsets[1]


def _naturals(values: Any) -> bool:
    return isinstance(values, list) and all(
        type(value) is int and 0 <= value < 1 << 62 for value in values
    )


def _gaps(spans: list[tuple[int, int, str]], size: int) -> list[str]:
    """Names each tensor that does not begin where the one before it ends."""
    problems: list[str] = []
    position = 0
    for start, end, name in spans:
        if start != position:
            problems.append(f"{name}: its bytes overlap another's or leave a gap")
        position = max(position, end)
    if position != size:
        problems.append(f"the tensors end at byte {position}, the file at {size}")
    return problems
