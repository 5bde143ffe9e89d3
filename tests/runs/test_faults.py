"""What a run promises when it is killed, stopped, started twice or tampered with."""

import json
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
from processes import fingerprint, start
from tiny_runs import Command, finetune_words, write_tsv

from tl_jax.training.checkpoint import committed, step_of

STEPS = ("--epochs", 2, "--save-every", 4)


class Reference:
    """An uninterrupted run, and how long its process lived."""

    def __init__(self, tiny: Path, folder: Path, command: Command) -> None:
        self.run = folder / "reference"
        # Once to fill the compilation cache, once for the time that a process lives.
        command(*finetune_words(tiny, folder / "first", *STEPS))
        began = time.monotonic()
        done = command(*finetune_words(tiny, self.run, *STEPS))
        self.seconds = time.monotonic() - began
        assert done.returncode == 0, done.stderr
        self.expected = fingerprint(self.run)


@pytest.fixture(scope="session")
def reference(
    tiny: Path, tmp_path_factory: pytest.TempPathFactory, command: Command
) -> Reference:
    return Reference(tiny, tmp_path_factory.mktemp("reference"), command)


def go_on(tiny: Path, run: Path, command: Command) -> None:
    """Resumes a run; starts it if it was killed before there was anything to resume."""
    done = command("resume", run)
    if done.returncode == 2 and "is not a run directory" in done.stderr:
        done = command(*finetune_words(tiny, run, *STEPS))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("trial", range(10))
def test_kill_at_any_time_and_resume_is_exact(
    trial: int,
    tiny: Path,
    tmp_path: Path,
    reference: Reference,
    environment: dict[str, str],
    command: Command,
) -> None:
    """F1: kill -9 at a random time of the process's life, twice in a row."""
    run = tmp_path / "run"
    # One draw from each tenth of the life, so that the ten trials cover all of it.
    delay = (trial + random.Random(trial).random()) / 10 * reference.seconds
    print(f"killed after {delay:.2f} s of {reference.seconds:.2f} s")
    process = start(finetune_words(tiny, run, *STEPS), environment)
    time.sleep(delay)
    process.kill()
    process.communicate()
    go_on(tiny, run, command)
    assert fingerprint(run) == reference.expected
    assert not [p for p in run.rglob("*") if ".tmp" in p.name or ".trash" in p.name]


@pytest.mark.parametrize("trial", range(10))
def test_signal_saves_and_leaves_with_its_code(
    trial: int,
    tiny: Path,
    tmp_path: Path,
    reference: Reference,
    environment: dict[str, str],
    command: Command,
) -> None:
    """F4: SIGTERM or SIGINT at a random time, every other time twice."""
    run = tmp_path / "run"
    signum, code = ((signal.SIGTERM, 143), (signal.SIGINT, 130))[trial % 2]
    delay = (trial + random.Random(100 + trial).random()) / 10 * reference.seconds
    process = start(finetune_words(tiny, run, *STEPS), environment)
    time.sleep(delay)
    process.send_signal(signum)
    if trial % 4 >= 2:
        time.sleep(0.05)
        process.send_signal(signum)
    _, told = process.communicate(timeout=120)
    # Python's own start-up dies by the signal itself; a run that was over is done.
    assert process.returncode in (code, -signum, 0), told
    assert "Traceback" not in told or delay < 0.7 * reference.seconds, told
    go_on(tiny, run, command)
    assert fingerprint(run) == reference.expected


def test_second_process_is_refused_and_the_first_goes_on(
    tiny: Path,
    tmp_path: Path,
    reference: Reference,
    environment: dict[str, str],
    command: Command,
) -> None:
    """F15: the second process names the first one's pid and leaves with 5."""
    run = tmp_path / "run"
    first = start(finetune_words(tiny, run, *STEPS), environment)
    deadline = time.monotonic() + 60
    while not (run / ".lock").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    first.send_signal(signal.SIGSTOP)  # so that it cannot finish before the second asks
    second = command(*finetune_words(tiny, run, *STEPS))
    first.send_signal(signal.SIGCONT)
    first.communicate(timeout=120)
    assert second.returncode == 5, second.stderr
    assert str(first.pid) in second.stderr
    assert first.returncode == 0
    assert fingerprint(run) == reference.expected


@pytest.fixture
def interrupted(reference: Reference, tmp_path: Path) -> Path:
    """A copy of the run whose newest checkpoint is the one in its middle."""
    run = tmp_path / "run"
    shutil.copytree(reference.run, run)
    shutil.rmtree(run / "predictions")
    (run / "results.json").unlink()
    return run


def test_changed_data_refused_with_a_diff_unless_allowed(
    tiny: Path, interrupted: Path, command: Command, tmp_path: Path
) -> None:
    """F14: other training data under the same name."""
    told = json.loads((interrupted / "run.json").read_text())
    kept = (tiny / "train.tsv").read_bytes()
    write_tsv(tiny / "train.tsv", 240, seed=9)
    try:
        refused = command("resume", interrupted)
        allowed = command("resume", interrupted, "--allow", "data.train")
    finally:
        (tiny / "train.tsv").write_bytes(kept)
    assert refused.returncode == 2
    assert told["data"]["train"]["sha256"] in refused.stderr
    assert "--allow data.train.sha256" in refused.stderr
    assert allowed.returncode == 0, allowed.stderr


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("learning_rate", 9.0),
        ("seed", 7),
        ("batch_size", 4),
        ("epochs", 9),
        ("max_length", 8),
        ("weight_decay", 0.5),
    ],
)
def test_changed_config_refused_with_a_diff(
    interrupted: Path, command: Command, key: str, value: float
) -> None:
    """F14: an option edited in run.json."""
    file = interrupted / "run.json"
    told = json.loads(file.read_text())
    before = told["config"][key]
    told["config"][key] = value
    file.write_text(json.dumps(told))
    done = command("resume", interrupted)
    assert done.returncode == 2
    for part in (f"config.{key}", f"- {before}", f"+ {value}", "--allow"):
        assert part in done.stderr


def test_changed_label_map_refused(interrupted: Path, command: Command) -> None:
    """F14: the classes in another order."""
    file = interrupted / "run.json"
    told = json.loads(file.read_text())
    told["labels"].reverse()
    file.write_text(json.dumps(told))
    done = command("resume", interrupted)
    assert done.returncode == 2
    assert "labels" in done.stderr


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.txt", "MANIFEST.json"])
def test_changed_vocabulary_refused(
    interrupted: Path, command: Command, name: str
) -> None:
    """F14, F6: a byte of the tokenizer or of the seal itself."""
    file = interrupted / "setup" / name
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.write_bytes(raw)
    for words in (("resume", interrupted), ("verify", interrupted)):
        done = command(*words)
        assert done.returncode == 4, done.stderr
        assert name in done.stderr


def test_flipped_bit_falls_back_to_the_last_good_checkpoint(
    tiny: Path, tmp_path: Path, command: Command
) -> None:
    """F6: resuming names the damaged file, uses the older checkpoint, and is exact."""
    # With the dev labels the wrong way round the first evaluation is the best one, so
    # the best and the last checkpoint are two.
    wrong = tmp_path / "wrong.tsv"
    swap = str.maketrans("01", "10")
    wrong.write_text((tiny / "dev.tsv").read_text().translate(swap))
    run = tmp_path / "run"
    words = finetune_words(tiny, run, *STEPS, "--dev", wrong)
    done = command(*words)
    assert done.returncode == 0, done.stderr
    expected = fingerprint(run)
    older, newest = committed(run / "checkpoints")
    (run / "results.json").unlink()
    victim = max((newest / "state").rglob("*"), key=lambda p: p.stat().st_size)
    raw = bytearray(victim.read_bytes())
    raw[len(raw) // 3] ^= 16
    victim.write_bytes(raw)
    done = command("resume", run)
    assert done.returncode == 0, done.stderr
    assert newest.name in done.stderr
    assert victim.name in done.stderr
    assert f"goes on from step {step_of(older)}" in done.stderr
    assert fingerprint(run) == expected


def test_evaluation_repeats_to_the_byte(
    tiny: Path, reference: Reference, command: Command, tmp_path: Path
) -> None:
    """F17: a fresh process and another batch size give the same labels."""
    outputs = []
    for index in range(2):
        file = tmp_path / f"{index}.jsonl"
        done = command(
            "predict", reference.run, "--input", tiny / "dev.tsv", "--output", file
        )
        assert done.returncode == 0, done.stderr
        outputs.append(file.read_bytes())
    assert outputs[0] == outputs[1]
    scores = []
    for size in (64, 3):
        words = ("evaluate", reference.run, "--data", tiny / "dev.tsv")
        done = command(*words, "--batch-size", size, "--json")
        scores.append(json.loads(done.stdout))
    accuracies = [score["metrics"]["accuracy"] for score in scores]
    assert accuracies[0] == accuracies[1]
    losses = [score["metrics"]["loss"] for score in scores]
    assert abs(losses[0] - losses[1]) < 1e-5
    assert command("verify", reference.run).stdout.endswith("verified\n")
