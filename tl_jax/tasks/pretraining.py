"""BERT's pre-training: the masked language model, with or without the next sentence.

Devlin et al. 2019, section 3.1.
"""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float, Int

from tl_jax.data.masking import MASKED_LM, NEXT_SENTENCE
from tl_jax.metrics.sums import Loss, Ratio, Sums
from tl_jax.models.batch import Array, Batch
from tl_jax.models.compose import Model, Params
from tl_jax.models.heads import Pretrain


def loss(model: Model) -> Loss:
    """Makes the loss of a model whose head is `Pretrain` or `MaskedLanguageModel`.

    Of batches from `tl_jax.data.masking.mask`, whose weights make it, over any number
    of devices and parts of a batch,

        Σ_masked −log P(token) / masked  +  Σ_pairs −log P(is next) / pairs

    as in google-research/bert (``run_pretraining.py``). The entries ``mlm_loss``,
    ``mlm_accuracy``, ``nsp_loss`` and ``nsp_accuracy`` are means of their own.
    """
    paired = isinstance(model.head, Pretrain)

    def sums(
        params: Params, batch: Batch, key: jax.Array | None = None, *, train: bool
    ) -> Sums:
        scores = model.apply(params, batch, key, train=train)
        words = scores.masked_lm if paired else scores
        masked = jnp.asarray(batch.weights[MASKED_LM])
        losses, right = _judge(words, batch.targets[MASKED_LM])
        total, weight = jnp.sum(masked * losses), jnp.sum(masked)
        found = {
            "mlm_loss": Ratio(total, weight),
            "mlm_accuracy": Ratio(jnp.sum(masked * right), weight),
        }
        if paired:
            share = jnp.asarray(batch.weights[NEXT_SENTENCE])
            counted = (share > 0).astype(jnp.float32)
            losses, right = _judge(scores.next_sentence, batch.targets[NEXT_SENTENCE])
            # These weights add up to those of the masked tokens.
            total += jnp.sum(share * losses)
            found |= {
                "nsp_loss": Ratio(jnp.sum(counted * losses), jnp.sum(counted)),
                "nsp_accuracy": Ratio(jnp.sum(counted * right), jnp.sum(counted)),
            }
        return {"loss": Ratio(total, weight), **found}

    return sums


def _judge(
    logits: Float[Array, "B Q N"], labels: Int[Array, "B Q"]
) -> tuple[Float[Array, "B Q"], Float[Array, "B Q"]]:
    """Returns −log P(label), by a softmax of float32, and 1 where it is the best."""
    logits = logits.astype(jnp.float32)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses, (logits.argmax(axis=-1) == labels).astype(jnp.float32)
