"""Runs that read by ELMo: learnt, opened again, verified; plans, penalty, errors."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from tiny_elmo import SMALL_BILM, save_tiny_elmo
from tiny_runs import StopAt, write_tsv

from tl_jax.files.errors import ConfigError, WeightsError
from tl_jax.interop.elmo import find_elmo, save_elmo
from tl_jax.models.compose import flatten_paths, init_module
from tl_jax.models.elmo import BiLm
from tl_jax.runs import evaluate as opened
from tl_jax.runs.config import FinetuneConfig
from tl_jax.runs.encoders import describe, rebuild
from tl_jax.runs.finetune import finetune, resume
from tl_jax.runs.job import prepare, training_of
from tl_jax.training.signals import Interrupted
from tl_jax.transfer.presets import stages_from_json


@pytest.fixture(scope="module")
def elmo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a biLM that was drawn at random and never trained."""
    return save_tiny_elmo(tmp_path_factory.mktemp("elmo"))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps states apart from those of other tests, and of the user."""
    monkeypatch.setenv("TL_JAX_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def config(elmo: Path, tiny: Path) -> FinetuneConfig:
    return FinetuneConfig(
        task="classify",
        train=(str(tiny / "train.tsv"),),
        dev=str(tiny / "dev.tsv"),
        weights=str(elmo),
        max_length=12,
        batch_size=8,
        learning_rate=3e-2,
        epochs=4,
        devices=1,
        hidden_size=16,
        dropout=0.1,
        elmo_dropout=0.1,
    )


def test_a_run_learns_and_is_opened_again(
    config: FinetuneConfig, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    metrics = finetune(config, run)["parts"]["dev"]["metrics"]
    assert metrics["accuracy"] > 0.75
    again = opened.evaluate(run, config.dev, batch_size=16)["metrics"]
    assert again["accuracy"] == pytest.approx(metrics["accuracy"], abs=1e-6)
    assert opened.verify(run)[0].startswith("dev: 50 predictions equal")
    # Words that no training text holds are read, too, each by itself.
    new = tmp_path / "new.tsv"
    new.write_text("sentence\na qzx film\na xqw film\n")
    assert opened.predict(run, str(new), tmp_path / "out.jsonl") == 2
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    first, second = (json.loads(line)["probabilities"]["1"] for line in lines)
    assert first != second


@pytest.fixture
def few(config: FinetuneConfig, tmp_path: Path) -> FinetuneConfig:
    """The same options for a few examples, which are not trained on."""
    train = write_tsv(tmp_path / "few.tsv", 12, seed=3)
    return replace(config, train=(str(train),), dev=str(train))


def test_plans_freeze_the_bilm_or_tune_it(few: FinetuneConfig, tiny: Path) -> None:
    vectors = str(tiny / "vectors.txt")
    rates = {}
    for plan in (None, "slow", "full"):
        job, params = prepare(replace(few, plan=plan, vectors=vectors, elmo_at="both"))
        (stage,) = stages_from_json(job.setup.plan)
        trained, _ = stage.plan.split(params)
        matched = stage.plan.match(params)
        parts: dict[str, float] = {}
        for path, rule in matched.items():
            part = "/".join(path.split("/")[:2])
            parts[part] = 0.0 if rule.frozen else rule.rate
        rates[plan] = [
            parts[f"encoder/{part}"]
            for part in ("bilm", "embedding", "mix_input", "lstm_0_forward")
        ]
        assert ("bilm" in trained["encoder"]) == (plan is not None)
        assert job.setup.config.plan == (plan or "freeze")
        assert set(job.setup.weights) == {"source", "sha256", "vectors_sha256"}
    assert rates == {None: [0, 0.1, 1, 1], "slow": [0.1, 0.1, 1, 1], "full": [1] * 4}
    lines = Path(vectors).read_text().splitlines()
    table = {line.split()[0]: line.split()[1:] for line in lines}
    numbers = job.text.vocabulary.numbers  # pyright: ignore
    row = params["encoder"]["embedding"]["embedding"][numbers["film"]]
    np.testing.assert_allclose(row, np.array(table["film"], np.float32), atol=1e-6)
    with pytest.raises(ConfigError, match=r"layerwise.*for ELMo"):
        prepare(replace(few, plan="layerwise"))


def test_a_run_goes_on_that_was_killed_before_its_first_checkpoint(
    few: FinetuneConfig, tmp_path: Path
) -> None:
    config, run = replace(few, epochs=1), tmp_path / "run"
    with pytest.raises(Interrupted):
        finetune(config, run, StopAt(1))
    shutil.rmtree(run / "checkpoints")
    assert resume(run) == finetune(config, tmp_path / "whole")


def test_the_penalty_is_lambda_times_the_square_of_s(few: FinetuneConfig) -> None:
    job, params = prepare(replace(few, elmo_at="both", elmo_l2=0.5, vectors="random"))
    assert params["encoder"]["embedding"]["embedding"].shape[1] == 100
    params["encoder"]["mix_input"]["s"] = np.array([1.0, 0.0, 2.0], np.float32)
    params["encoder"]["mix_output"]["s"] = np.array([0.0, 3.0, 0.0], np.float32)
    training = training_of(job)
    batch = training.stream.batch(0)

    @jax.jit
    def both(params: Any, batch: Any) -> Any:
        plain = job.task.loss(job.model)(params, batch, train=False)
        return plain["loss"], training.loss(params, batch, train=False)["loss"]

    plain, penalised = both(params, batch)
    mean = float(plain.total / plain.weight)
    found = float(penalised.total / penalised.weight)
    assert found == pytest.approx(mean + 0.5 * (1 + 4 + 9), rel=1e-5)


def test_an_encoder_is_described_and_rebuilt(few: FinetuneConfig) -> None:
    job, params = prepare(replace(few, elmo_at="both", vectors="random"))
    written = json.loads(json.dumps(describe(job.model.encoder)))
    assert rebuild(written) == job.model.encoder
    names = {path.split("/")[1] for path in flatten_paths(params) if "mix" in path}
    assert names == {"mix_input", "mix_output"}


def test_options_that_do_not_fit_are_refused(
    few: FinetuneConfig, tiny: Path, tmp_path: Path, elmo: Path
) -> None:
    with pytest.raises(ConfigError, match="nothing to read"):
        prepare(replace(few, elmo_at="output"))
    with pytest.raises(ConfigError, match="last, max and mean"):
        prepare(replace(few, pooling="pooler"))
    with pytest.raises(ConfigError, match="--elmo-at and --elmo-dropout: of ELMo"):
        prepare(replace(few, weights=str(tiny / "vectors.txt"), elmo_at="both"))
    (tmp_path / "empty").mkdir()
    other = replace(few, weights=str(tmp_path / "empty"), elmo_dropout=None)
    with pytest.raises(WeightsError, match=r"options\.json and"):
        prepare(other)
    assert find_elmo(tmp_path / "empty") is None
    for flags, message in (
        ({"units": "pieces"}, "--units: ELMo has vectors of words"),
        ({"vector_size": 5, "max_words": 9}, "--max-words: .*; --vector-size: of"),
    ):
        with pytest.raises(ConfigError, match=message):
            prepare(replace(few, **flags))
    (tmp_path / "empty" / "options262.json").touch()
    with pytest.raises(WeightsError, match=r"options262\.json: .* HDF5 file is not"):
        find_elmo(tmp_path / "empty")
    (tmp_path / "empty" / "options262.json").unlink()
    for name in ("a_options.json", "b_options.json", "w.hdf5"):
        (tmp_path / "empty" / name).touch()
    with pytest.raises(WeightsError, match=r"b_options\.json"):
        find_elmo(tmp_path / "empty")
    words = replace(SMALL_BILM, input="words", vocab_size=3)
    params = init_module(
        BiLm(words), jax.random.key(0), *[np.ones((1, 2), np.int32)] * 2
    )
    save_elmo(tmp_path / "options.json", tmp_path / "w.hdf5", words, params)
    (tmp_path / "words").mkdir()
    for name in ("options.json", "w.hdf5"):
        (tmp_path / name).rename(tmp_path / "words" / name)
    with pytest.raises(WeightsError, match="needs its vocabulary"):
        prepare(replace(few, weights=str(tmp_path / "words")))


def test_weights_without_their_options_are_told(elmo: Path, tmp_path: Path) -> None:
    (weights,) = elmo.rglob("*.hdf5")
    (tmp_path / "w.hdf5").write_bytes(weights.read_bytes())
    with pytest.raises(WeightsError, match=r"w\.hdf5: the biLM's options\.json is not"):
        find_elmo(tmp_path)


def test_features_beside_the_weights_are_no_weights(shared: Path) -> None:
    found = find_elmo(shared / "elmo/allennlp")
    assert found is not None and found.weights.name == "lm_weights.hdf5"
