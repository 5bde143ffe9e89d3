"""Runs in this process: what they write, and that the parts agree with one another."""

import json
import shutil
import signal
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny_runs import WORDS, StopAt

from tl_jax.files.errors import (
    ConfigError,
    DataError,
    IntegrityError,
    NonFiniteError,
    VerificationError,
    WeightsError,
)
from tl_jax.interop import load
from tl_jax.models.compose import flatten_paths
from tl_jax.runs import evaluate as opened
from tl_jax.runs.config import FinetuneConfig
from tl_jax.runs.finetune import finetune, finetune_seeds, resume
from tl_jax.runs.job import prepare
from tl_jax.runs.results import read_results, sealed
from tl_jax.tasks.classification import Classification
from tl_jax.text.subwords import load_tokenizer
from tl_jax.training.checkpoint import committed, restore
from tl_jax.training.log import read_log
from tl_jax.training.signals import Interrupted


@pytest.fixture
def encoder_config(tiny: Path) -> FinetuneConfig:
    return FinetuneConfig(
        task="classify",
        train=(str(tiny / "train.tsv"),),
        dev=str(tiny / "dev.tsv"),
        test=str(tiny / "dev.tsv"),
        weights=str(tiny / "bert"),
        max_length=32,
        batch_size=8,
        learning_rate=1e-2,
        epochs=3,
        devices=1,
    )


@pytest.fixture
def vectors_config(tiny: Path, encoder_config: FinetuneConfig) -> FinetuneConfig:
    vectors = str(tiny / "vectors.txt")
    rate = 2e-2
    return replace(
        encoder_config, weights=vectors, hidden_size=16, learning_rate=rate, dropout=0.1
    )


@pytest.mark.parametrize("kind", ["encoder_config", "vectors_config"])
def test_a_run_learns_and_everything_in_it_agrees(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, tiny: Path
) -> None:
    config = request.getfixturevalue(kind)
    run = tmp_path / "run"
    results = finetune(config, run)
    assert results["parts"]["dev"]["metrics"]["accuracy"] > 0.8
    assert results["parts"]["dev"]["metrics"] == results["parts"]["test"]["metrics"]
    assert results == json.loads((run / "results.json").read_text())

    steps = config.epochs * 30
    records = read_log(run / "metrics.jsonl")
    assert [r["step"] for r in records if "loss" in r] == list(range(1, steps + 1))
    assert [r["step"] for r in records if "dev_loss" in r] == list(
        range(30, steps + 1, 30)
    )
    best = max((r["dev_accuracy"], -r["step"]) for r in records if "dev_loss" in r)
    assert results["best_step"] == -best[1]
    kept = {int(p.name[5:]) for p in committed(run / "checkpoints")}
    assert kept == {results["best_step"], steps}

    again = opened.evaluate(run, str(tiny / "dev.tsv"))
    assert again["examples"] == 50
    assert again["metrics"]["accuracy"] == best[0]
    output = tmp_path / "out.jsonl"
    assert opened.predict(run, str(tiny / "dev.tsv"), output) == 50
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["index"] for row in rows] == list(range(50))
    for row in rows:
        assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-4)
        assert row["label"] == max(row["probabilities"], key=row["probabilities"].get)
    gold = [line[-1] for line in (tiny / "dev.tsv").read_text().splitlines()[1:]]
    right = np.mean(
        [row["label"] == label for row, label in zip(rows, gold, strict=True)]
    )
    assert right == best[0]
    assert output.read_bytes() == (run / "predictions" / "dev.jsonl").read_bytes()
    assert len(opened.verify(run)) == 2
    with pytest.raises(ConfigError, match=r"--part dev: .* by --split"):
        opened.evaluate(run, str(tiny / "dev.tsv"), part="dev")


def test_verify_tells_of_other_data_and_of_other_predictions(
    encoder_config: FinetuneConfig, tmp_path: Path, tiny: Path
) -> None:
    dev = tmp_path / "dev.tsv"
    dev.write_bytes((tiny / "dev.tsv").read_bytes())
    run = tmp_path / "run"
    finetune(replace(encoder_config, dev=str(dev), test=None, epochs=1), run)
    assert opened.verify(run)
    results = read_results(run)
    assert results is not None
    del results["sha256"]
    results["parts"]["dev"]["predictions_sha256"] = "0" * 64
    (run / "results.json").write_text(json.dumps(sealed(results)))
    with pytest.raises(VerificationError, match="predictions' hash"):
        opened.verify(run)
    dev.write_text(dev.read_text().replace("\t1\n", "\t0\n", 1))
    with pytest.raises(VerificationError, match="holds other data now"):
        opened.verify(run)


def test_what_was_tuned_on_dev_is_sealed_and_its_lack_is_told(
    encoder_config: FinetuneConfig,
    tmp_path: Path,
    tiny: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, dev = tmp_path / "run", str(tiny / "dev.tsv")
    finetune(replace(encoder_config, test=None, epochs=1), run)
    whole = (run / "results.json").read_text()
    capsys.readouterr()
    opened.evaluate(run, dev)
    assert "not finished" not in capsys.readouterr().err
    for damaged in (whole.replace('"tuned": {}', '"tuned": {"x": 1}'), "[]", "{}", "5"):
        (run / "results.json").write_text(damaged)
        with pytest.raises(IntegrityError, match=r"results\.json"):
            opened.evaluate(run, dev)
        with pytest.raises(IntegrityError, match=r"results\.json"):
            opened.verify(run)
    (run / "results.json").unlink()
    opened.evaluate(run, dev)
    assert "it is not finished" in capsys.readouterr().err
    resume(run)
    assert (run / "results.json").read_text() == whole
    (run / "run.json").write_text("[]")
    with pytest.raises(IntegrityError, match=r"run\.json: a JSON object"):
        opened.evaluate(run, dev)


def test_predictions_without_a_format_are_refused_before_any_is_made(
    encoder_config: FinetuneConfig,
    tmp_path: Path,
    tiny: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    finetune(replace(encoder_config, test=None, epochs=1), tmp_path / "run")
    monkeypatch.setattr(opened.OpenRun, "judge", lambda *_, **__: pytest.fail("judged"))
    with pytest.raises(ConfigError, match=r"name it \.jsonl"):
        opened.predict(tmp_path / "run", str(tiny / "dev.tsv"), tmp_path / "p.tsv")


def test_seeds_are_runs_of_their_own_and_resume_finishes_them(
    vectors_config: FinetuneConfig, tmp_path: Path
) -> None:
    out = tmp_path / "runs"
    config = replace(vectors_config, epochs=1, test=None)
    summary = finetune_seeds(config, out, 2)
    scores = [
        json.loads((out / f"seed-{n}" / "results.json").read_text())["parts"]["dev"]
        for n in range(2)
    ]
    accuracies = [score["metrics"]["accuracy"] for score in scores]
    assert summary["dev"]["accuracy"]["mean"] == pytest.approx(np.mean(accuracies))
    assert summary["dev"]["accuracy"]["std"] == pytest.approx(
        np.std(accuracies, ddof=1)
    )
    assert len(opened.verify(out)) == 2
    (out / "seed-1" / "results.json").unlink()
    assert resume(out) == summary


@pytest.mark.parametrize("file", ["results.json", "seeds.json"])
def test_a_folder_with_runs_of_another_kind_is_left_as_it_is(
    encoder_config: FinetuneConfig, tmp_path: Path, file: str
) -> None:
    (tmp_path / file).write_text("{}")  # as of word vectors, or of several seeds
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ConfigError, match="already holds a run"):
        finetune(encoder_config, tmp_path)
    assert {p for p in tmp_path.iterdir() if p.suffix == ".json"} == set(before)


@pytest.mark.parametrize("plan", ["random", "initialise", "freeze", "slow"])
def test_word_vector_plans_start_from_what_they_say(
    plan: str, vectors_config: FinetuneConfig, tmp_path: Path, tiny: Path
) -> None:
    run = tmp_path / "run"
    finetune(replace(vectors_config, plan=plan, epochs=1, test=None), run)
    params = opened.open_run(run).params
    vocabulary = json.loads((run / "setup" / "words.json").read_text())["words"]
    lines = (tiny / "vectors.txt").read_text().splitlines()
    loaded = {line.split()[0]: np.array(line.split()[1:], float) for line in lines}
    table = params["encoder"]["embedding"]["embedding"]
    moved = max(
        np.abs(table[vocabulary.index(word)] - loaded[word]).max() for word in WORDS
    )
    expected = {
        "random": lambda x: x > 0.5,
        "initialise": lambda x: 0.02 < x < 0.5,
        "slow": lambda x: 1e-4 < x < 0.05,
        "freeze": lambda x: x < 1e-6,
    }
    assert expected[plan](moved), moved


def test_gradual_unfreezing_runs_through_its_stages(
    encoder_config: FinetuneConfig, tmp_path: Path, tiny: Path
) -> None:
    run = tmp_path / "run"
    told = finetune(replace(encoder_config, plan="gradual", epochs=3, test=None), run)
    _, weights = load(str(tiny / "bert"))
    newest = committed(run / "checkpoints")[-1]
    like = {"params": {"encoder": weights}}
    after = restore(newest, like, subset=True)["params"]["encoder"]
    before, now = flatten_paths(weights), flatten_paths(after)
    moved = {path for path in now if not np.array_equal(now[path], before[path])}
    # Two layers: head and pooler from epoch 0, layer 1 from 1, layer 0 from 2; the
    # embeddings would follow in epoch 3.
    assert {path.split("/")[0] for path in moved} == {"layer_0", "layer_1", "pooler"}
    # Of which the result tells, too, and of the head's.
    sizes = [x.size for k, x in now.items() if not k.startswith("embeddings/")]
    assert 0 < told["trained"] - sum(sizes) < 100


def test_a_nan_stops_and_names_the_examples(
    encoder_config: FinetuneConfig, tmp_path: Path
) -> None:
    """F11: an infinite rate makes the second step's loss NaN; no checkpoint has it."""
    run = tmp_path / "run"
    config = replace(encoder_config, learning_rate=1e30, clip=0.0, warmup=0.0)
    with pytest.raises(NonFiniteError, match="The update was not made"):
        finetune(config, run)
    told = json.loads((run / "bad_batch.json").read_text())
    assert len(told["examples"]) == 8
    assert not committed(run / "checkpoints")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"plan": "slowly"}, ConfigError, "Did you mean 'slow'"),
        ({"plan": "initialise"}, ConfigError, "for encoders"),
        ({"text_column": "sentense"}, ConfigError, "sentence"),
        ({"label_column": "lable"}, ConfigError, "label"),
        ({"pooling": "last"}, ConfigError, "pooler and mean"),
        ({"max_length": 64}, ConfigError, "32 positions"),
        ({"devices": 99}, ConfigError, "--devices 99"),
        ({"epochs": 0, "patience": 0}, ConfigError, r"--epochs 0: .*--patience 0: "),
        ({"learning_rate": -1.0}, ConfigError, "--learning-rate -1"),
        ({"dropout": 1.5}, ConfigError, "--dropout 1.5"),
        ({"vector_size": 0}, ConfigError, "--vector-size 0"),
        ({"dropout": 0.1, "units": "pieces"}, ConfigError, "--units and --dropout: no"),
    ],
)
def test_options_that_do_not_fit_are_told_before_training(
    change: dict[str, object],
    error: type[Exception],
    message: str,
    encoder_config: FinetuneConfig,
    tmp_path: Path,
) -> None:
    with pytest.raises(error, match=message):
        finetune(replace(encoder_config, **change), tmp_path / "run")
    assert not (tmp_path / "run" / "setup").exists()
    with pytest.raises(error, match=message):
        finetune_seeds(replace(encoder_config, **change), tmp_path / "runs", 2)
    assert not (tmp_path / "runs" / "seeds.json").exists()


def test_unknown_labels_in_dev_are_placed(
    encoder_config: FinetuneConfig, tmp_path: Path
) -> None:
    dev = tmp_path / "dev.tsv"
    dev.write_text("sentence\tlabel\na film\t0\na plot\t2\n")
    with pytest.raises(DataError, match=r"dev\.tsv:3: '2'"):
        finetune(replace(encoder_config, dev=str(dev)), tmp_path / "run")


def test_korean_is_refused_on_an_uncased_vocabulary(
    encoder_config: FinetuneConfig, tmp_path: Path
) -> None:
    data = tmp_path / "ko.tsv"
    data.write_text("sentence\tlabel\n정말 재미있는 영화\t1\n지루한 이야기\t0\n")
    config = replace(encoder_config, train=(str(data),), dev=str(data), test=None)
    with pytest.raises(ConfigError, match="Hangul"):
        finetune(config, tmp_path / "run")
    allowed = replace(config, allow_uncased=True, epochs=1)
    assert finetune(allowed, tmp_path / "allowed")["parts"]


def test_types_that_some_seeds_alone_predict_have_no_mean(
    encoder_config: FinetuneConfig, tmp_path: Path
) -> None:
    for seed, metrics in enumerate([{"f1": 0.5, "f1/LOC": 0.0}, {"f1": 0.7}]):
        folder = tmp_path / f"seed-{seed}"
        folder.mkdir()
        results = {"trained": 1, "parts": {"dev": {"metrics": metrics}}}
        (folder / "results.json").write_text(json.dumps(sealed(results)))
    told = {"seeds": 2, "config": asdict(encoder_config)}
    (tmp_path / "seeds.json").write_text(json.dumps(told))
    dev = resume(tmp_path)["dev"]
    assert dev.keys() == {"f1"}
    assert dev["f1"]["mean"] == pytest.approx(0.6)


def test_every_row_is_predicted_though_training_skipped_bad_ones(
    encoder_config: FinetuneConfig,
    tmp_path: Path,
    tiny: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bad = tmp_path / "bad.tsv"
    rows = (tiny / "dev.tsv").read_bytes().splitlines()
    bad.write_bytes(b"\n".join([*rows[:2], b"\xff\t1", *rows[2:]]))
    config = replace(encoder_config, epochs=1, on_bad="skip", test=None, dev=str(bad))
    finetune(config, tmp_path / "run")
    assert "bad.tsv: 1 of it could not be read" in capsys.readouterr().err
    with pytest.raises(DataError, match=r"bad\.tsv:3"):
        opened.predict(tmp_path / "run", str(bad), tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


def test_what_is_allowed_before_the_first_checkpoint_is_sealed(
    vectors_config: FinetuneConfig, tmp_path: Path
) -> None:
    """The run is then one of the changed setup, vocabulary included."""
    train = tmp_path / "train.tsv"
    train.write_bytes(Path(vectors_config.train[0]).read_bytes())
    config = replace(vectors_config, train=(str(train),), epochs=1, test=None)
    run = tmp_path / "run"
    with pytest.raises(Interrupted):
        finetune(config, run, StopAt(1))
    shutil.rmtree(run / "checkpoints")
    train.write_text(train.read_text() + "unheard of words\t1\n")
    with pytest.raises(ConfigError, match=r"data\.train"):
        resume(run)
    resume(run, {"data.train", "encoder.vocab_size"})
    text = (run / "setup" / "words.json").read_text()
    assert "unheard" in text
    assert opened.verify(run)


def test_a_stop_while_scores_are_computed_is_heeded(
    encoder_config: FinetuneConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def judge(*arguments: Any, **options: Any) -> Any:
        if (tmp_path / "run" / "predictions" / "dev.jsonl").exists():
            signal.raise_signal(signal.SIGTERM)
        return kept(*arguments, **options)

    kept = Classification.judge
    monkeypatch.setattr(Classification, "judge", judge)
    with pytest.raises(Interrupted, match="trained and scored"):
        finetune(replace(encoder_config, epochs=1), tmp_path / "run")
    assert (tmp_path / "run" / "results.json").exists()


def unsealed(weights: str, folder: Path) -> Path:
    """Copies weights, to be changed: without the manifest that would tell."""
    shutil.copytree(weights, folder)
    (folder / "MANIFEST.json").unlink(missing_ok=True)
    return folder


def test_a_pooler_that_is_not_there_is_not_frozen_as_it_was_drawn(
    encoder_config: FinetuneConfig, tmp_path: Path
) -> None:
    folder = unsealed(encoder_config.weights, tmp_path / "bert")
    (file,) = folder.glob("*.safetensors")
    tensors = {k: x for k, x in load_file(file).items() if "pooler" not in k}
    save_file(tensors, file)
    config = replace(encoder_config, weights=str(folder), plan="head-only", epochs=1)
    rules = tmp_path / "plan.json"
    told = [{"pattern": "encoder/.*", "frozen": True}, {"pattern": ".*"}]
    rules.write_text(json.dumps(told))
    for plan in ("head-only", str(rules)):
        with pytest.raises(ConfigError, match=r"no pooler.*--pooling mean"):
            finetune(replace(config, plan=plan), tmp_path / "run")
    assert finetune(replace(config, pooling="mean"), tmp_path / "run")
    assert finetune(replace(config, plan="freeze"), tmp_path / "learns")


def test_a_tokenizer_larger_than_the_embedding_is_refused(
    encoder_config: FinetuneConfig, tmp_path: Path
) -> None:
    """Its last pieces would read the embedding of another one."""
    folder = unsealed(encoder_config.weights, tmp_path / "bert")
    tokenizer = load_tokenizer(folder)
    tokenizer.backend.add_tokens(["[E1]"])
    tokenizer.backend.save(str(folder / "tokenizer.json"))
    config = replace(encoder_config, weights=str(folder))
    with pytest.raises(WeightsError, match="pieces, the weights embeddings for"):
        finetune(config, tmp_path / "run")


def test_a_plan_that_trains_nothing_is_refused(
    encoder_config: FinetuneConfig, tmp_path: Path
) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text('[{"pattern": ".*", "frozen": true}]')
    with pytest.raises(ConfigError, match="it leaves nothing to be trained"):
        finetune(replace(encoder_config, plan=str(plan)), tmp_path / "run")


def test_a_vocabulary_that_does_not_know_the_text_is_told(
    encoder_config: FinetuneConfig,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Beside texts that it knows, of which nothing is told."""
    told = "of all pieces are the unknown one"
    prepare(encoder_config)
    assert told not in capsys.readouterr().err
    foreign = tmp_path / "foreign.tsv"
    foreign.write_text("sentence\tlabel\n☃☃ ☂\t0\n☂ ☃\t1\n")
    prepare(replace(encoder_config, train=(str(foreign),)))
    assert told in capsys.readouterr().err


def test_a_run_is_verified_from_any_folder(
    encoder_config: FinetuneConfig,
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tiny)
    config = replace(
        encoder_config, train=("train.tsv",), dev="dev.tsv", test=None, epochs=1
    )
    finetune(replace(config, weights="bert"), tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    assert len(opened.verify(tmp_path / "run")) == 1
