"""Sentence pairs: inference with two classes (QNLI) or three (KLUE-NLI).

A pretrained encoder reads both sentences at once, told apart by segment ids (Devlin et
al. 2019, section 4.1).

Command:   python experiments/sentence_pairs.py --train train.tsv --dev dev.tsv
           KLUE-NLI: --train train.json --dev dev.json --weights hub:klue/bert-base
Score:     accuracy on dev, 3 seeds.
           QNLI (3,959 pairs), MiniLM: 80.8 ± 0.7 after the last step
           (benchmarks/quality.py; transformers + torch: 80.2 ± 1.7).
           KLUE-NLI (2,400 pairs, --epochs 4): 37.6 ± 0.4 with vectors of sub-words (as
           in sts.py), 35.8 ± 1.0 with the Korean BERT tiny of pretraining_pays.py
           (--learning-rate 5e-4): little above chance, which is a third. An encoder of
           usual size: not measured
Cost:      QNLI 5 minutes a seed on one core; KLUE-NLI 2 minutes for all seeds
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
        constructor=partial(FinetuneConfig, "pair", weights=MINILM),
        name="",
    ),
]


def main(
    config: Config, out: Path = Path("runs/sentence_pairs"), seeds: int = 3
) -> str:
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
