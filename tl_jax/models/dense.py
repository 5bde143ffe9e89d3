"""A dense layer on flat tokens, with a backward written for CPUs.

XLA folds a transpose, or what else surrounds a product, into the product itself. On
accelerators that is left to it; on CPU the operands are first laid out in the order in
which they are read. What that gains has not been measured on a quiet machine.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from tl_jax.models.batch import Array


def settled(x: Array) -> jax.Array:
    """Returns x, kept apart from the products that make or read it (on CPU)."""
    return jax.lax.platform_dependent(
        x, cpu=jax.lax.optimization_barrier, default=lambda x: x
    )


def transposed(x: Float[Array, "M D"]) -> Float[Array, "D M"]:
    """Returns the transpose of x, laid out as such before it is read (on CPU)."""
    return settled(jnp.transpose(x))


def weight_gradient(
    x: Float[Array, "M D"], gradient: Float[Array, "M E"]
) -> Float[Array, "D E"]:
    """xᵀ·gradient, transposing the narrower of the two."""
    if x.shape[1] <= gradient.shape[1]:
        return transposed(x) @ gradient
    return (transposed(gradient) @ x).T


@jax.custom_vjp
def dense(
    x: Float[Array, "M D"], kernel: Float[Array, "D E"], bias: Float[Array, "E"]
) -> Float[Array, "M E"]:
    """x·kernel + bias."""
    return x @ kernel + bias[None, :]


def _forward(x: Array, kernel: Array, bias: Array) -> tuple[Array, tuple[Array, Array]]:
    return dense(x, kernel, bias), (x, kernel)


def _backward(
    saved: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array, Array]:
    x, kernel = saved
    return (
        gradient @ kernel.T,
        weight_gradient(x, gradient),
        gradient.sum(axis=0),
    )


dense.defvjp(_forward, _backward)
