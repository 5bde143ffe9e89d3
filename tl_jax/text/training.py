"""Raw text → a WordPiece vocabulary, the same one every time."""

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, trainers

from tl_jax.files import atomic
from tl_jax.files.errors import ConfigError
from tl_jax.text.subwords import Tokenizer, load_tokenizer

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PREFIX = "##"  # of a piece that does not begin a word
FEWEST = 8  # pieces of a vocabulary: the special ones, and a few
ALPHABET = 0.75  # the most that pieces of one character may take of a vocabulary


def train_wordpiece(
    texts: Iterable[str], vocab_size: int, *, lowercase: bool = False
) -> Tokenizer:
    """Trains a WordPiece vocabulary by merging the most frequent pairs of pieces.

    The trainer breaks ties by ids, and numbers the pieces of one character in an order
    that differs from run to run; here they are given their ids beforehand.

    Args:
      texts: Raw text, which is read twice: an iterator is held in memory.
      vocab_size: Most pieces, the special ones included. Where single characters,
        which stand once for a word's beginning and once for its inside, would take more
        than three quarters of it, the rarest of them have no piece.
      lowercase: Lower-case the text first. Its accents stay, so Hangul stays whole.

    Raises:
      ConfigError: ``vocab_size`` is below `FEWEST`.
    """
    if vocab_size < FEWEST:
        raise ConfigError(f"A vocabulary of {vocab_size}: at least {FEWEST} pieces.")
    backend = tokenizers.Tokenizer(
        models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=100)
    )
    backend.normalizer = normalizers.BertNormalizer(
        lowercase=lowercase, strip_accents=False
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    if iter(texts) is texts:
        texts = list(texts)
    words = _count_words(backend, texts)
    most = min(int(ALPHABET * vocab_size), vocab_size - len(SPECIALS))
    alphabet, inner = _choose_alphabet(words, most)
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        special_tokens=[*SPECIALS, *(f"{PREFIX}{c}" for c in inner)],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        continuing_subword_prefix=PREFIX,
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    state = json.loads(backend.to_str())
    state["added_tokens"] = [
        token for token in state["added_tokens"] if token["content"] in SPECIALS
    ]
    with tempfile.TemporaryDirectory() as folder:
        atomic.write_json(Path(folder) / "tokenizer.json", state)
        return load_tokenizer(Path(folder))


@dataclass(frozen=True)
class Reread:
    """Texts that are read anew each time.

    Attributes:
      read: Begins at the first one.
    """

    read: Callable[[], Iterator[str]]

    def __iter__(self) -> Iterator[str]:
        return self.read()


def _count_words(backend: tokenizers.Tokenizer, texts: Iterable[str]) -> Counter[str]:
    """Counts the words that the trainer will see."""
    normalizer, splitter = backend.normalizer, backend.pre_tokenizer
    assert normalizer is not None and splitter is not None
    return Counter(
        word
        for text in texts
        for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))
    )


def _choose_alphabet(
    words: Mapping[str, int], most: int
) -> tuple[list[str], list[str]]:
    """Chooses the most frequent characters whose pieces are not more than ``most``.

    Returns:
      The characters, and those of them that stand within words, too; both sorted.
    """
    counts: Counter[str] = Counter()
    within: set[str] = set()
    for word, count in words.items():
        within.update(word[1:])
        for character in word:
            counts[character] += count
    chosen: list[str] = []
    pieces = 0
    for character in sorted(counts, key=lambda c: (-counts[c], c)):
        pieces += 1 + (character in within)
        if pieces > most:
            break
        chosen.append(character)
    return sorted(chosen), sorted(within.intersection(chosen))
