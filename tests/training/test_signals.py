"""Stop requests: noted once, twice, at any time; exit codes 143 and 130 (F4)."""

import os
import random
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from save_child import state_of

from tl_jax.training import checkpoint
from tl_jax.training.signals import (
    SIGNALS,
    Interrupted,
    exit_on_signal,
    stop_requests,
)


@pytest.fixture(autouse=True)
def handlers_come_back():
    before = {signum: signal.getsignal(signum) for signum in SIGNALS}
    yield
    assert {signum: signal.getsignal(signum) for signum in SIGNALS} == before


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_a_signal_is_noted_and_raised_only_when_asked(signum, code):
    with stop_requests() as stop:
        assert stop.requested is None
        stop.check()
        signal.raise_signal(signum)
        assert stop.requested == signum
    with pytest.raises(Interrupted, match=f"{signum.name}: saved at 7") as caught:
        stop.check("saved at 7")
    assert caught.value.exit_code == code
    assert caught.value.signum == signum


def test_the_first_signal_counts():
    with stop_requests() as stop:
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
            signal.raise_signal(signum)
        assert stop.requested == signal.SIGTERM


def test_handlers_come_back_after_an_error():
    # Not by raising SIGINT: what a shell starts in the background ignores it.
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in signals]
    with pytest.raises(ZeroDivisionError), stop_requests():
        assert [signal.getsignal(number) for number in signals] != before
        raise ZeroDivisionError
    assert [signal.getsignal(number) for number in signals] == before


def test_exit_on_signal_stops_at_once_and_a_second_one_does_not_break_in():
    done = []
    with pytest.raises(Interrupted) as caught, exit_on_signal("nothing to keep"):
        try:
            signal.raise_signal(signal.SIGTERM)
            done.append("not reached")
        finally:
            signal.raise_signal(signal.SIGINT)
            done.append("cleaned up")
    assert done == ["cleaned up"]
    assert caught.value.exit_code == 143


def test_the_inner_context_decides():
    with stop_requests() as stop:
        with pytest.raises(Interrupted), exit_on_signal():
            signal.raise_signal(signal.SIGTERM)
        assert stop.requested is None
        signal.raise_signal(signal.SIGINT)
        assert stop.requested == signal.SIGINT


def test_outside_the_main_thread_nothing_is_requested():
    seen = []

    def work():
        with stop_requests() as stop, exit_on_signal():
            seen.append(stop.requested)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [None]


def test_signals_at_any_time_of_saving_corrupt_nothing(tmp_path):
    """20 × two signals at random moments of a loop that saves at every step."""
    draw = random.Random(0)

    def send() -> None:
        for signum in SIGNALS:
            time.sleep(draw.uniform(0, 0.06))
            os.kill(os.getpid(), signum)

    for trial in range(20):
        folder = tmp_path / str(trial)
        step = 0
        with stop_requests() as stop:
            sender = threading.Thread(target=send)
            sender.start()
            while stop.requested is None:
                step += 1
                checkpoint.save(folder, step, state_of(step), {})
                checkpoint.keep_only(folder, {step})
            sender.join()
        # Two that wait together come in the order of their numbers.
        assert stop.requested in SIGNALS
        assert [p.name for p in folder.iterdir()] == [checkpoint.step_name(step)]
        restored = checkpoint.restore_newest(folder, state_of(0)).state
        np.testing.assert_array_equal(
            restored["params"]["w"], state_of(step)["params"]["w"]
        )


LOOP = """
import sys, time
from tl_jax.training.signals import Interrupted, exit_on_signal, stop_requests
try:
    if sys.argv[1] == "prepare":
        with exit_on_signal():
            print("ready", flush=True)
            time.sleep(60)
    else:
        with stop_requests() as stop:
            print("ready", flush=True)
            while stop.requested is None:
                time.sleep(0.01)
            time.sleep(0.3)  # a save, into which the second signal comes
            print("saved", flush=True)
        stop.check()
except Interrupted as problem:
    sys.exit(problem.exit_code)
"""


@pytest.mark.parametrize("phase", ["train", "prepare"])
@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_a_process_leaves_with_the_code_of_the_first_signal(phase, signum, code):
    with subprocess.Popen(
        [sys.executable, "-c", LOOP, phase], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signum)
        if phase == "train":
            time.sleep(0.1)
            process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=60)
    assert process.returncode == code
    assert rest == ("saved\n" if phase == "train" else "")
