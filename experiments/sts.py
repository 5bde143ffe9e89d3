"""Semantic textual similarity as regression: STS-B, KorSTS.

One output on the pooled vector and the squared error, scored by correlations (Devlin et
al. 2019, section 4.1).

Command:   python experiments/sts.py --train sts-train.tsv --dev sts-dev.tsv
           KorSTS: --weights hub:klue/bert-base
Score:     not measured yet
Cost:      not measured yet
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
        constructor=partial(FinetuneConfig, "regress", weights=MINILM, epochs=4),
        name="",
    ),
]


def main(config: Config, out: Path = Path("runs/sts"), seeds: int = 3) -> str:
    """Returns both correlations, over the seeds.

    Args:
      config: What is learnt from what, and how.
      out: Where the runs go, one a seed.
      seeds: Number of seeds, at least 2.
    """
    return seed_scores(config, out, seeds, ("spearman", "pearson"))


if __name__ == "__main__":
    keep_freed_memory()
    print(tyro.cli(main, description=__doc__))
