"""What both sides of `finetune.py` learn, and by which recipe."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from tl_jax.data.examples import Examples
from tl_jax.data.packing import Layout
from tl_jax.data.readers import LabelledTexts, read_labelled
from tl_jax.data.stream import TrainingStream
from tl_jax.interop.load import load_tokenizer
from tl_jax.tasks import classification

RATE, EPOCHS, DROPOUT = 5e-5, 2, 0.1


@dataclass(frozen=True, eq=False)
class Task:
    """What both sides learn."""

    data: Path
    weights: str

    @cached_property
    def rows(self) -> tuple[LabelledTexts, LabelledTexts]:
        """Training and dev sentences."""
        train, dev = (self.data / f"{name}.tsv" for name in ("train", "dev"))
        return read_labelled(train), read_labelled(dev)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The classes."""
        return classification.label_names(self.rows[0].labels or [])

    @cached_property
    def examples(self) -> tuple[Examples, Examples]:
        """Both parts as word pieces, of at most 128."""
        tokenizer = load_tokenizer(self.weights)
        train, dev = (
            classification.featurise_rows(tokenizer, rows, self.names, max_length=128)
            for rows in self.rows
        )
        return train, dev

    def stream(self, layout: Layout, batch_size: int, seed: int = 0) -> TrainingStream:
        """Batches of the training sentences; the same examples on both sides."""
        return TrainingStream(self.examples[0], batch_size, layout, seed)

    def of_width(self, width: int, count: int) -> Examples:
        """Examples of exactly ``width`` tokens each, joined from real sentences."""
        tokens = np.resize(self.examples[0].tokens, (count, width))
        numbers = np.arange(count)
        zeros = np.zeros(count * width, np.int8)
        return Examples(
            tokens=tokens.reshape(-1).astype(np.int32),
            types=zeros,
            offsets=np.arange(count + 1) * width,
            ids=numbers,
            targets={classification.LABEL: (numbers % 2).astype(np.int32)},
        )
