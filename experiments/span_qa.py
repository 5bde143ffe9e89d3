"""Span question answering: SQuAD v1.1 and v2.0, KorQuAD.

A pretrained encoder reads question and paragraph, in windows where they are long, and
scores each token as start and as end of the answer (Devlin et al. 2019, section 4.2
f.).

Command:   python experiments/span_qa.py --train train.json --dev dev.json
           KorQuAD: --train all.json --dev all.json --split titles.json
           --scoring korquad --weights hub:klue/bert-base
Score:     on dev. SQuAD v1.1 is measured beside transformers + torch, on 2,000
           training questions, by benchmarks/quality.py.
           KorQuAD (split by titles: 4,845 questions; 3 seeds): exact match
           3.8 ± 0.6, F1 of characters 16.1 ± 1.0 with the Korean BERT tiny of
           pretraining_pays.py (--learning-rate 5e-4), which is too small for it.
           An encoder of usual size: not measured
Cost:      KorQuAD with BERT tiny 4 CPU minutes a seed
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
        constructor=partial(FinetuneConfig, "span", weights=MINILM, batch_size=12),
        name="",
    ),
]


def main(config: Config, out: Path = Path("runs/span_qa"), seeds: int = 3) -> str:
    """Returns the official scores, over the seeds.

    Args:
      config: What is learnt from what, and how.
      out: Where the runs go, one a seed.
      seeds: Number of seeds, at least 2.
    """
    return seed_scores(config, out, seeds, ("exact_match", "f1"))


if __name__ == "__main__":
    keep_freed_memory()
    print(tyro.cli(main, description=__doc__))
