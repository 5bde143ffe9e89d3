"""Pre-training that is killed and stopped, in preparation and in training."""

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import fingerprint, start
from tiny_runs import Command, write_documents

from tl_jax.runs.folder import is_run
from tl_jax.training.log import read_log

STEPS = 40


def pretrain_words(kind: str, tiny: Path, text: Path, out: Path) -> list[str]:
    """The words of a command that pre-trains a tiny model, with dropout on.

    BERT goes on from the tiny encoder, ELMo begins from nothing.
    """
    words = ["pretrain", kind, "--text", text / "train.txt", "--out", out]
    words += ["--dev", text / "dev.txt", "--steps", STEPS, "--learning-rate", 1e-2]
    words += ["--save-every", 7, "--eval-every", 20, "--batch-size", 4]
    if kind == "bert":
        words += ["--max-length", 32, "--from", tiny / "bert"]
    else:
        words += ["--projection", 8, "--cell", 12, "--filters", 1, 4, 3, 8]
        words += ["--vocab-size", 20, "--unroll", 8, "--sampled", 5]
    return [str(word) for word in words]


@pytest.mark.parametrize(
    ("kind", "weights"), [("bert", "model.safetensors"), ("elmo", "lm_weights.hdf5")]
)
def test_killed_and_stopped_anywhere_it_ends_the_same(
    kind: str,
    weights: str,
    tiny: Path,
    tmp_path: Path,
    environment: dict[str, str],
    command: Command,
) -> None:
    """F1, F3, F4, F16: one interruption after the other, and an exact end.

    Twice while text is prepared; then at random moments of each quarter of the steps.
    """
    write_documents(tmp_path / "train.txt", 3000, seed=1)
    write_documents(tmp_path / "dev.txt", 8, seed=2)
    done = command(*pretrain_words(kind, tiny, tmp_path, tmp_path / "whole"))
    assert done.returncode == 0, done.stderr
    run = tmp_path / "run"
    draw = random.Random(0)

    def preparing(pid: int) -> bool:
        """The process writes files of a part that is not whole yet."""
        return any((run / "data").glob(f"*.tmp-{pid}-*"))

    def trained(quarter: int) -> Callable[[int], bool]:
        step = (quarter + draw.random()) / 4 * STEPS
        log = run / "metrics.jsonl"
        return lambda _: log.exists() and any(r["step"] >= step for r in read_log(log))

    faults = [
        (signal.SIGKILL, -9, preparing),
        (signal.SIGTERM, 143, preparing),
        (signal.SIGKILL, -9, trained(0)),
        (signal.SIGINT, 130, trained(1)),
        (signal.SIGKILL, -9, trained(2)),
    ]
    for signum, code, due in faults:
        words = ["resume", str(run)]
        if not is_run(run):
            words = pretrain_words(kind, tiny, tmp_path, run)
        process = start(words, environment)
        while process.poll() is None and not due(process.pid):
            time.sleep(0.002)
        if due is preparing:
            assert preparing(process.pid), "it was over before the signal"
        process.send_signal(signum)
        _, told = process.communicate(timeout=120)
        assert process.returncode == code, told
        assert "Traceback" not in told
    done = command("resume", run)
    assert done.returncode == 0, done.stderr
    assert fingerprint(run) == fingerprint(tmp_path / "whole")
    exported = [(out / "model" / weights) for out in (run, tmp_path / "whole")]
    assert exported[0].read_bytes() == exported[1].read_bytes()
    assert not [p for p in run.rglob("*") if ".tmp" in p.name or ".trash" in p.name]
