"""GloVe's co-occurrences, counted in bounded memory: sorted runs on disk, then merged.

``X[i, j] = Σ 1 / |t - s|`` over all places t ≠ s of one sentence with word i at t,
word j at s and ``|t - s| ≤ window`` (Pennington et al. 2014, section 4.2). X is
symmetric, so only ``i ≤ j`` is counted. As in the official tools the entries are then
shuffled once, which here too needs no more memory than was allowed.
"""

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64

from tl_jax.data.corpus import Corpus
from tl_jax.files.errors import ConfigError

ENTRY = np.dtype([("word", "<i4"), ("context", "<i4"), ("count", "<f4")])
_RUN = np.dtype([("key", "<i8"), ("count", "<f8")])
ENTRIES = "cooccurrences.bin"
_BYTES = 64  # of memory a pair needs while runs are made or merged
_BUCKET = 1 << 22  # entries that are shuffled in memory at once

# Pairs of words, each as one number and no number twice, ascending, with their counts.
Run = tuple[Int64[np.ndarray, "_"], Float64[np.ndarray, "_"]]


@dataclass(frozen=True, eq=False)
class Cooccurrences:
    """The entries of X in an order drawn at random, on disk.

    Attributes:
      entries: Records ``word``, ``context``, ``count``; both (i, j) and (j, i).
      path: The file that they lie in.
      spilled: How many runs had to be written to disk to count them.
    """

    entries: np.ndarray
    path: Path
    spilled: int

    def __len__(self) -> int:
        return len(self.entries)


def count_cooccurrences(
    corpus: Corpus, window: int, folder: Path, *, memory: int = 1 << 30, seed: int = 0
) -> Cooccurrences:
    """Counts the pairs of a text and shuffles them.

    Args:
      corpus: The text.
      window: Farthest distance.
      folder: Where runs are kept for a while, and the entries for good.
      memory: About how many bytes may be used to count; shuffling takes 200 MB.
      seed: Keys the order of the entries.

    Raises:
      ConfigError: ``window`` is below 1, or numbers of this many words at this window
        have no room in 64 bits.
    """
    if window < 1 or len(corpus.words) ** 2 * window >= 2**63:
        raise ConfigError(
            f"window must be 1 or more, and words² · window below 2^63; they are "
            f"{window} and {len(corpus.words):,} words."
        )
    limit = max(memory // _BYTES, 2 * window)
    with tempfile.TemporaryDirectory(dir=folder, prefix="runs-") as runs:
        files, rest = _spill(corpus, window, limit, Path(runs))
        merged = _merge([*map(_read, files), rest], limit)
        entries = _shuffle(merged, len(corpus.words), folder, Path(runs), seed)
    return Cooccurrences(entries, folder / ENTRIES, len(files))


def _spill(
    corpus: Corpus, window: int, limit: int, folder: Path
) -> tuple[list[Path], Run]:
    """Counts part by part; what grows beyond half of the limit becomes a file."""
    files: list[Path] = []
    run: Run = (np.empty(0, np.int64), np.empty(0, np.float64))
    for begin, end in _slices(corpus, max(limit // (2 * window), 1)):
        run = _add(run, _count(corpus, window, begin, end))
        if len(run[0]) > limit // 2:
            files.append(folder / f"{len(files)}.run")
            _write(files[-1], run)
            run = (run[0][:0], run[1][:0])
    return files, run


def _slices(corpus: Corpus, size: int) -> Iterator[tuple[int, int]]:
    for begin in range(0, len(corpus), size):
        yield begin, min(begin + size, len(corpus))


def _count(corpus: Corpus, window: int, begin: int, end: int) -> Run:
    """Counts the pairs whose first token lies in ``begin … end - 1``."""
    tokens = corpus.tokens[begin : end + window].astype(np.int64)
    sentences = corpus.sentences[begin : end + window]
    vocabulary = len(corpus.words)
    found = []
    for distance in range(1, window + 1):
        left = tokens[:-distance][: end - begin]
        right = tokens[distance:][: len(left)]
        same = sentences[distance:][: len(left)] == sentences[: len(left)]
        low, high = np.minimum(left, right)[same], np.maximum(left, right)[same]
        # The distance rides in the key, so that one sort of integers does it all.
        found.append((low * vocabulary + high) * window + distance - 1)
    keys = np.sort(np.concatenate(found))
    return _sum(keys // window, 1.0 / (keys % window + 1))


def _sum(keys: Int64[np.ndarray, " E"], counts: Float64[np.ndarray, " E"]) -> Run:
    """Adds up the counts of equal keys, which must stand together."""
    if not len(keys):
        return keys, counts
    first = np.flatnonzero(np.diff(keys, prepend=keys[0] - 1))
    return keys[first], np.add.reduceat(counts, first)


def _add(*runs: tuple[np.ndarray, np.ndarray]) -> Run:
    keys = np.concatenate([run[0] for run in runs])
    order = np.argsort(keys, kind="stable")
    return _sum(keys[order], np.concatenate([run[1] for run in runs])[order])


def _write(file: Path, run: Run) -> None:
    records = np.empty(len(run[0]), _RUN)
    records["key"], records["count"] = run
    file.write_bytes(records.data)


def _read(file: Path) -> Run:
    records = np.memmap(file, _RUN, mode="r")
    return records["key"], records["count"]


def _merge(runs: list[Run], limit: int) -> Iterator[Run]:
    """Merges runs block by block: each block's keys are above those of the ones before.

    From every run some entries are looked at; up to the least of their last keys
    nothing can be missing, so that much is added up and given out.
    """
    ahead = max(limit // (2 * len(runs)), 1)
    at = [0] * len(runs)
    while any(a < len(keys) for a, (keys, _) in zip(at, runs, strict=True)):
        blocks = [keys[a : a + ahead] for a, (keys, _) in zip(at, runs, strict=True)]
        bound = min(int(block[-1]) for block in blocks if len(block))
        taken = []
        for i, block in enumerate(blocks):
            n = int(np.searchsorted(block, bound, side="right"))
            taken.append((block[:n], runs[i][1][at[i] : at[i] + n]))
            at[i] += n
        yield _add(*taken)


def _shuffle(
    merged: Iterable[Run], vocabulary: int, folder: Path, runs: Path, seed: int
) -> np.ndarray:
    """Mirrors the entries and writes them in random order.

    Each is dealt to one of many files at random; then every file is shuffled in memory
    and appended, which is a uniform shuffle. What is drawn depends on the entries
    alone, not on the memory that is allowed.
    """
    total = 0
    with open(runs / "ordered", "wb") as stream:
        for block in merged:
            records = _mirrored(block, vocabulary)
            stream.write(records.data)
            total += len(records)
    buckets = -(-total // _BUCKET)
    draw = np.random.default_rng([seed, 0])
    for begin in range(0, total, _BUCKET):
        place = begin * ENTRY.itemsize
        records = np.fromfile(runs / "ordered", ENTRY, _BUCKET, offset=place)
        dealt = draw.integers(0, buckets, len(records))
        for bucket in range(buckets):
            with open(runs / f"{bucket}.bucket", "ab") as stream:
                stream.write(records[dealt == bucket].data)
    with open(folder / ENTRIES, "wb") as stream:
        for bucket in range(buckets):
            records = np.fromfile(runs / f"{bucket}.bucket", ENTRY)
            order = np.random.default_rng([seed, 1, bucket]).permutation(len(records))
            stream.write(records[order].data)
    return np.memmap(folder / ENTRIES, ENTRY, "r") if total else np.empty(0, ENTRY)


def _mirrored(run: Run, vocabulary: int) -> np.ndarray:
    """Makes records of (i, j) and, where they differ, (j, i); (i, i) counts twice."""
    word, context = np.divmod(run[0], vocabulary)
    counts = np.where(word == context, 2 * run[1], run[1])
    # Side by side, so that blocks of any size make the same sequence.
    both = np.stack([np.ones(len(word), bool), word != context], axis=1)
    records = np.empty(int(both.sum()), ENTRY)
    records["word"] = np.stack([word, context], axis=1)[both]
    records["context"] = np.stack([context, word], axis=1)[both]
    records["count"] = np.stack([counts, counts], axis=1)[both]
    return records
