"""What both sides of `elmo.py` compute: the sizes of the biLM, and the text."""

from dataclasses import dataclass
from typing import Literal

from tl_jax.models.elmo import ElmoConfig

_FILTERS = ((1, 32), (2, 32), (3, 64), (4, 128))


@dataclass(frozen=True)
class Sizes:
    """Sizes of the biLM, and of a step of its pre-training.

    Attributes:
      projection: Width of a word and of one direction of a layer.
      cell: Width of an LSTM's cell.
      layers: LSTM layers.
      vocab_size: Words that have an id.
      batch_size: Rows of a step.
      unroll: Words of a row.
    """

    projection: int = 128
    cell: int = 512
    layers: int = 2
    vocab_size: int = 10_000
    batch_size: int = 64
    unroll: int = 32

    def bilm(self, read: Literal["characters", "words"]) -> ElmoConfig:
        """The configuration of a biLM that reads words by their characters or ids."""
        return ElmoConfig(
            input=read,
            vocab_size=self.vocab_size,
            filters=_FILTERS,
            num_highways=1,
            projection_size=self.projection,
            cell_size=self.cell,
            num_layers=self.layers,
            dropout=0.0,
        )
