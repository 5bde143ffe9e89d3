"""The command as a person meets it: help, typing errors, exit codes, stdout."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_runs import Command

from tl_jax import cli
from tl_jax.files.errors import IntegrityError, NonFiniteError
from tl_jax.flags import flags_of


def leave(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Runs the command here; returns exit code, stdout and stderr."""
    with pytest.raises(SystemExit) as stopped:
        cli.main([str(word) for word in words])
    told = capsys.readouterr()
    return int(stopped.value.code or 0), told.out, told.err


@pytest.mark.parametrize("name", ["", *cli.COMMANDS])
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = leave(capsys, *([name] if name else []), "--help")
    assert code == 0
    assert "usage: tl-jax" in out


def test_unknown_flag_is_answered_with_the_nearest(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["finetune", "classify", "--train", "a", "--dev", "b", "--weights", "c"]
    code, _, err = leave(capsys, *words, "--out", "d", "--batchsize", "3")
    assert code == 2
    assert "--batch-size" in err


def test_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = leave(capsys, "finetun")
    assert code == 2
    assert "Did you mean 'finetune'?" in err


@pytest.mark.parametrize(
    ("error", "code"),
    [(IntegrityError("x"), 4), (NonFiniteError("x"), 6), (ValueError("x"), 1)],
)
def test_errors_leave_with_their_code_and_without_a_traceback(
    error: Exception,
    code: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def doctor() -> None:
        raise error

    monkeypatch.setitem(cli.COMMANDS, "doctor", doctor)
    found, _, err = leave(capsys, "doctor")
    assert found == code
    assert "Traceback" not in err
    _, _, err = leave(capsys, "doctor", "--debug")
    assert "Traceback" in err


def test_a_run_that_is_not_there(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for folder in (tmp_path / "nothing", tmp_path):
        code, _, err = leave(capsys, "verify", folder)
        assert code == 2
        assert "not a run directory" in err
        assert "Did you mean" not in err


def test_features_are_named_by_line_and_hold_the_layers(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ["a good film", "", "the plot is dull dull dull"]
    (tmp_path / "in.txt").write_text("\n".join(lines) + "\n")
    words = ["features", "--weights", tiny / "bert", "--input", tmp_path / "in.txt"]
    words += ["--max-length", 32, "--output", tmp_path / "out.npz"]
    assert leave(capsys, *words)[0] == 0
    found = np.load(tmp_path / "out.npz")
    assert [found[str(n)].shape for n in range(3)] == [(5, 16), (2, 16), (8, 16)]
    assert leave(capsys, *words, "--layers", "all")[0] == 0
    every = np.load(tmp_path / "out.npz")
    assert every["0"].shape == (3, 5, 16)
    np.testing.assert_array_equal(every["0"][-1], found["0"])
    code, _, err = leave(capsys, *words, "--layers", "3")
    assert (code, "from 0" in err) == (2, True)


def test_features_of_json_lines(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import h5py

    given = [
        {"text": "a good film"},
        {"tokens": ["a", "good", "film"]},
        {"text": "a", "text_pair": "plot"},
    ]
    file = tmp_path / "in.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in given))
    words = ["features", "--weights", tiny / "bert", "--input", file]
    words += ["--max-length", 32, "--output", tmp_path / "out.h5"]
    assert leave(capsys, *words)[0] == 0
    with h5py.File(tmp_path / "out.h5") as found:
        np.testing.assert_allclose(found["0"][:], found["1"][:], atol=1e-6)
        assert found["2"].shape == (5, 16)
    file.write_text('{"text": "a"}\n{"txt": "b"}\n')
    code, _, err = leave(capsys, *words)
    assert code == 3
    assert "in.jsonl:2" in err


def test_plan_prints_the_table_without_training(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "plan",
        "classify",
        "--train",
        tiny / "train.tsv",
        "--dev",
        tiny / "dev.tsv",
    ]
    words += ["--weights", tiny / "bert", "--max-length", 32, "--plan", "head-only"]
    code, out, err = leave(capsys, *words)
    assert code == 0, err
    assert "frozen" in out
    assert "34" in out  # 16 · 2 weights and 2 biases of the head


def test_doctor_tells_versions_and_devices(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = leave(capsys, "doctor")
    assert code == 0
    assert "jax " in out
    assert "device 0: cpu" in out


def test_doctor_asks_through_a_proxy(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "")
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        address = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        monkeypatch.setenv("https_proxy", address)
        assert "hub: can be reached" in leave(capsys, "doctor")[1]
    told = leave(capsys, "doctor")[1]
    assert "hub: 127.0.0.1, the proxy to huggingface.co, cannot be reached" in told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("finetune classify --trian x --dev y --weights z --out o", "--train"),
        ("pretrain bert --txet f --from w --no-nsp --out o", "--text"),
        ("predict RUN --inptu=f --output o", "--input"),
    ],
)
def test_a_misspelt_required_flag_is_told_by_the_nearest_name(
    words: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = leave(capsys, *words.split())
    assert code == 2
    assert err.count("No option is named") == 1
    assert f"Did you mean {told!r}?" in err


def test_flags_are_those_of_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    for group, name in (("finetune", ""), ("evaluate", ""), ("pretrain", "bert")):
        command = cli.GROUPS[group][name] if name else cli.COMMANDS[group]
        _, shown, _ = leave(capsys, group, *[name] * bool(name), "--help")
        listed = {*re.findall(r"^[│ ]+(--[a-z][a-z0-9-]*)", shown, re.MULTILINE)}
        assert len(listed) > 1
        assert listed <= flags_of(command)


def test_a_process_loads_what_another_one_compiled(
    tiny: Path, command: Command, environment: dict[str, str]
) -> None:
    """Compilations are kept in the cache, not made anew by every command."""
    kept = Path(environment["TL_JAX_CACHE"]) / "xla"
    words = ["plan", "classify", "--train", tiny / "train.tsv"]
    words += ["--dev", tiny / "dev.tsv", "--weights", tiny / "bert"]
    assert command(*words, "--max-length", 32).returncode == 0
    assert list(kept.glob("*-cache"))


def test_what_cannot_be_printed_has_its_exit_code(environment: dict[str, str]) -> None:
    """Short outputs meet a full disk, or a reader that left, only when flushed."""
    command = [sys.executable, "-m", "tl_jax", "doctor"]
    environment = {k: v for k, v in environment.items() if k != "PYTHONUNBUFFERED"}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, env=environment, text=True
        )
    assert (done.returncode, "Traceback" in done.stderr) == (7, False)
    ours, theirs = os.pipe()
    os.close(ours)
    with os.fdopen(theirs, "w") as gone:
        done = subprocess.run(
            command, stdout=gone, stderr=subprocess.PIPE, env=environment, text=True
        )
    assert (done.returncode, done.stderr) == (0, "")


def test_numbers_below_one_are_refused(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in.txt").write_text("a good film\n")
    words = ["features", "--weights", tiny / "bert", "--input", tmp_path / "in.txt"]
    words += ["--output", tmp_path / "new" / "out.npz", "--max-length", 32]
    code, _, err = leave(capsys, *words, "--batch-size", 0)
    assert (code, "at least 1" in err) == (2, True)
    assert leave(capsys, *words)[0] == 0
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["out.npz"]


def test_ctrl_c_while_the_command_is_imported_is_told(
    environment: dict[str, str],
) -> None:
    script = (
        "import os, signal, sys, tl_jax.__main__ as program\n"
        # Else what begins in a shell's background would not hear it.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'tl_jax.cli':\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        "program.main()\n"
    )
    command = [sys.executable, "-c", script]
    left = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (left.returncode, left.stderr) == (130, "tl-jax: stopped by SIGINT\n")
