import math

import jax
import numpy as np
import pytest
from helpers import drawn, farthest, tiny_bert
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_tokenizers import byte_level, unigram

from tl_jax.data.examples import make_examples
from tl_jax.data.packing import Layout, pack
from tl_jax.data.questions import Gold, Questions
from tl_jax.data.squad import read_questions
from tl_jax.files.errors import ConfigError, DataError, NonFiniteError
from tl_jax.metrics.sums import mean
from tl_jax.models.compose import compose
from tl_jax.models.heads import Span
from tl_jax.tasks.span_answers import (
    decode,
    predictions,
    scores,
    tune_threshold,
    with_threshold,
)
from tl_jax.tasks.span_qa import loss, token_scores
from tl_jax.tasks.span_windows import END, START, max_context, windows
from tl_jax.text.subwords import load_tokenizer
from tl_jax.text.words import WordVocabulary


def asked(*rows):
    """Questions of (question, context, golds); those without golds are impossible."""
    contexts = list(dict.fromkeys(context for _, context, _ in rows))
    ids = [f"q{n}" for n in range(len(rows))]
    return Questions(
        contexts=contexts,
        context=np.array([contexts.index(context) for _, context, _ in rows]),
        titles=["T"] * len(rows),
        ids=ids,
        questions=[question for question, _, _ in rows],
        answers=[tuple(Gold(*gold) for gold in golds) for _, _, golds in rows],
        impossible=np.array([not golds for _, _, golds in rows]),
        places=[f"f.json: question {name}" for name in ids],
    )


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    """WordPiece of letters, lower-cased: a word is as many pieces as it has letters."""
    letters = "abcdefghijklmnopqrstuvwxyz.,"
    lines = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    lines += [prefix + letter for letter in letters for prefix in ("", "##")]
    path = tmp_path_factory.mktemp("letters") / "vocab.txt"
    path.write_text("\n".join(lines) + "\n")
    return load_tokenizer(path, lowercase=True)


def recovered(made, questions):
    """Where each window's targets lie in the text; None where they say no answer."""
    starts, ends = made.examples.targets[START], made.examples.targets[END]
    found = []
    for w, q in enumerate(made.question):
        offsets = made.offsets[questions.context[q]]
        first, last = (at[w] - made.begins[w] + made.starts[w] for at in (starts, ends))
        shown = starts[w] >= made.begins[w]
        assert shown or starts[w] == ends[w] == 0
        found.append((offsets[first][0], offsets[last][1]) if shown else None)
    return found


def check_windows(encoder, questions, made, **sizes):
    """All that a window promises, from the pieces of question and text alone."""
    bounds = made.examples.offsets
    for q in range(len(questions)):
        own = np.flatnonzero(made.question == q)
        (query,) = encoder.pieces([questions.questions[q]])
        context = questions.contexts[questions.context[q]]
        ((ids, offsets),) = encoder.pieces_with_offsets([context])
        np.testing.assert_array_equal(offsets, made.offsets[questions.context[q]])
        shown = set()
        for nth, w in enumerate(own):
            begin, length = made.starts[w], made.lengths[w]
            assert nth == 0 or begin - made.starts[w - 1] <= sizes["window_step"]
            framed = encoder.frame(
                query[: sizes["max_query"]], ids[begin : begin + length]
            )
            tokens = made.examples.tokens[bounds[w] : bounds[w + 1]]
            np.testing.assert_array_equal(tokens, framed.tokens)
            assert len(tokens) <= sizes["max_length"]
            assert made.begins[w] == framed.second
            shown |= set(range(begin, begin + length))
        assert shown == set(range(len(ids)))


def check_targets(questions, made):
    """A window with a target shows the fewest pieces that hold the answer's letters."""
    for w, span in enumerate(recovered(made, questions)):
        q = made.question[w]
        if not questions.answers[q]:
            assert span is None
            continue
        text, start = questions.answers[q][0]
        offsets = made.offsets[questions.context[q]]
        touched = [
            i for i, (a, b) in enumerate(offsets) if a < start + len(text) and start < b
        ]
        begin, end = made.starts[w], made.starts[w] + made.lengths[w]
        inside = touched and begin <= touched[0] and touched[-1] < end
        if not inside:
            assert span is None
        else:
            assert span == (offsets[touched[0]][0], offsets[touched[-1]][1])


def check(encoder, questions, sizes):
    made = windows(encoder, questions, **sizes)
    check_windows(encoder, questions, made, **sizes)
    check_targets(questions, made)


# Letters, accents, marks that combine, Hangul and its jamo, spaces, astral signs.
characters = st.sampled_from("abZé.,' \u202f\n한국\u1112\u1161\u0301İßﬁ😀\u200d①中")
unicode_texts = st.text(characters | st.characters(codec="utf-8"), max_size=30)


@st.composite
def rows_of_any_text(draw):
    rows = []
    for _ in range(draw(st.integers(1, 3))):
        context = draw(unicode_texts)
        begin = draw(st.integers(0, len(context)))
        end = draw(st.integers(begin, len(context)))
        golds = [(context[begin:end], begin)] if end > begin else []
        rows.append((draw(unicode_texts), context, golds))
    return rows


small_sizes = st.fixed_dictionaries(
    {
        # At least 8 pieces of a question, 4 special ones (RoBERTa's), 1 of the text.
        "max_length": st.integers(13, 30),
        "window_step": st.integers(1, 12),
        "max_query": st.integers(1, 8),
    }
)


@given(rows_of_any_text(), small_sizes, st.booleans())
@settings(deadline=None, max_examples=60)
def test_windows_of_words_on_any_text(rows, sizes, lowercase):
    vocabulary = WordVocabulary(("<unk>", "<sep>", "a", "한국"), lowercase)
    check(vocabulary, asked(*rows), sizes)


@given(rows_of_any_text(), small_sizes)
@settings(deadline=None, max_examples=60)
def test_windows_of_pieces_on_any_text(pieces, rows, sizes):
    check(pieces, asked(*rows), sizes)


@pytest.mark.parametrize("make", [lambda: byte_level(False), unigram])
def test_windows_of_other_tokenizers_on_any_text(make, tmp_path):
    make().save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(tmp_path)

    @given(rows_of_any_text(), small_sizes)
    @settings(deadline=None, max_examples=40)
    def on_any_text(rows, sizes):
        check(tokenizer, asked(*rows), sizes)

    on_any_text()


def test_windows_of_a_real_tokenizer_on_any_text(minilm):
    tokenizer = load_tokenizer(minilm)

    @given(rows_of_any_text(), small_sizes)
    @settings(deadline=None, max_examples=40)
    def on_any_text(rows, sizes):
        check(tokenizer, asked(*rows), sizes)

    on_any_text()


def test_windows_by_hand(pieces):
    """[CLS] q q [SEP] t t t [SEP]: three pieces of seven at a time, two on."""
    questions = asked(("qq?", "abc def g", [("ef", 5)]), ("qq", "ab", []))
    made = windows(pieces, questions, max_length=8, window_step=2, max_query=2)
    np.testing.assert_array_equal(made.question, [0, 0, 0, 1])
    np.testing.assert_array_equal(made.starts, [0, 2, 4, 0])
    np.testing.assert_array_equal(made.lengths, [3, 3, 3, 2])
    np.testing.assert_array_equal(made.begins, [4, 4, 4, 4])
    np.testing.assert_array_equal(made.examples.targets[START], [0, 0, 4, 0])
    np.testing.assert_array_equal(made.examples.targets[END], [0, 0, 5, 0])
    np.testing.assert_array_equal(made.examples.types[:8], [0, 0, 0, 0, 1, 1, 1, 1])
    # Farther apart than a window is long, pieces would be passed over.
    far = windows(pieces, questions, max_length=8, window_step=99, max_query=2)
    np.testing.assert_array_equal(far.starts, [0, 3, 6, 0])


# How many answers end within a piece, such as 'force' where 'forces' stands; not those
# whose start is uncertain, which may lie within any word.
@pytest.mark.parametrize(
    ("name", "encoder", "count", "within"),
    [
        ("squad_v1.1/train", "cased", 7805, 35),
        ("squad_v1.1/dev", "words", 1071, 4),
        ("squad_v2.0/dev", "cased", 953, 3),
    ],
)
def test_answers_of_squad_come_back(shared, name, encoder, count, within):
    path = shared / f"qa/{name}.json"
    unsure = set((path.parent / "ambiguous_start_ids.txt").read_text().split())
    questions = read_questions(path)
    assert len(questions) == count
    if encoder == "cased":
        tokenizer = load_tokenizer(shared / "bert/bert-base-cased-vocab.txt")
    else:
        tokenizer = WordVocabulary.build(questions.contexts)
    made = windows(tokenizer, questions)
    best = {}
    for w, span in enumerate(recovered(made, questions)):
        if span is not None:
            best[int(made.question[w])] = span
    assert set(best) == set(np.flatnonzero(~questions.impossible))
    changed = []
    for q, (begin, end) in best.items():
        text, start = questions.answers[q][0]
        context = questions.contexts[questions.context[q]]
        if (begin, end) == (start, start + len(text)):
            continue
        assert begin <= start < start + len(text) <= end
        before, after = context[begin:start], context[start + len(text) : end]
        assert not any(map(str.isspace, before + after))
        if questions.ids[q] not in unsure:
            changed.append(context[begin:end])
    assert len(changed) == within


def test_each_text_is_cut_into_pieces_once():
    """However many questions are on a paragraph, and windows on both."""
    seen = []

    class Counted(WordVocabulary):
        def pieces(self, texts):
            seen.extend(texts)
            return super().pieces(texts)

    long = "a " * 50
    questions = asked(("b", long, []), ("c", long, []), ("d", "e", []))
    made = windows(Counted(("<unk>", "<sep>")), questions, max_length=12, window_step=1)
    assert np.bincount(made.question).tolist() == [41, 41, 1]
    assert sorted(seen) == sorted(["b", "c", "d", long, "e"])


def test_sizes_that_leave_no_room_are_told(pieces):
    questions = asked(("a", "b", []), ("abcdef", "b", []))
    with pytest.raises(
        ConfigError, match=r"beside the 6 pieces of f.json: question q1"
    ):
        windows(pieces, questions, max_length=9)
    assert len(windows(pieces, questions, max_length=10)) == 2
    assert len(windows(pieces, questions, max_length=9, max_query=5)) == 2
    for sizes in ({"window_step": 0}, {"max_query": 0}):
        with pytest.raises(ConfigError, match="must be 1 or more"):
            windows(pieces, questions, **sizes)


def test_questions_without_labels_have_no_targets(pieces):
    questions = asked(("a", "b", []))
    questions.impossible[:] = False
    made = windows(pieces, questions)
    assert made.examples.targets == {}
    answers = decode([np.zeros((5, 2), np.float32)], made, questions, impossible=False)
    assert predictions(answers, questions) == {"q0": "b"}
    with pytest.raises(DataError, match="question q0: to score answers"):
        scores(answers, questions, "squad")


@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 12))
@settings(deadline=None, max_examples=100)
def test_max_context_by_its_definition(total, room, step):
    step = min(step, room)
    starts = [0]
    while starts[-1] + room < total:
        starts.append(starts[-1] + step)
    lengths = [min(room, total - start) for start in starts]
    expected = []
    for piece in range(total):
        best = (-1.0, -1)
        for k, (start, length) in enumerate(zip(starts, lengths, strict=True)):
            if start <= piece < start + length:
                around = min(piece - start, start + length - 1 - piece)
                value = round(around + 0.01 * length, 6)
                if value > best[0]:
                    best = value, k
        expected.append(best[1])
    found = max_context(np.array(starts), np.array(lengths))
    np.testing.assert_array_equal(found, expected)


# The loss


@pytest.fixture(scope="module")
def model():
    return compose(tiny_bert(dropout=0.0, num_layers=1).encoder, Span())


@pytest.fixture(scope="module")
def params(model):
    return drawn(model)


@pytest.fixture(scope="module")
def examples():
    draw = np.random.default_rng(3)
    lengths = draw.integers(2, 9, 11)
    targets = {name: draw.integers(0, lengths) for name in (START, END)}
    weights = dict.fromkeys(targets, draw.integers(0, 4, 11).astype(np.float32))
    return make_examples(
        [draw.integers(0, 50, n) for n in lengths], targets=targets, weights=weights
    )


@pytest.fixture(scope="module")
def summed(model, params, examples):
    """Sums, gradient and scores of the same examples in packed rows, and one a row."""
    packed = Layout(packed=True, max_length=16, narrowest=16, fewest_rows=6)
    layouts = {"packed": packed, "padded": Layout(packed=False, max_length=16)}

    @jax.jit
    def run(params, batch):
        def total(params):
            sums = loss(model)(params, batch, train=False)
            return sums["loss"].total, sums

        gradient, sums = jax.grad(total, has_aux=True)(params)
        return sums, gradient, token_scores(model)(params, batch)

    found = {}
    for name, layout in layouts.items():
        batch = pack(examples, np.arange(len(examples)), layout)
        found[name] = (batch, *jax.device_get(run(params, batch)))
    assert (found["packed"][0].example > 1).any()
    assert (found["packed"][0].ids < 0).any()
    return found


@pytest.mark.parametrize("name", ["packed", "padded"])
def test_loss_is_the_cross_entropy_over_own_tokens(summed, examples, name):
    batch, sums, _, values = summed[name]
    assert values.dtype == np.float32
    assert values.shape == (*batch.tokens.shape, 2)
    total = right = 0.0
    for row, slot in zip(*np.nonzero(batch.ids >= 0), strict=True):
        number = batch.ids[row, slot]
        own = values[row][batch.example[row] == slot + 1].astype(np.float64)
        weight = examples.weights[START][number]
        ends = [examples.targets[which][number] for which in (START, END)]
        for k, target in enumerate(ends):
            odds = np.exp(own[:, k])
            total += -0.5 * weight * math.log(odds[target] / odds.sum())
        right += weight * (own.argmax(axis=0) == ends).all()
    np.testing.assert_allclose(sums["loss"].total, total, rtol=1e-5)
    np.testing.assert_allclose(sums["exact"].total, right)
    for ratio in sums.values():
        assert float(ratio.weight) == examples.weights[START].sum()


def test_packed_is_padded(summed):
    """The same sums, and the same gradient of every parameter."""
    (_, packed, gradient, _), (_, padded, expected, _) = summed.values()
    assert mean(packed) == pytest.approx(mean(padded), rel=1e-5)
    assert farthest(gradient, expected) < 1e-5 * max(
        1.0, max(float(np.abs(x).max()) for x in jax.tree.leaves(expected))
    )


# Decoding


def exhaustive(values, made, questions, number, *, n_best, max_answer):
    """Every legal span of a question, the best first, each text once; and the null."""
    own = [int(w) for w in np.flatnonzero(made.question == number)]
    context = questions.contexts[questions.context[number]]
    offsets = made.offsets[questions.context[number]]
    chosen = max_context(made.starts[own], made.lengths[own])
    spans, null = [], math.inf
    for k, w in enumerate(own):
        null = min(null, float(values[w][0, 0]) + float(values[w][0, 1]))
        pieces = range(made.starts[w], made.starts[w] + made.lengths[w])
        for i in pieces:
            for j in pieces:
                if chosen[i] == k and i <= j < i + max_answer:
                    shift = made.begins[w] - made.starts[w]
                    start, end = values[w][shift + i, 0], values[w][shift + j, 1]
                    spans.append((-(float(start) + float(end)), i, j))
    found = {}
    for score, i, j in sorted(spans):
        begin, end = int(offsets[i][0]), int(offsets[j][1])
        found.setdefault(context[begin:end], (begin, end, -score))
    return list(found.items())[:n_best], null


@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 6), st.booleans())
@settings(deadline=None, max_examples=60)
def test_decoding_equals_exhaustive_search(pieces, seed, n_best, max_answer, ties):
    draw = np.random.default_rng(seed)
    rows = []
    for _ in range(3):
        letters = draw.choice(list("ab  "), draw.integers(0, 25))
        rows.append(("q" * draw.integers(1, 4), "".join(letters), []))
    questions = asked(*rows)
    made = windows(
        pieces, questions, max_length=12, window_step=int(draw.integers(1, 9))
    )
    values = [
        (draw.integers(-2, 3, (n, 2)) if ties else draw.normal(size=(n, 2))).astype(
            "f4"
        )
        for n in made.examples.lengths
    ]
    sizes = {"n_best": n_best, "max_answer": max_answer}
    known = decode(values, made, questions, impossible=False, **sizes)
    threshold = float(draw.normal())
    found = decode(
        values, made, questions, impossible=True, null_threshold=threshold, **sizes
    )
    for number, (answer, sure) in enumerate(zip(found, known, strict=True)):
        spans, null = exhaustive(values, made, questions, number, **sizes)
        best = spans[0] if spans else ("", (0, 0, 0.0))
        assert [c[:4] for c in answer.n_best] == [(t, *rest) for t, rest in spans]
        assert answer.null_odds == null - best[1][2]
        none = answer.null_odds > threshold
        text, (begin, end, _) = ("", (0, 0, 0)) if none else best
        assert (answer.text, answer.start, answer.end) == (text, begin, end)
        assert (sure.text, sure.start, sure.end) == (best[0], *best[1][:2])
        weights = [math.exp(score) for _, (_, _, score) in spans]
        for each, rest in ((sure, 0.0), (answer, math.exp(null))):
            total = sum(weights) + rest
            shares = [c.probability for c in each.n_best]
            assert shares == pytest.approx([w / total for w in weights])
            share = rest / total if total else 0.0
            assert each.null_probability == pytest.approx(share)


def test_answers_are_cut_from_the_original_text(pieces):
    """Case, accents and double spaces stay as they stand."""
    text = "x Café  Noir, y"
    questions = asked(("q", text, [("Café  Noir", 2)]))
    made = windows(pieces, questions)
    values = np.zeros((made.examples.lengths[0], 2), np.float32)
    values[made.examples.targets[START][0], 0] = 9
    values[made.examples.targets[END][0], 1] = 9
    (answer,) = decode([values], made, questions, impossible=False)
    assert (answer.text, answer.start, answer.end) == ("Café  Noir", 2, 12)
    found = scores([answer], questions, "squad")
    assert found == {"exact_match": 100, "f1": 100}


def test_right_scores_give_all_answers_of_squad_2(shared):
    folder = shared / "qa/squad_v2.0"
    unsure = set((folder / "ambiguous_start_ids.txt").read_text().split())
    questions = read_questions(folder / "dev.json").first(300)
    assert 100 < questions.impossible.sum() < 200
    tokenizer = load_tokenizer(shared / "bert/bert-base-cased-vocab.txt")
    made = windows(tokenizer, questions, max_length=192, window_step=64)
    values = [np.zeros((n, 2), np.float32) for n in made.examples.lengths]
    for k, name in enumerate((START, END)):
        for value, target in zip(values, made.examples.targets[name], strict=True):
            value[target, k] = 5
    found = decode(values, made, questions, impossible=True, max_answer=60)
    for answer, golds, name in zip(
        found, questions.answers, questions.ids, strict=True
    ):
        assert bool(answer.text) == bool(golds)
        if golds and name not in unsure:
            assert golds[0].text in answer.text
    told = scores(found, questions, "squad-v2")
    assert told["NoAns_exact_match"] == 100
    assert told["HasAns_exact_match"] > 99
    # Odds are 10 without an answer and 0 or less with one: any between serves.
    tuned = tune_threshold(found, questions, "squad-v2")
    for name, (threshold, score) in tuned.items():
        assert threshold < 10
        again = scores(with_threshold(found, threshold), questions, "squad-v2")
        assert again[name] == pytest.approx(score)
        assert score == pytest.approx(told[name])
    never = scores(with_threshold(found, -1e9), questions, "squad-v2")
    assert (never["HasAns_f1"], never["NoAns_f1"]) == (0, 100)


def test_what_cannot_be_decoded_is_told(pieces):
    questions = asked(("q", "ab", []), ("q", "c", []))
    made = windows(pieces, questions)
    values = [np.zeros((n, 2), np.float32) for n in made.examples.lengths]
    for wrong in (values[:1], values[::-1]):
        with pytest.raises(DataError, match="do not belong"):
            decode(wrong, made, questions, impossible=False)
    with pytest.raises(DataError, match="to the 1 questions"):
        decode(values, made, questions.first(1), impossible=False)
    for sizes in ({"n_best": 0}, {"max_answer": 0}):
        with pytest.raises(ConfigError, match="must be 1 or more"):
            decode(values, made, questions, impossible=False, **sizes)
    values[1][2, 0] = np.nan
    with pytest.raises(NonFiniteError, match="question q1"):
        decode(values, made, questions, impossible=False)
