"""Word vectors in word2vec's binary format."""

import mmap

import numpy as np
from jaxtyping import Float32

from tl_jax.interop.vector_rows import MAX_WORD, Pick, announced_sizes


def read_binary(pick: Pick, data: mmap.mmap) -> Float32[np.ndarray, "V D"]:
    """Reads the rows to keep of a mapped file."""
    at = data.find(b"\n", 0, 64) + 1
    count, width = announced_sizes(pick, data[: max(at - 1, 0)])
    if count * (4 * width + 1) > len(data) - at:
        what = f"no room for the {count} rows of {width} floats that are announced"
        raise pick.error(f"cut short, or a wrong header: {what}", "header")
    starts: list[int] = []
    for row in range(pick.rows(count)):
        space = data.find(b" ", at, at + MAX_WORD)
        end = space + 1 + 4 * width
        if space < 0 or end > len(data):
            what = f"no word, space and {width} floats: cut short, or a wrong header"
            raise pick.error(what, f"row {row + 1} of {count}, byte {at}")
        word = pick.decode(data[at:space].lstrip(b"\n"), f"row {row + 1}")
        if pick.wants(word, f"row {row + 1}"):
            starts.append(space + 1)
        at = end
    if pick.rows(count) == count and data[at : at + 2] not in (b"", b"\n"):
        raise pick.error(f"more than the header's {count} rows", f"byte {at}")
    vectors = np.empty((len(starts), width), np.float32)
    for row, start in enumerate(starts):
        vectors[row] = np.frombuffer(data, "<f4", width, start)
    pick.require_finite(vectors)
    return vectors
