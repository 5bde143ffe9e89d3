"""Learning rates as functions of the step."""

import jax
import jax.numpy as jnp
import optax

from tl_jax.files.errors import ConfigError


def warmup_linear(
    peak: float, total_steps: int, warmup_steps: int, *, multiply: bool = False
) -> optax.Schedule:
    """Rises linearly from 0 to the peak, then falls linearly to 0 at the last step.

    BERT's rate is that of a decay over *all* steps, peak · (1 − step / total); the
    warm-up replaces it by peak · step / warm-up. ELECTRA multiplies the two. In
    transformers the decay starts from the peak where the warm-up ends:
    `warmup_then_linear`.

    Args:
      peak: The highest rate.
      total_steps: Steps of the whole training.
      warmup_steps: Steps of the rise.
      multiply: ELECTRA's way.

    Returns:
      The rate as a function of the step, counted from 0.
    """
    _check(total_steps, warmup_steps)

    def rate(count: jax.typing.ArrayLike) -> jax.Array:
        step = jnp.asarray(count, jnp.float32)
        decayed = jnp.maximum(1 - step / total_steps, 0)
        rise = step / max(warmup_steps, 1)
        risen = decayed * rise if multiply else rise
        return peak * jnp.where(step < warmup_steps, risen, decayed)

    return rate


def warmup_then_linear(
    peak: float, total_steps: int, warmup_steps: int
) -> optax.Schedule:
    """Rises linearly to the peak, then falls linearly from there to 0.

    The schedule of transformers' Trainer.
    """
    _check(total_steps, warmup_steps)
    rise = optax.linear_schedule(0.0, peak, warmup_steps)
    fall = optax.linear_schedule(peak, 0.0, max(total_steps - warmup_steps, 1))
    return optax.join_schedules([rise, fall], [warmup_steps])


def _check(total_steps: int, warmup_steps: int) -> None:
    if total_steps < 1 or not 0 <= warmup_steps <= total_steps:
        raise ConfigError(
            f"A schedule of {total_steps} steps with {warmup_steps} of warm-up: there "
            "must be at least one step, and no more warm-up than steps."
        )
