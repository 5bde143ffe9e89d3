"""Text → steps of skip-gram pairs: sub-sampling, windows and negatives, as in word2vec.

Everything drawn is keyed by (seed, epoch, part of the text), so a part of an epoch can
be made without those before it, and every process draws the same.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float64, Int32, Int64

from tl_jax.data.corpus import Corpus
from tl_jax.files.errors import ConfigError
from tl_jax.models.skipgram import SkipGrams


def keep_probability(
    counts: Int64[np.ndarray, " V"], sample: float
) -> Float64[np.ndarray, " V"]:
    """Says how likely each word is to stay: min(1, √(t/f) + t/f) for frequency f.

    That is word2vec.c, and gensim; the paper (2013b, eq. 5) has √(t/f) alone.

    Args:
      counts: How often each word stands in the text.
      sample: t; 0 keeps everything.
    """
    if not sample:
        return np.ones(len(counts))
    ratio = sample * counts.sum() / counts
    return np.minimum(1.0, np.sqrt(ratio) + ratio)


def noise_distribution(counts: Int64[np.ndarray, " V"]) -> Float64[np.ndarray, " V"]:
    """Returns the probability of each word as a negative, unigram^.75."""
    weights = counts.astype(np.float64) ** 0.75
    return weights / weights.sum()


@dataclass(frozen=True, eq=False)
class SkipGramStream:
    """The steps of an epoch, some at a time and always as many of one shape.

    Attributes:
      corpus: The text.
      window: Farthest distance; each centre's is drawn uniformly from 1 … window.
      sample: Threshold t of the sub-sampling.
      seed: Keys all that is drawn.
      rows: Rows of a step.
      centres: Centres of a row.
      noise: Negatives of a step.
      steps: Steps at a time.
      part: Least tokens of a part of the text.
    """

    corpus: Corpus
    window: int = 5
    sample: float = 1e-3
    seed: int = 0
    rows: int = 2
    centres: int = 64
    noise: int = 64
    steps: int = 256
    part: int = 1 << 20

    def __post_init__(self) -> None:
        if self.window < 1 or not 0 <= self.sample < 1 or self.seed < 0:
            raise ConfigError(
                "window must be 1 or more, sample 0 … 1 and the seed 0 or more; they "
                f"are {self.window}, {self.sample} and {self.seed}."
            )

    @cached_property
    def _keep(self) -> Float64[np.ndarray, " V"]:
        return keep_probability(self.corpus.counts, self.sample)

    @cached_property
    def _noise(self) -> Float64[np.ndarray, " V"]:
        return np.cumsum(noise_distribution(self.corpus.counts))

    def epoch(self, epoch: int) -> Iterator[tuple[SkipGrams, Int64[np.ndarray, " S"]]]:
        """Yields the steps of an epoch.

        Each comes with how many tokens of the text the epoch had behind it before each
        of the steps, sub-sampled ones included.
        """
        for number, (begin, end) in enumerate(self.corpus.parts(self.part)):
            draw = np.random.default_rng([self.seed, epoch, number])
            tokens = self.corpus.tokens[begin:end]
            kept = np.flatnonzero(draw.random(len(tokens)) < self._keep[tokens])
            if not len(kept):  # of a short part, sub-sampling may leave nothing
                continue
            yield from self._steps(
                tokens[kept], self.corpus.sentences[begin:end][kept], begin + kept, draw
            )

    def _steps(
        self,
        tokens: Int32[np.ndarray, " M"],
        sentences: Int32[np.ndarray, " M"],
        places: Int64[np.ndarray, " M"],
        draw: np.random.Generator,
    ) -> Iterator[tuple[SkipGrams, Int64[np.ndarray, " S"]]]:
        """Cuts what is left of a part into rows that overlap by the window."""
        size = self.rows * self.centres
        steps = -(-len(tokens) // (size * self.steps)) * self.steps
        around = (self.window, self.window + steps * size - len(tokens))
        wide = self.centres + 2 * self.window
        shape = (steps, self.rows, -1)

        def rows(values: Int32[np.ndarray, " M"], fill: int) -> np.ndarray:
            padded = np.pad(values, around, constant_values=fill)
            spans = np.lib.stride_tricks.sliding_window_view(padded, wide)
            return spans[:: self.centres].reshape(shape)

        reach = draw.integers(1, self.window + 1, len(tokens), dtype=np.int32)
        drawn = draw.random((steps, self.noise))
        negatives = np.searchsorted(self._noise[:-1], drawn, side="right")
        batch = SkipGrams(
            tokens=rows(tokens, 0),
            sentences=rows(sentences, -1),
            reach=np.pad(reach, (0, steps * size - len(tokens))).reshape(shape),
            negatives=negatives.astype(np.int32),
        )
        first = np.minimum(np.arange(steps) * size, len(tokens) - 1)
        for s in range(0, steps, self.steps):
            part = slice(s, s + self.steps)
            cut = SkipGrams(
                batch.tokens[part],
                batch.sentences[part],
                batch.reach[part],
                batch.negatives[part],
            )
            yield cut, places[first[part]]
