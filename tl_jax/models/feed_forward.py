"""The feed-forward block of a transformer layer, on flat tokens."""

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType

import jax
import jax.numpy as jnp
from jaxtyping import Float

from tl_jax.models.batch import Array

ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = MappingProxyType(
    {
        "gelu": functools.partial(jax.nn.gelu, approximate=False),
        "gelu_new": functools.partial(jax.nn.gelu, approximate=True),
        "gelu_pytorch_tanh": functools.partial(jax.nn.gelu, approximate=True),
        "relu": jax.nn.relu,
        "silu": jax.nn.silu,
        "swish": jax.nn.silu,
        "tanh": jnp.tanh,
    }
)


def dense(
    x: Float[Array, "M D"], kernel: Float[Array, "D E"], bias: Float[Array, "E"]
) -> Float[Array, "M E"]:
    """x·kernel + bias."""
    return x @ kernel + bias[None, :]


def feed_forward(
    x: Float[Array, "M D"],
    w_in: Float[Array, "D E"],
    b_in: Float[Array, "E"],
    w_out: Float[Array, "E D"],
    b_out: Float[Array, "D"],
    activation: str = "gelu",
) -> Float[Array, "M D"]:
    """act(x·w_in + b_in)·w_out + b_out."""
    hidden = ACTIVATIONS[activation](dense(x, w_in, b_in))
    return dense(hidden, w_out, b_out)
