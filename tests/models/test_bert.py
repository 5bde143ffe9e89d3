import functools
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.batches import (
    Example,
    lay,
    padded,
    random_examples,
    slot_values,
    token_values,
)
from oracles.record import ARCHITECTURES, LENGTHS, VOCABULARY, run, tiny_model

from tl_jax.interop.huggingface import load_bert
from tl_jax.models import bert, heads
from tl_jax.models.bert import Bert, BertConfig, Block, Embeddings, Queries
from tl_jax.models.compose import flatten_paths, init_module
from tl_jax.models.dropout import token_noise

ORACLES = Path(__file__).parents[1] / "oracles"
LAYER, MODEL = 1e-5, 1e-4  # tolerances of one layer and of a whole model
TINY = BertConfig(
    vocab_size=VOCABULARY,
    hidden_size=16,
    num_layers=2,
    num_heads=4,
    intermediate_size=24,
    max_positions=20,
)
# Both of one shape, so that they share a compilation.
PADDED = [[0], [1], [2], [3], [4]]
PACKED = [[0, 1, 3], [2], [], [4], []]
TEXTS = (
    ("Crème brûlée in a naïve café — déjà vu!", None),
    ("영화가 정말 재미있었다. 다시 보고 싶다.", None),
    ("", None),
    ("Where was it filmed?", "The film was shot in Reykjavík, 1999."),
    ("A text that is much longer than it may be. " * 20, None),
    ("A long one " * 20, "and a pair " * 20),
)


@functools.partial(jax.jit, static_argnums=0)
def apply(config, params, batch, noise=None):
    return Bert(config).apply({"params": params}, batch, noise)


def close(found, wanted, tolerance):
    np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance)


def assert_layers(features, batch, outputs, source, tolerance=LAYER):
    """Compares every layer of every example; ``source`` is the batch of ``outputs``."""
    for number, layer in enumerate(features.layers):
        found = token_values(layer, batch)
        wanted = token_values(outputs[f"layer_{number}"], source)
        assert found.keys() == wanted.keys()
        for example in wanted:
            close(found[example], wanted[example], tolerance)
    if "pooler_output" in outputs and features.pooled is not None:
        found = slot_values(features.pooled, batch)
        for example, pooled in enumerate(outputs["pooler_output"]):
            close(found[example], pooled, tolerance)


def test_parameter_paths_are_those_of_the_documentation():
    shapes = jax.tree.map(jnp.shape, init_tiny(TINY))
    found = {path: shape for path, shape in flatten_shapes(shapes).items()}
    layer = {
        "attention/query/kernel": (16, 16),
        "attention/query/bias": (16,),
        "attention/key/kernel": (16, 16),
        "attention/key/bias": (16,),
        "attention/value/kernel": (16, 16),
        "attention/value/bias": (16,),
        "attention/output/kernel": (16, 16),
        "attention/output/bias": (16,),
        "attention_norm/scale": (16,),
        "attention_norm/bias": (16,),
        "feed_forward/input/kernel": (16, 24),
        "feed_forward/input/bias": (24,),
        "feed_forward/output/kernel": (24, 16),
        "feed_forward/output/bias": (16,),
        "feed_forward_norm/scale": (16,),
        "feed_forward_norm/bias": (16,),
    }
    assert found == {
        "embeddings/word/embedding": (40, 16),
        "embeddings/position/embedding": (20, 16),
        "embeddings/type/embedding": (2, 16),
        "embeddings/norm/scale": (16,),
        "embeddings/norm/bias": (16,),
        **{f"layer_{n}/{path}": shape for n in (0, 1) for path, shape in layer.items()},
        "pooler/kernel": (16, 16),
        "pooler/bias": (16,),
    }


def test_descendants_differ_in_their_embeddings_only():
    def shapes(**changes):
        batch = padded(random_examples(LENGTHS, VOCABULARY), 12)
        model = Bert(replace(TINY, **changes))
        drawn = jax.eval_shape(model.init, jax.random.key(0), batch)["params"]
        return {path: x.shape for path, x in flatten_paths(drawn).items()}

    bert = shapes()
    assert shapes(embedding_size=16, pooler_activation="gelu") == bert
    assert shapes(embedding_size=6) == bert | {
        "embeddings/word/embedding": (40, 6),
        "embeddings/position/embedding": (20, 6),
        "embeddings/type/embedding": (2, 6),
        "embeddings/norm/scale": (6,),
        "embeddings/norm/bias": (6,),
        "embeddings/projection/kernel": (6, 16),
        "embeddings/projection/bias": (16,),
    }
    assert shapes(position_offset=2, type_vocab_size=1) == bert | {
        "embeddings/position/embedding": (22, 16),
        "embeddings/type/embedding": (1, 16),
    }
    del bert["embeddings/type/embedding"]
    assert shapes(type_vocab_size=0) == bert


def flatten_shapes(shapes):
    leaves, _ = jax.tree.flatten_with_path(
        shapes, is_leaf=lambda x: isinstance(x, tuple)
    )
    return {"/".join(key.key for key in path): shape for path, shape in leaves}


def init_tiny(config, seed=0):
    batch = padded(random_examples(LENGTHS, VOCABULARY), 12)
    return init_module(Bert(config), jax.random.key(seed), batch)


@functools.lru_cache
def loud(config):
    """Draws weights as large as the oracles', so that faults show."""
    batch = padded(random_examples(LENGTHS, VOCABULARY), 12)
    shapes = jax.eval_shape(Bert(config).init, jax.random.key(0), batch)["params"]
    draw = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: draw.normal(0.1, 0.3, x.shape).astype(np.float32), shapes
    )


def test_init_is_a_truncated_normal_with_zero_biases_and_unit_scales():
    params = flatten_paths(init_tiny(replace(TINY, vocab_size=2000)))
    table = params["embeddings/word/embedding"]
    # As Google's: a normal of 0.02 cut at two deviations, which leaves 0.88 of it.
    assert 0.039 < abs(table).max() <= 0.04
    assert abs(table.std() - 0.02 * 0.87962566) < 3e-4
    for path, leaf in params.items():
        if path.endswith("bias"):
            assert (leaf == 0).all(), path
        if path.endswith("scale"):
            assert (leaf == 1).all(), path


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_recorded_model_gives_its_layers(architecture):
    folder = ORACLES / "bert" / architecture
    outputs = np.load(folder / "expected.npz")
    pooling = "pooler" if architecture == "BertModel" else "none"
    encoder, params = load_bert(folder, pooling=pooling)
    examples = random_examples(LENGTHS, VOCABULARY)
    source = padded(examples, max(LENGTHS))
    for rows in (PADDED, PACKED):
        batch = lay(examples, rows, 16, slots=3, gap=1)
        assert_layers(apply(encoder.config, params, batch), batch, outputs, source)


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
def test_layers_and_pooled_are_torchs(activation, tmp_path):
    pytest.importorskip("transformers")
    model = tiny_model("BertModel", activation, seed=5)
    model.save_pretrained(tmp_path)
    encoder, params = load_bert(tmp_path)
    assert encoder.config.activation == activation
    examples = random_examples((9, 20, 1, 4, 5), VOCABULARY, seed=3)
    source = padded(examples, 20)
    outputs = run(model, source.tokens, source.types, source.mask)
    for rows in (PADDED, [[], [0, 3, 4], [2], [1], []]):
        batch = lay(examples, rows, 20, slots=3)
        assert_layers(apply(encoder.config, params, batch), batch, outputs, source)


def test_minilm_gives_the_recorded_states(minilm):
    outputs = dict(np.load(ORACLES / "minilm.npz"))
    encoder, params = load_bert(minilm)
    lengths = outputs["mask"].sum(axis=1)
    texts = zip(outputs["tokens"], outputs["types"], lengths, strict=True)
    examples = [Example(a[:n], b[:n]) for a, b, n in texts]
    for rows in (PADDED, [[0, 2], [1], [3], [4], []]):
        batch = lay(examples, rows, 32, slots=2)
        features = apply(encoder.config, params, batch)
        for number, layer in enumerate(features.layers):
            found = token_values(layer, batch)
            for example, states in enumerate(outputs[f"layer_{number}"]):
                kept = min(len(states), lengths[example])
                close(found[example][:kept], states[:kept], MODEL)
        pooled = slot_values(features.pooled, batch)
        for example, wanted in enumerate(outputs["pooler_output"]):
            close(pooled[example], wanted, MODEL)


@pytest.fixture(scope="module")
def minilm_in_torch(minilm):
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModel.from_pretrained(minilm).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm)
    encoded = [tokenizer(a, b, truncation=True, max_length=64) for a, b in TEXTS]
    examples = [
        Example(np.array(e["input_ids"], np.int32), np.array(e["token_type_ids"]))
        for e in encoded
    ]
    assert [len(e.tokens) for e in examples][2] == 2
    source = padded(examples, 64)
    return source, run(model, source.tokens, source.types, source.mask)


def test_each_layer_of_minilm_is_torchs_from_torchs_input(minilm, minilm_in_torch):
    source, outputs = minilm_in_torch
    encoder, params = load_bert(minilm)
    embeddings = Embeddings(encoder.config)
    variables = {"params": params["embeddings"]}
    states, table = embeddings.apply(variables, source, None)
    real = np.asarray(source.mask).reshape(-1)
    close(states[real], outputs["layer_0"].reshape(-1, 384)[real], LAYER)
    assert table.shape == (30522, 384)
    for number in range(encoder.config.num_layers):
        before = outputs[f"layer_{number}"].reshape(-1, 384)
        wanted = outputs[f"layer_{number + 1}"].reshape(-1, 384)
        block = Block(encoder.config, number)
        variables = {"params": params[f"layer_{number}"]}
        queries = Queries(source.example, None)
        found = jax.jit(block.apply)(variables, before, source, queries)
        close(found[real], wanted[real], LAYER)


def test_minilm_from_end_to_end_is_torchs(minilm, minilm_in_torch):
    source, outputs = minilm_in_torch
    encoder, params = load_bert(minilm)
    examples = [
        Example(source.tokens[n][m], source.types[n][m])
        for n, m in enumerate(np.asarray(source.mask))
    ]
    for rows in ([*PADDED, [5]], [[0, 1], [2, 3], [], [4], [5], []]):
        batch = lay(examples, rows, 64, slots=2, gap=2)
        features = apply(encoder.config, params, batch)
        assert_layers(features, batch, outputs, source, MODEL)


def test_mean_pooling_averages_each_examples_top_states():
    config = replace(TINY, pooling="mean")
    batch = lay(random_examples(LENGTHS, VOCABULARY), PACKED, 16, slots=3, gap=1)
    params = loud(config)
    assert "pooler" not in params
    features = apply(config, params, batch)
    states = token_values(features.layers[-1], batch)
    for example, pooled in slot_values(features.pooled, batch).items():
        close(pooled, states[example].mean(axis=0), LAYER)


@pytest.mark.parametrize("rows", [PADDED, PACKED], ids=["padded", "packed"])
@pytest.mark.parametrize("pooling", ["pooler", "mean"])
def test_pooled_vectors_without_the_layers_are_the_same(pooling, rows):
    config = replace(TINY, pooling=pooling, hidden_dropout=0.3, attention_dropout=0.3)
    params = loud(config)
    batch = lay(random_examples(LENGTHS, VOCABULARY), rows, 16, slots=3, gap=1)
    noise = token_noise(jax.random.key(3), batch)

    def pooled(params, pooled_only):
        features = Bert(config).apply(
            {"params": params}, batch, noise, pooled_only=pooled_only
        )
        assert bool(features.layers) != pooled_only
        return jnp.where(batch.slots[:, :, None], features.pooled, 0)

    def loss(params, pooled_only):
        return jnp.square(pooled(params, pooled_only)).sum()

    step = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    jax.tree.map(
        lambda a, b: close(a, b, LAYER), step(params, True), step(params, False)
    )
    flops = [
        step.lower(params, only).compile().cost_analysis()["flops"]
        for only in (True, False)
    ]
    assert flops[0] < 0.9 * flops[1] or pooling == "mean"


LOOPS = {
    "plain": {},
    "remat": {"remat": True},
    "scan": {"scan_layers": True},
    "both": {"remat": True, "scan_layers": True},
}


def test_remat_and_scan_change_memory_and_code_but_no_number():
    """All layers and the pooled vector, their gradients, and dropout's masks."""
    config = replace(TINY, num_layers=6, hidden_dropout=0.3, attention_dropout=0.3)
    params = loud(config)
    batch = lay(random_examples(LENGTHS, VOCABULARY), PACKED, 16, slots=3, gap=1)
    noise = token_noise(jax.random.key(3), batch)

    def total(loops, params):
        features = Bert(replace(config, **loops)).apply(
            {"params": params}, batch, noise
        )
        real = batch.mask[:, :, None]
        sums = [jnp.where(real, jnp.sin(x), 0).sum() for x in features.layers]
        pooled = jnp.where(batch.slots[:, :, None], features.pooled, 0)
        return jnp.stack(sums) @ jnp.arange(1.0, 8.0) + pooled.sum()

    programs = {
        name: jax.jit(jax.value_and_grad(functools.partial(total, loops)))
        .lower(params)
        .compile()
        for name, loops in LOOPS.items()
    }
    value, gradient = programs["plain"](params)
    for name in ("remat", "scan", "both"):
        found, slopes = programs[name](params)
        assert float(found) == pytest.approx(float(value), rel=1e-6), name
        jax.tree.map(lambda a, b: close(a, b, LAYER), slopes, gradient)
    sizes = {name: len(program.as_text()) for name, program in programs.items()}
    assert sizes["scan"] < 0.5 * sizes["plain"]
    memory = {n: p.memory_analysis().temp_size_in_bytes for n, p in programs.items()}
    assert memory["both"] < 0.5 * memory["scan"]


def test_scanned_blocks_keep_their_paths():
    plain, looped = init_tiny(TINY), init_tiny(replace(TINY, scan_layers=True))
    jax.tree.map(np.testing.assert_array_equal, looped, plain)


def test_padding_is_never_read():
    params = loud(TINY)
    batch = lay(random_examples(LENGTHS, VOCABULARY), PACKED, 16, gap=1)
    other = batch.replace(
        tokens=np.where(batch.mask, batch.tokens, 17),
        types=np.where(batch.mask, batch.types, 1),
        positions=np.where(batch.mask, batch.positions, 9),
    )
    one, two = (apply(TINY, params, b) for b in (batch, other))
    for a, b in zip(one.layers, two.layers, strict=True):
        np.testing.assert_array_equal(a[batch.mask], b[batch.mask])
    found = slot_values(one.pooled, batch)
    wanted = slot_values(two.pooled, batch)
    for example, pooled in wanted.items():
        np.testing.assert_array_equal(found[example], pooled)


def test_examples_of_one_row_do_not_see_each_other():
    params = loud(TINY)
    examples = random_examples(LENGTHS, VOCABULARY)
    batch = lay(examples, PACKED, 16)
    # Segments of the vocabulary tell the first example's words from the others'.
    words = np.where(batch.example == 1, batch.tokens % 20, batch.tokens % 20 + 20)
    batch = batch.replace(tokens=words)

    def sum_of_first(table):
        changed = {**params["embeddings"], "word": {"embedding": table}}
        features = Bert(TINY).apply(
            {"params": {**params, "embeddings": changed}}, batch
        )
        return features.layers[-1][0, : LENGTHS[0]].sum()

    gradient = jax.jit(jax.grad(sum_of_first))(
        jnp.asarray(params["embeddings"]["word"]["embedding"])
    )
    row = np.asarray(batch.tokens[0])
    own = np.unique(row[np.asarray(batch.example[0]) == 1])
    assert (abs(gradient[own]).max(axis=1) > 1e-4).all()
    assert (gradient[20:] == 0).all()


@pytest.mark.parametrize("pooling", ["pooler", "mean"])
def test_an_all_padding_row_is_finite_and_gives_no_gradient(pooling):
    config = replace(TINY, pooling=pooling)
    params = loud(config)
    examples = random_examples((4, 3), VOCABULARY)
    batch = lay(examples, [[], [0, 1]], 8, slots=3)
    alone = lay(examples, [[0], [1]], 8, slots=3)

    def loss(params, batch):
        features = Bert(config).apply({"params": params}, batch)
        assert features.pooled is not None
        pooled = jnp.where(batch.slots[:, :, None], jnp.square(features.pooled), 0)
        return pooled.sum(), features

    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (_, features), found = step(params, batch)
    _, wanted = step(params, alone)
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(features))
    jax.tree.map(lambda a, b: close(a, b, LAYER), found, wanted)


def test_dropout_masks_belong_to_the_example_not_to_its_place():
    params = loud(TINY)
    examples = random_examples(LENGTHS, VOCABULARY)
    key = jax.random.key(3)

    def noisy(batch):
        noise = token_noise(key, batch)
        return apply(TINY, params, batch, noise)

    one, two = (lay(examples, rows, 16, slots=3, gap=1) for rows in (PADDED, PACKED))
    first, second = noisy(one), noisy(two)
    for a, b in zip(first.layers, second.layers, strict=True):
        a, b = token_values(a, one), token_values(b, two)
        for example in a:
            close(a[example], b[example], LAYER)
    quiet = apply(TINY, params, one)
    assert abs(first.layers[0] - quiet.layers[0]).max() > 0.1


def test_attention_dropout_alone_changes_the_states():
    config = replace(TINY, hidden_dropout=0.0, attention_dropout=0.5)
    params = loud(config)
    batch = padded(random_examples(LENGTHS, VOCABULARY), 12)
    noise = token_noise(jax.random.key(0), batch)
    noisy = apply(config, params, batch, noise)
    quiet = apply(config, params, batch)
    np.testing.assert_array_equal(noisy.layers[0], quiet.layers[0])
    assert abs(noisy.layers[1] - quiet.layers[1])[batch.mask].max() > 0.1


def test_no_two_places_of_the_model_share_their_masks(monkeypatch):
    places = []

    def note(original):
        def noted(*arguments, **options):
            layer = options["layer"] if "layer" in options else arguments[3]
            places.append(layer)
            return original(*arguments, **options)

        return noted

    monkeypatch.setattr(bert, "dropout", note(bert.dropout))
    monkeypatch.setattr(bert, "attention", note(bert.attention))
    batch = padded(random_examples(LENGTHS, VOCABULARY), 12)
    model = Bert(replace(TINY, num_layers=3))
    noise = token_noise(jax.random.key(0), batch)
    shapes = jax.eval_shape(model.init, jax.random.key(0), batch, noise)
    assert shapes and len(places) == 1 + 3 * 3
    assert len(set(places)) == len(places)
    assert max(places) < heads.HEAD_PLACE


def test_bfloat16_keeps_float32_parameters_and_is_close():
    config = replace(TINY, dtype="bfloat16")
    params = loud(config)
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    batch = lay(random_examples(LENGTHS, VOCABULARY), PACKED, 16)
    found, wanted = apply(config, params, batch), apply(TINY, params, batch)
    for a, b in zip(found.layers, wanted.layers, strict=True):
        assert a.dtype == jnp.bfloat16
        error = abs(a.astype(np.float32) - b)[batch.mask]
        # 8 bits of mantissa: 2⁻⁹ relative for each rounding, some tens of roundings.
        assert error.mean() < 0.02 and error.max() < 0.2
