import subprocess
import sys
from itertools import pairwise

import pytest

from tl_jax.files.errors import ConfigError
from tl_jax.text.training import Reread, train_wordpiece

# Many pairs are equally frequent, so ties decide what is merged.
TEXTS = [f"{a}{b} 영화{b} {b}{a}요" for a in "abcdefg가나다라" for b in "hijk마바사"]


def test_merges_by_hand() -> None:
    # l-o 5 times, then lo-w: "low" is worth a piece, "er" is next.
    tokenizer = train_wordpiece(["low low low lower lower"], 16)
    pieces = tokenizer.backend.get_vocab()
    assert "low" in pieces
    first = int(tokenizer.pieces(["lower"])[0][0])
    assert tokenizer.backend.id_to_token(first).startswith("low")
    assert tokenizer.vocab_size <= 16


def test_texts_may_come_by_any_road() -> None:
    roads = TEXTS, Reread(lambda: iter(TEXTS)), iter(TEXTS)
    vocabularies = [train_wordpiece(road, 60).backend.get_vocab() for road in roads]
    assert vocabularies[0] == vocabularies[1] == vocabularies[2]


def test_hangul_stays_whole_and_case_can_be_dropped() -> None:
    tokenizer = train_wordpiece(["한국 영화 Good"], 100, lowercase=True)
    assert not tokenizer.splits_hangul
    assert len(tokenizer.pieces(["GOOD"])[0]) == len(tokenizer.pieces(["good"])[0])
    assert (tokenizer.pieces(["한국 영화"])[0] != tokenizer.special.unk).all()


@pytest.mark.parametrize("size", [60, 90])
def test_the_same_text_gives_the_same_vocabulary_in_any_process(size: int) -> None:
    script = (
        "import sys, hashlib; from tl_jax.text.training import train_wordpiece\n"
        f"t = train_wordpiece({TEXTS!r}, {size})\n"
        "print(hashlib.sha256(t.backend.to_str().encode()).hexdigest())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        ).stdout
        for _ in range(3)
    }
    assert len(found) == 1


def test_rare_characters_leave_room_for_longer_pieces() -> None:
    """Of 400 syllables, at both places, a vocabulary of 80 holds the usual ones."""
    syllables = [chr(0xAC00 + 28 * n) for n in range(400)]
    rare = [a + b for a, b in pairwise(syllables)]
    tokenizer = train_wordpiece([*rare, *["영화 영화관"] * 50], 80)
    pieces = tokenizer.backend.get_vocab()
    assert tokenizer.vocab_size == 80
    assert {"영화", "영화관"} <= pieces.keys()
    single = [p for p in pieces if len(p.removeprefix("##")) == 1]
    assert len(single) <= 60


def test_a_small_vocabulary_is_not_exceeded() -> None:
    """Special pieces and characters alone took eight of five or seven pieces."""
    for size in range(8, 24):
        assert train_wordpiece(["a b ab"] * 5 + TEXTS, size).vocab_size <= size
    with pytest.raises(ConfigError, match="A vocabulary of 7: at least 8 pieces"):
        train_wordpiece(["a b ab"], 7)
