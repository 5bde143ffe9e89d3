"""Raw text → a WordPiece vocabulary, the same one every time."""

import json
import tempfile
from collections.abc import Iterable
from pathlib import Path

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, trainers

from tl_jax.files import atomic
from tl_jax.text.subwords import Tokenizer, load_tokenizer

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PREFIX = "##"  # of a piece that does not begin a word


def train_wordpiece(
    texts: Iterable[str], vocab_size: int, *, lowercase: bool = False
) -> Tokenizer:
    """Trains a WordPiece vocabulary by merging the most frequent pairs of pieces.

    The trainer breaks ties by ids, and numbers the pieces of one character in an order
    that differs from run to run; here they are given their ids beforehand.

    Args:
      texts: Raw text.
      vocab_size: Most pieces, the special ones included.
      lowercase: Lower-case the text first. Its accents stay, so Hangul stays whole.
    """
    backend = tokenizers.Tokenizer(
        models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=100)
    )
    backend.normalizer = normalizers.BertNormalizer(
        lowercase=lowercase, strip_accents=False
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    texts = list(texts)
    inner = [f"{PREFIX}{c}" for c in sorted(_inner_characters(backend, texts))]
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        special_tokens=[*SPECIALS, *inner],
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


def _inner_characters(backend: tokenizers.Tokenizer, texts: Iterable[str]) -> set[str]:
    """Finds the characters that stand within words, not only at their beginning."""
    normalizer, splitter = backend.normalizer, backend.pre_tokenizer
    assert normalizer is not None and splitter is not None
    words = {
        word
        for text in texts
        for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))
    }
    return {character for word in words for character in word[1:]}
