"""What both sides of `quality.py` learn: the data of each task, and the recipe."""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from tl_jax.data.packing import Layout
from tl_jax.data.propbank import Propositions, read_propositions, write_propositions
from tl_jax.data.stream import TrainingStream
from tl_jax.files.atomic import read_json
from tl_jax.files.errors import DataError
from tl_jax.files.manifest import MANIFEST
from tl_jax.interop.load import find_weights
from tl_jax.runs.config import FinetuneConfig, TaskName
from tl_jax.runs.job import prepare
from tl_jax.runs.tasks import task_of
from tl_jax.tasks.task import Task as Learnt

EPOCHS, WARMUP, DECAY, CLIP = 2, 0.1, 0.01, 1.0


class Recipe(NamedTuple):
    """What is learnt from which files, how, and by which score sides are compared."""

    task: TaskName
    files: str
    score: str
    batch_size: int
    rate: float


# The cheapest first. In batches of 32 so small an encoder has barely begun to learn
# entities, answers and roles from so few examples (F1 of SQuAD at 5e-5: 10.8). Scores
# then differ by points from seed to seed, and sides cannot be told apart.
TASKS: Mapping[str, Recipe] = {
    "wnut17": Recipe("tag", "ner/wnut17/{}.conll", "strict_iob2_f1", 8, 2e-4),
    "qnli": Recipe("pair", "pairs/qnli/{}.tsv", "accuracy", 32, 5e-5),
    "squad": Recipe("span", "qa/squad_v1.1/{}.json", "f1", 8, 2e-4),
    "ewt": Recipe("srl", "srl/ewt_propbank/{}_part*.conll", "f1", 8, 2e-4),
}


@dataclass(frozen=True)
class Sizes:
    """How much of the large sets is used, chosen by hash; None is all of it.

    Attributes:
      squad_train: Training questions of SQuAD.
      srl_train: Training propositions of EWT.
      srl_dev: Dev propositions of EWT.
    """

    squad_train: int | None = 2_000
    srl_train: int | None = 6_000
    srl_dev: int | None = None


@dataclass(frozen=True, eq=False)
class Task:
    """One task, with the options by which `tl-jax finetune` learns it."""

    name: str
    config: FinetuneConfig

    @cached_property
    def learnt(self) -> Learnt:
        """How rows are read and scored."""
        return task_of(self.config)

    @cached_property
    def train(self) -> Any:
        """The training rows."""
        return self._read(self.config.train)

    @cached_property
    def dev(self) -> Any:
        """The held-out rows."""
        return self._read(self.config.dev)

    def _read(self, files: str | Sequence[str]) -> Any:
        return self.learnt.read(files, None, on_bad="raise", labelled=True)


@dataclass(frozen=True, eq=False)
class Start:
    """What else a seed draws, for a peer that is to begin and go on as ours does.

    Attributes:
      kernel: Of the head, by inputs and outputs.
      bias: Of the head.
      orders: The numbers of the training examples as they come, an epoch each.
    """

    kernel: Float[np.ndarray, "D N"]
    bias: Float[np.ndarray, "N"]
    orders: Sequence[Sequence[int]]


def start_of(config: FinetuneConfig) -> Start:
    """Draws a run's first head and the orders of its examples, without training."""
    job, params = prepare(config)
    examples = job.encoded["train"].examples
    stream = TrainingStream(examples, config.batch_size, Layout(), config.seed)
    steps = [stream.indices(n) for n in range(config.epochs * stream.steps_per_epoch)]
    orders = np.concatenate(steps).reshape(config.epochs, -1)
    head = jax.tree.map(np.asarray, params["head"]["output"])
    return Start(head["kernel"], head["bias"], orders.tolist())


def without_dropout(weights: str, folder: Path) -> str:
    """Copies weights into ``folder``, with a config that drops nothing out."""
    ours_alone = shutil.ignore_patterns(MANIFEST)  # it would miss the config's bytes
    shutil.copytree(find_weights(weights), folder, ignore=ours_alone)
    file = folder / "config.json"
    places = ("hidden_dropout_prob", "attention_probs_dropout_prob")
    told = read_json(file) | dict.fromkeys((*places, "classifier_dropout"), 0.0)
    file.unlink()  # what was fetched may be read-only
    file.write_text(json.dumps(told), encoding="utf-8")
    return str(folder)


def make_task(name: str, data: Path, weights: str, sizes: Sizes, scratch: Path) -> Task:
    """Finds a task's files, and writes what is chosen of them into ``scratch``."""
    recipe = TASKS[name]
    train, dev = (sorted(data.glob(recipe.files.format(p))) for p in ("train", "dev"))
    if not train or not dev:
        raise DataError(f"{data / recipe.files}: there is no train or no dev file.")
    if name == "squad":
        train = [_some_questions(train[0], sizes.squad_train, scratch / "train.json")]
    if name == "ewt":
        train = [_some_roles(train, sizes.srl_train, scratch / "train.conll")]
        dev = [_some_roles(dev, sizes.srl_dev, scratch / "dev.conll")]
    config = FinetuneConfig(
        recipe.task,
        tuple(map(str, train)),
        str(dev[0]),
        weights,
        epochs=EPOCHS,
        batch_size=recipe.batch_size,
        learning_rate=recipe.rate,
        warmup=WARMUP,
        weight_decay=DECAY,
        clip=CLIP,
        devices=1,
        eval_every=1 << 30,  # at the last step alone: no side chooses a checkpoint
    )
    return Task(name, config)


def chosen(keys: Sequence[str], count: int | None) -> list[int]:
    """The places, in order, of the ``count`` keys whose SHA-256 is least."""
    digests = [hashlib.sha256(key.encode()).digest() for key in keys]
    return sorted(sorted(range(len(keys)), key=digests.__getitem__)[:count])


def _some_questions(file: Path, count: int | None, out: Path) -> Path:
    """Writes a file of SQuAD's with the questions that are chosen by their ids."""
    data = read_json(file)
    paragraphs = [p for article in data["data"] for p in article["paragraphs"]]
    ids = [qa["id"] for paragraph in paragraphs for qa in paragraph["qas"]]
    kept = {ids[n] for n in chosen(ids, count)}
    for paragraph in paragraphs:
        paragraph["qas"] = [qa for qa in paragraph["qas"] if qa["id"] in kept]
    out.write_text(json.dumps(data), encoding="utf-8")
    return out


def _some_roles(files: Sequence[Path], count: int | None, out: Path) -> Path:
    """Writes the propositions that are chosen by their words and predicate."""
    rows = read_propositions(files)
    keys = [f"{' '.join(rows.words(n))}\t{p}" for n, p in enumerate(rows.predicate)]
    write_propositions(out, *_subset(rows, chosen(keys, count)))
    return out


def _subset(
    rows: Propositions, kept: Sequence[int]
) -> tuple[Propositions, list[list[str]]]:
    """Some propositions, with the sentences that they are about, and their tags."""
    assert rows.tags is not None
    numbers, sentence = np.unique(rows.sentence[kept], return_inverse=True)
    tags = [rows.tags[n] for n in kept]
    subset = replace(
        rows,
        sentences=[rows.sentences[n] for n in numbers],
        sentence=sentence,
        predicate=rows.predicate[kept],
        tags=tags,
        places=[rows.places[n] for n in kept],
    )
    return subset, tags
