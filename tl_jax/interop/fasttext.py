"""Word vectors of fastText's native ``.bin``, whose rows are means over n-grams.

Bojanowski et al. 2017, "Enriching Word Vectors with Subword Information".
"""

import mmap
import struct
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float32, Int64, UInt32

from tl_jax.interop.vector_rows import GATHER, MAX_WORD, Pick

MAGIC = struct.pack("<i", 793712314)


def read_fasttext(pick: Pick, data: mmap.mmap) -> Float32[np.ndarray, "V D"]:
    """Reads ``args``, ``dictionary`` and the input matrix of fastText's own format."""

    def take(form: str, at: int) -> tuple[int, ...]:
        if at + struct.calcsize(form) > len(data):
            raise pick.error("the file is cut short", f"byte {at}")
        return struct.unpack_from(form, data, at)

    magic, version, dim, *_, model, bucket, minn, maxn, _ = take("<14i", 0)
    size, words, labels, _, pruned = take("<3i2q", 64)
    if magic.to_bytes(4, "little", signed=True) != MAGIC or version not in (11, 12):
        raise pick.error("not a fastText model of version 11 or 12", "header")
    if version == 11 and model == 3:
        maxn = 0  # as fastText does: these supervised models had no n-grams
    sane = dim > 0 and words > 0 and labels >= 0 and size == words + labels
    if not sane or bucket < 0 or maxn > 100 or size * 10 > len(data):
        raise pick.error("its sizes contradict each other", "header")
    raw, at = [], 92
    for row in range(size):
        end = data.find(b"\0", at, at + MAX_WORD)
        if end < 0 or take("<qb", end + 1)[1] != (row >= words):
            raise pick.error("cut short or damaged", f"word {row + 1}, byte {at}")
        raw.append(data[at:end])
        at = end + 10
    quantised, rows, width = take("<B2q", at)
    if quantised or pruned >= 0:
        raise pick.error(
            "a quantised or pruned model; use the .bin or .vec before that"
        )
    after = at + 17 + 4 * rows * width
    if rows != words + bucket or width != dim or after > len(data):
        raise pick.error(f"no matrix of {words + bucket} rows of {dim}", f"byte {at}")
    _, out, hidden = take("<B2q", after)
    if out < 0 or hidden < 0 or after + 17 + 4 * out * hidden != len(data):
        raise pick.error("the output matrix is cut short or too long", f"byte {after}")
    matrix = np.frombuffer(data, "<f4", rows * width, at + 17).reshape(rows, width)
    keep = [
        row
        for row in range(pick.rows(words))
        if pick.wants(pick.decode(raw[row], f"word {row + 1}"), f"word {row + 1}")
    ]
    vectors = matrix[keep].astype(np.float32, copy=False)
    if maxn > 0 and bucket > 0:
        _add_subwords(vectors, [raw[row] for row in keep], matrix[words:], minn, maxn)
    pick.require_finite(vectors)
    return vectors


def _add_subwords(
    vectors: Float32[np.ndarray, "V D"],
    words: list[bytes],
    buckets: Float32[np.ndarray, "buckets D"],
    minn: int,
    maxn: int,
) -> None:
    """Makes each row the mean of the word's own vector and its n-grams', in place."""
    piece = max(1, GATHER // vectors.shape[1])
    ends = np.cumsum([len(word) + 2 for word in words]) // 4096
    for block in np.split(np.arange(len(words)), np.flatnonzero(np.diff(ends)) + 1):
        if not len(block):
            continue
        total, count = vectors[block].astype(np.float64), np.ones(len(block))
        for owners, hashes in _ngrams([words[row] for row in block], minn, maxn):
            count += np.bincount(owners, minlength=len(block))
            for start in range(0, len(owners), piece):
                part = slice(start, start + piece)
                which, first = np.unique(owners[part], return_index=True)
                rows = buckets[hashes[part] % len(buckets)].astype(np.float64)
                total[which] += np.add.reduceat(rows, first, axis=0)
        vectors[block] = total / count[:, None]


def _ngrams(
    words: list[bytes], minn: int, maxn: int
) -> Iterator[tuple[Int64[np.ndarray, " grams"], UInt32[np.ndarray, " grams"]]]:
    """Yields, for each length, the n-grams' words (ascending) and FNV-1a hashes.

    A word is ``<word>``, an n-gram is n UTF-8 characters of it, and ``<`` and ``>``
    alone are none; the sentence end ``</s>`` has no n-grams. As in fastText, a byte is
    sign-extended before it enters the hash. All words' n-grams grow side by side, by
    one character a round.
    """
    spelled = [b"" if word == b"</s>" else b"<" + word + b">" for word in words]
    text = np.frombuffer(b"".join(spelled), np.int8)
    owner = np.repeat(np.arange(len(words)), [len(word) for word in spelled])
    starts = np.flatnonzero((text.view(np.uint8) & 0xC0) != 0x80)
    lengths, owner = np.diff(starts, append=len(text)), owner[starts]
    edge = np.diff(owner, prepend=-1) != 0
    edge |= np.diff(owner, append=-1) != 0
    begin, hashes = np.arange(len(starts)), np.full(len(starts), 2166136261, np.uint32)
    for n in range(1, maxn + 1):
        inside = begin + n - 1 < len(starts)
        inside[inside] = owner[begin[inside] + n - 1] == owner[begin[inside]]
        begin, hashes = begin[inside], hashes[inside]
        if not len(begin):
            return
        last = begin + n - 1
        for byte in range(int(lengths[last].max())):
            grows = lengths[last] > byte
            value = text[starts[last[grows]] + byte].astype(np.int32).view(np.uint32)
            hashes[grows] = (hashes[grows] ^ value) * np.uint32(16777619)
        if n >= minn:
            fine = ~edge[begin] if n == 1 else slice(None)
            yield owner[begin[fine]], hashes[fine]
