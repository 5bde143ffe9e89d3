"""Tokenised documents on disk, larger than memory, and examples read from them.

A folder holds flat binary files, whose SHA-256 stand in its MANIFEST.json::

    tokens-00000.bin …   pieces of whole documents, end to end
    segments.bin         int64: number of each segment's first piece; the end
    documents.bin        int64: number of each document's first segment; the end
    connected.bin        bool: a document's segments follow one another
    pairs.bin            int64 [N, 5]: the examples, as `Pair`s
    packed.bin           int64 [N]: numbers of the examples, row by row
    rows.bin             int64: where each row begins in that; the end

It is made under another name and renamed when it is whole; opening it verifies every
byte. What is open is mapped, not loaded.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from tl_jax.data.examples import Examples, make_examples
from tl_jax.data.masking import NEXT_SENTENCE
from tl_jax.data.next_sentence import Pair, PairRules, draw_pairs
from tl_jax.data.packing import Layout, place
from tl_jax.files.atomic import writing_folder
from tl_jax.files.errors import ConfigError, DataError
from tl_jax.files.manifest import verify_manifest, write_manifest
from tl_jax.text.encodings import Framed

SHARD_PIECES = 1 << 27  # of one file of tokens: 256 MB of two bytes each
FULL = 0.96  # share of a row's positions that carry text, to be aimed at
_PAIRS_AT_ONCE = 65536
_WINDOW = 8192  # examples that are packed into rows together
_INTEGER = np.dtype(np.int64)


class Pieces(NamedTuple):
    """A document as ids: one array a segment, and whether they follow one another."""

    segments: list[Int[np.ndarray, "_"]]
    connected: bool


@dataclass(frozen=True, eq=False)
class TokenisedText:
    """Tokenised documents. Pieces, segments and documents are numbered from 0.

    Attributes:
      shards: The pieces, file by file.
      starts: Number of each file's first piece.
      segments: Number of each segment's first piece; the last entry is the end.
      documents: Number of each document's first segment; the last entry is the end.
      connected: By document.
    """

    shards: tuple[np.ndarray, ...]
    starts: Int[np.ndarray, "_"]
    segments: Int[np.ndarray, "_"]
    documents: Int[np.ndarray, "_"]
    connected: Bool[np.ndarray, "_"]

    def read(self, begin: int, length: int) -> Int[np.ndarray, "n"]:
        """Returns some pieces of one document."""
        shard = int(np.searchsorted(self.starts, begin, "right")) - 1
        at = begin - int(self.starts[shard])
        return self.shards[shard][at : at + length].astype(np.int32)


@dataclass(frozen=True, eq=False)
class Prepared:
    """Examples that are read from disk when they are asked for, in rows laid already.

    Attributes:
      corpus: The documents.
      pairs: The examples: columns as of `Pair`.
      packed: Numbers of the examples, row by row; each stands there once.
      rows: Where each row begins in ``packed``; the last entry is the end.
      row_length: Positions of a row.
      counts: What there is of everything.
      source: What they were prepared from.
    """

    corpus: TokenisedText
    pairs: Int[np.ndarray, "N 5"]
    packed: Int[np.ndarray, "N"]
    rows: Int[np.ndarray, "_"]
    row_length: int
    counts: dict[str, int]
    source: dict[str, Any]

    def __len__(self) -> int:
        return len(self.pairs)

    def read(
        self, numbers: Int[np.ndarray, "n"], frame: Callable[..., Framed]
    ) -> Examples:
        """Reads examples; their numbers are their ids.

        The target ``next_sentence`` has weight 0 where there is no second text.
        """
        chosen = [Pair(*pair) for pair in self.pairs[numbers].tolist()]
        framed = [frame(*self._texts(pair)) for pair in chosen]
        paired = np.array([pair.second_length > 0 for pair in chosen])
        return make_examples(
            [f.tokens for f in framed],
            [f.types for f in framed],
            targets={NEXT_SENTENCE: np.array([pair.random for pair in chosen])},
            weights={NEXT_SENTENCE: paired},
            ids=numbers,
        )

    def lengths(
        self, numbers: Int[np.ndarray, "n"], frame: Callable[..., Framed]
    ) -> Int[np.ndarray, "n"]:
        """Returns how many tokens examples have, specials included."""
        nothing = np.zeros(0, np.int32)
        single, double = len(frame(nothing).tokens), len(frame(nothing, nothing).tokens)
        first, second = self.pairs[numbers][:, [1, 3]].T
        return first + second + np.where(second > 0, double, single)

    def _texts(self, pair: Pair) -> list[Int[np.ndarray, "_"]]:
        spans = [pair[0:2], pair[2:4]] if pair.second_length else [pair[0:2]]
        return [self.corpus.read(begin, length) for begin, length in spans]


def prepare(
    folder: Path,
    documents: Iterable[Pieces],
    rules: PairRules,
    vocab_size: int,
    source: dict[str, Any],
    *,
    row_length: int | None = None,
    shard_pieces: int = SHARD_PIECES,
) -> None:
    """Writes documents, examples drawn from them and rows; all of it or nothing.

    Args:
      folder: Made; an older one of the name is replaced.
      documents: Taken one at a time; segments and documents without pieces are left
        out.
      rules: How examples are drawn.
      vocab_size: All ids are below it.
      source: What identifies the preparation; `open_prepared` gives it back.
      row_length: Positions of a row. By default the narrowest of once, twice and four
        times ``rules.max_length`` with text on 96 % of the positions, or the fullest.
      shard_pieces: A file of tokens takes documents until it holds as many pieces.

    Raises:
      DataError: There are no pieces, or what `draw_pairs` raises.
      OSError: The disk is full or fails.
    """
    dtype = np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.int32)
    with writing_folder(folder, replace=True) as fresh:
        counts = _write_corpus(fresh, documents, dtype, shard_pieces)
        corpus = _map_corpus(fresh, dtype)
        drawn = draw_pairs(corpus.segments, corpus.documents, corpus.connected, rules)
        with open(fresh / "pairs.bin", "wb") as stream:
            while some := list(islice(drawn, _PAIRS_AT_ONCE)):
                stream.write(np.array(some, np.int64).data)
        lengths = rules.lengths(_map_pairs(fresh))
        width = row_length or _fitting(lengths, rules)
        if width < rules.max_length:
            raise ConfigError(f"Rows of {width} positions are too short for examples.")
        counts["examples"] = len(lengths)
        counts["rows"] = _write_rows(fresh, lengths, width, rules.seed)
        counts["tokens"] = int(lengths.sum())
        told = {"dtype": dtype.name, "row_length": width}
        write_manifest(fresh, {**told, "counts": counts, "source": source})


def open_prepared(folder: Path) -> Prepared:
    """Opens what `prepare` wrote, after verifying it.

    Raises:
      IntegrityError: It was never finished, or files are not those written; they are
        named.
    """
    meta = verify_manifest(folder)
    return Prepared(
        corpus=_map_corpus(folder, np.dtype(meta["dtype"])),
        pairs=_map_pairs(folder),
        packed=_map(folder / "packed.bin", _INTEGER),
        rows=_map(folder / "rows.bin", _INTEGER),
        row_length=meta["row_length"],
        counts=meta["counts"],
        source=meta["source"],
    )


def _fitting(lengths: Int[np.ndarray, "N"], rules: PairRules) -> int:
    """Tries row lengths on some of the examples."""
    draw = np.random.default_rng(rules.seed)
    sample = lengths[draw.integers(len(lengths), size=min(len(lengths), _WINDOW))]
    widths = [rules.max_length * n for n in (1, 2, 4)]
    shares = {
        width: sample.sum() / width / (int(_place(sample, width)[0].max()) + 1)
        for width in widths
    }
    full = (width for width in widths if shares[width] >= FULL)
    return next(full, max(widths, key=lambda width: shares[width]))


def _place(lengths: Int[np.ndarray, "_"], width: int) -> tuple[np.ndarray, ...]:
    return place(lengths, width, Layout(narrowest=width).slots(width))


def _write_rows(
    folder: Path, lengths: Int[np.ndarray, "N"], width: int, seed: int
) -> int:
    """Packs examples in random order, many at a time; returns the number of rows."""
    order = np.random.default_rng(seed).permutation(len(lengths))
    begin = count = 0
    with (
        open(folder / "packed.bin", "wb") as packed,
        open(folder / "rows.bin", "wb") as bounds,
    ):
        bounds.write(_numbers(0).data)
        for at in range(0, len(order), _WINDOW):
            some = order[at : at + _WINDOW]
            rows, slots, _ = _place(lengths[some], width)
            packed.write(some[np.lexsort((slots, rows))].astype(np.int64).data)
            sizes = np.bincount(rows)
            bounds.write((begin + np.cumsum(sizes)).astype(np.int64).data)
            begin, count = begin + len(some), count + len(sizes)
    return count


def _write_corpus(
    folder: Path, documents: Iterable[Pieces], dtype: np.dtype, shard_pieces: int
) -> dict[str, int]:
    """Writes the files of the pieces and where they end; returns what they hold."""
    pieces = segments = number = 0
    with ExitStack() as stack:
        # Not by numpy's tofile: it loses an exception that a signal raises within it.
        def create(name: str) -> BinaryIO:
            return stack.enter_context(open(folder / name, "wb"))

        ends, firsts = create("segments.bin"), create("documents.bin")
        connected = create("connected.bin")
        ends.write(_numbers(0).data)
        firsts.write(_numbers(0).data)
        for shard, group in enumerate(_grouped(documents, shard_pieces)):
            with open(folder / f"tokens-{shard:05}.bin", "wb") as tokens:
                for document in group:
                    lengths = [len(s) for s in document.segments]
                    tokens.write(np.concatenate(document.segments).astype(dtype).data)
                    ends.write((pieces + np.cumsum(lengths)).data)
                    pieces, segments = pieces + sum(lengths), segments + len(lengths)
                    firsts.write(_numbers(segments).data)
                    connected.write(np.array([document.connected]).data)
                    number += 1
    if not pieces:
        raise DataError("The text gives no pieces with this vocabulary.")
    return {"documents": number, "segments": segments, "pieces": pieces}


def _grouped(documents: Iterable[Pieces], size: int) -> Iterator[Iterator[Pieces]]:
    """Deals documents into groups of ``size`` pieces or a little more, lazily."""
    left = iter(documents)

    def some() -> Iterator[Pieces]:
        taken = 0
        for document in left:
            kept = [s for s in document.segments if len(s)]
            if kept:
                yield Pieces(kept, document.connected)
                taken += sum(map(len, kept))
            if taken >= size:
                return

    while True:
        group = some()
        first = next(group, None)
        if first is None:
            return
        yield chain([first], group)


def _map_corpus(folder: Path, dtype: np.dtype) -> TokenisedText:
    shards = tuple(_map(path, dtype) for path in sorted(folder.glob("tokens-*.bin")))
    ends = np.cumsum([len(shard) for shard in shards])
    return TokenisedText(
        shards,
        starts=np.concatenate([[0], ends[:-1]]),
        segments=_map(folder / "segments.bin", _INTEGER),
        documents=_map(folder / "documents.bin", _INTEGER),
        connected=_map(folder / "connected.bin", np.dtype(bool)),
    )


def _map_pairs(folder: Path) -> Int[np.ndarray, "N 5"]:
    return _map(folder / "pairs.bin", _INTEGER).reshape(-1, len(Pair._fields))


def _map(path: Path, dtype: np.dtype) -> np.ndarray:
    return np.memmap(path, dtype, mode="r")


def _numbers(value: int) -> Int[np.ndarray, "1"]:
    return np.array([value], np.int64)
