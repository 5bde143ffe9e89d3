"""Masked language modelling: which tokens of a batch are hidden, and behind what.

Devlin et al. 2019, section 3.1, as ``create_pretraining_data.py`` of google-research/
bert does it, but drawn anew in every epoch (Liu et al. 2019, section 4.1). Every draw
is a hash of (seed, epoch, example, position), as dropout's are, so it does not depend
on batch size, packing or the number of devices.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int, UInt64

from tl_jax.files.errors import ConfigError
from tl_jax.models.batch import Batch
from tl_jax.models.heads import SCORED
from tl_jax.text.subwords import Tokenizer

MASKED_LM = "masked_lm"
NEXT_SENTENCE = "next_sentence"
MASKED, KEPT = 0.8, 0.1  # of the chosen tokens; the rest becomes a random one
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLY_1 = np.uint64(0xBF58476D1CE4E5B9)
_MULTIPLY_2 = np.uint64(0x94D049BB133111EB)


@dataclass(frozen=True, eq=False)
class Masking:
    """What is masked.

    Attributes:
      vocab_size: Random tokens are any of these.
      mask_id: Of [MASK].
      special: Ids that are never chosen.
      rate: Share of an example's tokens, special ones counted, that are chosen.
      most: Most of an example's tokens (Google's ``max_predictions_per_seq``).
      begins: True for ids that begin a word, by id: whole words are chosen. None:
        pieces are.
      seed: Keys the draws.
    """

    vocab_size: int
    mask_id: int
    special: tuple[int, ...]
    rate: float = 0.15
    most: int = 20
    begins: Bool[np.ndarray, "V"] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.rate < 1 or self.most < 1:
            raise ConfigError(
                "The masked share is between 0 and 1, and at least one token is "
                f"masked: they are {self.rate} and {self.most}."
            )


def make_masking(
    tokenizer: Tokenizer,
    *,
    rate: float = 0.15,
    most: int = 20,
    whole_words: bool = False,
    seed: int = 0,
) -> Masking:
    """Makes the masking of a vocabulary; its [CLS], [SEP], [PAD], [MASK] stay."""
    special = tokenizer.special
    return Masking(
        tokenizer.vocab_size,
        special.mask,
        (special.cls, special.sep, special.pad, special.mask),
        rate,
        most,
        word_beginnings(tokenizer) if whole_words else None,
        seed,
    )


def word_beginnings(tokenizer: Tokenizer) -> Bool[np.ndarray, "V"]:
    """Tells which ids begin a word: all but ``##…``, or only ``▁…`` and ``Ġ…``.

    The latter where the vocabulary has such pieces, as BPE's and Unigram's do.
    """
    vocabulary = tokenizer.backend.get_vocab()
    marked = any(piece.startswith(("▁", "Ġ")) for piece in vocabulary)
    begins = np.ones(tokenizer.vocab_size, bool)
    for piece, number in vocabulary.items():
        begins[number] = (
            piece.startswith(("▁", "Ġ")) if marked else not piece.startswith("##")
        )
    return begins


def mask(batch: Batch, masking: Masking, room: int = 0) -> Batch:
    """Masks a batch.

    Of an example of ``n`` tokens ``min(most, max(1, round(rate · n)))`` are chosen; of
    these 80 % become [MASK], 10 % a random token and 10 % stay. Whole words are taken
    in random order as long as they fit.

    Args:
      batch: Rows of examples.
      masking: What is masked.
      room: How many chosen tokens a row must have room for, if the batch is a part of
        one in which there are as many.

    Returns:
      The batch with other tokens and, beside its targets, ``scored``: the columns
      ``[B, Q]`` of the chosen tokens, and ``masked_lm``: what stood there, with weight
      1, or 0 where a row has fewer than ``Q``. The weights of ``next_sentence`` are
      scaled so that the sum of both losses divided by the number of chosen tokens is
      the sum of both means (`tl_jax.tasks.pretraining`).
    """
    rows, columns = np.nonzero(batch.example)
    slots = np.asarray(batch.example)[rows, columns] - 1
    tokens = np.asarray(batch.tokens)[rows, columns]
    noise = _noise(batch, masking.seed, rows, columns, slots)
    group = rows * batch.ids.shape[1] + slots
    chosen = np.flatnonzero(_chosen(tokens, group, _uniform(noise, 0), masking))

    kind = _uniform(noise[chosen], 1)
    drawn = (_uniform(noise[chosen], 2) * masking.vocab_size).astype(np.int32)
    kept = np.where(kind < MASKED + KEPT, tokens[chosen], drawn)
    hidden = np.array(batch.tokens)
    hidden[rows[chosen], columns[chosen]] = np.where(
        kind < MASKED, masking.mask_id, kept
    )
    places = rows[chosen], columns[chosen], tokens[chosen]
    found = _by_row(*places, batch, masking.rate, room)
    targets, weights = batch.targets | found[0], batch.weights | found[1]
    if NEXT_SENTENCE in weights:
        pairs = weights[NEXT_SENTENCE]
        scale = len(chosen) / max(float(pairs.sum()), 1.0)
        weights[NEXT_SENTENCE] = (pairs * scale).astype(np.float32)
    return replace(batch, tokens=hidden, targets=targets, weights=weights)


def _chosen(
    tokens: Int[np.ndarray, "M"],
    group: Int[np.ndarray, "M"],
    score: Float[np.ndarray, "M"],
    masking: Masking,
) -> Bool[np.ndarray, "M"]:
    """Chooses tokens, or whole words, of each group in the order of their scores."""
    able = ~np.isin(tokens, masking.special)
    begins = able.copy()
    if masking.begins is not None:
        # A word does not go on over a special piece or into the next example.
        goes_on = np.zeros_like(able)
        goes_on[1:] = able[:-1] & (group[1:] == group[:-1])
        begins &= masking.begins[tokens] | ~goes_on
    unit = np.cumsum(begins) - 1
    sizes = np.bincount(unit[able], minlength=int(begins.sum())).tolist()
    owners = group[begins]
    lengths = np.bincount(group)
    left = at_most(lengths, masking).tolist()
    taken = np.zeros(len(sizes), bool)
    owner = owners.tolist()
    for u in np.lexsort((score[begins], owners)).tolist():
        if sizes[u] <= left[owner[u]]:
            left[owner[u]] -= sizes[u]
            taken[u] = True
    return able & taken[unit] if len(taken) else able


def at_most(lengths: Int[np.ndarray, "n"], masking: Masking) -> Int[np.ndarray, "n"]:
    """How many tokens are chosen of examples of these lengths, at most."""
    wanted = np.maximum(1, np.rint(lengths * masking.rate))
    return np.minimum(masking.most, wanted).astype(int)


def _by_row(
    rows: Int[np.ndarray, "m"],
    columns: Int[np.ndarray, "m"],
    tokens: Int[np.ndarray, "m"],
    batch: Batch,
    rate: float,
    needed: int,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Lays the chosen tokens into rows of ``Q``, one of a few numbers by width."""
    height, width = batch.tokens.shape
    counts = np.bincount(rows, minlength=height)
    place = np.arange(len(rows)) - (np.cumsum(counts) - counts)[rows]
    least = 8 * -int(-rate * width // 8)
    room = least
    while room < counts.max(initial=needed):
        room += max(8, least // 40 * 8)  # a fifth: few shapes, of which one is usual
    scored, wanted = (np.zeros((height, room), np.int32) for _ in range(2))
    weights = np.zeros((height, room), np.float32)
    scored[rows, place], wanted[rows, place] = columns, tokens
    weights[rows, place] = 1
    targets = {SCORED: scored, MASKED_LM: wanted}
    return targets, {SCORED: weights, MASKED_LM: weights}


def _noise(
    batch: Batch,
    seed: int,
    rows: Int[np.ndarray, "M"],
    columns: Int[np.ndarray, "M"],
    slots: Int[np.ndarray, "M"],
) -> UInt64[np.ndarray, "M"]:
    """Hashes (seed, epoch, example, position) into one number a token."""
    noise = _mix(np.array([seed], np.uint64))
    for value in (
        np.asarray(batch.epochs)[rows, slots],
        np.asarray(batch.ids)[rows, slots],
        np.asarray(batch.positions)[rows, columns],
    ):
        noise = _mix(noise ^ _mix(value.astype(np.uint64)))
    return noise


def _uniform(noise: UInt64[np.ndarray, "M"], draw: int) -> Float[np.ndarray, "M"]:
    """Turns the hashes into numbers 0 … 1, other ones for each number of draw."""
    bits = _mix(noise ^ _mix(np.array([draw], np.uint64)))
    return (bits >> np.uint64(11)) * 2.0**-53


def _mix(x: UInt64[np.ndarray, "M"]) -> UInt64[np.ndarray, "M"]:
    """Permutes the 64-bit integers: SplitMix64 (Steele, Lea & Flood 2014)."""
    x = x + _GOLDEN
    x = (x ^ (x >> np.uint64(30))) * _MULTIPLY_1
    x = (x ^ (x >> np.uint64(27))) * _MULTIPLY_2
    return x ^ (x >> np.uint64(31))
