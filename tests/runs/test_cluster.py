"""Two processes that train as one: the same numbers, and one end for both."""

import json
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
from processes import fingerprint, start
from tiny_runs import Command, write_documents

from tl_jax.files.errors import ConfigError
from tl_jax.interop import load_model
from tl_jax.runs.cluster import Cluster
from tl_jax.training.checkpoint import committed, latest, restore, step_of
from tl_jax.training.log import read_log

STEPS = 40
Pair = tuple[subprocess.Popen[str], subprocess.Popen[str]]
Launch = Callable[..., Pair]


def pretrain_words(tiny: Path, text: Path, out: Path) -> list[str]:
    """The words of a command that goes on from the tiny encoder, with dropout on."""
    words = ["pretrain", "bert", "--text", text / "train.txt", "--out", out]
    words += ["--dev", text / "dev.txt", "--from", tiny / "bert", "--steps", STEPS]
    words += ["--max-length", 32, "--batch-size", 6, "--learning-rate", 1e-3]
    words += ["--save-every", 10, "--eval-every", 20, "--placement", "fsdp"]
    words += ["--scan-layers", "--remat", "--whole-words"]
    return [str(word) for word in words]


@pytest.fixture
def launch(environment: dict[str, str]) -> Launch:
    """Starts a command as two processes, which are told of each other or find out."""

    def pair(words: list[str], *, slurm: bool = False) -> Pair:
        with socket.socket() as some:
            some.bind(("localhost", 0))
            port = some.getsockname()[1]
        job = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "localhost"}
        job |= {"SLURM_NTASKS": "2", "JAX_COORDINATOR_PORT": str(port)}

        def one(number: str) -> subprocess.Popen[str]:
            if slurm:
                own = {"SLURM_PROCID": number, "SLURM_LOCALID": number}
                return start([*words, "--distributed"], environment | job | own)
            told = ["--coordinator", f"localhost:{port}", "--process-count", "2"]
            return start([*words, *told, "--process-id", number], environment)

        return one("0"), one("1")

    return pair


def wait_for_step(run: Path, step: int, pair: Pair) -> None:
    """Waits until the log holds a step, while both processes live."""
    log = run / "metrics.jsonl"
    while not log.exists() or not any(r["step"] >= step for r in read_log(log)):
        for process in pair:
            assert process.poll() is None, process.communicate()
        time.sleep(0.002)


def assert_export_is_checkpoint(run: Path) -> None:
    """One process reads what two have written, and nothing is missing from it."""
    path = latest(run / "checkpoints")
    assert path is not None
    _, params = load_model(str(run / "model"))
    stored = restore(path, {"params": params}, subset=True)["params"]
    jax.tree.map(np.testing.assert_array_equal, params, stored)


def test_two_processes_train_as_one_through_stops_and_losses(
    tiny: Path, tmp_path: Path, launch: Launch, command: Command
) -> None:
    """F13: SIGTERM at one stops both; a lost one ends the other; going on is exact."""
    write_documents(tmp_path / "train.txt", 30, seed=1)
    write_documents(tmp_path / "dev.txt", 8, seed=2)
    alone, whole, run = (tmp_path / name for name in ("alone", "whole", "run"))
    done = command(*pretrain_words(tiny, tmp_path, alone))
    assert done.returncode == 0, done.stderr

    ends = [
        p.communicate(timeout=120)
        for p in launch(pretrain_words(tiny, tmp_path, whole))
    ]
    # Gloo, which connects processes on CPUs, has a line of its own on stdout.
    results = [
        [line for line in out.splitlines() if not line.startswith("[Gloo]")]
        for out, _ in ends
    ]
    assert json.loads(results[0][0])["steps"] == STEPS, ends
    assert not results[1]
    one, two = (read_log(folder / "metrics.jsonl") for folder in (alone, whole))
    for found, wanted in zip(two[:5], one[:5], strict=True):
        assert found["loss"] == pytest.approx(wanted["loss"], rel=1e-6)
        assert found["nsp_loss"] == pytest.approx(wanted["nsp_loss"], rel=1e-6)
    assert two[-1]["dev_loss"] == pytest.approx(one[-1]["dev_loss"], rel=1e-3)

    pair = launch(pretrain_words(tiny, tmp_path, run))
    wait_for_step(run, 4, pair)
    pair[1].send_signal(signal.SIGTERM)
    told = [process.communicate(timeout=60) for process in pair]
    assert [process.returncode for process in pair] == [143, 143], told
    newest = latest(run / "checkpoints")
    assert newest is not None
    assert step_of(newest) < 20

    for lost, step in ((1, 15), (0, 28)):
        pair = launch(["resume", str(run)], slurm=lost == 1)
        wait_for_step(run, step, pair)
        pair[lost].kill()
        began = time.monotonic()
        _, reason = pair[1 - lost].communicate(timeout=60)
        assert time.monotonic() - began < 60
        assert pair[1 - lost].returncode != 0
        assert "another" in reason.lower(), reason
        pair[lost].communicate()
    assert committed(run / "checkpoints")
    pair = launch(["resume", str(run)])
    told = [process.communicate(timeout=120) for process in pair]
    assert [process.returncode for process in pair] == [0, 0], told
    assert fingerprint(run) == fingerprint(whole)
    assert_export_is_checkpoint(run)


@pytest.mark.parametrize(
    "options",
    [
        {"coordinator": "localhost:1"},
        {"process_count": 2, "process_id": 0},
        {"coordinator": "localhost", "process_count": 2, "process_id": 0},
        {"coordinator": "localhost:1", "process_count": 2, "process_id": 2},
        {
            "coordinator": "localhost:1",
            "process_count": 2,
            "process_id": 0,
            "distributed": True,
        },
    ],
)
def test_options_that_name_no_processes_are_refused(options: dict) -> None:
    with pytest.raises(ConfigError, match=r"--(coordinator|process-id)"):
        Cluster(**options).check()
