"""The softmax over a vocabulary: in full, or by a sample of its words."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from tl_jax.models.batch import Array


def logits(
    states: Float[Array, "*M P"], kernel: Float[Array, "V P"], bias: Float[Array, " V"]
) -> Float[Array, "*M V"]:
    """Scores every word after (or before) each state, in float32."""
    scores = jnp.einsum(
        "...P,VP->...V",
        states,
        kernel.astype(states.dtype),
        preferred_element_type=jnp.float32,
    )
    return scores + bias.reshape((1,) * (states.ndim - 1) + (-1,))


def full_softmax(
    states: Float[Array, "*M P"],
    targets: Int[Array, "*M"],
    kernel: Float[Array, "V P"],
    bias: Float[Array, " V"],
) -> Float[Array, "*M"]:
    """−log P(target), over the whole vocabulary."""
    scores = logits(states, kernel, bias)
    wanted = jnp.take_along_axis(scores, targets[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(scores, axis=-1) - wanted


class Negatives(NamedTuple):
    """Distinct words that were drawn for a sampled softmax.

    Attributes:
      words: Their ids.
      tries: How long it was drawn until they were that many; infinite if all were.
    """

    words: Int[Array, " N"]
    tries: Float[Array, ""]


def draw_negatives(key: jax.Array, count: int, vocab_size: int) -> Negatives:
    """Draws ``count`` distinct words one by one from Zipf's law.

    P(k) = (log(k + 2) − log(k + 1)) / log(V + 1), for a vocabulary with the most
    frequent words first. Words arrive at times that are exponential with rates P(k),
    so the first ``count`` of them are such draws without replacement; ``tries`` is the
    arrival of the next one (Kool et al. 2019, https://arxiv.org/abs/1903.06059).

    Raises:
      ValueError: There are not so many words.
    """
    if not 0 < count <= vocab_size:
        raise ValueError(f"{count} negatives cannot be drawn from {vocab_size} words.")
    rates = log_uniform(jnp.arange(vocab_size), vocab_size)
    arrivals = jax.random.exponential(key, (vocab_size,)) / rates
    times, words = jax.lax.top_k(-arrivals, min(count + 1, vocab_size))
    tries = -times[-1] if count < vocab_size else jnp.array(jnp.inf)
    return Negatives(words[:count], tries)


def log_uniform(words: Int[Array, "*M"], vocab_size: int) -> Float[Array, "*M"]:
    """P(k) of `draw_negatives`."""
    # log((k + 2) / (k + 1)) without the cancellation that large k would bring.
    return jnp.log1p(1 / (words + 1)) / jnp.log(vocab_size + 1)


def sampled_softmax(
    states: Float[Array, "*M P"],
    targets: Int[Array, "*M"],
    kernel: Float[Array, "V P"],
    bias: Float[Array, " V"],
    negatives: Negatives,
) -> Float[Array, "*M"]:
    """−log P(target | the target or one of the negatives), as TensorFlow has it.

    Logits are lowered by the log of the chance of having been drawn, 1 − e^(−tries·P).
    That makes it a conditional likelihood whose optimum is the full softmax's (Bengio &
    Senécal 2008; tensorflow.org/extras/candidate_sampling.pdf). A negative that is the
    target itself counts once.
    """
    vocab_size = len(kernel)

    def log_chance(words: Int[Array, "*M"]) -> Float[Array, "*M"]:
        expected = negatives.tries * log_uniform(words, vocab_size)
        return jnp.log(-jnp.expm1(-expected))

    def rows(words: Int[Array, "*M"]) -> tuple[Array, Array]:
        corrected = jnp.take(bias, words, axis=0) - log_chance(words)
        return jnp.take(kernel, words, axis=0), corrected

    drawn = negatives.words
    others = logits(states, *rows(drawn))
    vectors, corrected = rows(targets)
    wanted = (states.astype(jnp.float32) * vectors).sum(axis=-1) + corrected
    same = targets[..., None] == drawn.reshape((1,) * targets.ndim + (-1,))
    others = jnp.where(same, jnp.finfo(others.dtype).min, others)
    every = jnp.concatenate([wanted[..., None], others], axis=-1)
    return jax.nn.logsumexp(every, axis=-1) - wanted
