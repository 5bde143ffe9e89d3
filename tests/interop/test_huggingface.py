import json
import logging
import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from oracles.batches import padded, random_examples
from oracles.record import ARCHITECTURES, LENGTHS, VOCABULARY, run
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from tl_jax.data.examples import make_examples
from tl_jax.data.packing import Layout, pack
from tl_jax.files.errors import ConfigError, IntegrityError, WeightsError
from tl_jax.files.manifest import MANIFEST, verify_manifest
from tl_jax.interop import tensor_files
from tl_jax.interop.bert_config import read_config, read_head_config
from tl_jax.interop.bert_names import FAMILIES, encoder_tensors, head_tensors
from tl_jax.interop.huggingface import (
    load_bert,
    load_bert_model,
    save_bert,
)
from tl_jax.interop.load import load, load_model, load_tokenizer
from tl_jax.interop.tensor_files import INDEX, WEIGHTS, read_floats, read_header
from tl_jax.models import heads
from tl_jax.models.bert import Bert, BertConfig
from tl_jax.models.compose import compose, flatten_paths, init_module
from tl_jax.text import subwords

ORACLES = Path(__file__).parents[1] / "oracles" / "bert"
BERT = FAMILIES["bert"]
WITH_HEADS = [name for name in ARCHITECTURES if name != "BertModel"]
BATCH = padded(random_examples(LENGTHS, VOCABULARY), max(LENGTHS))
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijk", "##a", "##b"]


def copy(architecture, folder):
    """Copies a recorded folder; its shards become one file."""
    source = ORACLES / architecture
    folder.mkdir(exist_ok=True)
    shutil.copy(source / "config.json", folder)
    tensors = {}
    for file in sorted(source.glob("*.safetensors")):
        tensors |= load_file(file)
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})
    return folder


def edit_tensors(folder, change):
    tensors = load_file(folder / WEIGHTS)
    save_file(change(tensors) or tensors, folder / WEIGHTS, {"format": "pt"})


def edit_config(folder, **changes):
    file = folder / "config.json"
    config = json.loads(file.read_text())
    for key, value in changes.items():
        config.pop(key, None)
        if value is not KeyError:
            config[key] = value
    file.write_text(json.dumps(config))


def leaves_of(params):
    return {path: np.asarray(x) for path, x in flatten_paths(params).items()}


def assert_same(found, wanted):
    found, wanted = leaves_of(found), leaves_of(wanted)
    assert found.keys() == wanted.keys()
    for path in wanted:
        np.testing.assert_array_equal(found[path], wanted[path], err_msg=path)


# The table


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_table_names_every_parameter_with_its_shape(architecture):
    kind = BERT.architectures[architecture]
    config = read_config(ORACLES / architecture)
    tensors = encoder_tensors(config, BERT.poolers[0]) | head_tensors(config, kind, 3)
    found = {
        tensor.path: tensor.shape[::-1] if tensor.transposed else tensor.shape
        for tensor in tensors.values()
    }
    params = {"encoder": init_module(Bert(config), jax.random.key(0), BATCH)}
    if kind.head:
        model, _ = load_bert_model(ORACLES / architecture)
        pooled = compose(Bert(config), model.head)
        params["head"] = pooled.init(jax.random.key(0), BATCH)["head"]
    assert found == {path: x.shape for path, x in leaves_of(params).items()}


def test_kernels_are_transposed_and_everything_lands_in_its_place(tmp_path):
    tensors = load_file(ORACLES / "BertForSequenceClassification" / WEIGHTS)
    _, params = load_bert_model(ORACLES / "BertForSequenceClassification")
    leaves = leaves_of(params)
    pairs = {
        "encoder/layer_1/attention/key/kernel": "attention.self.key.weight",
        "encoder/layer_1/feed_forward/input/kernel": "intermediate.dense.weight",
        "encoder/layer_1/feed_forward/output/kernel": "output.dense.weight",
        "encoder/layer_1/attention/output/kernel": "attention.output.dense.weight",
    }
    for path, name in pairs.items():
        wanted = tensors[f"bert.encoder.layer.1.{name}"].T
        np.testing.assert_array_equal(leaves[path], wanted)
    np.testing.assert_array_equal(
        leaves["head/output/kernel"], tensors["classifier.weight"].T
    )
    table = tensors["bert.embeddings.word_embeddings.weight"]
    np.testing.assert_array_equal(leaves["encoder/embeddings/word/embedding"], table)
    assert {x.dtype for x in leaves.values()} == {np.dtype("float32")}


# The config


def test_config_fields_come_from_the_file(tmp_path):
    copy("BertModel", tmp_path)
    edit_config(
        tmp_path,
        hidden_dropout_prob=0.3,
        attention_probs_dropout_prob=0.2,
        layer_norm_eps=1e-7,
        initializer_range=0.5,
        hidden_act="gelu_new",
    )
    wanted = BertConfig(
        vocab_size=40,
        hidden_size=16,
        num_layers=2,
        num_heads=4,
        intermediate_size=24,
        max_positions=20,
        type_vocab_size=2,
        activation="gelu_new",
        hidden_dropout=0.3,
        attention_dropout=0.2,
        layer_norm_eps=1e-7,
        initializer_range=0.5,
        pooling="mean",
        dtype="bfloat16",
    )
    assert read_config(tmp_path, pooling="mean", dtype="bfloat16") == wanted


def test_minilms_config(minilm):
    assert read_config(minilm) == BertConfig(
        hidden_size=384, num_layers=6, intermediate_size=1536
    )


def test_every_problem_of_a_config_is_named_at_once(tmp_path):
    copy("BertModel", tmp_path)
    edit_config(
        tmp_path,
        model_type="robeta",
        position_embedding_type="relative_key",
        is_decoder=True,
        hidden_act="gleu",
        vocab_size=KeyError,
        num_attention_heads=3,
        num_hidden_layers="2",
        intermediate_size=True,
        max_position_embeddings=-1,
        layer_norm_eps=None,
        hidden_dropout_prob=1.0,
    )
    with pytest.raises(WeightsError) as caught:
        read_config(tmp_path)
    message = str(caught.value)
    for part in (
        "model_type: 'robeta' is none of bert, electra, roberta, xlm-roberta, distil",
        "Did you mean 'roberta'?",
        "position_embedding_type: 'relative_key'",
        "is_decoder: 'True'",
        "hidden_act: 'gleu'",
        "Did you mean 'gelu'?",
        "vocab_size: missing",
        "3 does not divide hidden_size 16",
        "num_hidden_layers: 2, not a whole number",
        "intermediate_size: True",
        "max_position_embeddings: -1",
        "layer_norm_eps: None",
        "hidden_dropout_prob: 1.0",
        "config.json",
    ):
        assert part in message, part


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"bert"',
        b"{}",
        b"\xff\xfe{}",
        b"[" * 100_000,
        b'{"vocab_size": ' + b"9" * 5000 + b"}",
        b"{" + b" " * (5 << 20) + b"}",
    ],
)
def test_a_hostile_config_is_one_typed_error(text, tmp_path):
    copy("BertModel", tmp_path)
    (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(WeightsError, match=r"config\.json"):
        load_bert(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"vocab_size": 10**12},
        {"num_hidden_layers": 10**9},
        {"num_hidden_layers": 1000},
        {"hidden_size": 1 << 16, "intermediate_size": 1 << 18},
        {"num_attention_heads": 0},
        {"layer_norm_eps": float("nan")},
        {"hidden_act": ["gelu"]},
        {"hidden_act": {}},
    ],
)
def test_absurd_sizes_are_refused(changes, tmp_path):
    edit_config(copy("BertModel", tmp_path), **changes)
    with pytest.raises(WeightsError):
        load_bert(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"id2label": {"0": "a", "2": "b"}},
        {"id2label": {"0": 1, "1": 2}},
        {"id2label": ["a", "b"]},
        {"architectures": "BertModel"},
        {"architectures": ["A", "B"]},
        {"architectures": [1]},
        {"classifier_dropout": "0.1"},
    ],
)
def test_a_head_that_is_described_wrongly_is_refused(changes, tmp_path):
    edit_config(copy("BertForSequenceClassification", tmp_path), **changes)
    with pytest.raises(WeightsError, match=next(iter(changes))):
        load_bert_model(tmp_path)


def test_without_a_known_head_the_encoder_still_loads(tmp_path):
    copy("BertModel", tmp_path)
    for named in (["BertModel"], ["BertForTokenClasification"], KeyError):
        edit_config(tmp_path, architectures=named)
        with pytest.raises(WeightsError, match="load_bert loads the encoder"):
            load_bert_model(tmp_path)
        load_bert(tmp_path)
    edit_config(tmp_path, architectures=["BertForTokenClasification"])
    with pytest.raises(WeightsError, match="Did you mean 'BertForTokenClassification"):
        load_bert_model(tmp_path)


# Names and accounting


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_encoder_loads_from_every_architecture(architecture, caplog):
    caplog.set_level(logging.INFO)
    encoder, params = load_bert(ORACLES / architecture, pooling="mean")
    drawn = init_module(encoder, jax.random.key(0), BATCH)
    shapes = {path: x.shape for path, x in leaves_of(drawn).items()}
    assert {path: x.shape for path, x in leaves_of(params).items()} == shapes
    if BERT.architectures[architecture].pooler:
        assert "pooler.dense.bias" in caplog.text
    if architecture == "BertForQuestionAnswering":
        assert "qa_outputs.bias" in caplog.text


def test_a_checkpoint_may_hold_more_heads_than_its_config_names(tmp_path):
    # As bert-base-uncased: BertForMaskedLM with a pooler, a next-sentence head, old
    # names of LayerNorm's parameters, tied copies and buffers.
    copy("BertForPreTraining", tmp_path)
    wanted = load_bert(tmp_path)[1]
    masked = load_bert_model(tmp_path)[1]["head"]["masked_lm"]
    edit_config(tmp_path, architectures=["BertForMaskedLM"])

    def change(tensors):
        new = {
            name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
                "LayerNorm.bias", "LayerNorm.beta"
            ): x
            for name, x in tensors.items()
        }
        table = new["bert.embeddings.word_embeddings.weight"]
        new["cls.predictions.decoder.weight"] = table.copy()
        new["cls.predictions.decoder.bias"] = new["cls.predictions.bias"].copy()
        new["bert.embeddings.position_ids"] = np.arange(20)[None]
        return new

    edit_tensors(tmp_path, change)
    assert any("gamma" in name for name in read_header(tmp_path / WEIGHTS))
    assert_same(load_bert(tmp_path)[1], wanted)
    model, params = load_bert_model(tmp_path)
    assert isinstance(model.head, heads.MaskedLanguageModel)
    assert_same(params["head"], masked)


@pytest.mark.parametrize("name", ["decoder.weight", "decoder.bias"])
def test_an_untied_decoder_is_an_error_of_the_head_only(name, tmp_path):
    copy("BertForMaskedLM", tmp_path)

    def change(tensors):
        original = {
            "decoder.weight": "bert.embeddings.word_embeddings.weight",
            "decoder.bias": "cls.predictions.bias",
        }[name]
        untied = tensors[original].copy()
        untied.flat[-1] += 1e-3
        tensors[f"cls.predictions.{name}"] = untied

    edit_tensors(tmp_path, change)
    with pytest.raises(WeightsError, match=f"cls.predictions.{name}: differs"):
        load_bert_model(tmp_path)
    load_bert(tmp_path, pooling="none")


def test_the_decoders_bias_may_stand_under_its_tied_name_only(tmp_path):
    copy("BertForMaskedLM", tmp_path)
    _, wanted = load_bert_model(tmp_path)

    def change(tensors):
        tensors["cls.predictions.decoder.bias"] = tensors.pop("cls.predictions.bias")

    edit_tensors(tmp_path, change)
    assert_same(load_bert_model(tmp_path)[1], wanted)


@pytest.mark.parametrize("architecture", ["BertModel", "BertForPreTraining"])
def test_names_count_with_and_without_bert_in_front(architecture, tmp_path):
    copy(architecture, tmp_path)
    _, wanted = load_bert(tmp_path)

    def change(tensors):
        return {
            name.removeprefix("bert.")
            if name.startswith("bert.")
            else name
            if name.startswith("cls.")
            else f"bert.{name}": x
            for name, x in tensors.items()
        }

    edit_tensors(tmp_path, change)
    assert_same(load_bert(tmp_path)[1], wanted)


def test_a_tensor_under_two_spellings_is_an_error(tmp_path):
    copy("BertModel", tmp_path)

    def change(tensors):
        tensors["bert.pooler.dense.bias"] = tensors["pooler.dense.bias"] + 1

    edit_tensors(tmp_path, change)
    with pytest.raises(WeightsError, match=r"pooler\.dense\.bias: .*another spelling"):
        load_bert(tmp_path)


def test_every_tensor_that_does_not_fit_is_named_at_once(tmp_path):
    copy("BertModel", tmp_path)

    def change(tensors):
        del tensors["encoder.layer.0.attention.self.query.weight"]
        tensors["encoder.layer.0.attention.self.qeury.weight"] = np.zeros(3, "f4")
        tensors["encoder.layer.2.output.dense.bias"] = np.zeros(16, "f4")
        tensors["pooler.dense.bias"] = np.zeros(16, np.int64)
        tensors["encoder.layer.1.intermediate.dense.weight"] = np.zeros((16, 24), "f4")

    edit_tensors(tmp_path, change)
    with pytest.raises(WeightsError) as caught:
        load_bert(tmp_path)
    message = str(caught.value)
    for part in (
        "layer.0.attention.self.query.weight: missing",
        "self.qeury.weight: not a tensor of this model. Did you mean 'encoder.layer.0."
        "attention.self.query.weight'?",
        "encoder.layer.2.output.dense.bias: not a tensor",
        "pooler.dense.bias: dtype I64",
        "intermediate.dense.weight: shape (16, 24), the config asks (24, 16)",
    ):
        assert part in message, part


def test_a_label_more_than_the_classifier_has_is_an_error(tmp_path):
    copy("BertForTokenClassification", tmp_path)
    labels = {str(number): f"L{number}" for number in range(4)}
    edit_config(tmp_path, id2label=labels)
    with pytest.raises(WeightsError, match=r"classifier\.weight: shape \(3, 16\)"):
        load_bert_model(tmp_path)


@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_becomes_float32(kind, tmp_path):
    copy("BertModel", tmp_path)
    _, exact = load_bert(tmp_path)
    tensors = load_file(tmp_path / WEIGHTS)
    save_file({k: x.astype(kind) for k, x in tensors.items()}, tmp_path / WEIGHTS)
    _, params = load_bert(tmp_path)
    rounded = jax.tree.map(lambda x: x.astype(kind).astype(np.float32), exact)
    assert_same(params, rounded)
    assert (leaves_of(params)["pooler/kernel"] != exact["pooler"]["kernel"]).any()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_named(value, tmp_path):
    copy("BertModel", tmp_path)

    def change(tensors):
        tensors["encoder.layer.1.output.dense.bias"][3] = value

    edit_tensors(tmp_path, change)
    with pytest.raises(WeightsError, match=r"layer\.1\.output\.dense\.bias: .*NaN"):
        load_bert(tmp_path)


def test_a_checkpoint_without_a_pooler_needs_a_decision(tmp_path, caplog):
    copy("BertForMaskedLM", tmp_path)
    with pytest.raises(WeightsError) as caught:
        load_bert(tmp_path)
    assert "pooling='mean'" in str(caught.value)
    assert "pooler_key" in str(caught.value)
    assert "pooler" not in load_bert(tmp_path, pooling="mean")[1]
    encoder, params = load_bert(tmp_path, pooler_key=jax.random.key(0))
    assert "drawn at random" in caplog.text
    assert (params["pooler"]["bias"] == 0).all()
    kernel = params["pooler"]["kernel"]
    assert kernel.shape == (16, 16) and 0 < abs(kernel).max() <= 0.04
    assert encoder.config.pooling == "pooler"
    _, other = load_bert(tmp_path, pooler_key=jax.random.key(1))
    assert (other["pooler"]["kernel"] != kernel).any()


def test_half_a_pooler_is_an_error_even_with_a_key(tmp_path):
    copy("BertModel", tmp_path)

    def change(tensors):
        del tensors["pooler.dense.bias"]

    edit_tensors(tmp_path, change)
    with pytest.raises(WeightsError, match=r"pooler\.dense\.bias: missing"):
        load_bert(tmp_path, pooler_key=jax.random.key(0))


# Files


def test_shards_load_as_one_file_does(tmp_path):
    sharded = ORACLES / "BertForPreTraining"
    assert len(list(sharded.glob("*.safetensors"))) == 3
    copy("BertForPreTraining", tmp_path)
    assert_same(load_bert_model(sharded)[1], load_bert_model(tmp_path)[1])


def test_an_index_that_does_not_fit_its_shards_is_an_error(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(ORACLES / "BertForPreTraining", folder)
    index = json.loads((folder / INDEX).read_text())
    where = index["weight_map"]
    moved, lost = sorted(where)[:2]
    first, last = "model-00001-of-00003", "model-00003-of-00003"
    where[moved] = f"{last if first in where[moved] else first}.safetensors"
    where["ghost"] = "../ghost.safetensors"
    del where[lost]
    save_file({"ghost": np.zeros(1, "f4")}, tmp_path / "ghost.safetensors")
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(WeightsError) as caught:
        load_bert(folder)
    message = str(caught.value)
    assert f"{moved}: not in" in message and f"{lost}: in" in message
    assert "'../ghost.safetensors': no such file" in message


@pytest.mark.parametrize("text", ["{}", "[]", '{"weight_map": []}', "{", ""])
def test_a_hostile_index_is_one_typed_error(text, tmp_path):
    copy("BertModel", tmp_path)
    (tmp_path / WEIGHTS).unlink()
    (tmp_path / INDEX).write_text(text)
    with pytest.raises(WeightsError, match="index"):
        load_bert(tmp_path)


class Canary:
    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


def test_a_pickle_is_refused_and_never_run(tmp_path):
    copy("BertModel", tmp_path)
    (tmp_path / WEIGHTS).unlink()
    canary = tmp_path / "canary"
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Canary(canary)))
    with pytest.raises(WeightsError, match="Convert once"):
        load_bert(tmp_path)
    assert not canary.exists()
    # Under the name of a safetensors file it is no better.
    (tmp_path / "pytorch_model.bin").rename(tmp_path / WEIGHTS)
    with pytest.raises(WeightsError, match="safetensors"):
        load_bert(tmp_path)
    assert not canary.exists()


def test_a_folder_without_weights_says_so(tmp_path):
    copy("BertModel", tmp_path)
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(WeightsError, match=WEIGHTS):
        load_bert(tmp_path)


def header(entries, data=b"", length=None):
    raw = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    size = len(raw) if length is None else length
    return size.to_bytes(8, "little") + raw + data


def entry(shape=(2,), dtype="F32", offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


HOSTILE = {
    "empty": b"",
    "seven bytes": b"\x00" * 7,
    "no header": (0).to_bytes(8, "little"),
    "header longer than the file": header({"a": entry()}, length=1 << 40),
    "header of all ones": b"\xff" * 64,
    "header larger than any": header(b"{" + b" " * (5 << 20) + b"}"),
    "not utf-8": header(b"\xff{}"),
    "not json": header(b"{,}"),
    "a list": header([]),
    "nested": header(b"[" * 200_000),
    "a number of 5000 digits": header(b'{"a": ' + b"9" * 5000 + b"}"),
    "double name": header(
        b'{"a": {"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
        b'"a": {"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
        b"\0" * 8,
    ),
    "double key": header(
        b'{"a": {"dtype":"I64","dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
        b"\0" * 8,
    ),
    "empty name": header({"": entry()}, b"\0" * 8),
    "name with NUL": header({"a\0b": entry()}, b"\0" * 8),
    "name with a newline": header({"a\nb": entry()}, b"\0" * 8),
    "half a surrogate": header(b'{"\\ud800": {}}'),
    "name of a megabyte": header({"a" * (1 << 20): entry()}, b"\0" * 8),
    "entry is a list": header({"a": []}),
    "entry is null": header({"a": None}),
    "entry is a list of its values": header({"a": ["F32", [2], [0, 8]]}, b"\0" * 8),
    "no dtype": header({"a": {"shape": [2], "data_offsets": [0, 8]}}, b"\0" * 8),
    "one key more": header({"a": {**entry(), "x": 1}}, b"\0" * 8),
    "one key more, nested": header(
        b'{"a": {"dtype":"F32","shape":[2],"data_offsets":[0,8],"x":'
        + b"[" * 200_000
        + b"]" * 200_000
        + b"}}",
        b"\0" * 8,
    ),
    "unknown dtype": header({"a": entry(dtype="F31")}, b"\0" * 8),
    "dtype is an object": header({"a": entry(dtype={"F32": None})}, b"\0" * 8),
    "dtype is a list": header({"a": entry(dtype=[])}, b"\0" * 8),
    "negative size": header({"a": entry((-2,))}, b"\0" * 8),
    "size is a float": header({"a": entry((2.0,))}, b"\0" * 8),
    "size is a bool": header({"a": entry((True, 2))}, b"\0" * 8),
    "sizes that overflow": header({"a": entry((2**40, 2**40))}, b"\0" * 8),
    "size beyond 64 bits": header({"a": entry((2**70,))}, b"\0" * 8),
    "a thousand axes": header({"a": entry((1,) * 1000, offsets=(0, 4))}, b"\0" * 4),
    "shape is a string": header({"a": {**entry(), "shape": "2"}}, b"\0" * 8),
    "offsets backwards": header({"a": entry(offsets=(8, 0))}, b"\0" * 8),
    "offsets negative": header({"a": entry(offsets=(-8, 0))}, b"\0" * 8),
    "offsets beyond the file": header({"a": entry(offsets=(0, 8))}, b"\0" * 4),
    "offsets do not fit the shape": header({"a": entry(offsets=(0, 12))}, b"\0" * 12),
    "one offset": header({"a": entry(offsets=(0,))}, b"\0" * 8),
    "overlap": header(
        {"a": entry(), "b": entry(offsets=(4, 12))},
        b"\0" * 12,
    ),
    "gap": header({"a": entry(), "b": entry(offsets=(12, 20))}, b"\0" * 20),
    "bytes that nobody owns": header({"a": entry()}, b"\0" * 9),
    "a zip file": b"PK\x03\x04" + b"\0" * 100,
    "a link to git lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_header_is_one_typed_error(name, tmp_path):
    copy("BertModel", tmp_path)
    (tmp_path / WEIGHTS).write_bytes(HOSTILE[name])
    with pytest.raises(WeightsError, match=r"model\.safetensors") as caught:
        load_bert(tmp_path)
    assert len(str(caught.value)) < 3000


def test_a_sound_header_is_read(tmp_path):
    file = tmp_path / "x.safetensors"
    file.write_bytes(header({"a": entry(), "b": entry((), offsets=(8, 12))}, bytes(12)))
    found = read_header(file)
    assert found["a"].shape == (2,) and found["b"].shape == ()


def test_a_file_that_is_cut_while_it_is_read_is_a_typed_error(tmp_path, monkeypatch):
    """A mapped file would end the process by SIGBUS."""
    file = tmp_path / "x.safetensors"
    size = 1 << 16
    file.write_bytes(
        header({"a": entry((size,), offsets=(0, 4 * size))}, bytes(4 * size))
    )
    found = read_header(file)

    def open_and_cut(*given, **named):
        opened = safe_open(*given, **named)
        os.truncate(file, 200)
        return opened

    monkeypatch.setattr(tensor_files, "safe_open", open_and_cut)
    for _ in range(2):  # cut when it was open, and before
        with pytest.raises(WeightsError, match=r"x\.safetensors: changed while"):
            read_floats(found["a"])


def test_random_damage_to_a_file_is_a_typed_error_or_harmless(tmp_path):
    copy("BertModel", tmp_path)
    good = (tmp_path / WEIGHTS).read_bytes()
    length = 8 + int.from_bytes(good[:8], "little")
    draw = np.random.default_rng(0)
    refused = 0
    for trial in range(300):
        bad = bytearray(good)
        match trial % 3:
            case 0:  # a bit of the header
                bad[draw.integers(length)] ^= 1 << draw.integers(8)
            case 1:  # the end is missing
                bad = bad[: draw.integers(len(bad))]
            case 2:  # some bytes of the header are noise
                start = draw.integers(length - 8)
                bad[start : start + 8] = draw.bytes(8)
        (tmp_path / WEIGHTS).write_bytes(bad)
        try:
            load_bert(tmp_path)
        except WeightsError:
            refused += 1
    assert refused > 290  # what is left hits spaces or {"format": "pt"}


def test_no_fault_of_a_folder_is_a_bare_exception(tmp_path):
    with pytest.raises(WeightsError, match="config"):
        load_bert(tmp_path / "nowhere")
    (tmp_path / "config.json").mkdir()
    with pytest.raises(WeightsError, match="config"):
        load_bert(tmp_path)


# Export


def random_model(head, activation="gelu", pooling="pooler"):
    """Makes a model whose parameters are drawn by numpy, for speed."""
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        num_layers=2,
        num_heads=4,
        intermediate_size=24,
        max_positions=20,
        activation=activation,
        pooling=pooling,
        layer_norm_eps=1e-6,
        initializer_range=0.3,
    )
    model = compose(Bert(config), head)
    shapes = jax.eval_shape(model.init, jax.random.key(0), BATCH)
    draw = np.random.default_rng(3)
    return model, jax.tree.map(
        lambda x: draw.normal(0.2, 0.3, x.shape).astype(np.float32), shapes
    )


def head_of(architecture, activation):
    return {
        "BertForSequenceClassification": heads.Classify(3, 0.25),
        "BertForTokenClassification": heads.Tag(4),
        "BertForQuestionAnswering": heads.Span(),
        "BertForMaskedLM": heads.MaskedLanguageModel(activation, 1e-6),
        "BertForNextSentencePrediction": heads.NextSentence(),
        "BertForPreTraining": heads.Pretrain(activation, 1e-6),
    }[architecture]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "vocab.txt").write_text("\n".join(PIECES) + "\n")
    return subwords.load_tokenizer(folder, lowercase=True)


def assert_outputs(theirs, logits):
    """Compares ours with a torch model's outputs at real tokens."""
    found = {
        "prediction_logits": getattr(logits, "masked_lm", None),
        "seq_relationship_logits": getattr(logits, "next_sentence", None),
    }
    if not isinstance(logits, heads.PretrainLogits):
        span = "start_logits" in theirs
        found = (
            {"start_logits": logits[..., 0], "end_logits": logits[..., 1]}
            if span
            else {"logits": logits}
        )
    assert found.keys() == {name for name in theirs if "logits" in name}
    mask = np.asarray(BATCH.mask)
    for name, values in found.items():
        ours, wanted = np.asarray(values), theirs[name]
        token_wise = wanted.shape[1:2] == mask.shape[1:]
        ours = ours[mask] if token_wise else ours[:, 0]
        wanted = wanted[mask] if token_wise else wanted
        np.testing.assert_allclose(ours, wanted, rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("activation", ["gelu", "gelu_new"])
@pytest.mark.parametrize("architecture", WITH_HEADS)
def test_transformers_loads_what_was_exported(
    architecture, activation, tmp_path, tokenizer
):
    transformers = pytest.importorskip("transformers")
    model, params = random_model(head_of(architecture, activation), activation)
    folder = tmp_path / "export"
    labels = {"BertForSequenceClassification": ("no", "maybe", "yes")}.get(architecture)
    save_bert(
        folder,
        model.encoder.config,
        params,
        model.head,
        labels=labels or (),
        tokenizer=tokenizer,
    )
    auto = {
        "BertForSequenceClassification": "AutoModelForSequenceClassification",
        "BertForTokenClassification": "AutoModelForTokenClassification",
        "BertForQuestionAnswering": "AutoModelForQuestionAnswering",
        "BertForMaskedLM": "AutoModelForMaskedLM",
        "BertForNextSentencePrediction": "AutoModelForNextSentencePrediction",
        "BertForPreTraining": "AutoModelForPreTraining",
    }[architecture]
    loaded, info = getattr(transformers, auto).from_pretrained(
        folder, output_loading_info=True
    )
    assert type(loaded).__name__ == architecture
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys"))
    if labels:
        assert loaded.config.id2label == dict(enumerate(labels))
        assert loaded.config.label2id == {label: n for n, label in enumerate(labels)}
        assert loaded.config.classifier_dropout == 0.25
    theirs = run(loaded.eval(), BATCH.tokens, BATCH.types, BATCH.mask)
    assert_outputs(
        theirs,
        jax.jit(model.apply, static_argnames="train")(params, BATCH, train=False),
    )
    told = transformers.AutoTokenizer.from_pretrained(folder)
    assert told.model_max_length == model.encoder.config.max_positions
    texts = ["ab ka", "Cab"]
    for text, ids in zip(texts, tokenizer.pieces(texts), strict=True):
        assert told(text)["input_ids"][1:-1] == ids.tolist()


def test_a_value_is_none_of_a_logits_to_transformers(tmp_path, tokenizer):
    transformers = pytest.importorskip("transformers")
    model, params = random_model(heads.Classify(1))
    save_bert(
        tmp_path / "e", model.encoder.config, params, model.head, tokenizer=tokenizer
    )
    told = transformers.pipeline("text-classification", str(tmp_path / "e"))("ab ka")
    encoded = tokenizer.encode(["ab ka"], max_length=16)
    examples = make_examples(encoded.tokens, encoded.types)
    batch = pack(examples, [0], Layout(max_length=16), batch_size=1)
    value = model.apply(params, batch, train=False)[0, 0, 0]
    assert told[0]["score"] == pytest.approx(float(value), abs=1e-5)


@pytest.mark.parametrize("linked", [False, True])
def test_an_export_is_loaded_where_it_came_to(tmp_path, linked):
    """A card is laid beside it; the hub's cache holds links to all of it."""
    model, params = random_model(heads.Classify(2))
    save_bert(tmp_path / "e", model.encoder.config, params, model.head)
    (tmp_path / "e" / "README.md").write_text("a card")
    folder = tmp_path / "e"
    if linked:
        folder = tmp_path / "snapshot"
        folder.mkdir()
        for file in (tmp_path / "e").iterdir():
            (folder / file.name).symlink_to(file)
    assert_same(load_bert(folder)[1], params["encoder"])
    if not linked:
        edit_tensors(folder, lambda tensors: tensors | {"more": np.ones(2)})
        with pytest.raises(IntegrityError, match=WEIGHTS):
            load_bert(folder)


def test_the_folder_that_one_is_in_is_not_exported_to(tmp_path, monkeypatch):
    model, params = random_model(heads.Classify(2))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="you are in"):
        save_bert(Path(), model.encoder.config, params, model.head)
    assert not any(tmp_path.iterdir())


def test_transformers_loads_an_encoder_alone(tmp_path):
    transformers = pytest.importorskip("transformers")
    model, params = random_model(heads.Classify(2))
    params = {"encoder": params["encoder"]}
    save_bert(tmp_path / "e", model.encoder.config, params)
    loaded, info = transformers.AutoModel.from_pretrained(
        tmp_path / "e", output_loading_info=True
    )
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys"))
    theirs = run(loaded.eval(), BATCH.tokens, BATCH.types, BATCH.mask)
    ours = model.encoder.apply({"params": params["encoder"]}, BATCH)
    mask = np.asarray(BATCH.mask)
    wanted = theirs["last_hidden_state"][mask]
    np.testing.assert_allclose(ours.layers[-1][mask], wanted, rtol=1e-5, atol=1e-5)
    wanted = theirs["pooler_output"]
    np.testing.assert_allclose(ours.pooled[:, 0], wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("architecture", WITH_HEADS)
def test_an_export_loads_again_bit_for_bit(architecture, tmp_path):
    model, params = random_model(head_of(architecture, "relu"), "relu")
    folder = tmp_path / "export"
    save_bert(folder, model.encoder.config, params, model.head)
    assert verify_manifest(folder) == {"architecture": architecture}
    again, loaded = load_bert_model(folder)
    assert type(again.head) is type(model.head)
    if not BERT.architectures[architecture].pooler:
        params["encoder"].pop("pooler")
    assert_same(loaded, params)
    config = model.encoder.config
    assert again.encoder.config == replace(config, pooling=again.encoder.config.pooling)
    if architecture == "BertForSequenceClassification":
        assert again.head == model.head
    with safe_open(folder / WEIGHTS, "np") as file:  # the format's own reader agrees
        assert file.metadata() == {"format": "pt"}  # transformers 4 insists
        assert set(file.keys()) == read_header(folder / WEIGHTS).keys()


def test_labels_come_back_in_order(tmp_path):
    labels = tuple("lkjihgfedcba")
    model, params = random_model(heads.Tag(12), pooling="none")
    save_bert(tmp_path / "e", model.encoder.config, params, model.head, labels=labels)
    assert read_head_config(tmp_path / "e").labels == labels


def test_an_encoder_with_mean_pooling_comes_back(tmp_path):
    model, params = random_model(heads.Classify(2), pooling="mean")
    params = {"encoder": params["encoder"]}
    save_bert(tmp_path / "e", model.encoder.config, params)
    assert_same(load_bert(tmp_path / "e", pooling="mean")[1], params["encoder"])


def test_every_flipped_bit_of_an_export_is_found(tmp_path, tokenizer):
    model, params = random_model(heads.Classify(2))
    folder = tmp_path / "e"
    save_bert(folder, model.encoder.config, params, model.head, tokenizer=tokenizer)
    files = sorted(file.name for file in folder.iterdir())
    assert {"config.json", WEIGHTS, MANIFEST, "tokenizer.json"} < set(files)
    draw = np.random.default_rng(0)
    for name in files:
        good = (folder / name).read_bytes()
        for position in draw.integers(len(good), size=5):
            bad = bytearray(good)
            bad[position] ^= 1 << draw.integers(8)
            (folder / name).write_bytes(bad)
            for reader in (load_bert, load_bert_model):
                with pytest.raises(IntegrityError, match=name):
                    reader(folder)
        (folder / name).write_bytes(good)
    load_bert_model(folder)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda p: p["encoder"].pop("layer_1"), "layer_1/attention/key/bias: missing"),
        (lambda p: p.pop("head"), "head/output/kernel: missing"),
        (lambda p: p.update(more={"x": np.ones(1)}), "more/x: not exported"),
        (
            lambda p: p["head"]["output"].update(bias=np.ones(3)),
            r"head/output/bias: \(3,\), the config asks \(2,\)",
        ),
        (
            lambda p: p["head"]["output"].update(bias=np.array([np.nan, 0])),
            "head/output/bias: holds NaN",
        ),
    ],
)
def test_parameters_that_do_not_fit_are_not_exported(change, match, tmp_path):
    model, params = random_model(heads.Classify(2))
    change(params)
    with pytest.raises(WeightsError, match=match):
        save_bert(tmp_path / "e", model.encoder.config, params, model.head)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("head", "pooling", "options", "match"),
    [
        (heads.Classify(2), "mean", {}, "reads the pooler; `pooling` is 'mean'"),
        (heads.Classify(2), "pooler", {"labels": ("a",)}, "1 labels for 2 classes"),
        (heads.Classify(2), "pooler", {"labels": ("a", "a")}, "doubles"),
        (heads.MaskedLanguageModel("relu"), "none", {}, "activation"),
        (Bert(BertConfig()), "pooler", {}, "Bert: Hugging Face's Bert has no class"),
    ],
)
def test_what_hugging_face_has_no_class_for_is_refused(
    head, pooling, options, match, tmp_path
):
    model, params = random_model(heads.Tag(2), pooling=pooling)
    with pytest.raises(ConfigError, match=match):
        save_bert(tmp_path / "e", model.encoder.config, params, head, **options)
    assert list(tmp_path.iterdir()) == []


def test_an_export_overwrites_nothing(tmp_path, tokenizer):
    model, params = random_model(heads.Classify(2))
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not empty"):
        save_bert(tmp_path, model.encoder.config, params, model.head)
    assert [file.name for file in tmp_path.iterdir()] == ["note.txt"]
    small = replace(model.encoder.config, vocab_size=10)
    with pytest.raises(ConfigError, match="tokenizer has 18 pieces, the model 10"):
        save_bert(tmp_path / "e", small, params, model.head, tokenizer=tokenizer)


def test_an_export_that_fails_leaves_nothing(tmp_path, tokenizer, monkeypatch):
    model, params = random_model(heads.Classify(2))

    def fail(*arguments, **options):
        raise OSError("No space left on device")

    monkeypatch.setattr(subwords.Tokenizer, "save", fail)
    with pytest.raises(OSError, match="space"):
        save_bert(
            tmp_path / "e",
            model.encoder.config,
            params,
            model.head,
            tokenizer=tokenizer,
        )
    assert list(tmp_path.iterdir()) == []


# load


def test_load_reads_as_the_documentation_says(tmp_path, tokenizer):
    source = ORACLES / "BertModel"
    encoder, weights = load(str(source))
    assert_same(weights, load_bert(source)[1])
    assert encoder.config == read_config(source)
    encoder, weights = load(str(source), pooling="mean", dtype="bfloat16")
    assert (encoder.config.pooling, encoder.config.dtype) == ("mean", "bfloat16")
    assert "pooler" not in weights


def test_a_model_and_its_tokenizer_load_from_one_source(tmp_path, tokenizer):
    model, params = random_model(heads.Classify(2))
    folder = tmp_path / "outer" / "inner"
    save_bert(folder, model.encoder.config, params, model.head, tokenizer=tokenizer)
    _, loaded = load_model(str(tmp_path / "outer"))
    assert_same(loaded, params)
    again = load_tokenizer(str(tmp_path / "outer"))
    assert (
        again.pieces(["ab ka"])[0].tolist() == tokenizer.pieces(["ab ka"])[0].tolist()
    )


def test_minilm_loads_in_full(minilm):
    encoder, weights = load(str(minilm))
    sizes = {path: x.size for path, x in leaves_of(weights).items()}
    assert sum(sizes.values()) == 22_713_216
    assert encoder.config.num_layers == 6
