"""A language model in both directions, over text that goes on from batch to batch.

Peters et al. 2018, section 3.1. The LSTMs' states are carried from window to window of
a stream (`tl_jax.data.word_stream`), gradients go back to the window's border.

A stream begins from a state of zeros once an epoch only. A biLM that hardly ever met
that state in training reads on from it wrongly, some streams for hundreds of words, yet
held-out text and the sentences of tasks begin there. So training also forgets what was
carried, at windows drawn at random.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from tl_jax.data.word_stream import BACKWARD, FORWARD, SPELLINGS
from tl_jax.metrics.sums import Ratio, Sums
from tl_jax.models.batch import Array, Batch
from tl_jax.models.compose import Params, init_module
from tl_jax.models.dropout import Noise, kept, layer_noise, token_noise
from tl_jax.models.elmo import (
    DIRECTIONS,
    BiLm,
    Carry,
    ElmoConfig,
    LanguageModel,
    Rows,
    WordSoftmax,
    zero_carry,
)
from tl_jax.models.heads import HEAD_PLACE
from tl_jax.models.softmax import (
    draw_negatives,
    full_softmax,
    sampled_softmax,
    softmax_loss,
)

# Numbers what is forgotten behind the model's places with dropout.
_RESTART_PLACE = HEAD_PLACE + len(DIRECTIONS)


@dataclass(frozen=True)
class BiLanguageModel:
    """A biLM with its softmax; parameters are ``{"encoder": …, "head": …}``.

    A carry is kept with the rows of the batch first: ``[B, L, 2, D]``.

    Attributes:
      config: Of the biLM.
      vocab_size: Words that are predicted.
      tied: The softmax takes the word embedding for its kernel.
      sampled: Words that are drawn against each batch's targets in training; None
        computes the full softmax.
      restart: Share of the windows that training reads from a state of zeros.
    """

    config: ElmoConfig
    vocab_size: int
    tied: bool
    sampled: int | None = None
    restart: float = 0.0

    @property
    def encoder(self) -> BiLm:
        """The biLM."""
        return BiLm(self.config)

    @property
    def head(self) -> LanguageModel:
        """The softmax over the vocabulary."""
        return LanguageModel(self.vocab_size, self.tied, self.config.dropout)

    def init(self, key: jax.Array, batch: Batch) -> Params:
        """Draws random parameters; only the shapes of ``batch`` matter."""
        for_encoder, for_head = jax.random.split(key)
        encoder = init_module(self.encoder, for_encoder, *_words(batch))

        def encode(encoder: Params, batch: Batch) -> tuple[Any, Batch]:
            found: Any = self.encoder.apply({"params": encoder}, *_words(batch))
            return found[0], batch

        head = init_module(self.head, for_head, encoder, batch, prepare=encode)
        return {"encoder": encoder, "head": head}

    def carry(self, rows: int) -> Carry:
        """The state that remembers nothing, as numpy arrays."""
        zero = zero_carry(self.config, rows)
        return Carry(*(np.moveaxis(np.asarray(x), 2, 0) for x in zero))

    def loss(
        self,
        params: Params,
        batch: Batch,
        key: jax.Array | None,
        carry: Carry,
        *,
        train: bool,
    ) -> tuple[Sums, Carry]:
        """½ (Σ −log p(t_k | before) + Σ −log p(t_k | after)) / Σ 1, and the next carry.

        ``before`` and ``after`` are all words of the row's stream since it began, as
        far as the states remember them. A batch at position 0 begins from zero. The
        entries ``forward_loss`` and ``backward_loss`` are the means of each direction.
        """
        noise = token_noise(key, batch) if train and key is not None else None
        scores, carry = self._read(params, batch, carry, noise)
        negatives = None
        if train and key is not None and self.sampled is not None:
            # Every step has negatives of its own, the same on all devices.
            for number in (batch.epochs[0, 0], batch.positions[0, 0]):
                key = jax.random.fold_in(key, number)
            negatives = draw_negatives(key, self.sampled, self.vocab_size)
        sums = {}
        for states, name in zip(scores.states, (FORWARD, BACKWARD), strict=True):
            weights = jnp.asarray(batch.weights[name]).T
            inputs = states.swapaxes(0, 1), jnp.asarray(batch.targets[name]).T
            kernel = scores.kernel, scores.bias
            if negatives is None:
                total = softmax_loss(*inputs, weights, *kernel)
            else:
                losses = sampled_softmax(*inputs, *kernel, negatives)
                total = jnp.sum(weights * losses)
            sums[f"{name}_loss"] = Ratio(total, jnp.sum(weights))
        loss = jax.tree.map(jnp.add, *sums.values())
        return {"loss": loss, **sums}, carry

    def losses(
        self, params: Params, batch: Batch, carry: Carry
    ) -> tuple[Float[Array, "B 2"], Carry]:
        """Σ −log p of each row and direction, by the full softmax; and the carry."""
        scores, carry = self._read(params, batch, carry, None)
        targets = jnp.stack([batch.targets[FORWARD], batch.targets[BACKWARD]])
        weights = jnp.stack([batch.weights[FORWARD], batch.weights[BACKWARD]])
        found = full_softmax(scores.states, targets, scores.kernel, scores.bias)
        return (weights * found).sum(axis=-1).T, carry

    def _read(
        self, params: Params, batch: Batch, carry: Carry, noise: Noise | None
    ) -> tuple[WordSoftmax, Carry]:
        begun = jnp.asarray(batch.positions)[:, :1, None, None] > 0
        if noise is not None:
            begun &= self._remembers(noise)[:, :, None, None]
        start = Carry(*(jnp.moveaxis(jnp.where(begun, x, 0), 0, 2) for x in carry))
        tokens, example, characters = _words(batch)
        behind = (jnp.asarray(batch.weights[BACKWARD]) > 0).astype(jnp.int32)
        backward = Rows(jnp.asarray(batch.inputs[BACKWARD]), behind)
        inputs = tokens, example, characters, start, noise, backward
        found: Any = self.encoder.apply({"params": params["encoder"]}, *inputs)
        features, end = found
        end = Carry(*(jnp.moveaxis(x, 2, 0) for x in end))
        head = {"params": params["head"]}
        scores: Any = self.head.apply(head, features, batch, noise)
        return scores, end

    def _remembers(self, noise: Noise) -> Bool[Array, "B 1"]:
        """True for each row that goes on from what it carried; drawn by its place."""
        rows = layer_noise(noise[:, :1], _RESTART_PLACE)
        return kept(rows, jnp.uint32(0), self.restart)


def _words(batch: Batch) -> tuple[Array, Array, Array | None]:
    """What the biLM reads: ids, where there are any, and the distinct characters."""
    characters = batch.inputs.get(SPELLINGS)
    if characters is not None:
        characters = jnp.reshape(characters, (-1, characters.shape[-1]))
    return batch.tokens, batch.example, characters
