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
    assert caught.value.filename == str(path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_a_folder_that_is_not_there_is_told_by_the_name_that_was_asked_for(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        atomic.write_bytes(tmp_path / "none" / "a", b"new")
    assert caught.value.filename == str(tmp_path / "none" / "a")


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


def fill(folder, text):
    folder.mkdir(exist_ok=True)
    for name in "ab":
        (folder / name).write_text(text)


def contents(folder):
    return {file.name: file.read_text() for file in folder.iterdir()}


def test_a_folder_is_there_when_the_block_ends(tmp_path):
    path = tmp_path / "below" / "p"
    with atomic.writing_folder(path) as fresh:
        fill(fresh, "new")
        assert not path.exists()
    assert contents(path) == {"a": "new", "b": "new"}
    assert os.listdir(path.parent) == ["p"]
    with atomic.temporary_folder(path) as folder:
        fill(folder, "gone")
    assert os.listdir(path.parent) == ["p"]


def test_a_folder_that_fails_leaves_the_old_one(tmp_path):
    path = tmp_path / "p"
    fill(path, "old")
    with (
        pytest.raises(KeyboardInterrupt),
        atomic.writing_folder(path, replace=True) as fresh,
    ):
        fill(fresh, "new")
        raise KeyboardInterrupt
    assert contents(path) == {"a": "old", "b": "old"}
    assert os.listdir(tmp_path) == ["p"]


def test_a_folder_makes_way_only_if_it_is_told_to(tmp_path):
    path = tmp_path / "p"
    fill(path, "old")
    with pytest.raises(OSError, match="not empty"), atomic.writing_folder(path) as new:
        fill(new, "new")
    assert contents(path) == {"a": "old", "b": "old"}
    with atomic.writing_folder(path, replace=True) as new:
        fill(new, "new")
    assert contents(path) == {"a": "new", "b": "new"}
    (tmp_path / "empty").mkdir()
    with atomic.writing_folder(tmp_path / "empty") as new:
        fill(new, "new")
    assert sorted(os.listdir(tmp_path)) == ["empty", "p"]


def test_a_folder_that_cannot_be_renamed_gives_the_name_back(tmp_path, monkeypatch):
    path = tmp_path / "p"
    fill(path, "old")
    replace, calls = type(path).replace, []

    def fail_once(source, target):
        calls.append(source)
        if len(calls) == 2:
            raise OSError(errno.EIO, "Input/output error")
        return replace(source, target)

    monkeypatch.setattr(type(path), "replace", fail_once)
    with (
        pytest.raises(OSError, match="output"),
        atomic.writing_folder(path, replace=True) as fresh,
    ):
        fill(fresh, "new")
    assert contents(path) == {"a": "old", "b": "old"}
    assert os.listdir(tmp_path) == ["p"]


def test_a_folders_name_reaches_the_disk_before_the_old_one_goes(tmp_path, monkeypatch):
    path = tmp_path / "p"
    fill(path, "old")
    seen = []
    sync = atomic.sync_folder

    def spy(folder):
        seen.append((folder, contents(path), len(os.listdir(folder))))
        sync(folder)

    monkeypatch.setattr(atomic, "sync_folder", spy)
    with atomic.writing_folder(path, replace=True) as fresh:
        fill(fresh, "new")
    assert seen == [(tmp_path, {"a": "new", "b": "new"}, 2)]


FOLDER_KILLED = """
import os, signal, sys
from pathlib import Path
from tl_jax.files import atomic

left, path = int(sys.argv[1]), Path(sys.argv[2])
def counted(call):
    def die_or_call(*given, **named):
        global left
        left -= 1
        if left == 0: os.kill(os.getpid(), signal.SIGKILL)
        return call(*given, **named)
    return die_or_call
for owner, name in [(Path, "mkdir"), (Path, "replace"), (Path, "write_text"),
                    (atomic, "sync_folder"), (os, "unlink"), (os, "rmdir")]:
    setattr(owner, name, counted(getattr(owner, name)))
with atomic.writing_folder(path, replace=True) as fresh:
    for name in "ab":
        (fresh / name).write_text("new")
"""


@pytest.mark.parametrize("there", [False, True])
def test_killed_at_any_call_a_folder_is_whole_or_not_there(tmp_path, there):
    seen = []
    for at in range(1, 30):
        folder = tmp_path / str(at)
        folder.mkdir()
        if there:
            fill(folder / "p", "old")
        program = [sys.executable, "-c", FOLDER_KILLED, str(at), str(folder / "p")]
        done = subprocess.run(program)
        atomic.sweep(folder)
        seen.append(contents(folder / "p")["b"] if (folder / "p").exists() else "none")
        if seen[-1] != "none":
            assert contents(folder / "p") == {name: seen[-1] for name in "ab"}
        assert len(os.listdir(folder)) == (seen[-1] != "none")
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL
    first = "old" if there else "none"
    assert seen.count(first) >= 4 and seen.count("new") >= 2
    assert seen.count("none") == 1 if there else seen == sorted(seen, reverse=True)


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
