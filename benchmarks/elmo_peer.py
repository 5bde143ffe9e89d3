"""The other side of `elmo.py`: the same biLM in torch, made of its `nn.LSTM`."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from elmo_task import Sizes
from torch import Tensor, nn
from torch.nn import functional

from tl_jax.text.characters import bounded, distinct_words, word_characters


class CharCnn(nn.Module):
    """Convolutions, highway layers and a projection, as `models/char_cnn.py` has."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        c = sizes.bilm("characters")
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

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.layers = sizes.layers
        self.lstms = nn.ModuleList(
            nn.LSTM(
                sizes.projection,
                sizes.cell,
                proj_size=sizes.projection,
                batch_first=True,
            )
            for _ in range(2 * sizes.layers)
        )

    def forward(
        self, words: Tensor, lengths: Tensor | None = None
    ) -> list[list[Tensor]]:
        """Vectors ``[B, T, P]`` → the states of each direction's layers."""
        found = []
        for way in range(2):
            states, layers = _turned(words, lengths) if way else words, []
            for depth in range(self.layers):
                outputs, _ = self.lstms[way * self.layers + depth](states)
                states = states + outputs if depth else outputs
                layers.append(_turned(states, lengths) if way else states)
            found.append(layers)
        return found


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

    def __init__(self, sizes: Sizes) -> None:
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        torch.manual_seed(0)
        self.sizes = sizes
        self.words = nn.Embedding(sizes.vocab_size, sizes.projection)
        self.bias = nn.Parameter(torch.zeros(sizes.vocab_size))
        self.bilm, self.cnn = BiLm(sizes), CharCnn(sizes)
        learnt = [*self.words.parameters(), self.bias, *self.bilm.parameters()]
        self.optimizer = torch.optim.Adam(learnt, lr=1e-3, fused=True)

    def train(self, tokens: np.ndarray) -> float:
        """Takes a step of pre-training; returns the loss."""
        ids = torch.from_numpy(tokens)
        ahead, behind = (layers[-1] for layers in self.bilm(self.words(ids)))
        width = self.sizes.projection
        states = torch.cat(
            [ahead[:, :-1].reshape(-1, width), behind[:, 1:].reshape(-1, width)]
        )
        targets = torch.cat([ids[:, 1:].reshape(-1), ids[:, :-1].reshape(-1)])
        logits = functional.linear(states, self.words.weight, self.bias)
        loss = functional.cross_entropy(logits, targets)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()

    def features(
        self, sentences: Sequence[Sequence[str]], batch_size: int
    ) -> list[Any]:
        """Every layer's states of each sentence, between the boundaries."""
        order = sorted(range(len(sentences)), key=lambda n: -len(sentences[n]))
        found: list[Any] = [None] * len(sentences)
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
        length = self.sizes.bilm("characters").max_characters
        spelt = torch.from_numpy(word_characters(distinct, length=length)).long()
        lengths = torch.tensor([len(words) for words in sentences])
        tokens = np.zeros((len(sentences), int(lengths.max())), np.int64)
        for row, words in enumerate(index):
            tokens[row, : len(words)] = words
        words = self.cnn(spelt)[torch.from_numpy(tokens)]
        ahead, behind = self.bilm(words, lengths)
        layers = [torch.cat(pair, dim=2) for pair in zip(ahead, behind, strict=True)]
        return torch.stack([torch.cat([words, words], dim=2), *layers])
