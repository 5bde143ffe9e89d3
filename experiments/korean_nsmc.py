"""Korean movie reviews (NSMC) without pretrained weights.

A biLSTM over vectors of WordPiece's sub-words: Korean words take too many forms to have
a vector each. Vocabulary and vectors are trained on reviews without labels by skip-gram
(or drawn at random: --weights random --units pieces --plan random).

Command:   tl-jax pretrain vectors --units pieces --text nsmc_reviews.txt train.txt
           --max-words 16000 --size 256 --epochs 10 --out runs/vectors
           (train.txt: cut -f 2 train.tsv)
           python experiments/korean_nsmc.py --train train.tsv --dev dev.tsv
Score:     accuracy 84.4 ± 0.1 (30,000 reviews, 5,000 of dev; 3 seeds; vectors of 98,000
           reviews); with 8,000 random vectors 83.7 (1 seed)
Cost:      4 minutes of one core a seed, and as much for the vectors
"""

from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from tl_jax.runs.config import FinetuneConfig
from tl_jax.runs.experiment import seed_scores
from tl_jax.runs.host_memory import keep_freed_memory

Config = Annotated[
    FinetuneConfig,
    tyro.conf.arg(
        constructor=partial(
            FinetuneConfig,
            "classify",
            weights="runs/vectors/model",
            plan="initialise",
            pooling="last",
            batch_size=64,
            max_length=64,
        ),
        name="",
    ),
]


def main(config: Config, out: Path = Path("runs/korean_nsmc"), seeds: int = 3) -> str:
    """Returns accuracy and macro F1, over the seeds.

    Args:
      config: What is learnt from what, and how.
      out: Where the runs go, one a seed.
      seeds: Number of seeds, at least 2.
    """
    return seed_scores(config, out, seeds, ("accuracy", "macro_f1"))


if __name__ == "__main__":
    keep_freed_memory()
    print(tyro.cli(main, description=__doc__))
