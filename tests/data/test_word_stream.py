"""Numbered text, and its windows: every pair of neighbours once in each direction."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tl_jax.data.word_stream import BACKWARD, FORWARD, SPELLINGS, WordStream
from tl_jax.data.word_text import WordText, open_words, prepare_words
from tl_jax.files.errors import ConfigError, DataError, IntegrityError
from tl_jax.text.characters import word_characters

SENTENCES = [
    ["the", "film", "is", "a", "film"],
    [],
    ["<S>", "dull"],
    ["the", "the", "naïve", "영화", "is", "a"],
]
VOCABULARY = ("<S>", "</S>", "<UNK>", "the", "a", "film", "is")
OTHERS = ("dull", "naïve", "영화")


def prepared(folder: Path, sentences=SENTENCES, **options) -> WordText:
    prepare_words(folder, sentences, {"of": "x"}, **{"vocab_size": 7, **options})
    return open_words(folder)


@pytest.fixture
def text(tmp_path: Path) -> WordText:
    return prepared(tmp_path / "text")


def test_words_are_numbered_by_count_and_the_boundaries_come_first(text):
    assert text.vocabulary == VOCABULARY
    assert text.words == VOCABULARY + OTHERS
    read = [text.words[n] for n in text.tokens]
    # A boundary that stands in the text is none.
    assert read == [
        *("<S>", "the", "film", "is", "a", "film", "<S>", "<UNK>", "dull"),
        *("<S>", "the", "the", "naïve", "영화", "is", "a"),
    ]
    assert text.counts == {
        "sentences": 3,
        "words": 13,
        "distinct_words": 7,
        "unknown_words": 4,
    }
    assert text.source == {"of": "x"}


def test_held_out_text_takes_the_vocabulary_of_the_training_text(text, tmp_path):
    dev = prepared(tmp_path / "dev", [["a", "new", "film"]], vocabulary=VOCABULARY)
    assert dev.vocabulary == VOCABULARY
    assert dev.words[7:] == ("new",)
    assert dev.tokens.tolist() == [0, 4, 7, 5]


def test_damage_and_empty_text_are_told(text, tmp_path):
    file = tmp_path / "text" / "tokens.bin"
    raw = bytearray(file.read_bytes())
    raw[9] ^= 1
    file.write_bytes(raw)
    with pytest.raises(IntegrityError, match=r"tokens\.bin"):
        open_words(tmp_path / "text")
    with pytest.raises(DataError, match="no words"):
        prepared(tmp_path / "none", [[]])
    assert not (tmp_path / "none").exists()


def read_epoch(stream: WordStream, epoch: int = 0):
    """Rows of (first, second) in the order that each direction reads them."""
    steps = stream.steps_per_epoch
    found = {FORWARD: {}, BACKWARD: {}}
    for n in range(epoch * steps, (epoch + 1) * steps):
        batch = stream.batch(n)
        pairs = {
            FORWARD: (batch.tokens, batch.targets[FORWARD]),
            BACKWARD: (batch.inputs[BACKWARD], batch.targets[BACKWARD]),
        }
        for way, (given, wanted) in pairs.items():
            real = batch.weights[way] > 0
            for row in range(stream.rows):
                ids = zip(given[row][real[row]], wanted[row][real[row]], strict=True)
                ids = [(int(a), int(b)) for a, b in ids]
                own = found[way].setdefault(row, [])
                own += ids if way == FORWARD else ids[::-1]
    return found


# 16 pairs: streams of 8, 6 and 4, or a last one that is short; windows that fit or not.
@pytest.mark.parametrize(("rows", "length"), [(2, 4), (3, 4), (3, 5), (4, 1), (1, 99)])
def test_each_direction_goes_over_all_neighbours_once(text, rows, length):
    stream = WordStream(text, rows, length)
    known = [[t if t in VOCABULARY else "<UNK>" for t in s] for s in SENTENCES if s]
    known[1][0] = "<UNK>"
    number = VOCABULARY.index
    expected = [
        (number(a), number(b))
        for s in known
        for a, b in zip(["<S>", *s], [*s, "</S>"], strict=True)
    ]
    for epoch in (0, 1):
        found = read_epoch(stream, epoch)
        forward = [pair for row in range(rows) for pair in found[FORWARD][row]]
        assert forward == expected
        # Each row is read from its end, and goes on there from window to window.
        for row in range(rows):
            ahead = [(b, a) for a, b in found[FORWARD][row]]
            assert found[BACKWARD][row] == ahead[::-1]
    shapes = {stream.batch(n).tokens.shape for n in range(stream.steps_per_epoch)}
    assert shapes == {(rows, length)}


def test_positions_and_epochs_tell_where_a_batch_is(text):
    stream = WordStream(text, 2, 3)
    steps = stream.steps_per_epoch
    assert steps == 3
    batch = stream.batch(steps + 1)
    assert batch.positions.tolist() == [[3, 4, 5]] * 2
    assert batch.epochs.tolist() == [[1], [1]]
    assert batch.ids.tolist() == [[0], [1]]
    np.testing.assert_array_equal(batch.tokens, stream.batch(1).tokens)


@pytest.mark.parametrize("blocks", [1, 2])
def test_characters_are_those_of_each_word_even_of_unknown_ones(text, blocks):
    plain = WordStream(text, 4, 3)
    spelt = WordStream(text, 4, 3, max_characters=12, blocks=blocks)
    every = word_characters(text.words, length=12)
    seen = Counter()
    for n in range(plain.steps_per_epoch):
        batch, known = spelt.batch(n), plain.batch(n)
        characters = batch.inputs[SPELLINGS]
        assert characters.shape[0] == 4
        for rows in np.split(np.arange(4), blocks):
            table = characters[rows].reshape(-1, 12)
            first = table[batch.tokens[rows]]
            second = table[batch.inputs[BACKWARD][rows]]
            real = batch.mask[rows]
            words = [text.words[i] for i in _looked_up(first[real], every)]
            seen.update(words)
            ids = [min(text.words.index(w), 7) for w in words]
            known_ids = np.where(np.array(ids) >= 7, 2, ids)
            np.testing.assert_array_equal(known_ids, known.tokens[rows][real])
            _looked_up(second[batch.weights[BACKWARD][rows] > 0], every)
        np.testing.assert_array_equal(batch.targets[FORWARD], known.targets[FORWARD])
    assert seen == Counter(text.words[n] for n in text.tokens)


def _looked_up(spelt: np.ndarray, every: np.ndarray) -> list[int]:
    """Which words these characters are; each is one of the text's."""
    same = (spelt[:, None] == every[None]).all(axis=-1)
    assert (same.sum(axis=1) == 1).all()
    return same.argmax(axis=1).tolist()


def test_too_many_streams_for_a_text(text):
    with pytest.raises(DataError, match="too short for 17"):
        WordStream(text, 17, 3)
    with pytest.raises(ConfigError, match="one word at least"):
        WordStream(text, 2, 0)
