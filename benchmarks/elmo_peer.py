"""The other side of `elmo.py`: the same biLM in torch, made of its `nn.LSTM`."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from tl_jax.data.word_stream import BACKWARD, FORWARD
from tl_jax.models.batch import Batch
from tl_jax.models.elmo import ElmoConfig
from tl_jax.runs.pretrain_config import PretrainElmoConfig
from tl_jax.text.characters import bounded, distinct_words, word_characters


class CharCnn(nn.Module):
    """Convolutions, highway layers and a projection, as `models/char_cnn.py` has."""

    def __init__(self, c: ElmoConfig) -> None:
        super().__init__()
        width = sum(count for _, count in c.filters)
        self.embedding = nn.Embedding(c.num_characters + 1, c.character_size)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(c.character_size, count, span) for span, count in c.filters
        )
        self.highways = nn.ModuleList(
            nn.Linear(width, 2 * width) for _ in range(c.num_highways)
        )
        self.projection = nn.Linear(width, c.projection_size)

    def forward(self, characters: Tensor) -> Tensor:
        """Words ``[W, C]`` → vectors ``[W, P]``."""
        spelt = self.embedding(characters).transpose(1, 2)
        parts = [torch.relu(conv(spelt).amax(dim=2)) for conv in self.convolutions]
        words = torch.cat(parts, dim=1)
        for highway in self.highways:
            new, gate = highway(words).chunk(2, dim=1)
            gate = torch.sigmoid(gate)
            words = gate * torch.relu(new) + (1 - gate) * words
        return self.projection(words)


class BiLm(nn.Module):
    """A stack of LSTMs with a projection for each direction, without clipping."""

    def __init__(self, c: ElmoConfig) -> None:
        super().__init__()
        self.layers, self.dropout = c.num_layers, c.dropout
        self.lstms = nn.ModuleList(
            nn.LSTM(
                c.projection_size,
                c.cell_size,
                proj_size=c.projection_size,
                batch_first=True,
            )
            for _ in range(2 * c.num_layers)
        )

    def forward(
        self,
        words: Sequence[Tensor],
        lengths: Tensor | None = None,
        starts: Sequence[Any] | None = None,
    ) -> tuple[list[list[Tensor]], list[Any]]:
        """Reads each direction's words ``[B, T, P]``, from zero states or others.

        Returns:
          The states of each direction's layers, and what all LSTMs end with.
        """
        found, ends = [], []
        for way, given in enumerate(words):
            states, layers = _turned(given, lengths) if way else given, []
            for depth in range(self.layers):
                place = way * self.layers + depth
                states = functional.dropout(states, self.dropout, self.training)
                start = None if starts is None else starts[place]
                outputs, end = self.lstms[place](states, start)
                states = states + outputs if depth else outputs
                layers.append(_turned(states, lengths) if way else states)
                ends.append(end)
            found.append(layers)
        return found, ends


def _turned(states: Tensor, lengths: Tensor | None) -> Tensor:
    """Each sentence from its end to its begin; padding stays behind it."""
    if lengths is None:
        return states.flip(1)
    places = torch.arange(states.shape[1])[None]
    index = torch.where(
        places < lengths[:, None], lengths[:, None] - 1 - places, places
    )
    return states.gather(1, index[:, :, None].expand_as(states))


class Peer:
    """torch, on all cores."""

    name = "torch"

    def __init__(
        self, options: PretrainElmoConfig, vocabulary: int, reader: ElmoConfig
    ) -> None:
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        torch.manual_seed(0)
        self.options, self.reader = options, reader
        self.words = nn.Embedding(vocabulary, options.projection)
        self.bias = nn.Parameter(torch.zeros(vocabulary))
        self.bilm, self.cnn = BiLm(reader), CharCnn(reader)
        self.learnt = [*self.words.parameters(), self.bias, *self.bilm.parameters()]
        rate = options.learning_rate
        self.optimizer = torch.optim.Adam(self.learnt, lr=rate, fused=True)
        self.carry: list[Any] | None = None

    def train(self, batch: Batch) -> float:
        """Takes a step of pre-training on a full window; returns the loss."""
        read = torch.from_numpy(np.stack([batch.tokens, batch.inputs[BACKWARD]])).long()
        targets = np.stack([batch.targets[FORWARD], batch.targets[BACKWARD]])
        self.bilm.train()
        found, ends = self.bilm(list(self.words(read)), starts=self.carry)
        self.carry = [tuple(x.detach() for x in end) for end in ends]
        states = torch.stack([layers[-1] for layers in found])
        states = functional.dropout(states, self.options.dropout)
        logits = functional.linear(states, self.words.weight, self.bias)
        wanted = torch.from_numpy(targets).long().reshape(-1)
        loss = functional.cross_entropy(logits.flatten(0, 2), wanted)
        loss.backward()
        nn.utils.clip_grad_norm_(self.learnt, self.options.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()

    def features(
        self, sentences: Sequence[Sequence[str]], batch_size: int
    ) -> list[Any]:
        """Every layer's states of each sentence, between the boundaries."""
        order = sorted(range(len(sentences)), key=lambda n: -len(sentences[n]))
        found: list[Any] = [None] * len(sentences)
        self.bilm.eval()
        with torch.inference_mode():
            for start in range(0, len(order), batch_size):
                numbers = order[start : start + batch_size]
                states = self._read([bounded(sentences[n]) for n in numbers]).numpy()
                for row, number in enumerate(numbers):
                    inside = slice(1, 1 + len(sentences[number]))
                    found[number] = states[:, row, inside]
        return found

    def _read(self, sentences: Sequence[Sequence[str]]) -> Tensor:
        distinct, index = distinct_words(sentences)
        length = self.reader.max_characters
        spelt = torch.from_numpy(word_characters(distinct, length=length)).long()
        lengths = torch.tensor([len(words) for words in sentences])
        tokens = np.zeros((len(sentences), int(lengths.max())), np.int64)
        for row, words in enumerate(index):
            tokens[row, : len(words)] = words
        words = self.cnn(spelt)[torch.from_numpy(tokens)]
        (ahead, behind), _ = self.bilm([words, words], lengths)
        layers = [torch.cat(pair, dim=2) for pair in zip(ahead, behind, strict=True)]
        return torch.stack([torch.cat([words, words], dim=2), *layers])
