"""BERT's Adam, and which parameters decay."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class AdamState(NamedTuple):
    """Running means of the gradient and of its square, one a parameter."""

    mean: Any
    square: Any


def scale_by_bert_adam(
    b1: float = 0.9, b2: float = 0.999, eps: float = 1e-6
) -> optax.GradientTransformation:
    """Adam without bias correction, as BERT was trained: m / (√v + ε).

    google-research/bert, ``optimization.py``. ``optax.scale_by_adam`` always corrects.
    """

    def init(params: optax.Params) -> AdamState:
        return AdamState(optax.tree.zeros_like(params), optax.tree.zeros_like(params))

    def update(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
    ) -> tuple[optax.Updates, AdamState]:
        del params
        assert isinstance(state, AdamState)
        mean = jax.tree.map(lambda g, m: b1 * m + (1 - b1) * g, updates, state.mean)
        square = jax.tree.map(
            lambda g, v: b2 * v + (1 - b2) * g * g, updates, state.square
        )
        scaled = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + eps), mean, square)
        return scaled, AdamState(mean, square)

    return optax.GradientTransformation(init, update)


def adam(*, bias_correction: bool = True) -> optax.GradientTransformation:
    """Adam's direction with BERT's constants, b = (.9, .999); corrected or not.

    With the correction ε is 1e-8, as in Kingma & Ba 2015 and in PyTorch's AdamW;
    without it ε is BERT's 1e-6.
    """
    return optax.scale_by_adam(eps=1e-8) if bias_correction else scale_by_bert_adam()


def decays(path: str) -> bool:
    """True for what decays: all but biases, LayerNorm's scales and ELMo's γ."""
    return path.rpartition("/")[2] not in ("bias", "scale", "gamma")
