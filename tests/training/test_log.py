"""The metrics log survives kills and resumes exactly; the display keeps to stderr."""

import io
import json
import sys
import types

import jax.numpy as jnp
import numpy as np
import pytest

from tl_jax.files.errors import ConfigError, DataError
from tl_jax.training.log import (
    MetricsLog,
    Progress,
    read_log,
    tensorboard_writer,
    truncate_log,
    without_clock,
)


def run(path, steps, seconds):
    with MetricsLog(path) as log:
        for step in steps:
            log.append(step, {"loss": np.float32(1 / step)}, seconds=seconds * step)


def test_one_json_object_a_line_there_at_once(tmp_path):
    path = tmp_path / "run" / "metrics.jsonl"
    with MetricsLog(path) as log:
        log.append(1, {"loss": np.float32(0.1), "split": "train"}, seconds=0.5)
        log.append(2, {"loss": jnp.asarray(2.5), "n": np.int64(3)})
        log.sync()
        lines = path.read_text(encoding="utf-8").splitlines()
        log.close()
    assert [json.loads(line) for line in lines] == [
        {"step": 1, "loss": float(np.float32(0.1)), "split": "train"}
        | {"clock": {"seconds": 0.5}},
        {"step": 2, "loss": 2.5, "n": 3},
    ]
    assert read_log(path) == [json.loads(line) for line in lines]


def test_numbers_come_back_bit_by_bit(tmp_path):
    values = np.random.default_rng(0).standard_normal(100).astype(np.float32)
    path = tmp_path / "log"
    with MetricsLog(path) as log:
        for step, value in enumerate(values):
            log.append(step, {"loss": value})
    read = np.array([record["loss"] for record in read_log(path)], np.float32)
    assert read.tobytes() == values.tobytes()


def test_what_json_cannot_say_is_still_json(tmp_path):
    path = tmp_path / "log"
    with MetricsLog(path) as log:
        log.append(1, {"a": jnp.nan, "b": np.float32("inf"), "c": -float("inf")})

    def refuse(name):
        raise AssertionError(name)

    record = json.loads(path.read_text(), parse_constant=refuse)
    assert np.isnan(float(record["a"]))
    assert float(record["b"]) == np.inf
    assert float(record["c"]) == -np.inf


def test_an_interrupted_log_equals_an_uninterrupted_one(tmp_path):
    """Steps 1–7, killed in line 8, checkpoint at 5, resumed to 10."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(whole, range(1, 11), seconds=1.0)
    run(parts, range(1, 8), seconds=2.0)
    with parts.open("a") as stream:
        stream.write('{"step": 8, "lo')
    assert len(read_log(parts)) == 7
    assert truncate_log(parts, 5) == 2
    run(parts, range(6, 11), seconds=3.0)
    assert without_clock(read_log(parts)) == without_clock(read_log(whole))
    assert read_log(parts) != read_log(whole)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["parts", "whole"]


def test_truncating_keeps_the_bytes_of_what_stays(tmp_path):
    path = tmp_path / "log"
    run(path, range(1, 4), seconds=1.0)
    before = path.read_bytes()
    assert truncate_log(path, 3) == 0
    assert path.read_bytes() == before
    with MetricsLog(path) as log:
        log.append(0, {"split": "dev"})
    assert truncate_log(path, 2) == 1
    assert [record["step"] for record in read_log(path)] == [1, 2, 0]
    assert truncate_log(tmp_path / "absent", 3) == 0
    assert not (tmp_path / "absent").exists()


def test_a_log_cut_at_any_byte_is_read_up_to_there(tmp_path):
    path = tmp_path / "log"
    run(path, range(1, 4), seconds=1.0)
    data = path.read_bytes()
    for size in range(len(data) + 1):
        path.write_bytes(data[:size])
        assert len(read_log(path)) == data[:size].count(b"\n")
        truncate_log(path, 99)
        assert path.read_bytes() == data[: data[:size].rfind(b"\n") + 1]


@pytest.mark.parametrize("line", [b"{", b"[1]", b'{"loss": 1}', b"", b"\xff\x00"])
def test_a_broken_line_is_named(tmp_path, line):
    path = tmp_path / "log"
    path.write_bytes(b'{"step": 1}\n' + line + b'\n{"step": 2}\n')
    with pytest.raises(DataError, match=r"log:2: not a record"):
        read_log(path)


def test_tensorboard_gets_every_number(tmp_path, monkeypatch):
    written = []

    class SummaryWriter:
        def __init__(self, folder, purge_step):
            written.append((folder, purge_step))

        def add_scalar(self, name, value, step):
            written.append((name, value, step))

        def flush(self):
            pass

    fake = types.SimpleNamespace(SummaryWriter=SummaryWriter)
    monkeypatch.setitem(sys.modules, "tensorboardX", fake)
    writer = tensorboard_writer(tmp_path / "board", start=4)
    with MetricsLog(tmp_path / "log", also=writer) as log:
        log.append(5, {"loss": 0.5, "split": "dev"}, seconds=2.0)
    assert written == [
        (str(tmp_path / "board"), 4),
        ("loss", 0.5, 5),
        ("seconds", 2.0, 5),
    ]


def test_real_tensorboard_writes_a_file(tmp_path):
    pytest.importorskip("tensorboardX")
    tensorboard_writer(tmp_path)({"step": 1, "loss": 0.5})
    (file,) = tmp_path.iterdir()
    assert file.stat().st_size > 0


def test_tensorboard_without_its_extra_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ConfigError, match=r"tl-jax\[tensorboard\]"):
        tensorboard_writer(tmp_path)


class Terminal(io.TextIOWrapper):
    mode = "w"

    def isatty(self):
        return True


def drive(path, total=250, start=0, every=100, terminal=False):
    """Steps of half a second, 64 tokens and 4 examples each; returns the text."""
    stream = Terminal(path.open("wb")) if terminal else path.open("w")
    ticks = iter(np.arange(0, 1e6, 0.5 * every))
    with Progress(
        total, start=start, every=every, stream=stream, clock=lambda: next(ticks)
    ) as progress:
        for step in range(start + 1, total + 1):
            progress.update(step, loss=1.5, learning_rate=2e-5, tokens=64, examples=4)
            if step == 150:
                progress.note("dev accuracy 0.9 [bold]")
    stream.close()
    return path.read_text()


def test_plain_lines_where_there_is_no_terminal(tmp_path, capsys):
    lines = drive(tmp_path / "out").splitlines()
    assert lines == [
        "step 100/250  loss 1.5000  lr 2.00e-05  128 tokens/s  8.0 examples/s  "
        "ETA 0:01:15",
        "dev accuracy 0.9 [bold]",
        "step 200/250  loss 1.5000  lr 2.00e-05  128 tokens/s  8.0 examples/s  "
        "ETA 0:00:25",
        # The clock here ticks once a line: 50 steps took as long as 100.
        "step 250/250  loss 1.5000  lr 2.00e-05  64 tokens/s  4.0 examples/s  "
        "ETA 0:00:00",
    ]
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_other_figures_are_means_since_the_line_before(capsys):
    with Progress(4, every=2) as progress:
        for step, share in enumerate((0.1, 0.2, 0.5, 0.7), 1):
            progress.update(
                step,
                loss=1.5,
                learning_rate=2e-5,
                tokens=64,
                examples=4,
                figures={"padding": share},
            )
    told = [line.split("  ")[2] for line in capsys.readouterr().err.splitlines()]
    assert told == ["padding 0.1500", "padding 0.6000"]


def test_rates_after_a_resume_count_from_there(tmp_path):
    first = drive(tmp_path / "out", total=9800, start=9600).splitlines()[0]
    assert first.startswith("step 9700/9800 ")
    assert first.endswith("128 tokens/s  8.0 examples/s  ETA 0:00:50")


def test_a_bar_on_a_terminal(tmp_path, capsys):
    text = drive(tmp_path / "out", total=200, terminal=True)
    assert "200/200" in text
    assert "tokens/s" in text
    assert "dev accuracy 0.9 [bold]" in text
    assert capsys.readouterr().out == ""


def test_the_default_is_stderr(capsys):
    with Progress(1, every=1) as progress:
        progress.update(1, loss=1.0, learning_rate=0.1, tokens=1, examples=1)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("step 1/1  loss 1.0000")
