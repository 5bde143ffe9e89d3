"""The softmax over a vocabulary: in full, or by a sample of its words."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from tl_jax.models.batch import Array
from tl_jax.models.dense import transposed
from tl_jax.models.mesh import row_devices

# Scores that a device makes at a time; the 16 MB stay in a CPU's cache.
_SCORES = 1 << 22


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


@jax.custom_vjp
def softmax_loss(
    states: Float[Array, "T *M P"],
    targets: Int[Array, "T *M"],
    weights: Float[Array, "T *M"],
    kernel: Float[Array, "V P"],
    bias: Float[Array, " V"],
) -> Float[Array, ""]:
    """Σ w·(−log P(target)) over the whole vocabulary, as `full_softmax` has it.

    The scores of all tokens together would be far larger than all else. They are made
    for a few steps of the leading axis at a time, and so are the gradients: as the
    weights are known, both come from one pass. No gradient goes to the weights.
    """

    def some(total: Array, part: tuple[Array, ...]) -> tuple[Array, None]:
        states, targets, weights = part
        losses = full_softmax(states, targets, kernel, bias)
        return total + jnp.sum(weights * losses), None

    parts = _parts(len(kernel), states, targets, weights)
    return jax.lax.scan(some, jnp.zeros((), jnp.float32), parts)[0]


def _softmax_loss_forward(
    states: Array, targets: Array, weights: Array, kernel: Array, bias: Array
) -> tuple[Array, tuple[Array, Array, Array]]:
    """The loss and its gradients, to be scaled by what comes from above.

    The bias is read as the weight of one more feature, which is always 1: the products
    that make the scores and the kernel's gradient then give its part as well.
    """
    dtype, width = states.dtype, states.shape[-1]
    narrow = kernel.astype(dtype)
    wide = transposed(jnp.concatenate([narrow, bias[:, None].astype(dtype)], axis=1))

    def some(
        sums: tuple[jax.Array, jax.Array], part: tuple[Array, ...]
    ) -> tuple[tuple[jax.Array, jax.Array], Array]:
        total, to_wide = sums
        states, targets, weights = part
        flat, share = states.reshape(-1, width), weights.reshape(-1, 1)
        read = jnp.concatenate([flat, jnp.ones_like(flat[:, :1])], axis=1)
        scores = jnp.dot(read, wide, preferred_element_type=jnp.float32)
        wanted = jnp.take_along_axis(scores, targets.reshape(-1, 1), axis=-1)
        top = scores.max(axis=-1, keepdims=True)
        risen = jnp.exp(scores - top)
        mass = risen.sum(axis=-1, keepdims=True)
        total += jnp.sum(share * (jnp.log(mass) + top - wanted))
        # The chances are risen / mass; it is the narrow sides that are divided.
        risen, share = risen.astype(dtype), share / mass
        to_wide += jnp.dot(transposed((share * read).astype(dtype)), risen)
        to_states = (share * (risen @ narrow)).astype(dtype)
        return (total, to_wide), to_states.reshape(states.shape)

    parts = _parts(len(kernel), states, targets, weights)
    zeros = jnp.zeros((), jnp.float32), jnp.zeros(wide.shape, jnp.float32)
    (total, to_wide), to_states = jax.lax.scan(some, zeros, parts)
    # What the targets themselves add: −w at each one's place.
    own = (weights[..., None] * states).reshape(-1, width)
    words = targets.reshape(-1)
    to_kernel = to_wide[:width].T.at[words].add(-own.astype(jnp.float32))
    to_bias = to_wide[width].at[words].add(-weights.reshape(-1))
    to_states = to_states.reshape(states.shape)
    to_states -= weights[..., None].astype(dtype) * narrow[targets]
    return total, (to_states, to_kernel, to_bias)


def _softmax_loss_backward(
    saved: tuple[Array, Array, Array], gradient: Array
) -> tuple[Array, None, None, Array, Array]:
    to_states, to_kernel, to_bias = saved
    to_states = (gradient * to_states).astype(to_states.dtype)
    return to_states, None, None, gradient * to_kernel, gradient * to_bias


softmax_loss.defvjp(_softmax_loss_forward, _softmax_loss_backward)


def _parts(vocab_size: int, *inputs: Array) -> tuple[Array, ...]:
    """Cuts the leading axis evenly, so that a part's scores are few enough."""
    length, rows = inputs[1].shape[0], inputs[1][0].size
    fits = max(1, _SCORES * row_devices() // (rows * vocab_size))
    steps = max(n for n in range(1, length + 1) if length % n == 0 and n <= fits)
    return tuple(x.reshape(-1, steps, *x.shape[1:]) for x in inputs)


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
