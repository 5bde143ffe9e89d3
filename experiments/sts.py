"""Semantic textual similarity as regression: STS-B, KorSTS.

One output on the pooled vector and the squared error, scored by correlations (Devlin et
al. 2019, section 4.1).

Command:   python experiments/sts.py --train sts-train.tsv --dev sts-dev.tsv
           KorSTS: --weights hub:klue/bert-base
Score:     on dev, 3 seeds. KorSTS (5,749 pairs): Spearman 30.9 ± 2.6, Pearson
           33.0 ± 2.4 with vectors of sub-words (--weights vectors/model, from tl-jax
           pretrain vectors --units pieces --max-words 8000 --size 128 on 2 million
           sub-words of Korean); 14.0 ± 2.0, 13.1 ± 1.5 with the Korean BERT tiny of
           pretraining_pays.py (--learning-rate 5e-4), which is too small for it.
           STS-B, and an encoder of usual size: not measured
Cost:      3 CPU minutes with vectors, 5 with BERT tiny, for all seeds
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
