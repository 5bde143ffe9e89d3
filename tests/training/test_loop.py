import json
import logging
import math
from dataclasses import dataclass, field, replace
from itertools import chain
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from helpers import (
    bag_loss,
    bag_params,
    farthest,
    padded,
    random_examples,
    same_bits,
    uneven_batch,
)

from tl_jax.data.stream import TrainingStream
from tl_jax.files.errors import NonFiniteError
from tl_jax.training import loop
from tl_jax.training.checkpoint import committed, latest, restore_newest, step_of
from tl_jax.training.log import read_log, truncate_log, without_clock
from tl_jax.training.loop import Habits, Memory, Training, fit
from tl_jax.training.placement import Placement, choose_placement
from tl_jax.training.signals import Interrupted, StopRequest
from tl_jax.transfer.plans import Plan, Rule, Stage
from tl_jax.transfer.schedules import warmup_linear

COUNT, EPOCH, TOTAL = 22, 4, 12  # batches of 6, 6, 6 and 4; three epochs
SIGTERM = 15

HEAD = Plan(Rule("encoder/.*", frozen=True), Rule(".*"))
THAWED = Plan(Rule("encoder/.*", since=1.0), Rule(".*"))
SLOWED = Plan(Rule("encoder/.*", since=1.0, rate=0.5), Rule(".*"))
GRADUAL = (Stage(0.0, HEAD), Stage(1.0, THAWED), Stage(2.0, SLOWED))


@dataclass(frozen=True)
class Watched(Placement):
    """A placement that notes which examples each step took."""

    seen: list = field(default_factory=list, compare=False)

    def train(self, step):
        take = super().train(step)

        def noting(state, batch):
            self.seen.append(np.sort(batch.ids[batch.slots]).tolist())
            return take(state, batch)

        return noting


@dataclass
class Watcher:
    """A display that keeps what it is told, and may ask for a stop."""

    stop: StopRequest = field(default_factory=StopRequest)
    stop_at: int | None = None
    steps: list = field(default_factory=list)
    notes: list = field(default_factory=list)

    def update(self, step, *, loss, learning_rate, tokens, examples, figures):
        self.steps.append((step, loss, learning_rate, tokens, examples, figures))
        if step == self.stop_at:
            self.stop.requested = SIGTERM

    def note(self, text):
        self.notes.append(text)


def training(*, count=4, kind="jit", stages=None, weights=None, **changes):
    placement = Watched(kind, choose_placement(kind, count).devices)
    stream = TrainingStream(
        random_examples(COUNT, weights=weights), 6, padded(), 3, rows_multiple_of=4
    )
    settings = {
        "loss": bag_loss,
        "stream": stream,
        "stages": stages or (Stage(0.0, Plan(Rule(".*"))),),
        "schedule": warmup_linear(0.05, TOTAL, 2),
        "total_steps": TOTAL,
        "placement": placement,
    }
    return Training(**(settings | changes))


def evaluate(params):
    """A score that goes up and down as training goes on."""
    total = sum(float(np.asarray(x, np.float64).sum()) for x in jax.tree.leaves(params))
    return {"accuracy": math.sin(7 * total), "loss": total}


def scripted(*values):
    given = iter(values)
    return lambda params: {"accuracy": next(given)}


def log_of(folder):
    return without_clock(read_log(folder / "metrics.jsonl"))


def run(setup, folder=None, **arguments):
    return fit(setup, setup.state(bag_params()), folder=folder, **arguments)


def test_every_step_is_logged_once_and_every_epoch_evaluated(tmp_path):
    setup, display = training(), Watcher()
    state, memory = run(setup, tmp_path, evaluate=evaluate, display=display)
    assert int(state.step) == TOTAL
    log = log_of(tmp_path)
    kinds = [(r["step"], "dev" if "dev_accuracy" in r else "train") for r in log]
    expected = [(n, "train") for n in range(1, TOTAL + 1)]
    for at in (12, 8, 4):
        expected.insert(at, (at, "dev"))
    assert kinds == expected
    rates = [r["learning_rate"] for r in log if "learning_rate" in r]
    np.testing.assert_allclose(
        rates, [0.05 * (n / 2 if n < 2 else 1 - n / 12) for n in range(12)], rtol=1e-5
    )
    assert set(log[0]) == {
        *("step", "loss", "accuracy", "gradient_norm", "learning_rate", "padding")
    }
    assert [told[0] for told in display.steps] == list(range(1, TOTAL + 1))
    assert [told[4] for told in display.steps] == [6, 6, 6, 4] * 3
    assert len(display.notes) == 3
    assert memory.evaluated == TOTAL


def assert_each_once_an_epoch(steps):
    assert len(steps) == TOTAL
    for epoch in range(3):
        taken = chain.from_iterable(steps[epoch * EPOCH : (epoch + 1) * EPOCH])
        assert sorted(taken) == list(range(COUNT))


def test_each_example_is_seen_once_an_epoch():
    setup = training()
    run(setup)
    assert_each_once_an_epoch(setup.placement.seen)


def test_the_loss_falls():
    setup = training(total_steps=40, schedule=lambda n: 0.1)
    display = Watcher()
    run(setup, display=display)
    losses = [told[1] for told in display.steps]
    assert np.mean(losses[-4:]) < 0.6 * np.mean(losses[:4])


def test_the_best_and_the_last_checkpoint_are_kept(tmp_path):
    setup = training()
    _, memory = run(setup, tmp_path, evaluate=scripted(0.5, 0.9, 0.7))
    assert [step_of(p) for p in committed(tmp_path / "checkpoints")] == [8, 12]
    assert (memory.best_step, memory.best_score, memory.worse) == (8, 0.9, 1)
    restored = restore_newest(tmp_path / "checkpoints", setup.state(bag_params(), 12))
    progress = {k: v for k, v in restored.progress.items() if k != "step"}
    assert Memory(**progress) == memory


def test_other_intervals(tmp_path):
    setup = training()
    calls = []

    def counted(params):
        calls.append(1)
        return {"f1": -float(len(calls))}

    habits = Habits(eval_every=5, save_every=3, score="f1")
    _, memory = run(setup, tmp_path, evaluate=counted, habits=habits)
    assert [r["step"] for r in log_of(tmp_path) if "dev_f1" in r] == [5, 10, 12]
    assert memory.best_step == 5
    assert [step_of(p) for p in committed(tmp_path / "checkpoints")] == [5, 12]


def test_patience_stops_early(tmp_path):
    setup = training()
    values = scripted(0.5, 0.9, 0.9, 0.8, 0.7)
    habits = Habits(eval_every=2, patience=2)
    state, memory = run(setup, tmp_path, evaluate=values, habits=habits)
    assert int(state.step) == 8
    assert (memory.best_step, memory.worse) == (4, 2)
    assert [r["step"] for r in log_of(tmp_path) if "loss" in r] == list(range(1, 9))
    # A run that had given up does not begin again.
    restored = restore_newest(tmp_path / "checkpoints", setup.state(bag_params(), 8))
    state, again = fit(setup, restored.state, values, habits=habits, memory=memory)
    assert int(state.step) == 8
    assert again == memory


def test_a_score_that_is_nan_is_never_the_best(tmp_path):
    setup = training()
    values = scripted(math.nan, 0.1, math.nan)
    _, memory = run(setup, tmp_path, evaluate=values)
    assert (memory.best_step, memory.best_score, memory.worse) == (8, 0.1, 1)


# --- numbers that are not finite -------------------------------------------------


def poisoned(step, value=np.nan):
    """Weights that spoil the batch of one step of each epoch; and its examples."""
    places = training().stream.indices(step)
    weights = np.ones(COUNT)
    weights[places[2]] = value
    return weights, sorted(int(i) for i in places)


def test_it_stops_and_names_the_examples(tmp_path):
    weights, bad = poisoned(2)
    setup = training(weights=weights)
    with pytest.raises(NonFiniteError, match=r"Step 3: the loss is nan.*bad_batch"):
        run(setup, tmp_path, habits=Habits(save_every=1))
    told = json.loads((tmp_path / "bad_batch.json").read_text())
    assert (told["step"], told["examples"]) == (3, bad)
    newest = latest(tmp_path / "checkpoints")
    assert step_of(newest) == 2
    state = restore_newest(newest.parent, setup.state(bag_params(), 2)).state
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.params))


def test_without_a_folder_it_stops_as_well():
    weights, _ = poisoned(0, np.inf)
    with pytest.raises(NonFiniteError, match="--max-skipped"):
        run(training(weights=weights))


def test_skipped_steps_change_nothing_and_are_counted(tmp_path):
    weights, bad = poisoned(1)
    setup = training(weights=weights)
    given = Memory()
    habits = Habits(max_skipped=3)
    state, memory = run(setup, tmp_path, habits=habits, memory=given)
    seen = setup.placement.seen
    spoilt = [n + 1 for n in range(TOTAL) if set(bad) & set(seen[n]) and n == 1]
    culprit = int(np.flatnonzero(np.isnan(weights))[0])
    expected = [n + 1 for n in range(TOTAL) if culprit in seen[n]]
    assert spoilt == expected[:1] == [2]
    assert memory.skipped == expected
    assert len(expected) == 3
    assert given == Memory()
    log = log_of(tmp_path)
    assert [r["step"] for r in log if r["loss"] == "NaN"] == expected
    assert [r["step"] for r in log] == list(range(1, TOTAL + 1))
    assert json.loads((tmp_path / "bad_batch.json").read_text())["step"] == expected[2]
    # The schedule waited for the steps that were not taken: rates of 0, 1, 1, 2, 3 …
    taken = np.cumsum([n not in expected for n in range(1, TOTAL + 1)])
    counts = np.concatenate([[0], taken[:-1]])
    rates = [0.05 * (n / 2 if n < 2 else 1 - n / 12) for n in counts]
    np.testing.assert_allclose([r["learning_rate"] for r in log], rates, rtol=1e-5)
    assert int(state.opt_state[-1].count) == TOTAL - 3


def test_one_more_than_may_be_skipped(tmp_path):
    weights, _ = poisoned(1)
    with pytest.raises(NonFiniteError):
        run(training(weights=weights), tmp_path, habits=Habits(max_skipped=2))


# --- stop and go -----------------------------------------------------------------


def go(setup, folder, *, stop_at=None, break_off=None, like=None):
    """Goes on from the newest checkpoint, as a resumed run does."""
    checkpoints = folder / "checkpoints"
    stop = StopRequest()
    calls = []

    def scored(params):
        calls.append(1)
        if break_off == len(calls):
            stop.requested = SIGTERM
            return None
        return evaluate(params)

    state, memory = setup.state(bag_params()), None
    if newest := latest(checkpoints):
        step = step_of(newest)
        restored = restore_newest(checkpoints, setup.state(bag_params(), step))
        state = restored.state
        memory = Memory(**{k: v for k, v in restored.progress.items() if k != "step"})
        truncate_log(folder / "metrics.jsonl", step)
    return fit(
        setup,
        state,
        scored,
        habits=Habits(max_skipped=9),
        memory=memory,
        folder=folder,
        stop=stop,
        display=Watcher(stop, stop_at),
    )


def stopped(setup, folder, at, **arguments):
    with pytest.raises(Interrupted, match=f"SIGTERM: saved after step {at}") as caught:
        go(setup, folder, **arguments)
    assert caught.value.exit_code == 143
    assert step_of(latest(folder / "checkpoints")) == at


def assert_same_run(one, two, left, right):
    (state, memory), (other, other_memory) = one, two
    assert same_bits(state.params, other.params)
    assert same_bits(state.opt_state, other.opt_state)
    assert int(state.step) == int(other.step)
    assert memory == other_memory
    assert log_of(left) == log_of(right)
    kept = [
        [step_of(p) for p in committed(folder / "checkpoints")]
        for folder in (left, right)
    ]
    assert kept[0] == kept[1]


def test_a_chain_of_stops_is_exact(tmp_path):
    """Within epochs, at an epoch's end, while evaluating, and at the very end."""
    weights, _ = poisoned(5)
    changes = {"stages": GRADUAL, "weights": weights}
    whole, legs = tmp_path / "whole", tmp_path / "chain"
    expected = go(training(**changes), whole)
    assert len(expected[1].skipped) == 3

    seen = []

    def setup():
        made = training(**changes)
        seen.append(made.placement.seen)
        return made

    stopped(setup(), legs, 2, stop_at=1)
    stopped(setup(), legs, 4, stop_at=3)  # at the first border between stages
    stopped(setup(), legs, 6, stop_at=5)
    stopped(setup(), legs, 8, break_off=1)  # at the second, while evaluating
    stopped(setup(), legs, 8, break_off=1)
    stopped(setup(), legs, 10, stop_at=9)
    stopped(setup(), legs, 12, stop_at=11)
    found = go(setup(), legs)
    assert_same_run(found, expected, legs, whole)
    assert not same_bits(found[0].params, bag_params())
    assert_each_once_an_epoch(list(chain.from_iterable(seen)))


def test_a_stop_before_the_first_step_is_met(tmp_path):
    stop = StopRequest(SIGTERM)
    setup = training()
    with pytest.raises(Interrupted, match="saved after step 0"):
        run(setup, tmp_path, stop=stop, evaluate=evaluate)
    assert setup.placement.seen == []
    assert_same_run(
        go(training(), tmp_path),
        go(training(), tmp_path / "whole"),
        tmp_path,
        tmp_path / "whole",
    )


def test_what_was_done_after_the_newest_checkpoint_is_done_again(tmp_path):
    """A kill: the log is ahead of the checkpoint, and a line is torn."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    expected = go(training(), whole)
    stopped(training(), killed, 6, stop_at=5)
    log = killed / "metrics.jsonl"
    lines = (whole / "metrics.jsonl").read_text().splitlines(keepends=True)
    log.write_text("".join(lines[:9]) + lines[9][:7])
    assert_same_run(go(training(), killed), expected, killed, whole)


def test_a_finished_run_has_nothing_left_to_do(tmp_path):
    expected = go(training(), tmp_path)
    before = log_of(tmp_path)
    setup = training()
    state, memory = go(setup, tmp_path)
    assert same_bits(state.params, expected[0].params)
    assert memory == expected[1]
    assert setup.placement.seen == []
    assert log_of(tmp_path) == before


@pytest.mark.parametrize("ways", [(("jit", 1), ("jit", 4)), (("pmap", 4), ("jit", 2))])
def test_the_number_of_devices_may_change_on_the_way(tmp_path, ways):
    """F12, with BERT's Adam."""
    (kind, count), (other_kind, other_count) = ways
    expected = go(training(bias_correction=False), tmp_path / "whole")
    first = training(kind=kind, count=count, bias_correction=False)
    stopped(first, tmp_path, 6, stop_at=5)
    second = training(kind=other_kind, count=other_count, bias_correction=False)
    state, memory = go(second, tmp_path)
    assert farthest(state.params, expected[0].params) <= 1e-6
    assert memory.best_step == expected[1].best_step
    assert first.placement.seen + second.placement.seen == [
        sorted(int(i) for i in first.stream.indices(n)) for n in range(TOTAL)
    ]


# --- stages ----------------------------------------------------------------------


def test_one_compilation_a_stage(caplog):
    setup = training(stages=GRADUAL)
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        run(setup)
    done = "Finished XLA compilation of jit(step)"
    assert sum(done in r.getMessage() for r in caplog.records) == 3


def test_stages_thaw_when_their_epoch_begins(tmp_path):
    setup = training(stages=GRADUAL)
    assert [setup.stage(n) for n in (0, 3, 4, 7, 8, 99)] == [
        GRADUAL[0],
        GRADUAL[0],
        GRADUAL[1],
        GRADUAL[1],
        GRADUAL[2],
        GRADUAL[2],
    ]
    short = replace(setup, total_steps=4)
    table = run(short)[0].params["encoder"]
    assert same_bits(table, bag_params()["encoder"])
    longer = replace(setup, total_steps=5)
    assert not same_bits(run(longer)[0].params["encoder"], bag_params()["encoder"])


def test_the_form_of_a_state_is_that_of_its_last_step():
    setup = training(stages=GRADUAL)
    for step in (0, 4, 5, 9):
        total = replace(setup, total_steps=step)
        reached, _ = run(total)
        like = setup.state(bag_params(), step)
        assert jax.tree.structure(like.opt_state) == jax.tree.structure(
            reached.opt_state
        )


def test_seeds_differ_and_the_callers_parameters_stay():
    params = bag_params()
    before = jax.tree.map(np.array, params)
    setup = training()
    first, _ = fit(setup, setup.state(params))
    other = replace(setup, seed=1)
    second, _ = fit(other, other.state(params))
    assert same_bits(params, before)
    assert farthest(first.params, second.params) > 1e-4


def test_batches_are_those_of_the_stream():
    """The tokens that a step is told are those of its batch."""
    display, setup = Watcher(), training()
    run(setup, display=display)
    batch = setup.stream.batch(0)
    assert display.steps[0][3] == int(batch.mask.sum())
    assert batch.tokens.shape == uneven_batch().tokens.shape


def test_figures_of_a_step_are_logged_and_shown(tmp_path, monkeypatch):
    """Times of steps lie apart in the log, and the pauses between them do not count."""
    now = [0.0]
    monkeypatch.setattr(loop, "time", SimpleNamespace(time=lambda: now[0]))

    def gauge(batch, seconds):
        return {"rows": float(len(batch.tokens)), "seconds": seconds}

    def slow(params):
        now[0] += 100
        return {"accuracy": 0.5}

    display = Watcher()
    gauged = training(total_steps=2, gauge=gauge, shown=("accuracy", "padding", "rows"))
    habits = Habits(eval_every=1)
    fit(
        *(gauged, gauged.state(bag_params()), slow),
        habits=habits,
        folder=tmp_path,
        display=display,
    )
    log = [r for r in read_log(tmp_path / "metrics.jsonl") if "loss" in r]
    assert [set(r["clock"]) for r in log] == [{"time", "rows", "seconds"}] * 2
    assert log[1]["clock"]["seconds"] == 0
    batch = gauged.stream.batch(0)
    assert log[0]["padding"] == pytest.approx(1 - batch.mask.sum() / batch.mask.size)
    shown = display.steps[0][5]
    assert shown == {
        "accuracy": log[0]["accuracy"],
        "padding": log[0]["padding"],
        "rows": len(batch.tokens),
    }


@dataclass(frozen=True)
class Unhurried(Placement):
    """A placement whose steps are over when they return, ten seconds later."""

    now: list = field(default_factory=lambda: [0.0], compare=False)

    def train(self, step):
        take = super().train(step)

        def waited(state, batch):
            self.now[0] += 10
            return jax.block_until_ready(take(state, batch))

        return waited


def test_a_step_in_the_calling_thread_is_timed_by_itself(tmp_path, monkeypatch):
    """Not by the next one; nor do evaluations and checkpoints take its time away."""
    placement = Unhurried("jit", choose_placement("jit", 4).devices)
    now = placement.now
    monkeypatch.setattr(loop, "time", SimpleNamespace(time=lambda: now[0]))
    monkeypatch.setattr(loop, "_in_calling_thread", lambda placement: True)

    class Clock(Watcher):
        def update(self, step, **told):
            self.steps.append((step, now[0]))

    def slow(params):
        now[0] += 100
        return {"accuracy": 0.5}

    setup = training(
        total_steps=5,
        placement=placement,
        gauge=lambda batch, seconds: {"seconds": seconds},
    )
    habits, display = Habits(eval_every=2), Clock()
    start = setup.state(bag_params())
    fit(setup, start, slow, habits=habits, folder=tmp_path, display=display)
    log = [r for r in read_log(tmp_path / "metrics.jsonl") if "loss" in r]
    # The first one's time begins before the clock is replaced.
    assert [r["clock"]["seconds"] for r in log[1:]] == [10.0] * 4
    assert display.steps == [(1, 10), (2, 20), (3, 130), (4, 140), (5, 250)]


def test_steps_run_in_the_calling_thread_where_jax_is_told_so():
    one = choose_placement("jit", 1)
    assert not loop._in_calling_thread(one)
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    try:
        assert loop._in_calling_thread(one)
    finally:
        jax.config.update("jax_cpu_enable_async_dispatch", True)
