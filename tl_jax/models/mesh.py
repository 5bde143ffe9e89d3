"""What models know of devices: how many share the rows, which stay where they are."""

import jax
from jax.sharding import AxisType, PartitionSpec
from jaxtyping import Shaped

from tl_jax.models.batch import Array

DATA = "data"
"""The axis of a mesh of devices along which a batch's rows are spread."""


def row_devices() -> int:
    """Number of devices over which the compiler spreads the rows that a model sees.

    What a device holds of them is that much less than their shape says. Under pmap, and
    on one device, a model sees a device's own rows, and it is 1.
    """
    mesh = jax.sharding.get_abstract_mesh()
    kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    return mesh.shape[DATA] if kinds.get(DATA) is AxisType.Auto else 1


def keep_rows(x: Shaped[Array, "M *_"]) -> Shaped[Array, "M *_"]:
    """Returns x, spread over devices by rows, where several share them.

    Where parameters are sharded, too, the compiler could as well bring the activations
    to them; this makes it bring each layer's parameters to the rows.
    """
    if row_devices() == 1:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(DATA))
