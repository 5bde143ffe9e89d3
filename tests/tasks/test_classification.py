import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import drawn, random_examples, tiny_word_vectors, uneven_batch

from tl_jax.data.packing import Layout, pack
from tl_jax.files.errors import DataError
from tl_jax.metrics.sums import mean
from tl_jax.tasks.classification import (
    decode,
    featurise,
    label_ids,
    label_names,
    log_probabilities,
    loss,
    scores,
)
from tl_jax.text.encodings import Framed


@pytest.fixture(scope="module")
def model():
    return tiny_word_vectors()


@pytest.fixture(scope="module")
def params(model):
    return drawn(model)


def cross_entropy(logits, labels):
    """−log softmax(logits)[label] in float64, by its definition."""
    logits = np.float64(logits)
    exponents = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probabilities = exponents / exponents.sum(axis=-1, keepdims=True)
    return -np.log(np.take_along_axis(probabilities, labels[..., None], -1)[..., 0])


def test_loss_is_the_weighted_sum_and_its_weight(model, params):
    batch = uneven_batch()
    logits = np.asarray(model.apply(params, batch, train=False))
    labels, weights = batch.targets["label"], batch.weights["label"]
    sums = jax.jit(lambda p, b: loss(model)(p, b, train=False))(params, batch)
    expected = np.sum(weights * cross_entropy(logits, labels))
    np.testing.assert_allclose(sums["loss"].total, expected, rtol=1e-5)
    assert float(sums["loss"].weight) == 12.75
    hits = np.sum(weights * (logits.argmax(-1) == labels))
    np.testing.assert_allclose(sums["accuracy"].total, hits, rtol=1e-6)
    assert float(sums["accuracy"].weight) == 12.75


def test_empty_slots_count_for_nothing(model, params):
    """Seven examples in packed rows score as they do one a row."""
    examples = random_examples(7)
    layout = Layout(packed=True, max_length=16, narrowest=16, fewest_rows=8)
    packed = pack(examples, np.arange(7), layout)
    assert (packed.ids < 0).any()
    apart = pack(examples, np.arange(7), Layout(packed=False, max_length=16))
    found = [mean(loss(model)(params, batch, train=False)) for batch in (packed, apart)]
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_training_needs_a_key_and_drops_out(model, params):
    batch = uneven_batch()
    with pytest.raises(ValueError, match="key"):
        loss(model)(params, batch, train=True)
    once, again, other = (
        float(loss(model)(params, batch, jax.random.key(n), train=True)["loss"].total)
        for n in (0, 0, 1)
    )
    assert once == again != other


def test_log_probabilities_sum_to_one(model, params):
    batch = uneven_batch()
    found = log_probabilities(model)(params, batch)
    assert found.shape == (8, 1, 3)
    np.testing.assert_allclose(np.exp(found).sum(-1), 1, rtol=1e-6)
    logits = np.asarray(model.apply(params, batch, train=False))
    labels = batch.targets["label"]
    picked = np.take_along_axis(np.asarray(found), labels[..., None], -1)[..., 0]
    np.testing.assert_allclose(-picked, cross_entropy(logits, labels), rtol=1e-5)


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["neg", "pos", "neg"], ("neg", "pos")),
        (["10", "9", "1"], ("1", "9", "10")),
        (["10", "9", "x"], ("10", "9", "x")),
        (["1", "01", "001", "2"], ("001", "01", "1", "2")),
        (["긍정", "부정"], ("긍정", "부정")),
        (["²", "1"], ("1", "²")),
    ],
)
def test_label_names_are_sorted(labels, names):
    assert label_names(labels) == names
    assert label_names(labels[::-1]) == names


def test_label_ids_and_what_is_unknown():
    names = ("neg", "pos")
    places = ["dev.tsv:1", "dev.tsv:2", "dev.tsv:3"]
    ids = label_ids(["pos", "neg", "pos"], names, places)
    np.testing.assert_array_equal(ids, [1, 0, 1])
    assert ids.dtype == np.int32
    with pytest.raises(DataError) as caught:
        label_ids(["poz", "neg", "?"], names, places)
    told = str(caught.value)
    assert "2 labels" in told
    assert "dev.tsv:1: 'poz' Did you mean 'pos'?" in told
    assert "dev.tsv:3" in told
    assert "dev.tsv:2" not in told


def test_ten_unknown_labels_are_shown():
    with pytest.raises(DataError) as caught:
        label_ids(["x"] * 30, ("a",), [f"f:{n}" for n in range(30)])
    assert "30 labels" in str(caught.value)
    assert str(caught.value).count("\n") == 10


class Letters:
    """Encodes a text as its letters' places in the alphabet; pairs as type 1."""

    def specials(self, *, pair):
        return 0

    def pieces(self, texts):
        return [np.array([ord(c) - ord("a") for c in t], np.int32) for t in texts]

    def pieces_with_offsets(self, texts):
        raise NotImplementedError

    def frame(self, first, second=None):
        both = first if second is None else np.concatenate([first, second])
        types = (np.arange(len(both)) >= len(first)).astype(np.int32)
        return Framed(both, types, 0, len(first))


def test_featurise_keeps_ids_types_and_labels():
    labels = np.array([1, 0], np.int32)
    examples = featurise(Letters(), ["abc", "b"], ["d", "efgh"], labels, max_length=4)
    np.testing.assert_array_equal(examples.tokens, [0, 1, 2, 3, 1, 4, 5, 6])
    np.testing.assert_array_equal(examples.types, [0, 0, 0, 1, 0, 1, 1, 1])
    np.testing.assert_array_equal(examples.targets["label"], labels)
    assert featurise(Letters(), ["abc"], max_length=4).targets == {}


def test_scores_against_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    draw = np.random.default_rng(0)
    log_probs = np.asarray(jax.nn.log_softmax(jnp.array(draw.normal(size=(200, 4)))))
    labels = draw.integers(0, 4, 200)
    guessed = log_probs.argmax(1)
    assert scores(log_probs, labels) == pytest.approx(
        {
            "loss": -np.float64(log_probs)[np.arange(200), labels].mean(),
            "accuracy": metrics.accuracy_score(labels, guessed),
            "macro_f1": metrics.f1_score(labels, guessed, average="macro"),
            "matthews": metrics.matthews_corrcoef(labels, guessed),
        },
        rel=1e-5,
    )


def test_decode_writes_json():
    log_probs = np.log(np.array([[0.25, 0.75], [0.5, 0.5]], np.float32))
    found = json.loads(json.dumps(decode(log_probs, ("neg", "pos"))))
    assert found == [
        {"index": 0, "label": "pos", "probabilities": {"neg": 0.25, "pos": 0.75}},
        {"index": 1, "label": "neg", "probabilities": {"neg": 0.5, "pos": 0.5}},
    ]
