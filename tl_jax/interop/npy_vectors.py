"""Word vectors as an array beside a parquet file of words."""

from pathlib import Path

import numpy as np
from jaxtyping import Float32

from tl_jax.files.errors import WeightsError
from tl_jax.interop.vector_rows import CONVERT, Pick


def read_npy(pick: Pick) -> Float32[np.ndarray, "V D"]:
    """Reads the rows to keep of a folder."""
    array, index = _only_file(pick, "*.npy"), _only_file(pick, "*.parquet")
    try:
        matrix = np.load(array, mmap_mode="r", allow_pickle=False)
    except Exception as problem:  # a broken header makes numpy raise almost anything
        pickled = "Python objects" in str(problem) or "pickled" in str(problem)
        why = f"a pickle. {CONVERT}" if pickled else f"not a whole array: {problem}."
        raise WeightsError(f"{array}: {why}") from problem
    numeric = isinstance(matrix, np.ndarray) and matrix.dtype.kind == "f"
    if not numeric or matrix.ndim != 2 or not matrix.size:
        raise WeightsError(f"{array}: not a table of floats [V, D].")
    words = _parquet_words(index, len(matrix))[: pick.rows(len(matrix))]
    keep = [row for row, word in enumerate(words) if pick.wants(word, f"row {row}")]
    part = matrix[: len(keep)] if len(keep) == len(words) else matrix[keep]
    with np.errstate(over="ignore"):  # a float64 too large becomes infinite, told below
        vectors = np.array(part, np.float32, order="C")
    pick.require_finite(vectors)
    return vectors


def _only_file(pick: Pick, pattern: str) -> Path:
    if not pick.path.is_dir():
        raise pick.error("npy is a folder with one .npy and one .parquet file")
    found = sorted(pick.path.rglob(pattern))
    if len(found) != 1:
        listed = ", ".join(str(file.relative_to(pick.path)) for file in found) or "none"
        raise pick.error(f"one {pattern} file is due in the folder, there is: {listed}")
    return found[0]


def _parquet_words(path: Path, count: int) -> list[str]:
    """Reads the one column of strings; pyarrow comes with tensorflow-datasets."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            strings = (pa.string(), pa.large_string())
            names = [field.name for field in file.schema_arrow if field.type in strings]
            groups = range(file.metadata.num_row_groups)
            size = sum(file.metadata.row_group(n).total_byte_size for n in groups)
            if len(names) != 1 or file.metadata.num_rows != count:
                what = f"one column of {count} strings is due"
                raise WeightsError(f"{path}: {what}, one row a vector.")
            if size > (1 << 20) + 1000 * count:
                raise WeightsError(f"{path}: {size} bytes for {count} words.")
            words = file.read(columns=names).column(0).to_pylist()
    except (pa.ArrowException, OSError, ValueError) as problem:
        raise WeightsError(f"{path}: broken parquet: {problem}.") from problem
    if len(words) != count or None in words:
        raise WeightsError(f"{path}: a word is missing.")
    return words
