"""Masks against the rules of create_pretraining_data.py, by statistics and by hand."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tl_jax.data.examples import make_examples
from tl_jax.data.masking import (
    MASKED_LM,
    NEXT_SENTENCE,
    Masking,
    make_masking,
    mask,
    word_beginnings,
)
from tl_jax.data.packing import Layout, pack
from tl_jax.files.errors import ConfigError
from tl_jax.models.heads import SCORED
from tl_jax.text.subwords import load_tokenizer

VOCABULARY, CLS, SEP, PAD, MASK = 1000, 1, 2, 0, 3
SPECIAL = (CLS, SEP, PAD, MASK)
PLAIN = Masking(VOCABULARY, MASK, SPECIAL)
# Odd ids go on with the word before them.
BEGINS = np.arange(VOCABULARY) % 2 == 0
WORDS = replace(PLAIN, begins=BEGINS)


def draw_examples(count, seed=0, longest=128, ids=None):
    """[CLS] a [SEP] b [SEP] of random pieces; b is missing from some."""
    draw = np.random.default_rng(seed)
    tokens = []
    for n in draw.integers(3, longest + 1, count):
        row = draw.integers(4, VOCABULARY, n)
        row[0], row[-1] = CLS, SEP
        if n > 6:
            row[n // 2] = SEP
        tokens.append(row)
    labels = draw.integers(0, 2, count)
    paired = [len(t) > 6 for t in tokens]
    return make_examples(
        tokens,
        targets={NEXT_SENTENCE: labels},
        weights={NEXT_SENTENCE: paired},
        ids=ids,
    )


def by_example(batch):
    """What was chosen by example: {id: [(position, hidden, true)]}."""
    found = {int(i): [] for i in batch.ids[batch.slots]}
    for r, q in zip(*np.nonzero(batch.weights[MASKED_LM]), strict=True):
        c = batch.targets[SCORED][r, q]
        number = int(batch.ids[r, batch.example[r, c] - 1])
        true = int(batch.targets[MASKED_LM][r, q])
        hidden = int(batch.tokens[r, c])
        found[number].append((int(batch.positions[r, c]), hidden, true))
    return found


PADDED = Layout(packed=False, max_length=128)
PACKED = Layout(max_length=128, narrowest=256, fewest_rows=1)


def masked(examples, masking=PLAIN, layout=PADDED, epoch=0):
    return mask(pack(examples, range(len(examples)), layout, epochs=epoch), masking)


def test_eighty_ten_ten_over_a_hundred_thousand_draws():
    examples = draw_examples(12_000)
    found = by_example(masked(examples))
    drawn = [entry for entries in found.values() for entry in entries]
    assert len(drawn) > 100_000
    hidden = np.array([h for _, h, _ in drawn])
    true = np.array([t for _, _, t in drawn])
    assert not np.isin(true, SPECIAL).any()
    share = (hidden == MASK).mean()
    assert abs(share - (0.8 + 0.1 / VOCABULARY)) < 5 * (0.16 / len(drawn)) ** 0.5
    kept = (hidden == true).mean()
    assert abs(kept - (0.1 + 0.1 / VOCABULARY)) < 5 * (0.09 / len(drawn)) ** 0.5
    # Random ids are of the whole vocabulary, special ones included, each as likely.
    other = hidden[(hidden != MASK) & (hidden != true)]
    counts = np.bincount(np.delete(other, other == MASK), minlength=VOCABULARY)
    expected = len(other) / VOCABULARY
    assert {CLS, SEP, PAD} & set(other.tolist())
    statistic = ((counts - expected) ** 2 / expected).sum()
    assert abs(statistic - VOCABULARY) < 6 * (2 * VOCABULARY) ** 0.5


def test_the_number_chosen_is_googles():
    examples = draw_examples(3000)
    found = by_example(masked(examples))
    for number, entries in found.items():
        length = int(examples.lengths[number])
        able = length - (3 if length > 6 else 2)
        wanted = min(20, max(1, int(round(length * 0.15))))  # noqa: RUF046
        assert len(entries) == min(wanted, able)
        assert len({p for p, _, _ in entries}) == len(entries)


def test_every_position_is_as_likely():
    tokens = [[CLS, *range(10, 48), SEP]] * 5000
    found = by_example(masked(make_examples(tokens)))
    counts = np.bincount([p for e in found.values() for p, _, _ in e], minlength=40)
    assert counts[0] == counts[39] == 0
    expected = 5000 * 6 / 38
    assert (abs(counts[1:39] - expected) < 5 * expected**0.5).all()


def test_only_chosen_tokens_change_and_the_rest_of_the_batch_is_as_it_was():
    examples = draw_examples(50)
    before = pack(examples, range(50), PACKED)
    after = mask(before, PLAIN)
    restored = after.tokens.copy()
    rows, places = np.nonzero(after.weights[MASKED_LM])
    columns = after.targets[SCORED][rows, places]
    restored[rows, columns] = after.targets[MASKED_LM][rows, places]
    np.testing.assert_array_equal(restored, before.tokens)
    for name in ("types", "positions", "example", "ids", "epochs"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))


@pytest.mark.parametrize("masking", [PLAIN, WORDS], ids=["pieces", "words"])
def test_draws_depend_on_seed_epoch_and_example_alone(masking):
    examples = draw_examples(40, ids=np.arange(40) * 52_345_678)
    whole = by_example(masked(examples, masking))
    packed = by_example(masked(examples, masking, PACKED))
    assert packed == whole
    order = np.random.default_rng(1).permutation(40)
    parts = {}
    for some in np.array_split(order, 7):
        batch = pack(examples, some, PACKED, rows_multiple_of=4)
        parts |= by_example(mask(batch, masking))
    assert parts == whole
    for other in (
        by_example(masked(examples, masking, epoch=1)),
        by_example(masked(examples, replace(masking, seed=1))),
        by_example(masked(replace(examples, ids=examples.ids + 1), masking)),
    ):
        same = [
            set(a) & set(b) for a, b in zip(other.values(), whole.values(), strict=True)
        ]
        assert sum(map(len, same)) < 0.4 * sum(map(len, whole.values()))


def words_of(row):
    """Whole words as lists of positions: an independent reading of BEGINS."""
    words, able_before = [], False
    for position, token in enumerate(row):
        able = token not in SPECIAL
        if able and able_before and token % 2:
            words[-1].append(position)
        elif able:
            words.append([position])
        able_before = able
    return words


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_whole_words_are_whole_and_no_more_fit(seed):
    examples = draw_examples(40, seed=seed, longest=60)
    found = by_example(masked(examples, replace(WORDS, seed=seed), PACKED))
    for number, entries in found.items():
        begin, end = examples.offsets[number], examples.offsets[number + 1]
        words = words_of(examples.tokens[begin:end])
        chosen = {p for p, _, _ in entries}
        left = min(20, max(1, round((end - begin) * 0.15))) - len(chosen)
        assert left >= 0
        for word in words:
            assert chosen.issuperset(word) or not chosen & set(word)
            # Google goes through all words and leaves out those that do not fit.
            assert chosen & set(word) or len(word) > left


def test_the_rate_of_whole_words_is_that_of_pieces():
    examples = draw_examples(2000)
    plain, words = (
        masked(examples, m).weights[MASKED_LM].sum() for m in (PLAIN, WORDS)
    )
    assert 0.97 < words / plain <= 1


def test_few_numbers_of_scored_columns():
    examples = draw_examples(400, longest=40)
    widths = set()
    for some in np.array_split(np.arange(400), 10):
        batch = mask(pack(examples, some, PACKED), PLAIN)
        assert batch.targets[SCORED].shape == batch.weights[MASKED_LM].shape
        widths.add(batch.targets[SCORED].shape[1])
    assert widths <= {40, 48, 56, 64}


def test_the_pairs_weights_add_up_to_the_masked_tokens():
    batch = masked(draw_examples(30, longest=20))
    weights = batch.weights[NEXT_SENTENCE]
    assert weights.sum() == pytest.approx(batch.weights[MASKED_LM].sum())
    assert len(set(weights[weights > 0].tolist())) == 1
    short = np.array([e.sum() <= 6 for e in batch.mask])
    assert (weights[short] == 0).all()


def test_words_begin_where_the_vocabulary_says(tmp_path: Path):
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "play", "##ing", "."]
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    tokenizer = load_tokenizer(tmp_path / "vocab.txt")
    assert word_beginnings(tokenizer).tolist() == [True] * 6 + [False, True]
    masking = make_masking(tokenizer, whole_words=True)
    assert set(masking.special) == {0, 2, 3, 4}
    assert (masking.mask_id, masking.vocab_size) == (4, 8)


def test_impossible_rates_are_refused():
    with pytest.raises(ConfigError, match="between 0 and 1"):
        Masking(VOCABULARY, MASK, SPECIAL, rate=1.0)
