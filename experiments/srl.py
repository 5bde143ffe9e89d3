"""Semantic roles: PropBank over the English Web Treebank.

A pretrained encoder is told the predicate by segment ids and tags every piece; one
example a predicate (Shi & Lin 2019).

Command:   python experiments/srl.py --train train_part02.conll
           --dev dev_part00.conll --batch-size 8 --learning-rate 2e-4
Score:     F1 of roles without V 59.2 ± 0.7, precision 59.8 ± 0.6, recall 58.6 ± 0.9
           (3 seeds; MiniLM, 2 epochs of the 5,695 predicates of that part, the best
           epoch on 4,960 others)
Cost:      18 minutes a seed on one core that did other work, too
"""

from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from tl_jax.runs.config import FinetuneConfig
from tl_jax.runs.experiment import MINILM, seed_scores
from tl_jax.runs.host_memory import keep_freed_memory

Config = Annotated[
    FinetuneConfig,
    tyro.conf.arg(
        constructor=partial(FinetuneConfig, "srl", weights=MINILM, max_length=256),
        name="",
    ),
]


def main(config: Config, out: Path = Path("runs/srl"), seeds: int = 3) -> str:
    """Returns precision, recall and F1 of roles, over the seeds.

    Args:
      config: What is learnt from what, and how.
      out: Where the runs go, one a seed.
      seeds: Number of seeds, at least 2.
    """
    return seed_scores(config, out, seeds, ("f1", "precision", "recall"))


if __name__ == "__main__":
    keep_freed_memory()
    print(tyro.cli(main, description=__doc__))
