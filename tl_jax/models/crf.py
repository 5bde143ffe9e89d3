"""Linear-chain conditional random fields over the tokens of packed rows.

Lafferty et al. 2001; Lample et al. 2016, section 2.2: a tag sequence y_1 … y_n scores

    start[y_1] + Σ_i emission_i[y_i] + Σ_i between[y_i, y_(i+1)] + end[y_n]

and has the probability softmax of that over all sequences. Not every token is tagged
(special pieces and later pieces of a word are not): the chain goes from one counted
token to the next one of the same example, as if the others were not there. An example's
tokens stand together in their row.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from tl_jax.models.batch import Array

# A forbidden step's score: finite, so that no row and no gradient can become NaN.
FORBIDDEN = -1e4


class Transitions(NamedTuple):
    """Scores added to a sequence for its first tag, its steps and its last tag.

    Attributes:
      start: Of beginning with a tag.
      between: Of a step, from the row's tag to the column's.
      end: Of ending with a tag.
    """

    start: Float[Array, "N"]
    between: Float[Array, "N N"]
    end: Float[Array, "N"]


class _Chain(NamedTuple):
    """Which tokens are linked; ``previous`` is meant only where ``continued``."""

    counted: Bool[Array, "B T"]
    continued: Bool[Array, "B T"]
    last: Bool[Array, "B T"]
    previous: Int[Array, "B T"]


def iob2_constraints(classes: int) -> Transitions:
    """Forbids what IOB2 does not allow: I-X that follows neither B-X nor I-X.

    Args:
      classes: Number of tags, N, in the order O, B-X, I-X, B-Y, I-Y, …

    Returns:
      Zeros and `FORBIDDEN`, to be added to learned transitions or used by themselves.
    """
    tags = np.arange(classes)
    inside = (tags > 0) & (tags % 2 == 0)
    kind = (tags + 1) // 2
    opened = kind[:, None] == kind[None, :]
    return Transitions(
        start=np.where(inside, FORBIDDEN, 0).astype(np.float32),
        between=np.where(inside[None, :] & ~opened, FORBIDDEN, 0).astype(np.float32),
        end=np.zeros(classes, np.float32),
    )


def viterbi(
    emissions: Float[Array, "B T N"],
    transitions: Transitions,
    counted: Bool[Array, "B T"],
    example: Int[Array, "B T"],
) -> Int[Array, "B T"]:
    """Finds the tags of the best-scored sequence of every example.

    Args:
      emissions: Scores of each token's tags.
      transitions: Scores of the steps between them.
      counted: True at tokens that have a tag.
      example: Slot (1…S) of the row that a token belongs to; 0 is padding.

    Returns:
      The tag of each counted token, 0 elsewhere. Of equal scores the lower tag wins.
    """
    chain = _link(counted, example)
    start, between, end = (jnp.asarray(x, jnp.float32) for x in transitions)

    def forward(
        best: Float[Array, "B N"], token: tuple[Array, ...]
    ) -> tuple[Array, tuple[Array, Array]]:
        emission, here, continued = token
        paths = best[:, :, None] + between[None]
        reached = jnp.where(continued[:, None], paths.max(axis=1), start[None])
        reached += emission
        # Only differences matter: kept near 0, they keep their digits in long rows.
        reached -= reached.max(axis=1, keepdims=True)
        best = jnp.where(here[:, None], reached, best)
        return best, (best, paths.argmax(axis=1))

    def backward(
        wanted: Int[Array, "B"], token: tuple[Array, ...]
    ) -> tuple[Array, Array]:
        best_last, origin, here, last = token
        tag = jnp.where(last, best_last, wanted)
        came_from = jnp.take_along_axis(origin, tag[:, None], axis=1)[:, 0]
        return jnp.where(here, came_from, tag), jnp.where(here, tag, 0)

    by_token = _by_token(emissions)
    here, continued, last = (x.T for x in chain[:3])
    _, (best, origins) = jax.lax.scan(
        forward, jnp.zeros_like(by_token[0]), (by_token, here, continued)
    )
    final = (best + end[None, None]).argmax(axis=2)
    _, tags = jax.lax.scan(
        backward, jnp.zeros_like(final[0]), (final, origins, here, last), reverse=True
    )
    return tags.T


def log_likelihood(
    emissions: Float[Array, "B T N"],
    tags: Int[Array, "B T"],
    transitions: Transitions,
    counted: Bool[Array, "B T"],
    example: Int[Array, "B T"],
    slots: int,
) -> Float[Array, "B S"]:
    """Computes log P(tags) of every example: its score less the log partition.

    Args:
      emissions: As for `viterbi`, as are the arguments not named here.
      tags: What stands at tokens that are not counted is never read.
      transitions: Scores of the steps between tags.
      counted: True at tokens that have a tag.
      example: Slot of each token.
      slots: Number of slots of a row, S.

    Returns:
      One number a slot; 0 for an example without counted tokens and an empty slot.
    """
    chain = _link(counted, example)
    transitions = Transitions(*(jnp.asarray(x, jnp.float32) for x in transitions))
    # Token by token, so that two sums of hundreds are never subtracted.
    gains = _score_gains(emissions, tags, transitions, chain) - _partition_gains(
        emissions, transitions, chain
    )
    of_slot = example[:, None, :] == jnp.arange(1, slots + 1)[None, :, None]
    return jnp.where(of_slot, gains[:, None, :], 0).sum(axis=2)


def marginals(
    emissions: Float[Array, "B T N"],
    transitions: Transitions,
    counted: Bool[Array, "B T"],
    example: Int[Array, "B T"],
) -> Float[Array, "B T N"]:
    """Computes the posterior probability of every tag at every counted token.

    It is the gradient of the log partition by the emissions: the backward pass of the
    forward algorithm is the forward-backward algorithm (Eisner 2016).

    Args:
      emissions: As for `viterbi`, as are the other arguments.
      transitions: Scores of the steps between tags.
      counted: True at tokens that have a tag.
      example: Slot of each token.

    Returns:
      Probabilities that sum to 1 at counted tokens; zeros elsewhere.
    """
    chain = _link(counted, example)
    transitions = Transitions(*(jnp.asarray(x, jnp.float32) for x in transitions))
    return jax.grad(lambda e: _partition_gains(e, transitions, chain).sum())(
        jnp.asarray(emissions, jnp.float32)
    )


def _link(counted: Bool[Array, "B T"], example: Int[Array, "B T"]) -> _Chain:
    """Finds each counted token's neighbours among the counted ones of its example."""
    counted = jnp.asarray(counted) & (example > 0)
    rows, length = counted.shape
    places = jnp.broadcast_to(jnp.arange(length)[None], (rows, length))
    upto = jax.lax.cummax(jnp.where(counted, places, -1), axis=1)
    onward = jax.lax.cummin(jnp.where(counted, places, length), axis=1, reverse=True)
    previous = jnp.pad(upto[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
    following = jnp.pad(onward[:, 1:], ((0, 0), (0, 1)), constant_values=length)

    def same(places: Int[Array, "B T"]) -> Bool[Array, "B T"]:
        within = jnp.clip(places, 0, length - 1)
        there = jnp.take_along_axis(jnp.asarray(example), within, axis=1)
        return counted & (places == within) & (there == example)

    return _Chain(counted, same(previous), counted & ~same(following), previous)


def _score_gains(
    emissions: Float[Array, "B T N"],
    tags: Int[Array, "B T"],
    transitions: Transitions,
    chain: _Chain,
) -> Float[Array, "B T"]:
    """What each token adds to the score of its example's tags."""
    start, between, end = transitions
    emission = jnp.take_along_axis(
        jnp.asarray(emissions, jnp.float32), jnp.asarray(tags)[:, :, None], axis=2
    )[:, :, 0]
    before = jnp.take_along_axis(
        jnp.asarray(tags), jnp.maximum(chain.previous, 0), axis=1
    )
    step = jnp.where(chain.continued, between[before, tags], start[tags])
    final = jnp.where(chain.last, end[tags], 0)
    return jnp.where(chain.counted, emission + step + final, 0)


def _partition_gains(
    emissions: Float[Array, "B T N"], transitions: Transitions, chain: _Chain
) -> Float[Array, "B T"]:
    """What each token adds to the log partition of its example.

    The forward algorithm with its messages normalised at every token (Rabiner 1989,
    section V.A): the logarithms of the norms add up to the log partition.
    """
    start, between, end = transitions

    def forward(
        message: Float[Array, "B N"], token: tuple[Array, ...]
    ) -> tuple[Array, tuple[Array, Array]]:
        emission, here, continued = token
        paths = jax.nn.logsumexp(message[:, :, None] + between[None], axis=1)
        reached = jnp.where(continued[:, None], paths, start[None]) + emission
        norm = jax.nn.logsumexp(reached, axis=1)
        message = jnp.where(here[:, None], reached - norm[:, None], message)
        return message, (message, norm)

    by_token = _by_token(emissions)
    _, (messages, norms) = jax.lax.scan(
        forward,
        jnp.zeros_like(by_token[0]),
        (by_token, chain.counted.T, chain.continued.T),
    )
    final = jax.nn.logsumexp(messages + end[None, None], axis=2)
    gains = norms + jnp.where(chain.last.T, final, 0)
    return jnp.where(chain.counted, gains.T, 0)


def _by_token(emissions: Float[Array, "B T N"]) -> Float[Array, "T B N"]:
    return jnp.asarray(emissions, jnp.float32).swapaxes(0, 1)
