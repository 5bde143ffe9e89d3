"""The other side of `finetune.py`: transformers + torch as their users run them."""

import itertools
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import transformers
from finetune_task import EPOCHS, RATE, Task
from peer_adamw import adamw

from tl_jax.data.examples import Examples
from tl_jax.data.packing import Layout
from tl_jax.interop.load import find_weights
from tl_jax.tasks import classification


class Peer:
    """transformers + torch: sdpa attention, fused AdamW, two threads."""

    name = "transformers + torch"

    def __init__(self, task: Task, batch_size: int) -> None:
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        self.task, self.batch_size = task, batch_size
        self._reset(0, 10_000)

    def _reset(self, seed: int, total: int) -> None:
        torch.manual_seed(seed)
        self.model = transformers.AutoModelForSequenceClassification.from_pretrained(
            find_weights(self.task.weights),
            num_labels=len(self.task.names),
            attn_implementation="sdpa",
        )
        self.optimizer = adamw(self.model, RATE, 0.01)
        self.schedule = transformers.get_linear_schedule_with_warmup(
            self.optimizer, total // 10, total
        )

    def forward(self, batch: Any) -> np.ndarray:
        """Scores a batch."""
        self.model.eval()
        inputs, _ = batch
        with torch.inference_mode():
            return self.model(**inputs).logits.numpy()

    def train(self, batch: Any) -> None:
        """Takes a step."""
        self.model.train()
        inputs, labels = batch
        self.model(**inputs, labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()

    def batch(self, examples: Examples, indices: np.ndarray) -> Any:
        """Pads examples to the longest of them."""
        lengths = examples.lengths[indices]
        tokens = np.zeros((len(indices), lengths.max()), np.int64)
        mask = np.arange(lengths.max()) < lengths[:, None]
        chosen = examples.subset(indices)
        tokens[mask] = chosen.tokens
        inputs = {
            "input_ids": torch.from_numpy(tokens),
            "attention_mask": torch.from_numpy(mask.astype(np.int64)),
        }
        labels = chosen.targets[classification.LABEL].astype(np.int64)
        return inputs, torch.from_numpy(labels)

    def padded(self, examples: Examples, rows: int, width: int) -> Any:
        """The same examples as ours."""
        return self.batch(examples, np.arange(rows))

    def real(self) -> Iterator[Any]:
        """The same sentences as ours, step by step."""
        stream = self.task.stream(Layout(), self.batch_size)
        train = self.task.examples[0]
        return (self.batch(train, stream.indices(n)) for n in itertools.count())

    def accuracy(self, seed: int) -> float:
        """Trains fully and scores on dev."""
        train, dev = self.task.examples
        stream = self.task.stream(Layout(), self.batch_size, seed)
        total = EPOCHS * stream.steps_per_epoch
        self._reset(seed, total)
        for n in range(total):
            self.train(self.batch(train, stream.indices(n)))
        order = np.argsort(dev.lengths)
        right = 0
        for start in range(0, len(dev), 64):
            chosen = order[start : start + 64]
            logits = self.forward(self.batch(dev, chosen))
            labels = dev.targets[classification.LABEL][chosen]
            right += int((logits.argmax(axis=1) == labels).sum())
        return right / len(dev)
