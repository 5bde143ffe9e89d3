"""Perplexity of an interpolated, modified Kneser-Ney model, to measure ELMo's biLM by.

    python benchmarks/kneser_ney.py --run RUN [--results FILE]

Chen & Goodman 1998 (TR-10-98), section 3: for a word w after a history h ::

    P(w | h) = max(c(h w) - D(c(h w)), 0) / c(h) + γ(h) P(w | h')

where h' lacks the first word of h, and below single words all are equally likely. D has
three values, for counts of 1, 2 and more, from the counts of counts; γ(h) is what they
take. The longest n-grams are counted as they are, shorter ones by the number of words
before them, but for those that begin a sentence: nothing stands before them.

RUN is one of `tl-jax pretrain elmo` with held-out text. Both models read what that run
has numbered, so their sentences, vocabulary and <UNK> are the same; so are the words
that they are scored on, one more than a sentence has, in both directions: ``</S>``
forward, which backward, on the text reversed, stands for the ``<S>`` that the biLM
predicts there. The biLM sees the sentences before (or after), too; the n-grams do not.

Measured, up to an hour of one core each, options not named as they are by default
(perplexity forward / backward; ``benchmarks/results/language_models.jsonl``):

- English, 8.9 million words: four novels of Project Gutenberg and IMDb's reviews
  (`experiments/imdb_text.py`) by --text, wiki-split's sentences by --lines; --dev Pride
  and Prejudice; --steps 4200 (5.4 million words) --sampled 2048: **86.9 / 86.9**,
  Kneser-Ney 129.1 / 129.5.
- Korean, 1.0 million: NSMC's reviews, FrameNet's sentences and React's documentation by
  --lines; --dev the Korean side of parallel news, of whose words 31 % are <UNK>;
  --steps 3600 --sampled 2048 --vocab-size 40000 --dropout 0.2: **114.5 / 139.7**,
  Kneser-Ney 275.0 / 271.5.
"""

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tyro
from jaxtyping import Bool, Float64, Int64
from results_file import append

from tl_jax.data.word_text import WordText, open_words
from tl_jax.files.atomic import read_json
from tl_jax.files.errors import DataError
from tl_jax.runs.folder import RESULTS
from tl_jax.runs.pretraining import DATA
from tl_jax.text.vocabulary import BEGIN_ID, END_ID, UNKNOWN_ID


class Text(NamedTuple):
    """Sentences end to end, each from its ``<S>`` to its ``</S>``.

    Attributes:
      words: Numbers of the words.
      places: Each one's place in its sentence, from 0.
    """

    words: Int64[np.ndarray, " M"]
    places: Int64[np.ndarray, " M"]


class Grams(NamedTuple):
    """The different n-grams of a text, for one n, in ascending order of their keys.

    Attributes:
      keys: The number of the history among the (n-1)-grams, times V, plus the word.
      counts: How often each occurs.
      suffixes: The number of its last n-1 words among the (n-1)-grams.
      begins: It begins with ``<S>``.
    """

    keys: Int64[np.ndarray, " G"]
    counts: Int64[np.ndarray, " G"]
    suffixes: Int64[np.ndarray, " G"]
    begins: Bool[np.ndarray, " G"]


class Order(NamedTuple):
    """The model of one n.

    Attributes:
      keys: See `Grams`.
      probabilities: P(w | h) of each n-gram.
      rest: γ(h) of each (n-1)-gram; 1 where no word follows it.
    """

    keys: Int64[np.ndarray, " G"]
    probabilities: Float64[np.ndarray, " G"]
    rest: Float64[np.ndarray, " H"]


def frame(sentences: Iterable[Sequence[int] | np.ndarray]) -> Text:
    """Lays sentences of numbered words end to end."""
    framed = [np.array([BEGIN_ID, *sentence, END_ID]) for sentence in sentences]
    return Text(
        np.concatenate(framed),
        np.concatenate([np.arange(len(sentence)) for sentence in framed]),
    )


def count(text: Text, vocabulary: int, order: int) -> list[Grams]:
    """Counts the n-grams of every n from 1 to ``order``."""
    words, numbers = text.words, text.words  # the number of the n-gram that ends there
    single = np.arange(vocabulary)
    counts = np.bincount(words, minlength=vocabulary)
    counts[BEGIN_ID] = 0  # nothing predicts <S>: it has no share of the uniform either
    begins = np.zeros(vocabulary, bool)
    found = [Grams(single, counts, (single == BEGIN_ID).astype(np.int64), begins)]
    for n in range(2, order + 1):
        ends = np.flatnonzero(text.places >= n - 1)
        keys, first, own, counts = np.unique(
            numbers[ends - 1] * vocabulary + words[ends],
            return_index=True,
            return_inverse=True,
            return_counts=True,
        )
        begins = text.places[ends[first]] == n - 1
        found.append(Grams(keys, counts, numbers[ends[first]], begins))
        numbers = np.full(len(words), -1)
        numbers[ends] = own
    return found


def adjusted(grams: Grams, longer: Grams | None) -> Int64[np.ndarray, " G"]:
    """Replaces counts by the number of different words before."""
    if longer is None:
        return grams.counts
    before = np.bincount(longer.suffixes, minlength=len(grams.keys))
    return np.where(grams.begins, grams.counts, before)


def discounts(counts: Int64[np.ndarray, " G"]) -> Float64[np.ndarray, "4"]:
    """What is taken from counts of 0, 1, 2 and more (Chen & Goodman 1998).

    ½, 1 and 1½ where a text is so small that the formula gives nothing of use.
    """
    n = np.bincount(np.minimum(counts, 5), minlength=6).astype(float)
    if n[1:5].all():
        y = n[1] / (n[1] + 2 * n[2])
        found = [k - (k + 1) * y * n[k + 1] / n[k] for k in (1, 2, 3)]
        if all(0 <= d <= k for k, d in enumerate(found, 1)):
            return np.array([0, *found])
    return np.array([0, 0.5, 1, 1.5])


def train(text: Text, vocabulary: int, order: int = 5) -> list[Order]:
    """Estimates the model; ``vocabulary`` counts ``<S>``, too."""
    grams = count(text, vocabulary, order)
    shorter = np.array([1 / (vocabulary - 1), 0])
    model = []
    for own, longer in zip(grams, [*grams[1:], None], strict=True):
        counts = adjusted(own, longer)
        taken = discounts(counts)[np.minimum(counts, 3)]
        histories = own.keys // vocabulary
        size = len(model[-1].keys) if model else 1
        totals = np.bincount(histories, counts, size)
        lost = np.bincount(histories, taken, size)
        rest = np.divide(lost, totals, out=np.ones(size), where=totals > 0)
        shorter = (counts - taken) / totals[histories] + (
            rest[histories] * shorter[own.suffixes]
        )
        model.append(Order(own.keys, shorter, rest))
    return model


def probabilities(model: Sequence[Order], text: Text) -> Float64[np.ndarray, " M"]:
    """P of each word given those before it in its sentence; that of ``<S>`` is 0."""
    single, *longer = model
    words, numbers = text.words, text.words
    found = single.probabilities[words]
    for n, order in enumerate(longer, 2):
        ends = np.flatnonzero(text.places >= n - 1)
        ends = ends[numbers[ends - 1] >= 0]  # a history that was seen
        histories = numbers[ends - 1]
        keys = histories * len(single.keys) + words[ends]
        at = np.minimum(np.searchsorted(order.keys, keys), len(order.keys) - 1)
        seen = order.keys[at] == keys
        found[ends] = np.where(
            seen, order.probabilities[at], order.rest[histories] * found[ends]
        )
        numbers = np.full(len(words), -1)
        numbers[ends[seen]] = at[seen]
    return found


@dataclass(frozen=True)
class Config:
    """Options of the benchmark.

    Attributes:
      run: Of `tl-jax pretrain elmo`, with --dev.
      order: The longest n-grams.
      results: File that the result is appended to, a JSON object a line.
    """

    run: Path
    order: int = 5
    results: Path | None = None


def sentences(text: WordText) -> list[Int64[np.ndarray, "_"]]:
    """The words of each sentence as the model knows them."""
    known = np.where(text.tokens < text.vocab_size, text.tokens, UNKNOWN_ID)
    begins = np.flatnonzero(text.tokens == BEGIN_ID)
    return [part[1:] for part in np.split(known.astype(np.int64), begins[1:])]


def main(config: Config) -> dict[str, Any]:
    """Returns perplexities of both directions, and the run's own if it has ended."""
    if not (config.run / DATA / "dev").is_dir():
        raise DataError(
            f"{config.run}: no run of `tl-jax pretrain elmo` with held-out text, which "
            "--dev FILES give it."
        )
    texts = [open_words(config.run / DATA / part) for part in ("train", "dev")]
    vocabulary = texts[0].vocab_size
    found: dict[str, Any] = {"vocabulary": vocabulary, "order": config.order}
    for name, step in (("forward", 1), ("backward", -1)):
        began = time.perf_counter()
        text, scored = (frame(s[::step] for s in sentences(part)) for part in texts)
        given = probabilities(train(text, vocabulary, config.order), scored)
        given = given[scored.places > 0]
        found[name] = {
            "perplexity": float(np.exp(-np.log(given).mean())),
            "seconds": time.perf_counter() - began,
        }
        found |= {
            "tokens": len(given),
            "unknown": float((scored.words == UNKNOWN_ID).sum() / len(given)),
        }
    if (config.run / RESULTS).exists():
        found["elmo"] = read_json(config.run / RESULTS)["dev"]
    if config.results is not None:
        append(config.results, {"run": config.run.name, **found})
    return found


if __name__ == "__main__":
    print(json.dumps(main(tyro.cli(Config, description=__doc__)), indent=2))
