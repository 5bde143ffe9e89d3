import json
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from oracles.batches import lay, padded, slot_values, token_values
from oracles.family import ENDS, LENGTHS, NAMES, PADS, RECORDED, examples, run
from oracles.family import tiny_model as torch_model
from safetensors.numpy import load_file, save_file

from tl_jax.files.errors import ConfigError, WeightsError
from tl_jax.interop.bert_config import read_config, read_head_config
from tl_jax.interop.bert_names import FAMILIES, encoder_tensors, head_tensors
from tl_jax.interop.huggingface import load_bert, load_bert_model, save_bert
from tl_jax.interop.tensor_files import WEIGHTS
from tl_jax.models import heads
from tl_jax.models.bert import Bert, BertConfig, require_segments
from tl_jax.models.compose import Model, compose, flatten_paths, unflatten_paths
from tl_jax.text.subwords import load_tokenizer

ORACLES = Path(__file__).parents[1] / "oracles" / "family"
LAYER, MODEL = 1e-5, 1e-4  # tolerances of one layer and of a whole model
# Both of one shape, so that they share a compilation.
PADDED = [[0], [1], [2], [3], [4]]
PACKED = [[0, 1, 3], [2], [], [4], []]


def close(found, wanted, tolerance):
    np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance)


def lays(kind):
    """The examples one a row, and several."""
    return [lay(examples(kind), rows, 16, slots=3, gap=1) for rows in (PADDED, PACKED)]


def outputs_of(model, params, batch):
    """Logits and layers; the layers as of an encoder without a head."""

    @jax.jit
    def apply(params, batch):
        features = model.encoder.apply({"params": params["encoder"]}, batch)
        logits = model.head.apply({"params": params.get("head", {})}, features, batch)
        return logits, features.layers

    return apply(params, batch)


def assert_theirs(logits, layers, theirs, batch, kind):
    source = padded(examples(kind), max(LENGTHS))
    for number, layer in enumerate(layers):
        found = token_values(layer, batch)
        wanted = token_values(theirs[f"layer_{number}"], source)
        for example in wanted:
            close(found[example], wanted[example], LAYER)
    if "start_logits" in theirs:
        ends = [theirs["start_logits"], theirs["end_logits"]]
        theirs = theirs | {"logits": np.stack(ends, axis=-1)}
    if theirs["logits"].ndim == 2:
        found = slot_values(logits, batch)
        for example, wanted in enumerate(theirs["logits"]):
            close(found[example], wanted, MODEL)
    else:
        found = token_values(logits, batch)
        wanted = token_values(theirs["logits"], source)
        for example in wanted:
            close(found[example], wanted[example], MODEL)


class Nothing(heads.nn.Module):
    """No head: the top states."""

    def __call__(self, features, batch, noise=None):
        return features.layers[-1]


@pytest.mark.parametrize(("kind", "end", "activation"), RECORDED)
def test_every_recorded_model_gives_its_outputs(kind, end, activation):
    folder = ORACLES / (NAMES[kind] + end)
    theirs = dict(np.load(folder / "expected.npz"))
    model, params = load_bert_model(folder)
    assert model.encoder.config.activation == activation
    for batch in lays(kind):
        logits, layers = outputs_of(model, params, batch)
        assert_theirs(logits, layers, theirs, batch, kind)


def auto_class(end):
    import transformers

    return getattr(transformers, f"AutoModel{'' if end == 'Model' else end}")


def same_shape(kind, end):
    # One of each shape of head for XLM-R, which is RoBERTa by another name.
    return kind != "xlm-roberta" or end in ("Model", "ForSequenceClassification")


@pytest.mark.parametrize(
    ("kind", "end"),
    [(kind, end) for kind in NAMES for end in ENDS if same_shape(kind, end)],
)
def test_torch_agrees_before_and_after_an_export(kind, end, tmp_path):
    pytest.importorskip("transformers")
    torch = torch_model(kind, end, "gelu_new", seed=7)
    torch.save_pretrained(tmp_path / "theirs")
    if end == "Model":
        has_pooler = kind.endswith("roberta")
        encoder, weights = load_bert(
            tmp_path / "theirs", pooling="pooler" if has_pooler else "none"
        )
        model, params, head = compose(encoder, Nothing()), {"encoder": weights}, None
    else:
        model, params = load_bert_model(tmp_path / "theirs")
        head = model.head
    source = padded(examples(kind), max(LENGTHS))
    theirs = run(torch, source)
    logits, layers = outputs_of(model, params, source)
    if end == "Model":
        theirs["logits"] = theirs["last_hidden_state"]
    assert_theirs(logits, layers, theirs, source, kind)
    if "pooler_output" in theirs:
        features = model.encoder.apply({"params": params["encoder"]}, source)
        close(features.pooled[:, 0], theirs["pooler_output"], LAYER)

    save_bert(tmp_path / "ours", model.encoder.config, params, head)
    again, info = auto_class(end).from_pretrained(
        tmp_path / "ours", output_loading_info=True, attn_implementation="eager"
    )
    assert type(again) is type(torch)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys"))
    assert again.config.pad_token_id == PADS[kind]
    back = run(again.eval(), source)
    for name in theirs.keys() & back.keys():
        close(back[name], theirs[name], 1e-6)
    config = json.loads((tmp_path / "theirs" / "config.json").read_text())
    written = json.loads((tmp_path / "ours" / "config.json").read_text())
    unread = {"transformers_version", "bos_token_id", "eos_token_id", "use_cache"}
    unread |= {"is_decoder", "add_cross_attention", "qa_dropout", "summary_type"}
    unread |= {"summary_use_proj", "summary_activation", "summary_last_dropout"}
    unread |= {"sinusoidal_pos_embds", "classifier_dropout", "id2label", "label2id"}
    unread |= {"seq_classif_dropout"} if end != "ForSequenceClassification" else set()
    told = {key: value for key, value in config.items() if key not in unread}
    assert told == {key: written[key] for key in told}


# Config


def sized(**changes):
    sizes = BertConfig(
        vocab_size=40,
        hidden_size=8,
        num_layers=2,
        num_heads=2,
        intermediate_size=12,
        max_positions=20,
        pooling="none",
    )
    return replace(sizes, **changes)


def test_configs_say_how_the_architectures_differ():
    electra = sized(
        model_type="electra",
        activation="relu",
        embedding_size=6,
        pooler_activation="gelu",
    )
    roberta = sized(
        model_type="roberta",
        layer_norm_eps=1e-5,
        type_vocab_size=1,
        position_offset=2,
    )
    distilbert = sized(
        model_type="distilbert", type_vocab_size=0, pooler_activation="relu"
    )
    found = {
        name: read_config(ORACLES / name, pooling="none")
        for name in (
            "ElectraForSequenceClassification",
            "RobertaForSequenceClassification",
            "XLMRobertaForQuestionAnswering",
            "DistilBertForSequenceClassification",
        )
    }
    assert list(found.values()) == [
        electra,
        roberta,
        replace(roberta, model_type="xlm-roberta"),
        distilbert,
    ]
    # 512 of roberta-base's 514 rows are positions.
    assert found["RobertaForSequenceClassification"].max_positions == 20


def copied(name, folder, **changes):
    shutil.copytree(ORACLES / name, folder, dirs_exist_ok=True)
    file = folder / "config.json"
    config = json.loads(file.read_text())
    config |= changes
    gone = [key for key, value in config.items() if value is KeyError]
    for key in gone:
        del config[key]
    file.write_text(json.dumps(config))
    return folder


def edit_tensors(folder, change):
    tensors = load_file(folder / WEIGHTS)
    save_file(change(tensors) or tensors, folder / WEIGHTS, {"format": "pt"})


def test_an_electra_as_wide_as_its_embeddings_has_no_projection(tmp_path):
    copied("ElectraForMaskedLM", tmp_path, embedding_size=8)
    config = read_config(tmp_path)
    assert config.embedding_size is None
    assert not any("project" in name for name in encoder_tensors(config))


@pytest.mark.parametrize(
    ("name", "changes", "told"),
    [
        (
            "DistilBertForMaskedLM",
            {
                "dim": KeyError,
                "n_layers": "2",
                "activation": "gleu",
                "attention_dropout": 1,
                "hidden_size": 8,
            },
            ["dim: missing", "n_layers: 2, not", "activation: 'gleu'", "attention_dr"],
        ),
        ("DistilBertForMaskedLM", {"n_heads": 3}, ["n_heads: 3 does not divide dim 8"]),
        (
            "RobertaForMaskedLM",
            {"pad_token_id": None, "type_vocab_size": 0},
            ["pad_token_id: missing", "type_vocab_size: 0, not"],
        ),
        ("RobertaForMaskedLM", {"pad_token_id": -1}, ["pad_token_id: -1, not"]),
        ("RobertaForMaskedLM", {"pad_token_id": 21}, ["22 leave no position"]),
        ("ElectraForMaskedLM", {"embedding_size": KeyError}, ["embedding_size: miss"]),
        ("ElectraForMaskedLM", {"model_type": ["electra"]}, ["is none of bert, elec"]),
    ],
)
def test_every_problem_of_a_config_is_named(name, changes, told, tmp_path):
    with pytest.raises(WeightsError) as caught:
        read_config(copied(name, tmp_path, **changes))
    for part in told:
        assert part in str(caught.value)


def test_the_dropout_of_a_distilberts_head_has_its_own_name(tmp_path):
    name = "DistilBertForSequenceClassification"
    copied(name, tmp_path, dropout=0.3, seq_classif_dropout=0.4)
    assert read_head_config(tmp_path).dropout == 0.4
    copied(name, tmp_path, architectures=["DistilBertForTokenClassification"])
    assert read_head_config(tmp_path).dropout == 0.1


# Tensors


@pytest.mark.parametrize(("kind", "end"), [row[:2] for row in RECORDED])
def test_the_tables_name_every_tensor_of_a_checkpoint(kind, end):
    name = NAMES[kind] + end
    family = FAMILIES[kind]
    architecture = family.architectures[name]
    wanted = encoder_tensors(read_config(ORACLES / name), architecture.pooler)
    labels = read_head_config(ORACLES / name).labels
    wanted |= head_tensors(read_config(ORACLES / name), architecture, len(labels))
    stored = load_file(ORACLES / name / WEIGHTS)
    found = {key.removeprefix(family.prefix): x.shape for key, x in stored.items()}
    assert found == {key: tensor.shape for key, tensor in wanted.items()}


def test_a_classifiers_dense_layer_is_the_pooler(tmp_path):
    for kind, layer in (
        ("electra", "classifier.dense"),
        ("roberta", "classifier.dense"),
        ("distilbert", "pre_classifier"),
    ):
        folder = ORACLES / f"{NAMES[kind]}ForSequenceClassification"
        _, params = load_bert(folder)
        stored = load_file(folder / WEIGHTS)[f"{layer}.weight"]
        np.testing.assert_array_equal(params["pooler"]["kernel"], stored.T)


def test_robertas_own_pooler_is_taken_where_there_is_no_classifier(tmp_path):
    copied("RobertaForMaskedLM", tmp_path)
    with pytest.raises(WeightsError, match="no pooler"):
        load_bert(tmp_path)
    kernel = np.arange(64, dtype=np.float32).reshape(8, 8)

    def add(name):
        def change(tensors):
            tensors[f"{name}.weight"] = kernel
            tensors[f"{name}.bias"] = kernel[0]

        edit_tensors(tmp_path, change)

    add("roberta.pooler.dense")
    np.testing.assert_array_equal(load_bert(tmp_path)[1]["pooler"]["kernel"], kernel.T)
    load_bert_model(tmp_path)  # and left out by name where the class has none
    kernel = kernel + 1
    add("classifier.dense")
    np.testing.assert_array_equal(load_bert(tmp_path)[1]["pooler"]["kernel"], kernel.T)


def test_a_discriminator_loads_and_its_pooler_is_drawn(tmp_path):
    # As KoELECTRA's: ElectraForPreTraining, whose head is left out by name.
    copied("ElectraForSequenceClassification", tmp_path)

    def change(tensors):
        new = {key: x for key, x in tensors.items() if "classifier" not in key}
        for part, rows in (("dense", 8), ("dense_prediction", 1)):
            name = f"discriminator_predictions.{part}"
            new[f"{name}.weight"] = np.ones((rows, 8), np.float32)
            new[f"{name}.bias"] = np.ones(rows, np.float32)
        new["electra.embeddings.position_ids"] = np.arange(20)[None]
        return new

    edit_tensors(tmp_path, change)
    copied_config = json.loads((tmp_path / "config.json").read_text())
    copied_config["architectures"] = ["ElectraForPreTraining"]
    (tmp_path / "config.json").write_text(json.dumps(copied_config))
    encoder, params = load_bert(tmp_path, pooler_key=jax.random.key(0))
    assert 0 < abs(params["pooler"]["kernel"]).max() <= 0.04
    assert encoder.config.pooler_activation == "gelu"
    with pytest.raises(WeightsError, match="load_bert loads the encoder alone"):
        load_bert_model(tmp_path)


@pytest.mark.parametrize(
    ("name", "lost", "strange"),
    [
        (
            "ElectraForMaskedLM",
            "electra.embeddings_project.bias",
            "cls.predictions.bias",
        ),
        ("RobertaForMaskedLM", "lm_head.layer_norm.bias", "discriminator.weight"),
        (
            "DistilBertForMaskedLM",
            "distilbert.transformer.layer.1.ffn.lin2.bias",
            "distilbert.embeddings.token_type_embeddings.weight",
        ),
    ],
)
def test_a_missing_and_a_strange_tensor_are_named(name, lost, strange, tmp_path):
    copied(name, tmp_path)

    def change(tensors):
        del tensors[lost]
        tensors[strange] = np.zeros(3, np.float32)

    edit_tensors(tmp_path, change)
    with pytest.raises(WeightsError) as caught:
        load_bert_model(tmp_path)
    prefix = f"{name.split('For')[0].lower()}."
    assert f"{lost.removeprefix(prefix)}: missing" in str(caught.value)
    assert f"{strange.removeprefix(prefix)}: not a tensor" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "copy"),
    [
        ("ElectraForMaskedLM", "generator_lm_head.weight"),
        ("RobertaForMaskedLM", "lm_head.decoder.weight"),
        ("DistilBertForMaskedLM", "vocab_projector.weight"),
    ],
)
def test_an_untied_decoder_is_an_error(name, copy, tmp_path):
    copied(name, tmp_path)

    def change(tensors):
        (words,) = (key for key in tensors if "word_embeddings" in key)
        tensors[copy] = tensors[words] + changed

    changed = np.float32(0)
    edit_tensors(tmp_path, change)
    load_bert_model(tmp_path)
    changed = np.float32(1)
    edit_tensors(tmp_path, change)
    with pytest.raises(WeightsError, match=f"{copy}: differs"):
        load_bert_model(tmp_path)


# Export


def drawn(config, head):
    model = compose(Bert(config), head)
    batch = padded(examples("roberta"), max(LENGTHS))
    shapes = flatten_paths(jax.eval_shape(model.init, jax.random.key(0), batch))
    draw = np.random.default_rng(0)
    leaves = {p: draw.normal(0, 0.3, x.shape).astype("f4") for p, x in shapes.items()}
    return unflatten_paths(leaves)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"position_offset": 2}, "'bert' has `position_offset` 0, not 2"),
        ({"embedding_size": 6}, "'bert' projects no embeddings"),
        ({"type_vocab_size": 0}, "'bert' has at least one segment"),
        ({"pooler_activation": "gelu"}, "a pooler with tanh, not gelu"),
        ({"model_type": "electra"}, "a pooler with gelu, not tanh"),
        ({"model_type": "roberta"}, "has a `position_offset` of 1 or more"),
        ({"model_type": "distilbert"}, "has type_vocab_size 0, not 2"),
        (
            {"model_type": "distilbert", "layer_norm_eps": 1e-5},
            "has layer_norm_eps 1e-12, not 1e-05",
        ),
    ],
)
def test_what_a_model_type_cannot_tell_is_not_exported(changes, told, tmp_path):
    config = sized(pooling="pooler", **changes)
    with pytest.raises(ConfigError) as caught:
        save_bert(tmp_path / "e", config, {}, heads.Classify(2))
    assert told in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_masked_language_models_have_their_types_activation(tmp_path):
    config = sized(model_type="roberta", position_offset=2, activation="relu")
    with pytest.raises(ConfigError, match="not gelu"):
        save_bert(tmp_path / "e", config, {}, heads.MaskedLanguageModel("relu"))
    with pytest.raises(ConfigError, match="Roberta has no class with this head"):
        save_bert(tmp_path / "e", config, {}, heads.NextSentence())


def test_a_tokenizer_goes_with_its_model(tmp_path):
    # As klue/roberta-base: BERT's WordPiece and template before RoBERTa's encoder.
    (tmp_path / "vocab.txt").write_text("[CLS]\n[PAD]\n[SEP]\n[UNK]\n[MASK]\na\n")
    tokenizer = load_tokenizer(tmp_path / "vocab.txt")
    config = sized(model_type="roberta", position_offset=2, type_vocab_size=1)
    params = drawn(config, heads.Span())
    save_bert(tmp_path / "e", config, params, heads.Span(), tokenizer=tokenizer)
    told = json.loads((tmp_path / "e" / "tokenizer_config.json").read_text())
    assert told["model_input_names"] == ["input_ids", "attention_mask"]
    assert json.loads((tmp_path / "e" / "config.json").read_text())["pad_token_id"] == 1
    other = replace(config, position_offset=1)
    with pytest.raises(ConfigError, match="not that of the tokenizer's pad, 1"):
        save_bert(tmp_path / "f", other, params, heads.Span(), tokenizer=tokenizer)
    bert = sized()
    save_bert(
        tmp_path / "g",
        bert,
        drawn(bert, heads.Span()),
        heads.Span(),
        tokenizer=tokenizer,
    )
    told = json.loads((tmp_path / "g" / "tokenizer_config.json").read_text())
    assert "token_type_ids" in told["model_input_names"]
    assert json.loads((tmp_path / "g" / "config.json").read_text())["pad_token_id"] == 1


def test_an_electra_alone_is_exported_without_its_pooler(tmp_path):
    config = sized(model_type="electra", pooling="pooler", pooler_activation="gelu")
    params = {"encoder": drawn(config, heads.Classify(2))["encoder"]}
    save_bert(tmp_path / "e", config, params)
    _, loaded = load_bert(tmp_path / "e", pooling="none")
    wanted = flatten_paths(
        {k: x for k, x in params["encoder"].items() if k != "pooler"}
    )
    assert flatten_paths(loaded).keys() == wanted.keys()
    for path, leaf in flatten_paths(loaded).items():
        np.testing.assert_array_equal(leaf, wanted[path])


# Segments


@pytest.mark.parametrize("segments", [0, 1])
def test_types_are_not_read_where_no_segments_are_told_apart(segments):
    config = sized(type_vocab_size=segments)
    batch = padded(examples("electra"), max(LENGTHS))
    params = drawn(config, Nothing())
    plain = batch.replace(types=np.zeros_like(batch.types))
    one, other = (
        outputs_of(Model(Bert(config), Nothing()), params, b)[0] for b in (batch, plain)
    )
    assert np.asarray(batch.types).max() == 1
    np.testing.assert_array_equal(one, other)
    with pytest.raises(ConfigError, match="role labelling needs two segments"):
        require_segments(config, "Semantic role labelling")
    require_segments(sized(), "Semantic role labelling")
