"""One process at a time in a folder (F15)."""

import contextlib
import os
import signal
import socket
import subprocess
import sys

import pytest

from tl_jax.files import locks
from tl_jax.files.errors import RunBusyError
from tl_jax.files.locks import LOCK, hold

HOLDER = """
import sys, time
from pathlib import Path
from tl_jax.files.locks import hold

with hold(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path), "--name=first run"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_second_process_refuses_and_names_the_owner(tmp_path, holder):
    with pytest.raises(RunBusyError) as caught, hold(tmp_path):
        pytest.fail("two processes hold one folder")
    message = str(caught.value)
    assert f"process {holder.pid} on {socket.gethostname()}" in message
    assert "--name=first run" in message
    assert "since 20" in message
    assert str(tmp_path) in message


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_death_frees_the_folder(tmp_path, holder, how):
    holder.send_signal(how)
    holder.wait()
    with hold(tmp_path):
        pass


def test_waiting_gets_it_when_the_other_leaves(tmp_path, holder, monkeypatch):
    def other_leaves(_):  # in the first pause, so the folder was busy before
        if holder.poll() is None:
            holder.communicate("\n")

    monkeypatch.setattr(locks.time, "sleep", other_leaves)
    told = []
    with hold(tmp_path, wait=60.0, told=told.append):
        assert holder.returncode == 0
    (line,) = told
    assert f"waiting for process {holder.pid}" in line and str(tmp_path) in line


def test_two_started_together_give_one_holder(tmp_path):
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    both = [subprocess.Popen(command, **pipes, text=True) for _ in range(2)]
    # Each says "held" or dies; only then is the holder let go.
    firsts = [process.stdout.readline() for process in both]
    errors = [process.communicate("\n")[1] for process in both]
    assert sorted(firsts) == ["", "held\n"]
    assert sorted(process.returncode for process in both) == [0, 1]
    assert "RunBusyError" in errors[firsts.index("")]


def test_within_one_process_and_after_an_exception(tmp_path):
    folder = tmp_path / "new" / "run"
    busy = pytest.raises(RunBusyError, match=str(os.getpid()))
    with hold(folder), busy, hold(folder):
        pass
    with pytest.raises(KeyError), hold(folder):
        raise KeyError
    with hold(folder):
        pass
    assert (folder / LOCK).read_bytes() == b""


def test_a_new_folder_goes_again_if_nothing_was_laid_in_it(tmp_path):
    folder = tmp_path / "run"
    for name in (None, "run.json"):
        with pytest.raises(KeyError), hold(folder):
            if name is not None:
                (folder / name).touch()
            raise KeyError
        assert folder.exists() == (name is not None)
    # One that was there before stays.
    (folder / "run.json").unlink()
    with pytest.raises(KeyError), hold(folder):
        raise KeyError
    assert folder.exists()


def test_who_waited_holds_the_folder_that_is_there(tmp_path, monkeypatch):
    """Not the one that its first holder removed."""
    folder = tmp_path / "run"
    first = contextlib.ExitStack()
    first.enter_context(hold(folder))

    def first_fails(_):
        first.__exit__(KeyError, KeyError(), None)
        assert not folder.exists()

    monkeypatch.setattr(locks.time, "sleep", first_fails)
    with hold(folder, wait=60.0):
        busy = pytest.raises(RunBusyError)
        with busy, hold(folder):
            pytest.fail("two hold one folder")


def test_unreadable_owner_is_still_a_refusal(tmp_path):
    for text in (b"", b"\xff", b"[]", b'{"pid": 1}'):
        with hold(tmp_path):
            (tmp_path / LOCK).write_bytes(text)
            busy = pytest.raises(RunBusyError, match="not written its name")
            with busy, hold(tmp_path):
                pass


def test_planted_link_is_not_truncated(tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / LOCK).symlink_to(victim)
    with pytest.raises(OSError), hold(tmp_path):
        pass
    assert victim.read_bytes() == b"precious"
