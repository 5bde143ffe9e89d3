"""Heads: small layers from a representation's features to logits.

Each maps (features, batch, noise) to float32 logits, whatever the encoder's type. One
that reads the pooled vectors alone says so (``pooled_only``), which spares the encoder
the rest.
"""

from typing import ClassVar, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float

from tl_jax.models.batch import Array, Batch, first_tokens
from tl_jax.models.crf import Transitions
from tl_jax.models.dropout import Noise, dropout
from tl_jax.models.feed_forward import ACTIVATIONS
from tl_jax.models.layers import Dense, Features, LayerNorm

# The heads' dropout masks are drawn far from every encoder's layers.
HEAD_PLACE = 1 << 16
# A batch's target of this name lists the columns of the tokens that masked-LM heads
# score, ``[B, Q]``; without it they score every token, ``Q = T``.
SCORED = "scored"


class Classify(nn.Module):
    """P = softmax(C·Wᵀ + b) over each example's pooled vector C; logits are returned.

    Devlin et al. 2019, section 4.1. One class without a softmax is regression.

    Attributes:
      classes: Number of classes, N.
      dropout: Dropout of the pooled vector.
    """

    pooled_only: ClassVar[bool] = True

    classes: int
    dropout: float = 0.1

    @nn.compact
    def __call__(
        self, features: Features, batch: Batch, noise: Noise | None = None
    ) -> Float[Array, "B S N"]:
        """Scores the classes of every example slot; empty slots hold no meaning.

        Raises:
          ValueError: The representation makes no pooled vector.
        """
        pooled = _pooled(features, "Classify")
        if noise is not None:
            noise = first_tokens(noise[..., None], batch)[..., 0]
        pooled = dropout(pooled, self.dropout, noise, HEAD_PLACE)
        return Dense(self.classes, name="output")(pooled.astype(jnp.float32))


class Tag(nn.Module):
    """Scores the classes of each token from its top state: T·Wᵀ + b.

    Devlin et al. 2019, section 5.3.

    Attributes:
      classes: Number of classes, N.
      dropout: Dropout of the top states.
    """

    classes: int
    dropout: float = 0.1

    @nn.compact
    def __call__(
        self, features: Features, batch: Batch, noise: Noise | None = None
    ) -> Float[Array, "B T N"]:
        """Scores the classes of every token; padding holds no meaning."""
        del batch
        states = dropout(features.layers[-1], self.dropout, noise, HEAD_PLACE)
        return Dense(self.classes, name="output")(states.astype(jnp.float32))


class TagScores(NamedTuple):
    """What `TagCrf` returns.

    Attributes:
      emissions: Of every token's classes.
      transitions: Of the steps between them.
    """

    emissions: Float[Array, "B T N"]
    transitions: Transitions


class TagCrf(nn.Module):
    """Scores whole tag sequences: those of `Tag` and of the steps between the tags.

    Lample et al. 2016, section 2.2; see :mod:`tl_jax.models.crf`. The steps' scores
    begin at zero, as if the tags were independent. The attributes are those of `Tag`.
    """

    classes: int
    dropout: float = 0.1

    @nn.compact
    def __call__(
        self, features: Features, batch: Batch, noise: Noise | None = None
    ) -> TagScores:
        """Scores every token's classes, and the steps; padding holds no meaning."""
        del batch
        states = dropout(features.layers[-1], self.dropout, noise, HEAD_PLACE)
        emissions = Dense(self.classes, name="output")(states.astype(jnp.float32))
        zeros, tags = nn.initializers.zeros, self.classes
        transitions = Transitions(
            start=self.param("start", zeros, (tags,), jnp.float32),
            between=self.param("between", zeros, (tags, tags), jnp.float32),
            end=self.param("end", zeros, (tags,), jnp.float32),
        )
        return TagScores(emissions, transitions)


class Span(nn.Module):
    """Scores each token as the start (0) and the end (1) of an answer: T·Wᵀ + b.

    Devlin et al. 2019, section 4.2. The softmax over an example's tokens is the loss's.
    """

    @nn.compact
    def __call__(
        self, features: Features, batch: Batch, noise: Noise | None = None
    ) -> Float[Array, "B T 2"]:
        """Scores every token; padding holds no meaning, and nothing is dropped out."""
        del batch, noise
        return Dense(2, name="output")(features.layers[-1].astype(jnp.float32))


class MaskedLanguageModel(nn.Module):
    """LayerNorm(act(T·Wᵀ + c))·Eᵀ + b, E the encoder's own word embedding (tied).

    Devlin et al. 2019, section 3.1. Where the batch lists the tokens to be scored
    (`SCORED`), nothing is computed for the others: of BERT-base's step, the scores of
    all tokens would be a fifth.

    Attributes:
      activation: As in `BertConfig`; released weights use the encoder's.
      layer_norm_eps: Added to the variance.
      initializer_range: Standard deviation of the transform's truncated normal.
    """

    activation: str = "gelu"
    layer_norm_eps: float = 1e-12
    initializer_range: float = 0.02

    @nn.compact
    def __call__(
        self, features: Features, batch: Batch, noise: Noise | None = None
    ) -> Float[Array, "B Q V"]:
        """Scores the vocabulary at every listed token; nothing is dropped out.

        Raises:
          ValueError: The representation has no word embedding to tie to.
        """
        del noise
        table = features.embedding
        if table is None:
            raise ValueError(
                "MaskedLanguageModel is tied to the encoder's word embedding, and this "
                "encoder has none: use one that gives `Features.embedding`, as Bert."
            )
        vocabulary, width = table.shape
        states = features.layers[-1]
        if (columns := batch.targets.get(SCORED)) is not None:
            states = jnp.take_along_axis(states, columns[:, :, None], axis=1)
        rows, length, _ = states.shape
        flat = states.reshape(rows * length, -1)
        transform = Dense(width, self.initializer_range, name="transform")
        hidden = ACTIVATIONS[self.activation](transform(flat))
        hidden = LayerNorm(self.layer_norm_eps, name="norm")(hidden)
        bias = self.param("bias", nn.initializers.zeros, (vocabulary,), jnp.float32)
        logits = jnp.einsum(
            "MD,VD->MV",
            hidden.astype(states.dtype),
            table.astype(states.dtype),
            preferred_element_type=jnp.float32,
        )
        return (logits + bias[None, :]).reshape(rows, length, vocabulary)


class NextSentence(nn.Module):
    """Scores whether sentence B follows A (0) or is random (1): C·Wᵀ + b.

    Devlin et al. 2019, section 3.1.
    """

    pooled_only: ClassVar[bool] = True

    @nn.compact
    def __call__(
        self, features: Features, batch: Batch, noise: Noise | None = None
    ) -> Float[Array, "B S 2"]:
        """Scores every example slot; nothing is dropped out.

        Raises:
          ValueError: The representation makes no pooled vector.
        """
        del batch, noise
        pooled = _pooled(features, "NextSentence")
        return Dense(2, name="output")(pooled.astype(jnp.float32))


class PretrainLogits(NamedTuple):
    """What `Pretrain` returns.

    Attributes:
      masked_lm: Of `MaskedLanguageModel`.
      next_sentence: Of `NextSentence`.
    """

    masked_lm: Float[Array, "B Q V"]
    next_sentence: Float[Array, "B S 2"]


class Pretrain(nn.Module):
    """Both of BERT's pre-training heads, as `masked_lm` and `next_sentence`.

    The attributes are those of `MaskedLanguageModel`.
    """

    activation: str = "gelu"
    layer_norm_eps: float = 1e-12
    initializer_range: float = 0.02

    @nn.compact
    def __call__(
        self, features: Features, batch: Batch, noise: Noise | None = None
    ) -> PretrainLogits:
        """Scores every listed token's vocabulary and every slot's next sentence."""
        masked_lm = MaskedLanguageModel(
            self.activation,
            self.layer_norm_eps,
            self.initializer_range,
            name="masked_lm",
        )
        next_sentence = NextSentence(name="next_sentence")
        return PretrainLogits(
            masked_lm(features, batch, noise), next_sentence(features, batch, noise)
        )


def _pooled(features: Features, head: str) -> Float[Array, "B S D"]:
    if features.pooled is None:
        raise ValueError(
            f"{head} needs one vector an example, and the encoder makes none: "
            "set `pooling` of its config to anything but 'none'."
        )
    return features.pooled
