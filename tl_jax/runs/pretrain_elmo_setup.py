"""What ELMo's pre-training starts from: text numbered on disk, a model, devices."""

import hashlib
from itertools import chain
from pathlib import Path
from typing import Any

import jax

from tl_jax.data.documents import read_documents
from tl_jax.data.word_text import WordText, open_words, prepare_words
from tl_jax.files.errors import ConfigError
from tl_jax.files.manifest import MANIFEST, sha256_file
from tl_jax.models.elmo import ElmoConfig
from tl_jax.runs.pretrain_config import PretrainElmoConfig
from tl_jax.runs.pretraining import DATA, text_hash
from tl_jax.tasks.language_model import BiLanguageModel
from tl_jax.text.characters import split
from tl_jax.training.placement import Placement, choose_placement


def prepare_text(config: PretrainElmoConfig, run: Path) -> dict[str, WordText]:
    """Numbers the words of train and dev text, or opens what is there already.

    Raises:
      IntegrityError: What is there is damaged.
      DataError: Text cannot be read.
    """
    train = _prepare(config, run / DATA / "train", config.text, config.lines, None)
    if not config.dev:
        return {"train": train}
    vocabulary = train.vocabulary
    dev = _prepare(config, run / DATA / "dev", config.dev, (), vocabulary)
    return {"train": train, "dev": dev}


def _prepare(
    config: PretrainElmoConfig,
    folder: Path,
    files: tuple[str, ...],
    lines: tuple[str, ...],
    vocabulary: tuple[str, ...] | None,
) -> WordText:
    # Where documents end does not matter here, so no more than a line is held.
    documents = read_documents((), (*files, *lines), on_bad=config.on_bad)
    first = next(documents)  # a file that is not there is told before it is hashed
    words = "\n".join(vocabulary or ()).encode()
    source = {
        "text": {name: text_hash(name) for name in files},
        "lines": {name: text_hash(name) for name in lines},
        "splits": config.splits,
        "vocab_size": config.vocab_size,
        "vocabulary": hashlib.sha256(words).hexdigest() if vocabulary else None,
    }
    if (folder / MANIFEST).is_file():
        there = open_words(folder)
        if there.source == source:
            return there
    folder.parent.mkdir(parents=True, exist_ok=True)
    sentences = (
        split(sentence, config.splits)
        for document in chain([first], documents)
        for sentence in document.segments
    )
    size = config.vocab_size
    prepare_words(folder, sentences, source, vocabulary=vocabulary, vocab_size=size)
    return open_words(folder)


def data_of(parts: dict[str, WordText], run: Path) -> dict[str, Any]:
    """Tells what each part holds, and the hash that stands for all of its files."""
    return {
        name: {
            **part.counts,
            "source": part.source,
            "sha256": sha256_file(run / DATA / name / MANIFEST),
        }
        for name, part in parts.items()
    }


def build_model(config: PretrainElmoConfig, vocab_size: int) -> BiLanguageModel:
    """The biLM and its softmax.

    Raises:
      ConfigError: More words are to be drawn than there are.
    """
    c = config
    if c.sampled is not None and c.sampled > vocab_size:
        raise ConfigError(
            f"--sampled {c.sampled}: the vocabulary has {vocab_size:,} words."
        )
    sizes = ElmoConfig(
        input=c.input,
        vocab_size=vocab_size,
        character_size=c.character_size,
        filters=c.filters,
        num_highways=c.highways,
        max_characters=c.max_characters,
        projection_size=c.projection,
        cell_size=c.cell,
        num_layers=c.layers,
        cell_clip=c.cell_clip or None,
        projection_clip=c.projection_clip or None,
        use_skip_connections=c.skip,
        dropout=c.dropout,
        dtype=c.precision,
    )
    tied = c.input == "words"
    return BiLanguageModel(sizes, vocab_size, tied, c.sampled, c.restart)


def devices_of(config: PretrainElmoConfig) -> Placement:
    """The devices, which share the streams evenly.

    Raises:
      ConfigError: They cannot; or there are several processes.
    """
    placement = choose_placement(config.placement, config.devices)
    if jax.process_count() > 1:
        raise ConfigError("ELMo is pre-trained in one process; give it more devices.")
    if config.batch_size % placement.count:
        raise ConfigError(
            f"--batch-size {config.batch_size}: {placement.count} devices cannot share "
            "so many streams evenly. Take a multiple, or --devices 1."
        )
    return placement
