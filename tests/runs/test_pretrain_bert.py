"""Pre-training runs in this process: what they write, and going on exactly."""

import gc
import hashlib
import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from tiny_runs import StopAt, write_documents

from tl_jax.files.errors import ConfigError, DataError, IntegrityError
from tl_jax.interop import load_model, load_tokenizer
from tl_jax.models.compose import flatten_paths
from tl_jax.models.heads import MaskedLanguageModel, Pretrain
from tl_jax.runs import pretrain_bert_setup
from tl_jax.runs.config import FinetuneConfig
from tl_jax.runs.evaluate import evaluate
from tl_jax.runs.finetune import finetune
from tl_jax.runs.pretrain_bert import (
    PretrainBertConfig,
    pretrain_bert,
    resume_pretrain_bert,
)
from tl_jax.runs.pretrain_bert_setup import choose_tokenizer, prepare_parts
from tl_jax.training.checkpoint import latest, restore
from tl_jax.training.log import read_log, without_clock
from tl_jax.training.signals import Interrupted

SIZES = {
    "model_type": "bert",
    "vocab_size": 99,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "layer_norm_eps": 1e-12,
    "initializer_range": 0.1,
}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    write_documents(folder / "train.txt", 60, seed=1)
    write_documents(folder / "dev.txt", 8, seed=2)
    (folder / "sizes.json").write_text(json.dumps(SIZES))
    return folder


@pytest.fixture(scope="module")
def config(text: Path) -> PretrainBertConfig:
    return PretrainBertConfig(
        text=(str(text / "train.txt"),),
        dev=(str(text / "dev.txt"),),
        vocab_size=60,
        config=str(text / "sizes.json"),
        max_length=32,
        batch_size=8,
        learning_rate=1e-2,
        epochs=2,
        save_every=5,
        devices=1,
    )


def fingerprint(run: Path) -> dict[str, str]:
    """Hashes of the last checkpoint, the log, the results and the exported weights."""
    path = latest(run / "checkpoints")
    assert path is not None
    files = [
        *sorted((path / "state").rglob("*")),
        path / "progress.json",
        run / "model" / "model.safetensors",
        run / "model" / "tokenizer.json",
    ]
    del files[: len(files) - 3]  # orbax's own files hold times; its arrays come below
    digests = {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files}
    results = json.loads((run / "results.json").read_text())
    digests["dev"] = json.dumps(results["dev"])
    digests["log"] = json.dumps(without_clock(read_log(run / "metrics.jsonl")))
    return digests


@pytest.fixture(scope="module")
def run(config: PretrainBertConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    pretrain_bert(config, out)
    return out


def test_a_run_learns_and_tells(run: Path) -> None:
    results = json.loads((run / "results.json").read_text())
    assert set(results["dev"]) == {
        *("loss", "mlm_loss", "mlm_accuracy", "nsp_loss", "nsp_accuracy"),
        "perplexity",
    }
    assert results["dev"]["perplexity"] == pytest.approx(
        np.exp(results["dev"]["mlm_loss"])
    )
    records = read_log(run / "metrics.jsonl")
    losses = [r["mlm_loss"] for r in records if "mlm_loss" in r]
    first = records[0]
    assert {"mlm_accuracy", "nsp_accuracy", "padding"} <= set(first)
    assert 0 < first["clock"]["matmul_peak"] < 1
    assert first["clock"]["tokens_per_second"] > 0
    assert len(losses) == results["steps"]
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.3
    scored = [r for r in records if "dev_mlm_loss" in r]
    assert scored[-1]["dev_mlm_loss"] == results["dev"]["mlm_loss"]


def test_most_positions_carry_text(run: Path) -> None:
    told = json.loads((run / "run.json").read_text())["data"]["train"]
    shape = told["rows"] * told["row_length"]
    assert told["tokens"] / shape > 0.95


def test_a_run_that_was_stopped_goes_on_exactly(
    run: Path, config: PretrainBertConfig, tmp_path: Path
) -> None:
    """Stopped between two checkpoints, at one, and in the second epoch."""
    out, stops = tmp_path / "run", [3, 5, 14]
    with pytest.raises(Interrupted, match="saved"):
        pretrain_bert(config, out, StopAt(stops[0]))
    for step in stops[1:]:
        with pytest.raises(Interrupted, match="saved"):
            resume_pretrain_bert(out, display=StopAt(step))
    resume_pretrain_bert(out)
    assert fingerprint(out) == fingerprint(run)


def test_transformers_loads_the_export_with_equal_logits(run: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoModelForPreTraining.from_pretrained(run / "model").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(run / "model")
    model, params = load_model(str(run / "model"))
    assert isinstance(model.head, Pretrain)
    encoded = load_tokenizer(str(run / "model")).encode(
        ["good film"], ["the plot was dull ."], max_length=32
    )
    given = tokenizer("good film", "the plot was dull .", return_tensors="pt")
    assert given["input_ids"][0].tolist() == encoded.tokens[0].tolist()
    from tl_jax.data import Layout, make_examples, pack

    examples = make_examples(encoded.tokens, encoded.types)
    batch = pack(examples, [0], Layout(packed=False, max_length=len(encoded.tokens[0])))
    ours = model.apply(params, batch, train=False)
    with torch.no_grad():
        out = theirs(**given)
    np.testing.assert_allclose(
        ours.masked_lm, out.prediction_logits.numpy(), atol=1e-5, rtol=0
    )
    np.testing.assert_allclose(
        ours.next_sentence[:, 0], out.seq_relationship_logits.numpy(), atol=1e-5
    )


def test_the_export_is_the_last_checkpoint(run: Path) -> None:
    _, params = load_model(str(run / "model"))
    path = latest(run / "checkpoints")
    assert path is not None
    stored = restore(path, {"params": params}, subset=True)["params"]
    leaves = flatten_paths(params)
    for name, value in flatten_paths(stored).items():
        np.testing.assert_array_equal(leaves[name], value, err_msg=name)


def test_fine_tuning_takes_the_model(run: Path, tiny: Path, tmp_path: Path) -> None:
    config = FinetuneConfig(
        task="classify",
        train=(str(tiny / "train.tsv"),),
        dev=str(tiny / "dev.tsv"),
        weights=str(run / "model"),
        max_length=32,
        batch_size=32,
        epochs=1,
        devices=1,
    )
    assert finetune(config, tmp_path / "run")["parts"]["dev"]["examples"] == 50


def test_what_needs_a_fine_tuned_run_says_so(run: Path, tiny: Path) -> None:
    with pytest.raises(ConfigError, match=r"--weights .*/model"):
        evaluate(run, str(tiny / "dev.tsv"))


def test_continuing_keeps_the_stored_heads(
    run: Path, config: PretrainBertConfig, tmp_path: Path
) -> None:
    more = replace(
        config,
        config=None,
        from_weights=str(run / "model"),
        vocab_size=PretrainBertConfig.vocab_size,
        steps=1,
        learning_rate=1e-12,
        weight_decay=0.0,
        dev=(),
    )
    pretrain_bert(more, tmp_path / "both")
    _, before = load_model(str(run / "model"))
    model, after = load_model(str(tmp_path / "both" / "model"))
    assert isinstance(model.head, Pretrain)
    for path, value in flatten_paths(before).items():
        np.testing.assert_allclose(flatten_paths(after)[path], value, atol=1e-6)
    pretrain_bert(replace(more, nsp=False), tmp_path / "alone")
    model, alone = load_model(str(tmp_path / "alone" / "model"))
    assert isinstance(model.head, MaskedLanguageModel)
    for path, value in flatten_paths(alone["head"]).items():
        kept = flatten_paths(before["head"]["masked_lm"])[path]
        np.testing.assert_allclose(value, kept, atol=1e-6)


def test_an_encoder_alone_gets_new_heads(
    tiny: Path, config: PretrainBertConfig, tmp_path: Path
) -> None:
    """Domain-adaptive pre-training of weights that come without heads."""
    more = replace(
        config,
        config=None,
        from_weights=str(tiny / "bert"),
        vocab_size=PretrainBertConfig.vocab_size,
        lines=(config.text[0],),
        whole_words=True,
        steps=2,
        learning_rate=0.1,
        bias_correction=True,
        dev=(),
    )
    pretrain_bert(more, tmp_path / "run")
    model, _ = load_model(str(tmp_path / "run" / "model"))
    assert isinstance(model.head, Pretrain)
    told = json.loads((tmp_path / "run" / "run.json").read_text())
    assert len(told["weights"]["sha256"]) == 64
    with pytest.raises(ConfigError, match="already holds a run"):
        pretrain_bert(more, tmp_path / "run")


def test_prepared_text_is_used_again_only_if_it_is_the_same(
    config: PretrainBertConfig, tmp_path: Path
) -> None:
    def inodes(config: PretrainBertConfig) -> set[int]:
        prepare_parts(config, choose_tokenizer(config), tmp_path)
        return {f.stat().st_ino for f in (tmp_path / "data" / "train").iterdir()}

    first = inodes(config)
    assert inodes(config) == first
    assert not inodes(replace(config, max_length=24)) & first
    text = write_documents(tmp_path / "other.txt", 20, seed=9)
    other = inodes(replace(config, text=(text,)))
    write_documents(tmp_path / "other.txt", 20, seed=10)
    assert not inodes(replace(config, text=(text,))) & other


def test_damage_is_told_before_a_run_goes_on(run: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(run, tmp_path / "run"))
    file = out / "data" / "train" / "tokens-00000.bin"
    whole = file.read_bytes()
    file.write_bytes(whole[:50] + bytes([whole[50] ^ 4]) + whole[51:])
    with pytest.raises(IntegrityError, match=r"tokens-00000\.bin: contents differ"):
        resume_pretrain_bert(out)
    file.write_bytes(whole)
    told = json.loads((out / "run.json").read_text())
    told["config"]["learning_rate"] = 1.0
    (out / "run.json").write_text(json.dumps(told))
    with pytest.raises(ConfigError, match=r"config\.learning_rate"):
        resume_pretrain_bert(out)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"text": ()}, ConfigError, "there is no text"),
        ({"text": (), "lines": ("x",)}, ConfigError, "--no-nsp"),
        ({"from_weights": "x"}, ConfigError, "--config and --from exclude"),
        ({"from_weights": "x"}, ConfigError, "--from brings its own --vocab-size"),
        ({"steps": 0}, ConfigError, "--steps 0"),
        ({"batch_size": 0, "accumulate": 0}, ConfigError, "--accumulate 0"),
        ({"learning_rate": -1.0}, ConfigError, "--learning-rate -1"),
        ({"seed": -1}, ConfigError, "--seed -1"),
        ({"text": ("nowhere.txt",)}, DataError, r"nowhere\.txt: there is no such"),
        ({"max_length": 64, "row_length": 64}, ConfigError, "32 positions"),
        ({"mask_rate": 1.5}, ConfigError, "between 0 and 1"),
        ({"row_length": 8}, ConfigError, "rows of 8 are shorter"),
        ({"devices": 99}, ConfigError, "--devices 99"),
    ],
)
def test_options_that_do_not_fit_are_told_before_training(
    change: dict[str, object],
    error: type[Exception],
    message: str,
    config: PretrainBertConfig,
    tmp_path: Path,
) -> None:
    with pytest.raises(error, match=message):
        pretrain_bert(replace(config, **change), tmp_path / "run")
    assert not (tmp_path / "run" / "setup").exists()


def test_korean_is_refused_on_an_uncased_vocabulary(
    tiny: Path, config: PretrainBertConfig, tmp_path: Path
) -> None:
    file = tmp_path / "ko.txt"
    file.write_text("정말 재미있는 영화.\n\n지루한 이야기.\n", encoding="utf-8")
    change = {"config": None, "from_weights": str(tiny / "bert"), "text": (str(file),)}
    change["vocab_size"] = PretrainBertConfig.vocab_size
    with pytest.raises(ConfigError, match="Hangul"):
        pretrain_bert(replace(config, **change), tmp_path / "run")


def test_pairs_need_an_encoder_that_tells_segments_apart(
    config: PretrainBertConfig, tmp_path: Path
) -> None:
    sizes = tmp_path / "sizes.json"
    sizes.write_text(json.dumps(SIZES | {"type_vocab_size": 1}))
    one = replace(config, config=str(sizes))
    with pytest.raises(ConfigError, match="Next-sentence prediction needs two seg"):
        pretrain_bert(one, tmp_path / "run")


def test_a_vocabulary_reads_no_more_than_its_limit(
    config: PretrainBertConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of a file without blank lines, which is one document."""
    file = tmp_path / "one.txt"
    file.write_text("seen " * 50 + "\n" + "zzzz " * 50 + "\n")
    options = replace(config, text=(str(file),), vocab_size=20)
    monkeypatch.setattr(pretrain_bert_setup, "_VOCABULARY_TEXT", 100)
    pieces = choose_tokenizer(options).backend.get_vocab()
    assert "seen" in pieces and "z" not in pieces


def held() -> Counter[int]:
    """Bytes of the arrays on each device."""
    gc.collect()
    return Counter(
        {
            device.id: sum(
                shard.data.nbytes
                for array in jax.live_arrays()
                for shard in array.addressable_shards
                if shard.device == device
            )
            for device in jax.devices()[:4]
        }
    )


class Weighs(StopAt):
    """A display that looks at what the devices hold."""

    def update(self, step: int, **_: object) -> None:
        if step == self.step:
            self.held = held()


def test_by_fsdp_no_device_holds_more_than_its_share(
    config: PretrainBertConfig, tmp_path: Path
) -> None:
    options = replace(config, placement="fsdp", devices=4, batch_size=8, dev=())
    before, weighs = held(), Weighs(2)
    pretrain_bert(options, tmp_path / "run", weighs)
    weighs.held.subtract(before)
    first, *others = weighs.held.values()
    assert first < 1.5 * np.mean(others)
