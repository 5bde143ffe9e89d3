import functools
import itertools
import json
import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import drawn, tiny_bert, tiny_word_vectors
from hypothesis import given, settings
from hypothesis import strategies as st

from tl_jax.data.conll import read_tagged
from tl_jax.data.examples import make_examples
from tl_jax.data.packing import Layout, pack
from tl_jax.files.errors import DataError
from tl_jax.models.compose import compose, flatten_paths
from tl_jax.models.heads import Tag, TagCrf
from tl_jax.tasks.tagging import Tagging, character_scores, loss, scores, tagger
from tl_jax.tasks.word_tags import (
    Tagged,
    WordTags,
    decode,
    featurise,
    mentions,
    tag_ids,
    tag_names,
)
from tl_jax.text.alignment import align
from tl_jax.text.located import join
from tl_jax.text.subwords import load_tokenizer
from tl_jax.text.words import WordVocabulary

NAMES = ("O", "B-A", "I-A", "B-B", "I-B")
CLASSES = len(NAMES)
LENGTHS, WIDTH = (5, 3, 7, 2, 4, 1), 12
HEADS = {"softmax": Tag(CLASSES, 0.0), "crf": TagCrf(CLASSES, 0.0)}


def random_examples():
    """Tokens, half of which have legal tags; the last example has none."""
    draw = np.random.default_rng(0)
    tokens, tags, weights = [], [], []
    for number, length in enumerate(LENGTHS):
        tokens.append(draw.integers(0, 50, length))
        weight = (draw.random(length) < 0.6).astype(np.float32)
        weights.append(weight * (number < len(LENGTHS) - 1))
        legal, before = np.zeros(length, np.int32), 0
        for place in np.flatnonzero(weights[-1]):
            choices = [
                0,
                1,
                3,
                *([2] * (before in (1, 2))),
                *([4] * (before in (3, 4))),
            ]
            before = legal[place] = draw.choice(choices)
        tags.append(legal)
    return make_examples(
        tokens, token_targets={"tag": tags}, token_weights={"tag": weights}
    )


EXAMPLES = random_examples()
PADDED = pack(EXAMPLES, range(6), Layout(packed=False, max_length=WIDTH))
PACKED = pack(
    EXAMPLES,
    range(6),
    Layout(packed=True, max_length=WIDTH, narrowest=WIDTH, fewest_rows=6),
)


@pytest.fixture(scope="module", params=HEADS)
def model(request):
    return compose(tiny_bert(dropout=0.0, num_layers=1).encoder, HEADS[request.param])


@pytest.fixture(scope="module")
def params(model):
    return drawn(model, seed=3)


def legal(names):
    """By the definition of IOB2, which is tested here alone."""
    return all(
        tag[0] != "I" or (before != "O" and before[2:] == tag[2:])
        for before, tag in itertools.pairwise(["O", *names])
    )


@functools.partial(jax.jit, static_argnums=0)
def forward(model, params, batch):
    return model.apply(params, batch, train=False)


@functools.partial(jax.jit, static_argnums=0)
def loss_and_gradient(model, params, batch):
    def total(params):
        sums = loss(model)(params, batch, train=False)
        return sums["loss"].total, sums

    (_, sums), gradient = jax.value_and_grad(total, has_aux=True)(params)
    return sums, gradient


def logits_of(model, params, batch):
    """Emissions and, with a CRF, the learned scores of steps, in float64."""
    output = forward(model, params, batch)
    if isinstance(model.head, Tag):
        return np.float64(output), None
    return np.float64(output.emissions), [np.float64(x) for x in output.transitions]


def legal_sequences(emissions, transitions):
    """Every legal tag sequence of a few tokens and its score, by enumeration."""
    start, between, end = transitions or (np.zeros(5), np.zeros((5, 5)), np.zeros(5))
    for tags in itertools.product(range(CLASSES), repeat=len(emissions)):
        if legal([NAMES[tag] for tag in tags]):
            steps = sum(between[a, b] for a, b in itertools.pairwise(tags))
            own = sum(e[tag] for e, tag in zip(emissions, tags, strict=True))
            yield tags, own + start[tags[0]] + steps + end[tags[-1]]


def tagged_chains(batch):
    """Row and columns of the tagged tokens of each example that has any."""
    for row, slot in zip(*np.nonzero(batch.ids >= 0), strict=True):
        mine = (batch.example[row] == slot + 1) & (batch.weights["tag"][row] > 0)
        if mine.any():
            yield row, np.flatnonzero(mine)


def test_loss_is_its_definition(model, params):
    emissions, transitions = logits_of(model, params, PADDED)
    total = 0.0
    for row, columns in tagged_chains(PADDED):
        gold = tuple(PADDED.targets["tag"][row, columns].tolist())
        if transitions is None:
            for place, tag in zip(columns, gold, strict=True):
                own = emissions[row, place]
                total -= own[tag] - np.log(np.exp(own).sum())
        else:
            found = dict(legal_sequences(emissions[row, columns], transitions))
            total -= found[gold] - np.log(sum(np.exp(s) for s in found.values()))
    sums, _ = loss_and_gradient(model, params, PADDED)
    np.testing.assert_allclose(sums["loss"].total, total, rtol=1e-5)
    assert float(sums["loss"].weight) == PADDED.weights["tag"].sum()


def test_packed_gives_the_loss_and_gradient_of_padded(model, params):
    assert PACKED.tokens.shape == PADDED.tokens.shape
    assert (PACKED.ids >= 0).sum(axis=1).max() > 1

    wanted, one = loss_and_gradient(model, params, PADDED)
    found, other = loss_and_gradient(model, params, PACKED)
    for name in ("loss", "accuracy"):
        assert float(found[name].weight) == float(wanted[name].weight) > 5
        np.testing.assert_allclose(found[name].total, wanted[name].total, rtol=1e-5)
    one, other = flatten_paths(one), flatten_paths(other)
    assert any(float(abs(x).max()) > 0.1 for x in one.values())
    for path, values in one.items():
        np.testing.assert_allclose(
            other[path], values, rtol=1e-4, atol=1e-5, err_msg=path
        )


def test_tags_are_the_best_legal_ones_with_their_posterior(model, params):
    emissions, transitions = logits_of(model, params, PACKED)
    found = jax.jit(tagger(model))(params, PACKED)
    tags, probabilities = np.asarray(found.tags), np.asarray(found.probabilities)
    tagged = PACKED.weights["tag"] > 0
    assert (tags[~tagged] == 0).all() and (probabilities[~tagged] == 0).all()
    illegal = 0
    for row, columns in tagged_chains(PACKED):
        own = emissions[row, columns]
        illegal += not legal([NAMES[tag] for tag in own.argmax(axis=1)])
        sequences, values = zip(*legal_sequences(own, transitions), strict=True)
        weights = np.exp(values) / np.exp(values).sum()
        best = np.array(sequences[int(np.argmax(values))])
        np.testing.assert_array_equal(tags[row, columns], best)
        posterior = weights @ (np.array(sequences) == best)
        np.testing.assert_allclose(probabilities[row, columns], posterior, rtol=1e-4)
    assert illegal  # or the constraints had nothing to do


@pytest.fixture(scope="module")
def small(model):
    """A model that compiles quickly, and its compiled tagger."""
    small = compose(tiny_word_vectors(dropout=0.0).encoder, model.head)
    return drawn(small), jax.jit(tagger(small))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 1.0, 30.0, 1000.0]))
def test_no_illegal_sequence_is_ever_decoded(small, seed, scale):
    params, function = small
    draw = np.random.default_rng(seed)
    scaled = jax.tree.map(
        lambda x: jnp.asarray(scale * draw.normal(size=x.shape), jnp.float32),
        params["head"],
    )
    weights = (draw.random(PACKED.tokens.shape) < 0.7).astype(np.float32)
    batch = replace(PACKED, weights={"tag": weights * (PACKED.example > 0)})
    found = function(params | {"head": scaled}, batch)
    probabilities = np.asarray(found.probabilities)
    assert np.isfinite(probabilities).all() and probabilities.max(initial=0) < 1.0001
    for row, columns in tagged_chains(batch):
        assert legal([NAMES[tag] for tag in np.asarray(found.tags)[row, columns]])


def test_names_are_paired_and_sorted():
    assert tag_names([["O", "I-b"], ["B-a-c"]]) == (
        "O", "B-a-c", "I-a-c", "B-b", "I-b",
    )  # fmt: skip
    assert tag_names([["O"]]) == ("O",)


def test_unknown_tags_are_placed(tmp_path):
    path = tmp_path / "dev.tsv"
    path.write_text("a\tO\n\nb\tB-A\nc\tI-A\nd\tB-PERSOM\n")
    rows = read_tagged(path)
    ids = tag_ids(rows, tag_names(rows.tags))
    assert [x.tolist() for x in ids] == [[0], [1, 2, 3]]
    with pytest.raises(DataError) as caught:
        tag_ids(rows, ("O", "B-A", "I-A", "B-PERSON", "I-PERSON"))
    assert f"{path}:5: " in str(caught.value)
    assert "Did you mean 'B-PERSON'?" in str(caught.value)
    with pytest.raises(DataError, match="were not read"):
        tag_ids(read_tagged(path, labelled=False), NAMES)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocabulary")
    pieces = "[PAD] [UNK] [CLS] [SEP] [MASK] the un ##aff ##able man 김 ##치 김치 ##2"
    (folder / "vocab.txt").write_text(pieces.replace(" ", "\n") + "\n")
    return load_tokenizer(folder / "vocab.txt", lowercase=False)


def test_first_pieces_bear_the_tags(encoder):
    sentences = [["the", "unaffable", "man", "the"], ["man"]]
    aligned = align(encoder, sentences, max_length=6)
    tags = [np.array([0, 1, 2, 2], np.int32), np.array([3], np.int32)]
    examples = featurise(aligned, tags)
    np.testing.assert_array_equal(
        examples.targets["tag"],
        # [CLS] the un ##aff ##able [SEP]: the entity is cut after it, so I becomes B.
        [*(0, 0, 1, 0, 0, 0), *(0, 1, 2, 0), *(0, 3, 0)],
    )
    np.testing.assert_array_equal(
        examples.weights["tag"], [*(0, 1, 1, 0, 0, 0), *(0, 1, 1, 0), *(0, 1, 0)]
    )
    blind = featurise(aligned)
    np.testing.assert_array_equal(blind.weights["tag"], examples.weights["tag"])
    assert not blind.targets["tag"].any()


def as_found(aligned, examples):
    """What a perfect tagger would give: the examples' own targets."""
    cuts = examples.offsets[1:-1]
    return [
        Tagged(tags, np.where(first, np.float32(0.5), np.float32(0)))
        for tags, first in zip(
            np.split(examples.targets["tag"], cuts), aligned.first, strict=True
        )
    ]


def test_characters_get_the_tags_of_their_pieces(encoder):
    text = "김치 김치2 the2"
    tags = ["B-A", "I-A", "I-A", "I-A", "I-A", "I-A", "O", "B-B", "I-B", "I-B", "I-B"]
    aligned = align(encoder, [list(text)], max_length=12, characters=True)
    ids = [np.array([NAMES.index(tag) for tag in tags], np.int32)]
    examples = featurise(aligned, ids)
    # [CLS] 김치 김치 ##2 the ##2 [SEP]
    assert examples.targets["tag"].tolist() == [0, 1, 2, 2, 3, 4, 0]
    found = decode(aligned, as_found(aligned, examples), [list(text)], NAMES)
    assert found[0].tags == tags
    assert found[0].probabilities.tolist() == [0.5] * 6 + [1] + [0.5] * 4
    # An entity that begins within a piece begins at the next one.
    shifted = [np.array([0, 1, 2, 2, 2, 2, 0, 0, 0, 0, 0], np.int32)]
    assert featurise(aligned, shifted).targets["tag"].tolist() == [0, 0, 1, 2, 0, 0, 0]


@pytest.mark.parametrize("max_length", [512, 20])
def test_tags_of_words_come_back(shared, max_length):
    """Gold tags → examples → words; where a window cuts an entity, it is two."""
    text = load_tokenizer(shared / "bert/bert-base-cased-vocab.txt", lowercase=False)
    data = read_tagged(shared / "ner/wnut17/dev.conll")
    names = tag_names(data.tags)
    assert len(names) == 13
    aligned = align(text, data.sentences, max_length=max_length)
    examples = featurise(aligned, tag_ids(data, names))
    assert examples.weights["tag"].sum() == sum(map(len, data.sentences)) == 15733
    found = decode(aligned, as_found(aligned, examples), data.sentences, names)
    assert (len(aligned) == len(data)) == (max_length == 512)
    different = 0
    for words, tagged in zip(data.tags, found, strict=True):
        assert legal(tagged.tags)
        for wanted, tag in zip(words, tagged.tags, strict=True):
            different += wanted != tag
            assert wanted[2:] == tag[2:]
    score = scores(data.tags, [tagged.tags for tagged in found])
    assert (different == 0) == (max_length == 512)
    assert (score["conlleval_f1"] == 1) == (max_length == 512)
    assert score["strict_iob2_f1"] == score["conlleval_f1"] > 0.9


def expanded(tokenizer, sentence, labels):
    """KLUE-baseline's expansion of sub-words, without the blanks, by its own steps."""
    found, labels = [], iter(labels)
    for word in sentence.split(" "):
        for ids in tokenizer.pieces([word])[0]:
            piece = tokenizer.backend.id_to_token(int(ids)).removeprefix("##")
            label = next(labels)
            inside = label if label == "O" else f"I-{label[2:]}"
            found += [label, *[inside] * (len(piece) - 1)]
    return found


def test_klue_characters_come_back(shared, tmp_path):
    data = read_tagged(shared / "ner/klue_ner/dev.tsv")
    texts = ["".join(sentence) for sentence in data.sentences]
    words = sorted({word for text in texts for word in re.findall(r"\w+", text)})
    letters = sorted(set("".join(texts)) - {" "})
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    syllables = [*specials, *letters, *(f"##{c}" for c in letters)]
    twos = dict.fromkeys(w[:2] for w in words if len(w) > 1 and w[:2] not in letters)
    names = tag_names(data.tags)
    assert len(names) == 13
    ids = tag_ids(data, names)

    (tmp_path / "one.txt").write_text("\n".join(syllables) + "\n")
    one = load_tokenizer(tmp_path / "one.txt", lowercase=False)
    aligned = align(one, data.sentences, max_length=512, characters=True)
    found = decode(
        aligned, as_found(aligned, featurise(aligned, ids)), data.sentences, names
    )
    # A syllable a piece: everything comes back, blanks within entities included.
    assert [tagged.tags for tagged in found] == data.tags
    perfect = character_scores(
        data.sentences, data.tags, [t.tags for t in found], names
    )
    assert perfect == {"entity_macro_f1": 1, "character_macro_f1": 1}

    (tmp_path / "two.txt").write_text("\n".join([*syllables, *twos]) + "\n")
    two = load_tokenizer(tmp_path / "two.txt", lowercase=False)
    aligned = align(two, data.sentences, max_length=512, characters=True)
    given = as_found(aligned, featurise(aligned, ids))
    found = decode(aligned, given, data.sentences, names)
    for number, tagged in enumerate(found):
        labels = [names[t] for t in given[number].tags[aligned.first[number]]]
        wanted = expanded(two, texts[number], labels)
        own = [t for t, c in zip(tagged.tags, texts[number], strict=True) if c != " "]
        assert own == wanted
        assert legal(tagged.tags)
    rough = character_scores(data.sentences, data.tags, [t.tags for t in found], names)
    assert all(0.9 < value < 1 for value in rough.values())


def test_a_token_of_two_characters_is_told_with_its_line(tmp_path):
    file = tmp_path / "a.tsv"
    file.write_text("가\tB-PS\n나\tO\n\n다\tO\n라마\tO\n")
    task = Tagging(characters=True)
    with pytest.raises(DataError, match=r"a\.tsv:5: '라마'"):
        task.read(str(file), None, on_bad="raise", labelled=True)


def test_a_word_vocabulary_tags_characters_too():
    vocabulary = WordVocabulary(("<unk>", "<sep>", "the", "man"))
    sentences = [list("the man."), list("  ")]
    aligned = align(vocabulary, sentences, max_length=9, characters=True)
    tagged = [Tagged(np.array([1, 2, 0]), np.array([0.5, 0.25, 1], np.float32))]
    found = decode(aligned, tagged, sentences, NAMES)
    assert found[0].tags == ["B-A", *["I-A"] * 6, "O"]
    assert found[1].tags == ["O", "O"]


def test_mentions_stand_where_they_are_said_to():
    words = ["New", "York", "’s", "Eun-a", "."]
    chances = np.array([0.9, 0.5, 1, 0.75, 1], np.float32)
    tagged = WordTags(["B-LOC", "I-LOC", "O", "B-PER", "O"], chances)
    found = json.loads(json.dumps(mentions(join(words), tagged)))
    assert found == [
        {
            "type": "LOC",
            "text": "New York",
            "words": [0, 2],
            "characters": [0, 8],
            "probability": 0.5,
        },
        {
            "type": "PER",
            "text": "Eun-a",
            "words": [3, 4],
            "characters": [12, 17],
            "probability": 0.75,
        },
    ]
    for entity in found:
        begin, end = entity["characters"]
        assert " ".join(words)[begin:end] == entity["text"]
    (raw,) = mentions(
        join("김 치.", between=""),
        WordTags(["B-A", "I-A", "I-A", "O"], np.ones(4, np.float32)),
    )
    assert (raw["text"], raw["characters"]) == ("김 치", [0, 3])


def test_blanks_are_not_scored():
    gold, predicted = [["B-A", "I-A", "O"]], [["B-A", "B-B", "O"]]
    perfect = {"entity_macro_f1": 1, "character_macro_f1": 1}
    assert character_scores(["a b"], gold, predicted, NAMES) == perfect
    assert character_scores(["a\u3000b"], gold, predicted, NAMES) != perfect


def test_scores_name_their_rules():
    gold = [["I-A", "B-B", "O"]]
    found = scores(gold, [["B-A", "B-B", "B-B"]])
    assert found["conlleval_f1"] == pytest.approx(2 * 2 / 5)
    assert found["conlleval_f1/A"] == 1
    assert found["strict_iob2_f1"] == pytest.approx(2 * 1 / 4)
    assert found["strict_iob2_f1/A"] == 0
    assert found["accuracy"] == pytest.approx(1 / 3)
