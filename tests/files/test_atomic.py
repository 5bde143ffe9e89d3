"""Atomic writes: the old file or the new one, whatever happens (F2, F5)."""

import errno
import json
import os
import signal
import subprocess
import sys

import pytest

from tl_jax.files import atomic
from tl_jax.files.errors import DataError, IntegrityError


def test_what_is_written_is_read(tmp_path):
    atomic.write_bytes(tmp_path / "a", b"\0\xff")
    atomic.write_text(tmp_path / "b", "전이 학습\n")
    value = {"이름": [1, 2.5, None, True], "b": {"c": "\u2028"}}
    atomic.write_json(tmp_path / "c.json", value)
    assert (tmp_path / "a").read_bytes() == b"\0\xff"
    assert (tmp_path / "b").read_text(encoding="utf-8") == "전이 학습\n"
    assert atomic.read_json(tmp_path / "c.json") == value
    assert json.loads((tmp_path / "c.json").read_bytes()) == value


def test_permissions_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        atomic.write_bytes(tmp_path / "a", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_json_that_cannot_be_said_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    atomic.write_json(path, 1)
    with pytest.raises(ValueError):
        atomic.write_json(path, {"loss": float("nan")})
    with pytest.raises(TypeError):
        atomic.write_json(path, {1, 2})
    assert atomic.read_json(path) == 1
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_full_disk_is_told_and_the_old_file_stays(tmp_path, monkeypatch, failing):
    path = tmp_path / "a"
    atomic.write_bytes(path, b"old")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, failing, full)
    with pytest.raises(OSError) as caught:
        atomic.write_bytes(path, b"new")
    monkeypatch.undo()
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_file_and_folder_reach_the_disk_in_order(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace

    def spy_fsync(descriptor):
        calls.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    def spy_replace(source, target):
        calls.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(os, "replace", spy_replace)
    atomic.write_bytes(tmp_path / "a", b"x")
    assert len(calls) == 3
    assert ".tmp-" in calls[0]
    assert calls[1:] == ["rename", str(tmp_path)]


KILLED = """
import os, signal, sys
from pathlib import Path
from tl_jax.files import atomic

where, folder = sys.argv[1], Path(sys.argv[2])
def die(*_): os.kill(os.getpid(), signal.SIGKILL)
setattr(os, where, die)
atomic.write_bytes(folder / "a", b"new" * 100000)
"""


@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_killed_writer_leaves_the_old_file_and_a_leftover_to_sweep(tmp_path, where):
    atomic.write_bytes(tmp_path / "a", b"old")
    done = subprocess.run([sys.executable, "-c", KILLED, where, str(tmp_path)])
    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / "a").read_bytes() == b"old"
    assert len(os.listdir(tmp_path)) == 2
    removed = atomic.sweep(tmp_path)
    assert len(removed) == 1
    assert os.listdir(tmp_path) == ["a"]


def test_sweep_takes_leftovers_below_and_nothing_else(tmp_path):
    keep = ["notes.tmp-1", "a.tmp-b.txt", "x.tmp", "sub/c.tmp-12-xyz"]
    gone = ["a.tmp-1-0123abcd", "sub/b.json.tmp-77-deadbeef"]
    for name in keep + gone:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    folder = tmp_path / "step_3.tmp-9-00000000"
    folder.mkdir()
    (folder / "part").write_text("")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("")
    (tmp_path / "link.tmp-9-11111111").symlink_to(outside)
    removed = {str(path.relative_to(tmp_path)) for path in atomic.sweep(tmp_path)}
    assert removed == {*gone, folder.name, "link.tmp-9-11111111"}
    assert (outside / "precious").exists()
    assert all((tmp_path / name).exists() for name in keep)
    assert atomic.sweep(tmp_path) == []
    assert atomic.sweep(tmp_path / "nowhere") == []


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"a": 1,\n "b" 2}', "line 2, column 6"),
        (b"", "line 1, column 1"),
        (b'{"a": "\xff"}', "byte 7"),
        (b"[" * 100_000, "nested too deeply"),
        (b"9" * 10_000, "broken JSON"),
        (b'{"a": 1', "line 1"),
    ],
)
def test_broken_json_says_where(tmp_path, data, message):
    path = tmp_path / "a.json"
    path.write_bytes(data)
    with pytest.raises(DataError, match=message) as caught:
        atomic.read_json(path)
    assert str(path) in str(caught.value)
    with pytest.raises(IntegrityError, match=message):
        atomic.read_json(path, error=IntegrityError)


def test_missing_json_is_typed(tmp_path):
    with pytest.raises(DataError, match="no such"):
        atomic.read_json(tmp_path / "a.json")
    with pytest.raises(DataError, match="no such"):
        atomic.read_json(tmp_path)
