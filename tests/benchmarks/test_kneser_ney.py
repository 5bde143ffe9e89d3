"""The n-gram model that ELMo is measured by."""

import importlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tl_jax.data.word_stream import BACKWARD, FORWARD, WordStream
from tl_jax.files.errors import DataError
from tl_jax.runs.pretrain_config import PretrainElmoConfig
from tl_jax.runs.pretrain_elmo_setup import prepare_text
from tl_jax.text.vocabulary import BEGIN_ID, END_ID, UNKNOWN_ID

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
VOCABULARY = 9


@pytest.fixture(scope="module")
def kneser_ney():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        return importlib.import_module("kneser_ney")


def random_sentences(count, seed):
    """Sentences whose words depend on the one before; word 8 never occurs."""
    draw = np.random.default_rng(seed)
    table = draw.dirichlet(np.full(VOCABULARY - 3, 0.4), VOCABULARY)
    found = []
    for _ in range(count):
        words, word = [], 0
        for _ in range(draw.integers(1, 12)):
            word = 2 + draw.choice(VOCABULARY - 3, p=table[word])
            words.append(int(word))
        found.append(words)
    return found


def by_definition(sentences, order):
    """P(word | history), recursively, from sets and counters of tuples."""
    framed = [(0, *sentence, END_ID) for sentence in sentences]
    raw = Counter(
        s[i : i + n]
        for n in range(1, order + 1)
        for s in framed
        for i in range(len(s) - n + 1)
    )
    counts = {}
    for gram, n in raw.items():
        if gram == (0,):
            continue
        before = len({g[0] for g in raw if len(g) > 1 and g[1:] == gram})
        counts[gram] = n if len(gram) == order or gram[0] == 0 else before
    taken = {n: [0, 0.5, 1, 1.5] for n in range(1, order + 1)}
    for n in range(2, order + 1):  # the words are too few for the formula
        of = Counter(c for gram, c in counts.items() if len(gram) == n)
        y = of[1] / (of[1] + 2 * of[2])
        taken[n] = [0] + [k - (k + 1) * y * of[k + 1] / of[k] for k in (1, 2, 3)]
        assert all(0 <= d <= k for k, d in enumerate(taken[n]))

    def probability(word, history):
        shorter = 1 / (VOCABULARY - 1)
        if history:
            shorter = probability(word, history[1:])
        n = len(history) + 1
        followers = {g: c for g, c in counts.items() if g[:-1] == history}
        followers = {g: c for g, c in followers.items() if len(g) == n}
        total = sum(followers.values())
        if not total:
            return shorter
        lost = sum(taken[n][min(c, 3)] for c in followers.values())
        own = followers.get((*history, word), 0)
        return (own - taken[n][min(own, 3)]) / total + lost / total * shorter

    return probability


def test_a_text_by_hand(kneser_ney):
    # "a b a" and "a c"; with so few counts D is ½, 1, 1½.
    a, b, c, size = 3, 4, 5, 6
    model = kneser_ney.train(kneser_ney.frame([[a, b, a], [a, c]]), size, 2)
    # Words before: of a <S> and b, of </S> a and c, of b and c one each; 6 in all.
    single = np.array([0, 1 / 6, 0, 1 / 6, 0.5 / 6, 0.5 / 6]) + 3 / 6 * 1 / 5
    single[0] = 0
    np.testing.assert_allclose(model[0].probabilities, single, rtol=1e-12)
    dev = kneser_ney.frame([[a, b], [UNKNOWN_ID], [a, UNKNOWN_ID]])
    found = kneser_ney.probabilities(model, dev)
    first = (2 - 1) / 2 + 1 / 2 * single[a]  # <S> a, twice
    second = (1 - 0.5) / 3 + 1.5 / 3 * single[b]  # a b; three words follow a
    lost = 1 / 2 * single[UNKNOWN_ID]  # after <S>
    end, nothing = single[END_ID], 1.5 / 3 * single[UNKNOWN_ID]  # a <UNK>
    expected = [0, first, second, 0.5 * end, 0, lost, end, 0, first, nothing, end]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_discounts_by_hand(kneser_ney):
    counts = np.array([1, 1, 1, 1, 2, 2, 3, 4, 7, 0])  # n1 … n4 = 4, 2, 1, 1
    np.testing.assert_allclose(kneser_ney.discounts(counts), [0, 0.5, 1.25, 1])


@pytest.mark.parametrize("order", [1, 3, 5])
def test_every_word_has_the_probability_of_the_definition(kneser_ney, order):
    sentences = random_sentences(60, 0)
    model = kneser_ney.train(kneser_ney.frame(sentences), VOCABULARY, order)
    probability = by_definition(sentences, order)
    dev = [*random_sentences(8, 1), [8, 3, UNKNOWN_ID], []]
    found = kneser_ney.probabilities(model, kneser_ney.frame(dev))
    expected = []
    for sentence in dev:
        framed = (0, *sentence, END_ID)
        histories = [framed[max(0, i - order + 1) : i] for i in range(len(framed))]
        pairs = zip(framed[1:], histories[1:], strict=True)
        expected += [0, *(probability(word, history) for word, history in pairs)]
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_the_probabilities_after_any_history_sum_to_one(kneser_ney):
    sentences = random_sentences(300, 2)
    model = kneser_ney.train(kneser_ney.frame(sentences), VOCABULARY)
    histories = [s[:i] for s in random_sentences(40, 3) for i in range(len(s))]
    histories += [s[:i] for s in sentences[:40] for i in range(len(s))]
    for history in histories:
        every = [[*history, word] for word in range(1, VOCABULARY)]
        text = kneser_ney.frame(every)
        found = kneser_ney.probabilities(model, text)
        assert found[text.places == len(history) + 1].sum() == pytest.approx(1, 1e-9)


def prepared_run(out, text, dev, vocab_size):
    """What `tl-jax pretrain elmo` has prepared before its first step."""
    files = out.parent / "text.txt", out.parent / "dev.txt"
    for file, lines in zip(files, (text, dev), strict=True):
        file.write_text("\n".join(lines) + "\n")
    given = (str(files[0]),), (), (str(files[1]),)
    config = PretrainElmoConfig(*given, splits="spaces", vocab_size=vocab_size)
    return prepare_text(config, out)


def test_a_run_by_hand_on_the_words_that_the_bilm_is_scored_on(kneser_ney, tmp_path):
    """The text of `test_a_text_by_hand`, by way of files."""
    dev = ["a b", "new", "", "a <S>"]
    parts = prepared_run(tmp_path / "run", ["a b a", "a c"], dev, 100)
    found = kneser_ney.main(kneser_ney.Config(tmp_path / "run", order=2))
    single = np.array([0, 1 / 6, 0, 1 / 6, 0.5 / 6, 0.5 / 6]) + 3 / 6 * 1 / 5
    first, second = 1 / 2 + 1 / 2 * single[3], 0.5 / 3 + 1.5 / 3 * single[4]
    lost, end, nothing = single[2] / 2, single[1], 1.5 / 3 * single[2]
    every = [first, second, 0.5 * end, lost, end, first, nothing, end]
    assert (found["vocabulary"], found["tokens"]) == (6, len(every))
    assert found["unknown"] == 2 / 8
    perplexity = np.exp(-np.mean(np.log(every)))
    assert found["forward"]["perplexity"] == pytest.approx(perplexity, rel=1e-12)
    # The biLM predicts these words, and backward <S> where that has </S>.
    scored = kneser_ney.frame(kneser_ney.sentences(parts["dev"]))
    words = scored.words[scored.places > 0].tolist()
    stream = WordStream(parts["dev"], 3, 2)
    batches = [stream.batch(n) for n in range(stream.steps_per_epoch)]
    for way, last in ((FORWARD, END_ID), (BACKWARD, BEGIN_ID)):
        seen = [b.targets[way][b.weights[way] > 0] for b in batches]
        expected = [last if word == END_ID else word for word in words]
        assert Counter(np.concatenate(seen).tolist()) == Counter(expected)
    assert len(parts["dev"]) == found["tokens"]  # by which its perplexity divides


def test_backward_is_forward_on_reversed_text(kneser_ney, tmp_path):
    parts = [["the cat sat on the mat", "the dog sat"] * 20, ["the bird sat", "on it"]]
    turned = [[" ".join(reversed(s.split())) for s in part] for part in parts]
    found = []
    for n, (text, dev) in enumerate((parts, turned)):
        (tmp_path / str(n)).mkdir()
        prepared_run(tmp_path / str(n) / "run", text, dev, 7)
        found.append(kneser_ney.main(kneser_ney.Config(tmp_path / str(n) / "run")))
    for one, other in (("forward", "backward"), ("backward", "forward")):
        assert found[0][one]["perplexity"] == found[1][other]["perplexity"]
    assert found[0]["forward"]["perplexity"] != found[0]["backward"]["perplexity"]


def test_the_perplexities_of_a_run_that_has_ended_stand_beside(kneser_ney, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(DataError, match="no run of `tl-jax pretrain elmo` with held"):
        kneser_ney.main(kneser_ney.Config(run))
    prepared_run(run, ["a b a", "a c"], ["a b"], 100)
    (run / "results.json").write_text('{"dev": {"perplexity": 9.0}}')
    results = tmp_path / "results.jsonl"
    found = kneser_ney.main(kneser_ney.Config(run, results=results))
    assert found["elmo"] == {"perplexity": 9.0}
    assert json.loads(results.read_text("utf-8")) == {"run": "run", **found}
