"""What models say about devices: rows stay where they are."""

import jax
from jax.sharding import AxisType, PartitionSpec
from jaxtyping import Shaped

from tl_jax.models.batch import Array

DATA = "data"
"""The axis of a mesh of devices along which a batch's rows are spread."""


def keep_rows(x: Shaped[Array, "M *_"]) -> Shaped[Array, "M *_"]:
    """Returns x, spread over devices by rows, where a mesh is in use.

    Where parameters are sharded, too, the compiler could as well bring the activations
    to them; this makes it bring each layer's parameters to the rows.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if dict(zip(mesh.axis_names, mesh.axis_types, strict=True)).get(DATA) is not (
        AxisType.Auto
    ):
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(DATA))
