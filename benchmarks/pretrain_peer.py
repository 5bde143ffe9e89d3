"""The other side of `pretrain.py`: transformers + torch as their users run them."""

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from peer_adamw import adamw
from pretrain_task import Task

from tl_jax.data.masking import MASKED_LM, NEXT_SENTENCE
from tl_jax.interop.huggingface import save_bert
from tl_jax.models.batch import Batch
from tl_jax.models.heads import SCORED


class Peer:
    """transformers + torch: sdpa attention, fused AdamW, all cores."""

    name = "transformers + torch"

    def __init__(self, task: Task) -> None:
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        torch.manual_seed(0)
        with tempfile.TemporaryDirectory() as folder:
            save_bert(Path(folder), task.encoder, task.params, task.model.head)
            self.model = transformers.BertForPreTraining.from_pretrained(
                folder, attn_implementation="sdpa"
            )
        self.model.train()
        config = task.config
        self.optimizer = adamw(self.model, config.learning_rate, config.weight_decay)

    def of(self, batch: Batch) -> dict[str, Any]:
        """Turns a batch of one example a row into theirs."""
        labels = np.full(batch.tokens.shape, -100, np.int64)
        rows, places = np.nonzero(batch.weights[SCORED])
        columns = batch.targets[SCORED][rows, places]
        labels[rows, columns] = batch.targets[MASKED_LM][rows, places]
        arrays = {
            "input_ids": batch.tokens,
            "token_type_ids": batch.types,
            "attention_mask": batch.mask,
            "labels": labels,
            "next_sentence_label": batch.targets[NEXT_SENTENCE][:, 0],
        }
        return {k: torch.from_numpy(v.astype(np.int64)) for k, v in arrays.items()}

    def train(self, inputs: dict[str, Any]) -> None:
        """Takes a step."""
        self.model(**inputs).loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
