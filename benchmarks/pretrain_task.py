"""What both sides of `pretrain.py` learn: prepared text, and batches of it."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tl_jax.data.masking import mask
from tl_jax.data.pretraining_stream import PretrainingStream, lay
from tl_jax.data.shards import Prepared
from tl_jax.models.batch import Batch
from tl_jax.models.bert import BertConfig
from tl_jax.models.compose import Model, Params
from tl_jax.runs.pretrain_bert_setup import (
    build_model,
    choose_tokenizer,
    initial,
    prepare_parts,
    stream_of,
)
from tl_jax.runs.pretrain_config import PretrainBertConfig
from tl_jax.text.subwords import Tokenizer

POSITIONS = 2048  # of a step, padding included: 16 rows of 128, or 4 of 512


@dataclass(frozen=True, eq=False)
class Task:
    """Text prepared for examples of one length, and the model of step 0."""

    config: PretrainBertConfig
    tokenizer: Tokenizer
    prepared: Prepared
    encoder: BertConfig
    params: Params

    @property
    def model(self) -> Model:
        """Encoder and heads."""
        return build_model(self.encoder, nsp=True)

    @property
    def stream(self) -> PretrainingStream:
        """Packed rows, as the library trains on them."""
        rows = POSITIONS // self.prepared.row_length
        config = replace(self.config, batch_size=rows)
        return stream_of(config, self.prepared, self.tokenizer, 1)

    def packed(self) -> Iterator[Batch]:
        """Batches of full rows."""
        return (self.stream.batch(n) for n in itertools.count())

    def padded(self) -> Iterator[Batch]:
        """The same examples, each in a row of its own of full length."""
        masking, width = self.stream.masking, self.config.max_length
        rows = POSITIONS // width
        order = np.random.default_rng(0).permutation(len(self.prepared))
        for start in itertools.count(step=rows):
            chosen = order.take(range(start, start + rows), mode="wrap")
            examples = self.prepared.read(chosen, self.tokenizer.frame)
            yield mask(lay(examples, [1] * rows, width, rows, 0), masking)


def make_task(config: PretrainBertConfig, folder: Path) -> Task:
    """Trains a vocabulary, prepares the text under a folder and draws the model."""
    tokenizer = choose_tokenizer(config)
    prepared = prepare_parts(config, tokenizer, folder)["train"]
    return Task(config, tokenizer, prepared, *initial(config, tokenizer))
