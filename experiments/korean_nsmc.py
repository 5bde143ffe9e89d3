"""Korean movie reviews (NSMC) without pretrained weights.

A biLSTM over vectors of WordPiece's sub-words, whose vocabulary is trained on the
reviews: Korean words take too many forms to have a vector each.

Command:   python experiments/korean_nsmc.py --train train.tsv --dev dev.tsv
Score:     not measured yet
Cost:      not measured yet
"""

from dataclasses import dataclass
from pathlib import Path

import tyro

from tl_jax.metrics.bootstrap import Spread
from tl_jax.runs.config import FinetuneConfig
from tl_jax.runs.finetune import finetune_seeds
from tl_jax.runs.host_memory import keep_freed_memory


@dataclass(frozen=True)
class Config:
    """Options of the experiment.

    Attributes:
      train: Data to learn from.
      dev: Data to score on; they choose the best checkpoint.
      out: Where the runs go, one a seed.
      seeds: Number of seeds, at least 2.
      epochs: Passes over the training data.
      batch_size: Examples a step.
      learning_rate: Highest rate.
      max_length: Most tokens of an example.
      vector_size: Width of the vectors.
      hidden_size: Width of one direction of the LSTM.
    """

    train: tuple[str, ...]
    dev: str
    out: Path = Path("runs/korean_nsmc")
    seeds: int = 3
    epochs: int = 4
    batch_size: int = 64
    learning_rate: float = 2e-3
    max_length: int = 64
    vector_size: int = 100
    hidden_size: int = 128


def main(config: Config) -> str:
    """Trains once a seed and returns accuracy and macro F1."""
    options = FinetuneConfig(
        task="classify",
        train=config.train,
        dev=config.dev,
        epochs=config.epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        max_length=config.max_length,
        vector_size=config.vector_size,
        hidden_size=config.hidden_size,
        weights="random",
        units="pieces",
        plan="random",
    )
    scores = finetune_seeds(options, config.out, config.seeds)["dev"]
    return "\n".join(
        f"{name} {Spread(**scores[name])}" for name in ("accuracy", "macro_f1")
    )


if __name__ == "__main__":
    keep_freed_memory()
    print(main(tyro.cli(Config, description=__doc__)))
