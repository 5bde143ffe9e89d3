import functools
import json
from dataclasses import replace
from itertools import pairwise, product

import jax
import numpy as np
import pytest
from helpers import (
    AS_FOR_USERS,
    CLASSES,
    LENGTH,
    VOCABULARY,
    drawn,
    farthest,
    tiny_bert,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from tl_jax.data.examples import make_examples
from tl_jax.data.packing import Layout, pack
from tl_jax.data.propbank import Propositions, Sentence, read_propositions
from tl_jax.files.errors import DataError
from tl_jax.metrics.spans import total
from tl_jax.metrics.srl import role_counts
from tl_jax.metrics.sums import mean
from tl_jax.models.bert import Bert, BertConfig
from tl_jax.models.compose import Model, compose
from tl_jax.models.heads import Tag
from tl_jax.tasks.srl import best_tags, decode, featurise, loss, records, scores
from tl_jax.tasks.word_tags import TAG, tag_ids, tag_names
from tl_jax.text.encodings import Framed
from tl_jax.text.subwords import load_tokenizer
from tl_jax.text.words import WordVocabulary

NAMES = ("O", "B-A", "I-A", "B-V", "I-V")
CLS, SEP = 101, 102


class Letters:
    """Cuts a text into its letters, between [CLS] and [SEP]."""

    def specials(self, *, pair):
        return 2

    def pieces(self, texts):
        letters = ([c for c in text if c != " "] for text in texts)
        return [np.array([ord(c) - ord("a") for c in t], np.int32) for t in letters]

    def pieces_with_offsets(self, texts):
        raise NotImplementedError

    def frame(self, first, second=None):
        tokens = np.concatenate([[CLS], first, [SEP]]).astype(np.int32)
        return Framed(tokens, np.zeros_like(tokens), 1, len(tokens))


class Given(Model):
    """A model whose logits are its only parameter."""

    def apply(self, params, batch, key=None, *, train):
        return params["logits"]


GIVEN = Given(Bert(BertConfig(vocab_size=8)), Tag(len(NAMES)))


def propositions(*rows, labelled=True):
    """Each row: the words, and as many predicates with their tags as there are."""
    flat = [
        (number, predicate, tags.split())
        for number, (_, *found) in enumerate(rows)
        for predicate, tags in found
    ]
    numbers, predicates, tags = zip(*flat, strict=True)
    words = [row[0].split() for row in rows]
    return Propositions(
        [Sentence(w, [""] * len(w), []) for w in words],
        np.array(numbers),
        np.array(predicates),
        list(tags) if labelled else None,
        [f"f{n}:{p}" for n, p in zip(numbers, predicates, strict=True)],
    )


TWO = propositions(
    ("ab cde f gh", (1, "B-A B-V O B-A"), (3, "B-A I-A I-A B-V")),
    ("x", (0, "B-V")),
)


def test_tag_names_have_both_marks_of_each_role():
    assert tag_names([["O", "B-V"], ["B-C-A", "I-C-A", "B-A"]]) == (
        *("O", "B-A", "I-A", "B-C-A", "I-C-A", "B-V", "I-V"),
    )


def test_featurise_by_hand():
    examples, starts = featurise(Letters(), TWO, NAMES, max_length=10)
    assert examples.lengths.tolist() == [10, 10, 3]
    first, other, last = (
        {
            "tokens": one.tokens.tolist(),
            "types": one.types.tolist(),
            TAG: [NAMES[n] for n in one.targets[TAG]],
        }
        for one in (examples.subset([n]) for n in range(3))
    )
    assert first["tokens"] == other["tokens"] == [CLS, 0, 1, 2, 3, 4, 5, 6, 7, SEP]
    assert first["types"] == [0, 0, 0, 1, 1, 1, 0, 0, 0, 0]
    assert other["types"] == [0, 0, 0, 0, 0, 0, 0, 1, 1, 0]
    assert " ".join(first[TAG]) == "O B-A I-A B-V I-V I-V O B-A I-A O"
    assert " ".join(other[TAG]) == "O B-A I-A I-A I-A I-A I-A B-V I-V O"
    assert last == {
        "tokens": [CLS, 23, SEP],
        "types": [0, 1, 0],
        TAG: ["O", "B-V", "O"],
    }
    assert [s.tolist() for s in starts] == [[1, 3, 6, 7], [1, 3, 6, 7], [1]]
    # Every piece counts, the special ones as well.
    batch = pack(examples, [0, 1, 2], Layout(max_length=10, narrowest=10))
    assert batch.weights[TAG].sum() == batch.mask.sum() == 23


def test_featurise_for_prediction_has_no_targets():
    raw = propositions(("ab c", (0, "O O")), labelled=False)
    examples, starts = featurise(Letters(), raw, max_length=5)
    assert examples.targets == {}
    assert examples.types.tolist() == [0, 1, 1, 0, 0]
    assert [s.tolist() for s in starts] == [[1, 3]]
    with pytest.raises(DataError, match=r"f0:0: the tags were not read"):
        featurise(Letters(), raw, NAMES, max_length=5)


def test_featurise_of_whole_words():
    vocabulary = WordVocabulary.build(["ab cde f gh"])
    examples, starts = featurise(vocabulary, TWO, NAMES, max_length=4)
    assert examples.lengths.tolist() == [4, 4, 1]
    assert starts[0].tolist() == [0, 1, 2, 3]
    ids = tag_ids(TWO, NAMES)
    np.testing.assert_array_equal(examples.targets[TAG], np.concatenate(ids))
    assert examples.types.tolist() == [0, 1, 0, 0, 0, 0, 0, 1, 1]


def test_of_a_long_sentence_the_words_around_the_predicate_are_read():
    data = propositions(
        ("x y", (0, "B-V O")),
        ("ab cde f gh", (1, "B-A B-V O B-A"), (3, "B-A I-A O B-V"), (2, "O O B-V O")),
        ("k abcdefghij", (1, "B-A B-V")),
    )
    whole = featurise(Letters(), data, NAMES, max_length=13)
    assert [len(row) for row in whole.starts] == [2, 4, 4, 4, 2]
    found = featurise(Letters(), data, NAMES, max_length=8)  # six letters fit
    assert [row.tolist() for row in found.starts] == [
        [1, 2],
        [1, 3, 6, -1],  # ab, cde and f: the nearest ones, the left one first
        [-1, 1, 4, 5],
        [-1, 1, 4, 5],
        [-1, 1],  # a word that is too long by itself is cut
    ]
    ends = found.examples.offsets
    tags = [found.examples.targets[TAG][a:b] for a, b in pairwise(ends)]
    types = [found.examples.types[a:b] for a, b in pairwise(ends)]
    names = [[NAMES[tag] for tag in row] for row in tags]
    assert names[1] == ["O", "B-A", "I-A", "B-V", "I-V", "I-V", "O", "O"]
    assert names[2] == ["O", "I-A", "I-A", "I-A", "O", "B-V", "I-V", "O"]
    assert types[3].tolist() == [0, 0, 0, 0, 1, 0, 0, 0]
    assert decode(tags, found.starts, NAMES) == [
        ["B-V", "O"],
        ["B-A", "B-V", "O", "O"],
        ["O", "B-A", "O", "B-V"],
        ["O", "O", "B-V", "O"],
        ["O", "B-V"],
    ]


def test_unknown_tags_are_told_with_their_place():
    with pytest.raises(DataError) as caught:
        featurise(Letters(), TWO, ("O", "B-A", "I-A", "B-W", "I-W"), max_length=10)
    told = str(caught.value)
    assert "3 tags are unknown" in told
    assert "f0:1: 'B-V'" in told
    assert "f1:0: 'B-V'" in told


# ---- loss ----


def random_tagged(count, *, seed=0, classes=CLASSES):
    """Examples of 3 … 16 tokens with a tag each and a predicate in some."""
    draw = np.random.default_rng(seed)
    lengths = draw.integers(3, LENGTH + 1, count)
    return make_examples(
        [draw.integers(0, VOCABULARY, n) for n in lengths],
        [(np.arange(n) == draw.integers(-3, n)).astype(int) for n in lengths],
        token_targets={TAG: [draw.integers(0, classes, n) for n in lengths]},
    )


@pytest.fixture(scope="module")
def model():
    return compose(tiny_bert(num_layers=1).encoder, Tag(CLASSES))


@pytest.fixture(scope="module")
def params(model):
    return drawn(model)


@pytest.fixture(scope="module")
def apart():
    """Seven examples one a row, of the shape that they have in packed rows."""
    layout = Layout(packed=False, max_length=2 * LENGTH)
    batch = pack(random_tagged(7), np.arange(7), layout)
    free = np.zeros((7, 7), np.int32)
    return replace(
        batch,
        ids=np.hstack([batch.ids, free - 1]),
        epochs=np.hstack([batch.epochs, free]),
    )


@pytest.fixture(scope="module")
def logits(model, params):
    return jax.jit(lambda batch: model.apply(params, batch, train=False))


def test_packed_is_padded_in_loss_and_gradients(model, params, logits, apart):
    """And both are −Σ log P(tag) over every token, divided by their number."""
    layout = Layout(max_length=LENGTH, narrowest=2 * LENGTH, fewest_rows=7)
    packed = pack(random_tagged(7), np.arange(7), layout)
    assert (packed.example.max(axis=1) > 1).any()

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def step(params, batch):
        sums = loss(model)(params, batch, train=False)
        return sums["loss"].total / sums["loss"].weight, sums

    (left, sums), gradient = step(params, apart)
    (right, others), other = step(params, packed)
    assert float(left) == pytest.approx(float(right), rel=1e-5)
    assert mean(sums) == pytest.approx(mean(others), rel=1e-5)
    assert farthest(gradient, other) < 1e-5
    assert farthest(gradient, jax.tree.map(np.zeros_like, gradient)) > 0.01

    scored = np.float64(logits(apart))
    chances = np.exp(scored) / np.exp(scored).sum(-1, keepdims=True)
    tags, mask = apart.targets[TAG], apart.mask
    picked = np.take_along_axis(chances, tags[..., None], -1)[..., 0]
    assert float(left) == pytest.approx(-np.log(picked[mask]).mean(), rel=1e-5)
    assert float(sums["loss"].weight) == len(random_tagged(7).tokens)
    hits = (scored.argmax(-1) == tags)[mask].mean()
    assert mean(sums)["accuracy"] == pytest.approx(hits)


def test_the_predicate_is_heard(logits, apart):
    assert set(apart.types.any(axis=1)) == {False, True}
    without = logits(replace(apart, types=np.zeros_like(apart.types)))
    heard = np.abs(logits(apart) - without).max(axis=(1, 2)) > 1e-3
    np.testing.assert_array_equal(heard, apart.types.any(axis=1))


# ---- the search ----

search = jax.jit(best_tags(GIVEN))


def legal(tags):
    return all(
        NAMES[t][0] != "I" or (i > 0 and NAMES[tags[i - 1]][2:] == NAMES[t][2:])
        for i, t in enumerate(tags)
    )


# Every legal sequence, by its length.
LEGAL = {
    n: np.array([tags for tags in product(range(5), repeat=n) if legal(tags)])
    for n in range(1, 6)
}


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(0, 2**32 - 1))
def test_the_best_legal_tags_are_found(lengths, seed):
    """Against all sequences of each example, packed into rows that end in padding."""
    examples = make_examples([np.zeros(n, int) for n in lengths])
    layout = Layout(max_length=12, narrowest=12, fewest_rows=4)
    batch = pack(examples, np.arange(len(lengths)), layout, batch_size=4)
    logits = np.random.default_rng(seed).normal(0, 3, (4, 12, 5)).astype(np.float32)
    found = jax.device_get(search({"logits": logits}, batch))
    chances = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    picked = np.take_along_axis(chances, found.tags[..., None], -1)[..., 0]
    np.testing.assert_allclose(found.probabilities, picked, rtol=1e-5)
    for row, slot in np.argwhere(batch.slots):
        mine = batch.example[row] == slot + 1
        said = found.tags[row, mine]
        own = logits[row, mine].astype(np.float64)
        steps = np.arange(len(own))
        best = own[steps, LEGAL[len(own)]].sum(axis=1).max()
        assert legal(said)
        assert own[steps, said].sum() == pytest.approx(best, abs=1e-4)
    assert not found.tags[~batch.mask].any()


# ---- words again ----


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=12))
def test_words_bear_legal_tags_of_their_first_pieces(pieces):
    """Whatever the pieces' tags are; the spans stay what the lenient rule finds."""
    tags = np.array([t for t, _ in pieces], np.int32)
    first = np.flatnonzero([f for _, f in pieces])
    (words,) = decode([tags], [first], NAMES)
    assert legal([NAMES.index(w) for w in words])
    plain = [NAMES[t] for t in tags[first]]
    assert [w[2:] for w in words] == [w[2:] for w in plain]
    counts = total(role_counts([plain], [words]))
    assert counts.right == counts.gold == counts.predicted


def test_records_by_hand():
    data = propositions(("He gave it up .", (1, "O O O O O")))
    chances = [np.array([0.5, 0.9, 0.5, 0.25, 1.0], np.float32)]
    tags = [["B-A", "B-V", "B-X", "I-X", "O"]]
    (record,) = json.loads(json.dumps(records(data, tags, chances)))
    assert record == {
        "index": 0,
        "sentence": 0,
        "text": "He gave it up .",
        "predicate": {"text": "gave", "words": [1, 2], "characters": [3, 7]},
        "roles": [
            {
                "role": "A",
                "text": "He",
                "words": [0, 1],
                "characters": [0, 2],
                "probability": 0.5,
            },
            {
                "role": "X",
                "text": "it up",
                "words": [2, 4],
                "characters": [8, 13],
                "probability": 0.25,
            },
        ],
    }


def test_scores_are_micro_averages():
    gold = [["B-A", "B-V", "O"], ["B-V", "B-B", "I-B"]]
    said = [["B-A", "B-V", "B-C"], ["B-V", "B-B", "O"]]
    assert scores(gold, said) == pytest.approx(
        {"precision": 1 / 3, "recall": 1 / 2, "f1": 2 / 5}
    )


# ---- the real data ----


@pytest.fixture(scope="module")
def dev(shared):
    (file,) = (shared / "srl/ewt_propbank").glob("dev*")
    return read_propositions(file)


@pytest.fixture(scope="module")
def cased(shared):
    return load_tokenizer(shared / "bert/bert-base-cased-vocab.txt")


def test_gold_emissions_give_back_every_tag_of_the_dev_file(dev, cased):
    """Pieces, the search and words again lose nothing: no exception in 4,960."""
    names = tag_names(dev.tags)
    examples, starts = featurise(cased, dev, names, max_length=256)
    layout = Layout(max_length=256, narrowest=256, fewest_rows=96)
    tag = best_tags(GIVEN)

    @functools.partial(jax.jit, compiler_options=AS_FOR_USERS)
    def run(tags, batch):
        return tag({"logits": jax.nn.one_hot(tags, len(names))}, batch).tags

    found = [np.zeros(0)] * len(examples)
    for begin in range(0, len(examples), 620):
        chosen = np.arange(begin, min(begin + 620, len(examples)))
        batch = pack(examples, chosen, layout, batch_size=620)
        tags = np.asarray(run(batch.targets[TAG], batch))
        for row, slot in np.argwhere(batch.slots):
            found[batch.ids[row, slot]] = tags[row, batch.example[row] == slot + 1]
    words = decode(found, starts, names)
    assert words == dev.tags
    assert scores(dev.tags, words) == {"precision": 1, "recall": 1, "f1": 1}


def test_the_predicates_pieces_and_only_these_are_marked(dev, cased):
    names = tag_names(dev.tags)
    examples, starts = featurise(cased, dev, names, max_length=256)
    firsts = examples.offsets[:-1] + [
        s[p] for s, p in zip(starts, dev.predicate, strict=True)
    ]
    assert (examples.targets[TAG][firsts] == names.index("B-V")).all()
    assert examples.types[firsts].all()
    # One run of ones an example, each begun at the predicate's first piece.
    begins = np.flatnonzero(np.diff(examples.types, prepend=0) == 1)
    np.testing.assert_array_equal(begins, firsts)
    long = [i for i, t in enumerate(dev.tags) if "I-V" in t]
    assert len(long) > 50
    for i in long[:50]:
        word = dev.predicate[i] + 1
        assert dev.tags[i][word] == "I-V"
        assert examples.types[examples.offsets[i] + starts[i][word]] == 0


def test_pieces_and_their_tags_by_transformers(dev, cased, shared):
    """Its ids and word numbers, and from these the labels as srl_bert makes them."""
    transformers = pytest.importorskip("transformers")
    theirs = transformers.BertTokenizerFast(
        str(shared / "bert/bert-base-cased-vocab.txt"), do_lower_case=False
    )
    names = tag_names(dev.tags)
    examples, _ = featurise(cased, dev, names, max_length=256)
    for i in range(0, len(dev), 25):
        told = theirs(dev.words(i), is_split_into_words=True)
        expected, before = [], None
        for word in told.word_ids():
            tag = "O" if word is None else dev.tags[i][word]
            same = word is not None and word == before
            expected.append(tag.replace("B-", "I-", 1) if same else tag)
            before = word
        one = examples.subset([i])
        assert one.tokens.tolist() == told["input_ids"]
        assert [names[t] for t in one.targets[TAG]] == expected
