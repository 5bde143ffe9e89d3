"""BERT's pre-training: the masked language model, with or without the next sentence.

Devlin et al. 2019, section 3.1.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float, Int

from tl_jax.data.masking import MASKED_LM, NEXT_SENTENCE
from tl_jax.metrics.sums import Loss, Ratio, Sums
from tl_jax.models.batch import Array, Batch
from tl_jax.models.bert import BertConfig
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


def matmul_flops(config: BertConfig, batch: Batch) -> float:
    """FLOPs of the matrix products of a train step, backward included.

        6·B·T·L·(4D² + 2DE) + 12·B·T²·L·D + 6·B·Q·(D² + D·V)

    that is 6 a token and weight (Kaplan et al. 2020, section 2.1), attention's scores
    and sums, and the masked-LM head at Q places a row, E being the inner width. Padding
    is computed like text. Pooler and next-sentence head are left out (below 1 %).
    """
    c = config
    rows, length = batch.tokens.shape
    scored = batch.targets[MASKED_LM].shape[1]
    block = 4 * c.hidden_size**2 + 2 * c.hidden_size * c.intermediate_size
    head = c.hidden_size**2 + c.hidden_size * c.vocab_size
    attention = 12 * length * c.num_layers * c.hidden_size
    body = length * (6 * c.num_layers * block + attention)
    return float(rows * (body + 6 * scored * head))


def weigh_pairs(batch: Batch) -> Batch:
    """Scales the weights of ``next_sentence`` to the masked tokens of the whole batch.

    `tl_jax.data.masking.mask` does so for the rows that it sees, which are not all if
    several processes make a batch.
    """
    if NEXT_SENTENCE not in batch.weights:
        return batch
    paired = jnp.asarray(batch.weights[NEXT_SENTENCE]) > 0
    scale = jnp.sum(batch.weights[MASKED_LM]) / jnp.maximum(jnp.sum(paired), 1)
    weights = {**batch.weights, NEXT_SENTENCE: jnp.where(paired, scale, 0.0)}
    return replace(batch, weights=weights)


def _judge(
    logits: Float[Array, "B Q N"], labels: Int[Array, "B Q"]
) -> tuple[Float[Array, "B Q"], Float[Array, "B Q"]]:
    """Returns −log P(label), by a softmax of float32, and 1 where none is better."""
    logits = logits.astype(jnp.float32)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    # Not argmax: on CPU that costs nearly as much as the product of the logits.
    own = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    return losses, (own >= logits.max(axis=-1)).astype(jnp.float32)
