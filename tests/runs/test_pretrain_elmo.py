"""Pre-training of ELMo in this process: what it writes, going on exactly, its use."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import farthest, same_bits
from processes import fingerprint
from tiny_runs import WORDS, StopAt, write_documents

from tl_jax.cli import main
from tl_jax.data.word_stream import WordStream
from tl_jax.data.word_text import open_words, prepare_words
from tl_jax.files.errors import ConfigError, DataError, IntegrityError, WeightsError
from tl_jax.interop.elmo import load_elmo
from tl_jax.models.elmo import BiLm, ElmoConfig, Rows, zero_carry
from tl_jax.report.perplexities import curves
from tl_jax.runs.config import FinetuneConfig
from tl_jax.runs.evaluate import verify
from tl_jax.runs.features import features
from tl_jax.runs.finetune import finetune
from tl_jax.runs.job import prepare, training_of, with_states
from tl_jax.runs.pretrain_config import PretrainElmoConfig
from tl_jax.runs.pretrain_elmo import (
    perplexities,
    pretrain_elmo,
    resume_pretrain_elmo,
)
from tl_jax.runs.pretraining import kind_of
from tl_jax.tasks.language_model import BiLanguageModel
from tl_jax.text.characters import word_characters
from tl_jax.text.vocabulary import SPECIALS
from tl_jax.training.checkpoint import latest, restore
from tl_jax.training.log import read_log
from tl_jax.training.signals import Interrupted

SIZES: dict[str, Any] = {"projection_size": 8, "cell_size": 12}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps states apart from those of other tests, and of the user."""
    monkeypatch.setenv("TL_JAX_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> PretrainElmoConfig:
    folder = tmp_path_factory.mktemp("text")
    return PretrainElmoConfig(
        text=(write_documents(folder / "train.txt", 40, seed=1),),
        dev=(write_documents(folder / "dev.txt", 8, seed=2),),
        input="words",
        vocab_size=20,
        projection=SIZES["projection_size"],
        cell=SIZES["cell_size"],
        unroll=6,
        batch_size=8,
        learning_rate=3e-2,
        epochs=2,
        save_every=7,
        devices=1,
    )


@pytest.fixture(scope="module")
def run(config: PretrainElmoConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    pretrain_elmo(config, out)
    return out


@pytest.fixture(scope="module")
def spelt(config: PretrainElmoConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps that reads characters, by a sampled softmax."""
    out = tmp_path_factory.mktemp("spelt") / "run"
    sizes = {"filters": ((1, 4), (3, 8)), "character_size": 4, "max_characters": 10}
    change = {"input": "characters", "steps": 2, "sampled": 5, "dev": ()}
    pretrain_elmo(replace(config, **change, **sizes), out)
    return out


def test_a_run_learns_and_tells(run: Path) -> None:
    results = json.loads((run / "results.json").read_text())
    dev = results["dev"]
    means = [np.log(dev[f"{way}_perplexity"]) for way in ("forward", "backward")]
    assert dev["loss"] == pytest.approx(np.mean(means))
    assert dev["log_likelihood"] == -dev["loss"]
    # Documents have favourite words: a state that is carried on knows them.
    assert dev["perplexity"] < 0.75 * 20
    records = read_log(run / "metrics.jsonl")
    losses = [r["forward_loss"] for r in records if "forward_loss" in r]
    assert len(losses) == results["steps"]
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.3
    scored = [r for r in records if "dev_backward_perplexity" in r]
    assert scored[-1]["dev_backward_perplexity"] == dev["backward_perplexity"]
    assert kind_of(run) == "pretrain_elmo"
    words = (run / "model" / "vocabulary.txt").read_text().split("\n")
    assert tuple(words[:3]) == SPECIALS
    assert set(words[3:-1]) <= {*WORDS, "."}


def test_the_last_parameters_are_scored_once(
    config: PretrainElmoConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[dict[str, float]] = []

    def count(forward: float, backward: float) -> dict[str, float]:
        told.append(perplexities(forward, backward))
        return told[-1]

    monkeypatch.setattr("tl_jax.runs.pretrain_elmo.perplexities", count)
    results = pretrain_elmo(replace(config, steps=2), tmp_path / "run")
    assert [results["dev"]] == told
    # Scored in training, and not yet written when it was stopped: scored again.
    (tmp_path / "run/results.json").unlink()
    assert resume_pretrain_elmo(tmp_path / "run")["dev"] == told[0] == told[1]


def test_a_held_out_text_that_is_too_short_is_named(
    config: PretrainElmoConfig, tmp_path: Path
) -> None:
    short = tmp_path / "short.txt"
    short.write_text("a b\n")
    with pytest.raises(DataError, match="dev: A text of 3 words"):
        pretrain_elmo(replace(config, dev=(str(short),)), tmp_path / "run")


def test_perplexities_are_those_of_whole_streams_read_at_once(
    run: Path, config: PretrainElmoConfig
) -> None:
    """Of held-out text, from its file: no windows, no carry, no padding."""
    model = run / "model"
    bilm, params = load_elmo(model / "options.json", model / "lm_weights.hdf5")
    path = latest(run / "checkpoints")
    assert path is not None
    head: Any = {"bias": np.zeros(20, np.float32)}
    head = restore(path, {"params": {"head": head}}, subset=True)["params"]["head"]
    words = (model / "vocabulary.txt").read_text().split("\n")[:-1]
    number = {word: n for n, word in enumerate(words)}
    lines = filter(None, Path(config.dev[0]).read_text().splitlines())
    first = [n for s in lines for n in (0, *(number.get(w, 2) for w in s.split()))]
    second = [n or 1 for n in (*first[1:], 0)]
    length, losses = -(-len(first) // config.batch_size), np.zeros(2)
    for start in range(0, len(first), length):
        pair = [
            np.array([x[start : start + length]], np.int32) for x in (first, second)
        ]
        real = np.ones_like(pair[0])
        given = pair[0], real, None, None, None, Rows(pair[1], real)
        found: Any = bilm.apply({"params": params}, *given)
        top = np.split(np.asarray(found[0].layers[-1], np.float64)[0], 2, axis=1)
        for way, states in enumerate(top):
            scores = states @ params["words"]["embedding"].T + head["bias"]
            wanted = scores[np.arange(len(states)), pair[1 - way][0]]
            losses[way] += (np.log(np.exp(scores).sum(axis=1)) - wanted).sum()
    forward, backward = losses / len(first)
    dev = json.loads((run / "results.json").read_text())["dev"]
    assert dev["forward_perplexity"] == pytest.approx(np.exp(forward), rel=1e-4)
    assert dev["backward_perplexity"] == pytest.approx(np.exp(backward), rel=1e-4)
    both = np.exp((forward + backward) / 2)
    assert dev["perplexity"] == pytest.approx(both, rel=1e-4)
    assert abs(forward - backward) > 1e-3  # else these could be one another


def test_the_perplexity_of_both_directions_is_their_geometric_mean() -> None:
    found = perplexities(1.0, 3.0)
    expected = {"loss": 2, "log_likelihood": -2, "perplexity": np.exp(2)}
    expected |= {"forward_perplexity": np.exp(1), "backward_perplexity": np.exp(3)}
    assert found == pytest.approx(expected)


def test_a_run_trains_as_its_options_say(
    config: PretrainElmoConfig, tmp_path: Path
) -> None:
    """Step by step by hand, where no option is at its default."""
    text = Path(config.text[0]).read_text().replace(" .", ".")
    (tmp_path / "text.txt").write_text(text)
    own: dict[str, Any] = {"cell_clip": 0.3, "projection_clip": 0.2, "dropout": 0.2}
    told: dict[str, Any] = {"splits": "spaces", "vocab_size": 15, "skip": False}
    told |= {"sampled": 6, "steps": 4, "warmup": 0.5, "clip": 0.2, "seed": 5}
    told |= {"restart": 0.4}
    files = {"text": (str(tmp_path / "text.txt"),), "dev": ()}
    pretrain_elmo(replace(config, **own, **told, **files), tmp_path / "run")

    lines = [line.split() for line in text.splitlines() if line]
    prepare_words(tmp_path / "words", lines, {}, vocab_size=15)
    stream = WordStream(open_words(tmp_path / "words"), 8, 6)
    sizes: dict[str, Any] = {**SIZES, **own, "use_skip_connections": False}
    encoder = ElmoConfig(input="words", vocab_size=15, **sizes)
    model = BiLanguageModel(encoder, 15, tied=True, sampled=6, restart=0.4)
    rates = config.learning_rate * np.array([0, 0.5, 0.5, 0.25])
    optimizer = optax.chain(
        optax.clip_by_global_norm(0.2), optax.adam(lambda n: jnp.asarray(rates)[n])
    )

    @jax.jit
    def step(params: Any, state: Any, carry: Any, batch: Any) -> Any:
        def objective(params: Any) -> Any:
            key = jax.random.key(5)
            sums, after = model.loss(params, batch, key, carry, train=True)
            return sums["loss"].total / sums["loss"].weight, after

        grads, after = jax.grad(objective, has_aux=True)(params)
        updates, state = optimizer.update(grads, state)
        return (
            optax.apply_updates(params, updates),
            state,
            after,
            optax.tree.norm(grads),
        )

    params = model.init(jax.random.key(5), stream.batch(0))
    state, carry, norms = optimizer.init(params), model.carry(8), []
    for n in range(4):
        params, state, carry, norm = step(params, state, carry, stream.batch(n))
        norms.append(float(norm))
    path = latest(tmp_path / "run" / "checkpoints")
    assert path is not None
    kept = restore(path, {"params": params, "carry": carry}, subset=True)
    assert farthest(kept, {"params": params, "carry": carry}) <= 1e-5
    assert max(norms) > 0.3  # something was clipped


def test_a_report_shows_the_perplexity_of_each_direction(
    run: Path, spelt: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["report", str(run), str(spelt)])
    lines = capsys.readouterr().out.splitlines()
    head, whole, begun = (
        [cell.strip() for cell in lines[n].split("|")[3:7]] for n in (0, 2, 3)
    )
    assert head == ["steps", "perplexity", "forward", "backward"]
    results = json.loads((run / "results.json").read_text())
    dev = results["dev"]
    shown = [f"{dev[f'{way}perplexity']:.1f}" for way in ("", "forward_", "backward_")]
    assert whole == [str(results["steps"]), *shown]
    assert begun == ["2", "–", "–", "–"]
    assert all((folder / "report.png").stat().st_size > 1e4 for folder in (run, spelt))
    forward, backward = curves(read_log(run / "metrics.jsonl"))
    assert (forward.name, backward.name) == ("forward", "backward")
    assert forward.training[-1][1] < 0.75 * forward.training[0][1]
    assert backward.held_out[-1][1] == dev["backward_perplexity"]


def test_a_run_that_was_stopped_goes_on_exactly(
    run: Path, config: PretrainElmoConfig, tmp_path: Path
) -> None:
    """Stopped between two checkpoints, at one, and in the second epoch."""
    steps = json.loads((run / "results.json").read_text())["steps"]
    out, stops = tmp_path / "run", [3, 7, steps // 2 + 2]
    with pytest.raises(Interrupted, match="saved"):
        pretrain_elmo(config, out, StopAt(stops[0]))
    for step in stops[1:]:
        with pytest.raises(Interrupted, match="saved"):
            resume_pretrain_elmo(out, display=StopAt(step))
    resume_pretrain_elmo(out)
    assert fingerprint(out) == fingerprint(run)
    exported = [folder / "model" / "lm_weights.hdf5" for folder in (out, run)]
    assert exported[0].read_bytes() == exported[1].read_bytes()


def test_the_carry_is_in_the_checkpoint_and_the_export_is_its_parameters(
    run: Path,
) -> None:
    path = latest(run / "checkpoints")
    assert path is not None
    zeros = BiLanguageModel(ElmoConfig(**SIZES), 20, tied=True).carry(8)
    carry = restore(path, {"carry": zeros}, subset=True)["carry"]
    assert all(np.abs(x).max() > 0.01 for x in carry)
    model = run / "model"
    bilm, params = load_elmo(model / "options.json", model / "lm_weights.hdf5")
    kept = restore(path, {"params": {"encoder": params}}, subset=True)
    assert same_bits(kept["params"]["encoder"], params)
    assert bilm.config == ElmoConfig(input="words", vocab_size=20, **SIZES)


def test_exported_words_and_characters_give_the_features_of_the_model(
    run: Path, spelt: Path, tmp_path: Path
) -> None:
    """Word by word, between the boundaries, from a zero state and from a warm one."""
    lines = ["a good film", "nevermet plot the"]
    source, out = tmp_path / "in.txt", tmp_path / "out.h5"
    source.write_text("\n".join(lines) + "\n")
    for folder in (run / "model", spelt / "model"):
        bilm, params = load_elmo(folder / "options.json", folder / "lm_weights.hdf5")
        words = (folder / "vocabulary.txt").read_text().split("\n")
        inputs = [read_as(bilm, words, line) for line in lines]
        apply = jax.jit(bilm.apply)
        zero = zero_carry(bilm.config, 1)
        warm = apply({"params": params}, *inputs[0], zero)[1]
        for carry in (zero, warm):
            options = {"batch_size": 1, "warmup": carry is warm}
            features(str(folder), source, out, layers="all", **options)
            for n, given in enumerate(inputs):
                found: Any = apply({"params": params}, *given, carry)
                expected = np.stack([x[0, 1:-1] for x in found[0].layers])
                with h5py.File(out) as file:
                    np.testing.assert_allclose(file[str(n)][...], expected, atol=1e-5)


def read_as(bilm: BiLm, vocabulary: list[str], line: str) -> tuple[Any, ...]:
    """What the biLM reads of a sentence between its boundaries."""
    words = ["<S>", *line.split(), "</S>"]
    tokens, characters = np.arange(len(words), dtype=np.int32)[None], None
    if bilm.config.input == "characters":
        characters = word_characters(words, length=bilm.config.max_characters)
    else:
        ids = [vocabulary.index(w) if w in vocabulary else 2 for w in words]
        tokens = np.array([ids], np.int32)
    return tokens, np.ones_like(tokens), characters


def test_fine_tuning_takes_a_model_of_words(
    run: Path, tiny: Path, tmp_path: Path
) -> None:
    config = FinetuneConfig(
        task="classify",
        train=(str(tiny / "train.tsv"),),
        dev=str(tiny / "dev.tsv"),
        weights=str(run / "model"),
        max_length=12,
        batch_size=32,
        epochs=1,
        devices=1,
        hidden_size=8,
    )
    out = tmp_path / "run"
    assert finetune(config, out)["parts"]["dev"]["examples"] == 50
    assert verify(out)
    # States that were kept are those that are computed in a step.
    job, params = prepare(config)
    layers = [
        jax.jit(job.model.features)(params, training_of(j).stream.batch(0)).layers
        for j in (job, with_states(job, params))
    ]
    assert farthest(*layers) <= 1e-5
    bare = Path(shutil.copytree(run / "model", tmp_path / "bare"))
    (bare / "vocabulary.txt").unlink()
    with pytest.raises(WeightsError, match="needs its vocabulary"):
        prepare(replace(config, weights=str(bare)))


def test_damage_and_changes_are_told_before_a_run_goes_on(
    run: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(run, tmp_path / "run"))
    file = out / "data" / "train" / "tokens.bin"
    whole = file.read_bytes()
    file.write_bytes(whole[:50] + bytes([whole[50] ^ 4]) + whole[51:])
    with pytest.raises(IntegrityError, match=r"tokens\.bin: contents differ"):
        resume_pretrain_elmo(out)
    file.write_bytes(whole)
    told = json.loads((out / "run.json").read_text())
    told["config"]["unroll"] = 7
    (out / "run.json").write_text(json.dumps(told))
    with pytest.raises(ConfigError, match=r"config\.unroll"):
        resume_pretrain_elmo(out)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"text": ()}, ConfigError, "there is no text"),
        ({"steps": 0}, ConfigError, "--steps 0"),
        ({"cell_clip": -1.0}, ConfigError, "--cell-clip -1"),
        ({"filters": ((60, 3),)}, ConfigError, "wider than a word"),
        ({"dropout": 1.0}, ConfigError, "--dropout 1"),
        ({"eval_every": 0}, ConfigError, "--eval-every 0"),
        ({"sampled": 99}, ConfigError, "vocabulary has 20 words"),
        ({"text": ("nowhere.txt",)}, DataError, r"nowhere\.txt: there is no such"),
        ({"batch_size": 6, "devices": 4}, ConfigError, "share so many streams"),
        (
            {"batch_size": 999},
            DataError,
            "dev: A text of 298 words is too short for 9",
        ),
    ],
)
def test_options_that_do_not_fit_are_told_before_training(
    change: dict[str, object],
    error: type[Exception],
    message: str,
    config: PretrainElmoConfig,
    tmp_path: Path,
) -> None:
    with pytest.raises(error, match=message):
        pretrain_elmo(replace(config, **change), tmp_path / "run")
    assert not (tmp_path / "run" / "setup").exists()
