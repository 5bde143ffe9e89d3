"""What both sides of `elmo.py` compute: the sizes of the biLM, and the text."""

from dataclasses import dataclass
from pathlib import Path

from tl_jax.models.elmo import ElmoConfig
from tl_jax.runs.pretrain_config import PretrainElmoConfig


@dataclass(frozen=True)
class Sizes:
    """Sizes of the biLM, and of a step of its pre-training.

    By default the biLM is as large as the smallest one that AllenNLP released
    (elmo_2x1024_128_2048cnn_1xhighway).

    Attributes:
      projection: Width of a word and of one direction of a layer.
      cell: Width of an LSTM's cell.
      layers: LSTM layers.
      vocab_size: Words that have an id, at most.
      batch_size: Rows of a step.
      unroll: Words of a row.
    """

    projection: int = 128
    cell: int = 1024
    layers: int = 2
    vocab_size: int = 10_000
    batch_size: int = 64
    unroll: int = 32

    @property
    def name(self) -> str:
        """The biLM's sizes, in few words."""
        return f"biLM {self.layers} × {self.cell} → {self.projection}"

    def pretraining(self, text: Path) -> PretrainElmoConfig:
        """The options of `tl-jax pretrain elmo`, by words and the full softmax."""
        return PretrainElmoConfig(
            text=(str(text),),
            input="words",
            splits="spaces",
            vocab_size=self.vocab_size,
            projection=self.projection,
            cell=self.cell,
            layers=self.layers,
            unroll=self.unroll,
            batch_size=self.batch_size,
            steps=10_000,
            devices=1,
        )

    def reader(self) -> ElmoConfig:
        """The configuration of the biLM that gives features, from characters."""
        return ElmoConfig(
            num_highways=1,
            projection_size=self.projection,
            cell_size=self.cell,
            num_layers=self.layers,
        )
