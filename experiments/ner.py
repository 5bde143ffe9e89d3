"""Named entities: WNUT17, KLUE-NER.

A pretrained encoder tags the first piece of each word; only legal sequences are decoded
(Devlin et al. 2019, section 5.3).

Command:   python experiments/ner.py --train train.conll --dev dev.conll
           KLUE-NER: --train train.tsv --dev dev.tsv --characters
           --weights hub:klue/bert-base
Score:     F1 of entities on dev, 3 seeds.
           WNUT17 (3,394 sentences): 57.8 ± 1.3 after 2 epochs at 2e-4 in batches of 8,
           by benchmarks/quality.py beside transformers + torch (--epochs 2
           --learning-rate 2e-4 --batch-size 8)
           KLUE-NER (3,500 sentences): 45.1 ± 1.7 with a biLSTM-CRF on 2,000 sub-words
           drawn at random (--weights random --units pieces --max-words 2000 --crf
           --epochs 10); 47.7 ± 0.9 with the Korean BERT tiny of pretraining_pays.py
           (--learning-rate 5e-4).
           Trained vectors of sub-words: not measured
           An encoder of usual size: not measured
Cost:      5 CPU minutes for all seeds of each; WNUT17 8
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
        constructor=partial(FinetuneConfig, "tag", weights=MINILM, epochs=4),
        name="",
    ),
]


def main(config: Config, out: Path = Path("runs/ner"), seeds: int = 3) -> str:
    """Returns the F1 of entities by both rules, over the seeds.

    Args:
      config: What is learnt from what, and how.
      out: Where the runs go, one a seed.
      seeds: Number of seeds, at least 2.
    """
    return seed_scores(
        config, out, seeds, ("strict_iob2_f1", "conlleval_f1", "accuracy")
    )


if __name__ == "__main__":
    keep_freed_memory()
    print(tyro.cli(main, description=__doc__))
