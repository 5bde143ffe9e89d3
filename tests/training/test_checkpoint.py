"""Checkpoints under faults: F2 kills, F5 the disk, F6 flips, F7 files."""

import errno
import json
import os
import random
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from save_child import state_of

from tl_jax.files.errors import IntegrityError, WeightsError
from tl_jax.training import arrays, checkpoint

TESTS = Path(__file__).parents[1]


class Moments(NamedTuple):
    count: jax.Array
    mu: dict


@flax.struct.dataclass
class State:
    step: jax.Array
    params: dict
    opt_state: tuple
    key: jax.Array


def full_state(fill: float = 0.0) -> State:
    """Every dtype, a scalar, an empty array, None and nesting."""
    weights = jnp.arange(12.0).reshape(3, 4) + fill
    return State(
        step=jnp.asarray(7, jnp.int32),
        params={
            "encoder": {"kernel": weights, "half": weights.astype(jnp.bfloat16)},
            "head": {"bias": jnp.ones(4, jnp.float16), "none": jnp.zeros((0, 4))},
        },
        opt_state=(None, Moments(jnp.asarray(3), {"a.b/c": -weights}), ()),
        key=jax.random.key_data(jax.random.key(5)),
    )


def assert_same(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert type(a) is type(b)
        assert a.dtype == b.dtype
        assert np.asarray(a).shape == np.asarray(b).shape
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def files_of(path: Path) -> list[Path]:
    return sorted(p for p in path.rglob("*") if p.is_file())


def two(folder: Path) -> Path:
    """Checkpoints of steps 1 and 2."""
    for step in (1, 2):
        checkpoint.save(folder, step, state_of(step), {"best": step / 2})
    return folder


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> Path:
    return two(tmp_path_factory.mktemp("pair"))


# What is written is read


def test_restores_every_leaf_exactly(tmp_path):
    state = full_state()
    path = checkpoint.save(tmp_path, 123, state, {"best": 0.5, "note": "한국어"})
    assert path == tmp_path / "step_00000123"
    assert sorted(p.name for p in path.iterdir()) == [
        "MANIFEST.json",
        "progress.json",
        "state",
    ]
    assert checkpoint.read_progress(path) == {
        "best": 0.5,
        "note": "한국어",
        "step": 123,
    }
    assert_same(checkpoint.restore(path, state), state)


def test_restores_numpy_where_like_has_no_place(tmp_path):
    state = {"w": np.arange(6, dtype=np.int64).reshape(2, 3), "s": np.float32(1.5)}
    path = checkpoint.save(tmp_path, 0, state, {})
    like = {
        "w": jax.ShapeDtypeStruct((2, 3), np.dtype("int64")),
        "s": jax.ShapeDtypeStruct((), np.float32),
    }
    restored = checkpoint.restore(path, like)
    expected = {"w": state["w"], "s": np.asarray(1.5, np.float32)}
    assert_same(restored, expected)


def test_relative_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = checkpoint.save(Path("here"), 1, state_of(1), {})
    assert_same(checkpoint.restore(path, state_of(0)), state_of(1))


def test_restores_onto_another_sharding(tmp_path):
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    split = NamedSharding(mesh, PartitionSpec("data"))
    whole = NamedSharding(mesh, PartitionSpec())
    values = np.arange(32, dtype=np.float32).reshape(8, 4)
    state = {"a": jax.device_put(values, split), "b": jax.device_put(values, whole)}
    path = checkpoint.save(tmp_path, 1, state, {})
    same = checkpoint.restore(path, state)
    assert same["a"].sharding == split
    assert same["b"].sharding == whole
    other = {
        "a": jax.ShapeDtypeStruct((8, 4), jnp.float32, sharding=whole),
        "b": jnp.zeros((8, 4)),
    }
    restored = checkpoint.restore(path, other)
    assert restored["a"].sharding == whole
    assert not restored["b"].committed
    for leaf in [*same.values(), *restored.values()]:
        np.testing.assert_array_equal(leaf, values)


def test_saving_leaves_the_state_donatable(tmp_path):
    """A view that outlived the save would make the next step copy the state."""
    double = partial(jax.jit, donate_argnums=0)(
        lambda s: jax.tree.map(lambda x: x * 2, s)
    )
    state = {"w": jnp.arange(1000.0)}
    path = checkpoint.save(tmp_path, 1, state, {})
    after = double(state)
    assert state["w"].is_deleted()
    restored = checkpoint.restore(path, after)
    again = double(restored)
    np.testing.assert_array_equal(again["w"], after["w"])
    np.testing.assert_array_equal(
        checkpoint.restore(path, after)["w"], np.arange(1000.0)
    )


def test_subset_reads_the_parameters_alone(tmp_path):
    state = full_state()
    path = checkpoint.save(tmp_path, 1, state, {})
    params = checkpoint.restore(path, {"params": state.params}, subset=True)["params"]
    assert_same(params, state.params)
    with pytest.raises(WeightsError, match="only in the checkpoint"):
        checkpoint.restore(path, {"params": state.params})
    with pytest.raises(WeightsError, match=r"\+ params/new: not in"):
        checkpoint.restore(path, {"params": {"new": jnp.zeros(1)}}, subset=True)


def test_names_every_misfit_at_once(tmp_path):
    path = checkpoint.save(
        tmp_path, 1, {"a": jnp.zeros((2, 3)), "b": jnp.zeros(4), "old": jnp.ones(1)}, {}
    )
    like = {
        "a": jnp.zeros((3, 2)),
        "b": jnp.zeros(4, jnp.bfloat16),
        "new": jnp.ones(1),
    }
    with pytest.raises(WeightsError) as caught:
        checkpoint.restore(path, like)
    for line in (
        "≠ a: float32[2, 3] in the checkpoint, float32[3, 2] wanted",
        "≠ b: float32[4] in the checkpoint, bfloat16[4] wanted",
        "+ new: not in the checkpoint",
        "- old: only in the checkpoint",
    ):
        assert line in str(caught.value)


def test_refuses_what_is_no_array(tmp_path):
    bad = {
        "key": jax.random.key(0),
        "number": 3,
        "text": np.asarray("x"),
        "x": {"y": jnp.ones(1)},
        "x/y": jnp.ones(1),
    }
    with pytest.raises(TypeError) as caught:
        checkpoint.save(tmp_path, 1, bad, {})
    for word in ("key: a typed key", "number: int", "text: arrays", "x/y: two"):
        assert word in str(caught.value)
    with pytest.raises(ValueError):
        checkpoint.save(tmp_path, 1, state_of(1), {"best": float("nan")})
    with pytest.raises(ValueError):
        checkpoint.save(tmp_path, -1, state_of(1), {})
    assert list(tmp_path.iterdir()) == []


# A folder of checkpoints


def test_listing_sorts_by_step_and_ignores_the_rest(tmp_path):
    assert checkpoint.latest(tmp_path / "absent") is None
    assert checkpoint.sweep(tmp_path / "absent") == []
    for step in (100_000_000, 20, 99_999_999):
        checkpoint.save(tmp_path, step, state_of(1), {})
    (tmp_path / "notes.txt").touch()
    (tmp_path / "step_1").mkdir()
    (tmp_path / ".step_00000001.tmp").mkdir()
    steps = [checkpoint.step_of(p) for p in checkpoint.committed(tmp_path)]
    assert steps == [20, 99_999_999, 100_000_000]
    newest = checkpoint.latest(tmp_path)
    assert newest is not None
    assert newest.name == "step_100000000"


def test_keep_only_and_saving_a_step_again(tmp_path):
    two(tmp_path)
    checkpoint.save(tmp_path, 2, state_of(9), {"best": 9})
    gone = checkpoint.keep_only(tmp_path, {2})
    assert [p.name for p in gone] == ["step_00000001"]
    assert [p.name for p in tmp_path.iterdir()] == ["step_00000002"]
    restored = checkpoint.restore_newest(tmp_path, state_of(0))
    assert_same(restored.state, state_of(9))
    assert restored.progress == {"best": 9, "step": 2}
    assert restored.notes == []


def test_sweep_clears_leftovers_and_nothing_else(tmp_path):
    two(tmp_path)
    names = [".step_00000003.tmp", ".step_00000001.trash", ".step_00000002.old"]
    for name in names:
        shutil.copytree(tmp_path / "step_00000001", tmp_path / name)
    (tmp_path / "step_00000001").rename(tmp_path / ".step_00000001.old")
    (tmp_path / ".mine").mkdir()
    removed = checkpoint.sweep(tmp_path)
    assert sorted(p.name for p in removed) == sorted(names)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        ".mine",
        "step_00000001",
        "step_00000002",
    ]
    assert_same(
        checkpoint.restore(tmp_path / "step_00000001", state_of(0)), state_of(1)
    )


# F6: flipped bits


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def test_every_flipped_bit_is_found_and_its_file_named(pair, tmp_path):
    """The fallback is taken for one flip in each file; detection for 25 in each."""
    folder = shutil.copytree(pair, tmp_path / "c")
    path = folder / "step_00000002"
    draw = random.Random(0)
    flips = 0
    for file in files_of(path):
        relative = file.relative_to(path).as_posix()
        bits = 8 * file.stat().st_size
        chosen = [0, bits - 1, *(draw.randrange(bits) for _ in range(23))]
        for bit in chosen if bits else []:
            flip(file, bit)
            with pytest.raises(IntegrityError) as caught:
                checkpoint.verify(path)
            assert relative in str(caught.value)
            if bit == chosen[-1]:
                restored = checkpoint.restore_newest(folder, state_of(0))
                assert_same(restored.state, state_of(1))
                assert restored.path == folder / "step_00000001"
                (note,) = restored.notes
                assert "step_00000002 is damaged" in note
                assert relative in note
            flip(file, bit)
            flips += 1
        checkpoint.verify(path)
    assert flips >= 200


def test_no_good_checkpoint_names_all_reasons(pair, tmp_path):
    folder = shutil.copytree(pair, tmp_path / "c")
    for path in checkpoint.committed(folder):
        flip(path / "progress.json", 8)
    with pytest.raises(IntegrityError, match=r"(?s)00000002.*progress.*00000001"):
        checkpoint.restore_newest(folder, state_of(0))
    with pytest.raises(IntegrityError, match="there is none"):
        checkpoint.restore_newest(tmp_path / "absent", state_of(0))


def test_a_misfit_is_not_taken_for_damage(pair):
    with pytest.raises(WeightsError):
        checkpoint.restore_newest(pair, {"other": jnp.ones(1)})


# F7: files that are not there, or not as they were


def damages(path: Path, other: Path) -> list:
    """(name of the file, how to damage it) for every file of a checkpoint."""

    def cut(size: int, file: Path) -> None:
        os.truncate(file, size)

    def grow(file: Path) -> None:
        with file.open("ab") as stream:
            stream.write(b"\0")

    def beside(file: Path) -> None:
        shutil.copy(file, file.with_name(f"{file.name}.copy"))

    def swap(with_file: Path, file: Path) -> None:
        ours, theirs = file.read_bytes(), with_file.read_bytes()
        file.write_bytes(theirs)
        with_file.write_bytes(ours)

    cases = []
    files = files_of(path)
    for file, following in zip(files, [*files[1:], files[0]], strict=True):
        size = file.stat().st_size
        cases += [(file, partial(cut, n)) for n in {0, size // 2, size - 1}]
        cases += [(file, Path.unlink), (file, grow), (file, beside)]
        if file.read_bytes() != following.read_bytes():
            cases.append((file, partial(swap, following)))
        twin = other / file.relative_to(path)
        if twin.exists() and twin.read_bytes() != file.read_bytes():
            cases.append((file, partial(swap, twin)))
    return cases


def test_every_damaged_file_is_found_and_named(pair, tmp_path):
    names = ("step_00000002", "step_00000001")
    count = len(damages(pair / names[0], pair / names[1]))
    for n in range(count):
        folder = shutil.copytree(pair, tmp_path / str(n))
        path = folder / names[0]
        file, damage = damages(path, folder / names[1])[n]
        damage(file)
        with pytest.raises(IntegrityError) as caught:
            checkpoint.restore(path, state_of(0))
        # A broken manifest can blame only itself; another checkpoint's whole manifest
        # blames every file but itself.
        blamed = [file.relative_to(path).as_posix(), "MANIFEST.json: contents differ"]
        if file.name == "MANIFEST.json":
            blamed.append("progress.json: contents differ")
        assert any(word in str(caught.value) for word in blamed), (blamed[0], n)
        shutil.rmtree(folder)
    assert count >= 50


def test_swapped_checkpoints_are_found(pair, tmp_path):
    folder = shutil.copytree(pair, tmp_path / "c")
    first, second = checkpoint.committed(folder)
    first.rename(folder / "aside")
    second.rename(first)
    (folder / "aside").rename(second)
    for path in (first, second):
        with pytest.raises(IntegrityError, match="renamed or swapped"):
            checkpoint.restore(path, state_of(0))
    with pytest.raises(IntegrityError, match="not a checkpoint"):
        checkpoint.restore(folder, state_of(0))


def test_an_unreadable_file_falls_back(pair, tmp_path, monkeypatch):
    folder = shutil.copytree(pair, tmp_path / "c")
    verify_manifest = checkpoint.verify_manifest

    def failing(path: Path) -> dict:
        if path.name == "step_00000002":
            raise OSError(errno.EIO, "Input/output error", str(path / "state"))
        return verify_manifest(path)

    monkeypatch.setattr(checkpoint, "verify_manifest", failing)
    restored = checkpoint.restore_newest(folder, state_of(0))
    assert_same(restored.state, state_of(1))
    assert "Input/output error" in restored.notes[0]


# F2 and F5: kills and failing calls at every boundary to the disk


@pytest.fixture(scope="module")
def shim(tmp_path_factory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs Linux and a C compiler")
    library = tmp_path_factory.mktemp("shim") / "disk_faults.so"
    source = TESTS / "disk_faults.c"
    command = [compiler, "-O1", "-shared", "-fPIC", "-o", library, source, "-ldl"]
    subprocess.run(command, check=True)
    return library


def run_faults(
    shim: Path,
    base: Path,
    out: Path,
    kinds: str,
    job: str,
    error: int = 0,
    lasting: int = 0,
    limit: int = 1000,
    stride: int = 1,
) -> list[dict]:
    out.mkdir()
    arguments = [base, out, kinds, error, lasting, job, limit, stride]
    done = subprocess.run(
        [sys.executable, TESTS / "save_child.py", *map(str, arguments)],
        env={**os.environ, "LD_PRELOAD": str(shim)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("job", "kinds", "calls", "most"),
    [("save", "owsmrd", 70, 3), ("again", "rd", 20, 2), ("drop", "rd", 10, 2)],
)
def test_a_kill_at_any_boundary_leaves_a_good_checkpoint(
    shim, pair, tmp_path, job, kinds, calls, most
):
    """F2: opening, half a write, fsync, mkdir, rename, delete; Python's and C++'s."""
    reports = run_faults(shim, pair, tmp_path / "out", kinds, job)
    killed = [report for report in reports if report.get("killed") == 9]
    assert len(killed) == len(reports) - 3 >= calls
    assert set(reports[-1]["seen"]) == set(kinds)
    for report in killed:
        folder = tmp_path / "out" / str(report["at"])
        checkpoint.sweep(folder)
        assert not [p for p in folder.iterdir() if p.name.startswith(".")]
        restored = checkpoint.restore_newest(folder, state_of(0))
        assert restored.notes == []
        step = restored.progress["step"]
        assert 2 <= step <= most
        assert_same(restored.state, state_of(step))
        for path in checkpoint.committed(folder):
            checkpoint.verify(path)


@pytest.mark.parametrize(
    ("error", "lasting", "kinds", "stride"),
    [
        (errno.ENOSPC, 1, "ow", 2),
        (errno.EIO, 0, "owsmr", 3),
        (errno.EDQUOT, 1, "w", 2),
    ],
)
def test_a_failing_disk_is_told_by_the_same_save(
    shim, pair, tmp_path, error, lasting, kinds, stride
):
    """F5: nothing temporary stays, and the checkpoints of before are untouched."""
    reports = run_faults(
        shim, pair, tmp_path / "out", kinds, "save", error, lasting, stride=stride
    )
    failed = [report for report in reports if len(report["seen"]) >= report["at"]]
    unmet = [report for report in reports if report not in failed]
    assert [report["told"] for report in unmet] == ["", "", ""]
    assert len(failed) > 5
    for report in failed:
        folder = tmp_path / "out" / str(report["at"])
        assert "checkpoint of step 3 could not be written" in report["told"], report
        assert os.strerror(error) in report["told"]
        names = sorted(p.name for p in folder.iterdir())
        # The last fsync comes after the rename: the checkpoint is there, and whole.
        assert names[:2] == ["step_00000001", "step_00000002"]
        assert names[2:] in ([], ["step_00000003"])
        for path in checkpoint.committed(folder):
            checkpoint.verify(path)


def test_a_read_only_disk_is_told(shim, pair, tmp_path):
    """F5; calls fail as they do on a disk that was mounted read-only."""
    reports = run_faults(
        shim, pair, tmp_path / "out", "owsmrd", "save", errno.EROFS, lasting=1, limit=1
    )
    assert "Read-only file system" in reports[0]["told"]
    assert_same(
        checkpoint.restore_newest(tmp_path / "out" / "1", state_of(0)).state,
        state_of(2),
    )


def test_too_little_room_is_told_before_writing(pair, tmp_path, monkeypatch):
    folder = shutil.copytree(pair, tmp_path / "c")
    usage = shutil.disk_usage(folder)._replace(free=31)
    monkeypatch.setattr(arrays.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(checkpoint.SaveError, match="40 bytes needed, 31 free"):
        checkpoint.save(folder, 3, state_of(3), {})
    assert [p.name for p in checkpoint.committed(folder)] == [
        "step_00000001",
        "step_00000002",
    ]
    assert len(list(folder.iterdir())) == 2


def test_what_orbax_still_writes_after_failing_is_cleared_too(tmp_path, monkeypatch):
    remove, left = shutil.rmtree, [0]

    def fail(folder: Path, arrays: dict) -> None:
        (folder / "d").mkdir(parents=True)
        left[0] = 4
        raise ValueError("one array failed")

    def remove_too_early(folder: Path, **options: bool) -> None:
        remove(folder, **options)
        if left[0]:
            left[0] -= 1
            (folder / "state").mkdir(parents=True)

    monkeypatch.setattr(checkpoint, "write_arrays", fail)
    monkeypatch.setattr(checkpoint.shutil, "rmtree", remove_too_early)
    with pytest.raises(checkpoint.SaveError, match="one array failed"):
        checkpoint.save(tmp_path, 1, state_of(1), {})
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk(tmp_path):
    """F5 on a real file system of 300 kB: each is told, the good ones stay."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)]
    if (
        shutil.which("mount") is None
        or subprocess.run(mount, capture_output=True).returncode
    ):
        pytest.skip("needs the right to mount a tmpfs")
    try:
        state = {"w": np.ones(20_000, np.float32)}
        checkpoint.save(disk / "c", 1, state, {})
        for _ in range(3):
            with pytest.raises(checkpoint.SaveError, match="No space left on device"):
                for step in range(2, 9):
                    checkpoint.save(disk / "c", step, state, {})
            found = checkpoint.committed(disk / "c")
            assert len(list((disk / "c").iterdir())) == len(found)
            for path in found:
                checkpoint.restore(path, state)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_quiet_orbax_silences_absl():
    code = (
        "from tl_jax.training.arrays import quiet_orbax; quiet_orbax();"
        "from absl import logging; logging.error('noise'); logging.warning('noise')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
