"""Prepared text on disk: what comes back, and what is refused."""

import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tl_jax.data import shards
from tl_jax.data.masking import MASKED_LM, NEXT_SENTENCE, Masking
from tl_jax.data.next_sentence import PairRules
from tl_jax.data.pretraining_stream import PretrainingStream
from tl_jax.data.shards import Pieces, open_prepared, prepare
from tl_jax.files import atomic
from tl_jax.files.atomic import sweep
from tl_jax.files.errors import ConfigError, DataError, IntegrityError
from tl_jax.text.encodings import Framed

VOCABULARY = 5000
RULES = PairRules(32, passes=2)
MASKING = Masking(VOCABULARY, 3, (0, 1, 2, 3), most=5)


def documents(count=60, seed=0):
    """Documents whose pieces are all different, as far as they go."""
    draw = np.random.default_rng(seed)
    begin = 4
    for number in range(count):
        lengths = draw.integers(0, 12, draw.integers(1, 15))
        segments = []
        for n in lengths:
            segments.append((np.arange(begin, begin + n) % VOCABULARY).astype(np.int32))
            begin += n
        yield Pieces(segments, number % 10 != 9)


def frame(first, second=None):
    texts = [[1], first, [2]] + ([second, [2]] if second is not None else [])
    types = [0] * (len(first) + 2) + [1] * (
        len(second) + 1 if second is not None else 0
    )
    tokens = np.concatenate(texts).astype(np.int32)
    return Framed(tokens, np.array(types, np.int32), 1, len(first) + 2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    prepare(tmp_path / "p", documents(), RULES, VOCABULARY, {"a": 1}, shard_pieces=900)
    return tmp_path / "p"


def stream_of(folder, **changes):
    prepared = open_prepared(folder)
    return PretrainingStream(
        prepared, frame, MASKING, **({"batch_size": 8, "seed": 0} | changes)
    )


def test_what_was_written_is_read_back_from_several_files(folder: Path) -> None:
    prepared = open_prepared(folder)
    assert len(list(folder.glob("tokens-*.bin"))) > 2
    kept = [
        Pieces([s for s in d.segments if len(s)], d.connected)
        for d in documents()
        if sum(map(len, d.segments))
    ]
    corpus = prepared.corpus
    assert corpus.connected.tolist() == [d.connected for d in kept]
    for number, document in enumerate(kept):
        begin, end = corpus.documents[number : number + 2]
        bounds = corpus.segments[begin : end + 1]
        for at, segment in enumerate(document.segments):
            length = int(bounds[at + 1] - bounds[at])
            found = corpus.read(int(bounds[at]), length)
            np.testing.assert_array_equal(found, segment)
    assert prepared.counts["documents"] == len(kept)
    assert prepared.counts["pieces"] == sum(len(s) for d in kept for s in d.segments)
    assert prepared.source == {"a": 1}


def test_nothing_of_it_is_loaded(folder: Path) -> None:
    prepared = open_prepared(folder)
    corpus = prepared.corpus
    for array in (*corpus.shards, corpus.segments, corpus.documents, corpus.connected):
        assert isinstance(array, np.memmap)
    for array in (prepared.pairs, prepared.packed, prepared.rows):
        assert isinstance(array, np.memmap)


def test_examples_are_the_texts_of_their_pairs(folder: Path) -> None:
    prepared = open_prepared(folder)
    flat = np.concatenate([s for d in documents() for s in d.segments])
    numbers = np.arange(len(prepared))[::-3]
    examples = prepared.read(numbers, frame)
    np.testing.assert_array_equal(examples.ids, numbers)
    for place, (a, n, b, m, label) in enumerate(prepared.pairs[numbers].tolist()):
        second = flat[b : b + m] if m else None
        wanted = frame(flat[a : a + n], second)
        begin, end = examples.offsets[place : place + 2]
        np.testing.assert_array_equal(examples.tokens[begin:end], wanted.tokens)
        np.testing.assert_array_equal(examples.types[begin:end], wanted.types)
        assert examples.targets[NEXT_SENTENCE][place] == label
        assert examples.weights[NEXT_SENTENCE][place] == (m > 0)
    np.testing.assert_array_equal(
        examples.lengths, RULES.lengths(np.asarray(prepared.pairs[numbers]))
    )
    assert prepared.counts["tokens"] == int(RULES.lengths(prepared.pairs).sum())


def test_rows_hold_every_example_once_and_are_full(folder: Path) -> None:
    prepared = open_prepared(folder)
    assert sorted(prepared.packed.tolist()) == list(range(len(prepared)))
    lengths = RULES.lengths(prepared.pairs)[prepared.packed]
    totals = np.add.reduceat(lengths, np.asarray(prepared.rows[:-1]))
    assert totals.max() <= prepared.row_length
    assert totals.mean() / prepared.row_length > 0.95


def test_an_epoch_sees_every_example_once_and_the_next_in_another_order(
    folder: Path,
) -> None:
    stream = stream_of(folder)
    steps = stream.steps_per_epoch
    orders = []
    for epoch in range(2):
        batches = [stream.batch(epoch * steps + n) for n in range(steps)]
        assert len({b.tokens.shape for b in batches}) == 1
        assert all((b.epochs[b.slots] == epoch).all() for b in batches)
        ids = np.concatenate([b.ids[b.slots] for b in batches])
        assert sorted(ids.tolist()) == list(range(len(stream.prepared)))
        orders.append(ids.tolist())
    assert orders[0] != orders[1]


def test_a_step_is_the_same_in_a_fresh_stream_and_on_more_devices(folder: Path) -> None:
    one, other = stream_of(folder), stream_of(folder, rows_multiple_of=3)
    for step in (stream_of(folder).steps_per_epoch - 1, 3):
        a, b = one.batch(step), other.batch(step)
        assert (len(a.tokens), len(b.tokens)) == (8, 9)
        np.testing.assert_array_equal(a.tokens, b.tokens[:8])
        np.testing.assert_array_equal(a.ids, b.ids[:8])
        assert not b.slots[8].any()
        assert b.weights[MASKED_LM][8].sum() == 0


def test_masks_of_an_example_do_not_depend_on_the_rows_a_step(folder: Path) -> None:
    def hidden(batch_size):
        stream = stream_of(folder, batch_size=batch_size)
        found = {}
        for step in range(stream.steps_per_epoch):
            batch = stream.batch(step)
            for r, s in zip(*np.nonzero(batch.slots), strict=True):
                found[int(batch.ids[r, s])] = batch.tokens[r][
                    batch.example[r] == s + 1
                ].tolist()
        return found

    assert hidden(4) == hidden(9)


def test_the_same_text_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    prepare(tmp_path / "q", documents(), RULES, VOCABULARY, {"a": 1}, shard_pieces=900)
    for file in folder.iterdir():
        assert file.read_bytes() == (tmp_path / "q" / file.name).read_bytes()


def test_a_flipped_bit_anywhere_is_found_and_named(folder: Path) -> None:
    for file in sorted(folder.iterdir()):
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
        with pytest.raises(IntegrityError, match=file.name):
            open_prepared(folder)
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    open_prepared(folder)


@pytest.mark.parametrize("name", ["tokens-00001.bin", "rows.bin", "pairs.bin"])
def test_a_short_or_missing_file_is_found(folder: Path, name: str) -> None:
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[:-8])
    with pytest.raises(IntegrityError, match=f"{name}: truncated"):
        open_prepared(folder)
    (folder / name).unlink()
    with pytest.raises(IntegrityError, match=f"{name}: missing"):
        open_prepared(folder)


def test_an_interrupted_preparation_leaves_nothing_that_could_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks():
        yield from documents(20)
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        prepare(tmp_path / "p", breaks(), RULES, VOCABULARY, {})
    assert list(tmp_path.iterdir()) == []

    def killed(*_: object, **__: object) -> None:
        raise OSError("killed before the commit")

    monkeypatch.setattr(shards, "write_manifest", killed)
    monkeypatch.setattr(atomic.shutil, "rmtree", lambda *_, **__: None)
    with pytest.raises(OSError, match="killed"):
        prepare(tmp_path / "p", documents(), RULES, VOCABULARY, {})
    monkeypatch.undo()
    assert not (tmp_path / "p").exists()
    left = list(tmp_path.iterdir())
    assert len(left) == 1
    with pytest.raises(IntegrityError, match="never finished"):
        open_prepared(left[0])
    assert sweep(tmp_path) == left


def test_preparing_again_replaces(folder: Path) -> None:
    rules = replace(RULES, next_sentence=False)
    prepare(folder, documents(), rules, VOCABULARY, asdict(rules))
    assert open_prepared(folder).source == {**asdict(rules), "specials": [2, 3]}


def test_what_cannot_be_prepared_is_told(tmp_path: Path) -> None:
    empty = [Pieces([np.zeros(0, np.int32)], True)]
    with pytest.raises(DataError, match="no pieces"):
        prepare(tmp_path / "p", empty, RULES, VOCABULARY, {})
    with pytest.raises(ConfigError, match="too short"):
        prepare(tmp_path / "p", documents(), RULES, VOCABULARY, {}, row_length=16)
    assert not (tmp_path / "p").exists()


class Killed(BaseException):
    """Stands for kill -9: nothing is cleaned up behind it."""


class Killer:
    """Breaks off whatever touches files, at the n-th call."""

    def __init__(self, at: int, patch: pytest.MonkeyPatch) -> None:
        self.left = at
        remove = self.counted(shutil.rmtree)
        patch.setattr(shards, "open", self.counted(open), raising=False)
        patch.setattr(shards, "write_manifest", self.counted(shards.write_manifest))
        patch.setattr(atomic, "sync_folder", self.counted(atomic.sync_folder))
        patch.setattr(Path, "replace", self.counted(Path.replace))
        patch.setattr(
            *(atomic.shutil, "rmtree"),
            lambda path, **how: remove(path, **how) if self.left > 0 else None,
        )

    def counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            self.left -= 1
            if self.left == 0:
                raise Killed
            return function(*given, **named)

        return call


@pytest.mark.parametrize("there", [False, True], ids=["new", "again"])
def test_killed_at_any_file_it_is_rebuilt_or_whole(
    there: bool, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F16: what is there is the old text, the new text or nothing, and never a part."""

    def prepare_it(target: Path) -> None:
        rules = replace(RULES, seed=1)
        prepare(target, documents(), rules, VOCABULARY, {"b": 2}, shard_pieces=900)

    def contents(target: Path) -> dict[str, bytes]:
        return {f.name: f.read_bytes() for f in target.iterdir()}

    prepare_it(tmp_path / "whole")
    before, wanted = contents(folder), contents(tmp_path / "whole")
    cases = 0
    for at in range(1, 99):
        target = tmp_path / str(at) / "p"
        if there:
            shutil.copytree(folder, target)
        try:
            with monkeypatch.context() as patch:
                Killer(at, patch)
                prepare_it(target)
            break
        except Killed:
            cases += 1
        sweep(target.parent)
        assert {*target.parent.iterdir()} <= {target}
        if not target.exists():
            prepare_it(target)
        open_prepared(target)
        assert contents(target) in (before, wanted)
    assert cases >= 10
    assert contents(target) == wanted


@pytest.mark.parametrize("words", [False, True], ids=["pieces", "whole words"])
def test_parts_of_a_step_are_the_step(folder: Path, words: bool) -> None:
    """What several processes make are all rows of one, each once, of one shape."""
    masking = replace(MASKING, begins=np.arange(VOCABULARY) % 3 > 0 if words else None)
    prepared = open_prepared(folder)

    def stream(part: int, parts: int) -> PretrainingStream:
        more = {"rows_multiple_of": 3, "part": part, "parts": parts}
        return PretrainingStream(prepared, frame, masking, 8, 0, **more)

    whole, parts = stream(0, 1), [stream(part, 3) for part in range(3)]
    last = whole.steps_per_epoch - 1
    for step in (0, 1, last):
        one, several = whole.batch(step), [p.batch(step) for p in parts]
        assert len({p.tokens.shape for p in several}) == 1
        assert len({p.targets[MASKED_LM].shape for p in several}) == 1

        def found(*batches: Any) -> list[tuple[int, ...]]:
            rows = [
                (
                    int(b.ids[n].max()),
                    *b.tokens[n].tolist(),
                    int(b.weights[MASKED_LM][n].sum()),
                )
                for b in batches
                for n in range(len(b.ids))
            ]
            return sorted(row for row in rows if row[0] >= 0)

        assert found(*several) == found(one)
    numbers = np.arange(len(prepared))
    np.testing.assert_array_equal(
        prepared.lengths(numbers, frame), prepared.read(numbers, frame).lengths
    )
