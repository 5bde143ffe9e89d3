"""Where a step runs: jit over a mesh of devices (the main road), or pmap.

A step does not know its placement. Under jit the batch's rows are sharded over the
mesh's data axis and the compiler adds the sums up; under pmap the step is told the
axis and adds them up itself. Both give the same numbers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from tl_jax.files.errors import ConfigError
from tl_jax.models.batch import Batch
from tl_jax.training.state import rows

DATA = "data"
PlacementKind = Literal["jit", "pmap"]


@dataclass(frozen=True)
class Placement:
    """A way to run steps on devices.

    Attributes:
      kind: ``jit`` or ``pmap``.
      devices: The devices that share each batch's rows.
    """

    kind: PlacementKind
    devices: tuple[Any, ...]

    @property
    def mesh(self) -> Mesh:
        """All devices along one data axis."""
        return Mesh(np.array(self.devices), (DATA,), axis_types=(AxisType.Auto,))

    @property
    def count(self) -> int:
        """Number of devices: each batch's number of rows must be a multiple of it."""
        return len(self.devices)

    def replicate(self, tree: Any, *, copy: bool = True) -> Any:
        """Puts a tree of arrays on every device.

        Args:
          tree: The arrays.
          copy: Without it the result may share memory with ``tree``, so that a step
            that is given the one takes the other away, too.
        """
        if copy or self.kind == "pmap":
            tree = jax.tree.map(np.asarray, tree)
        if self.kind == "pmap":
            return tree
        return jax.device_put(tree, NamedSharding(self.mesh, PartitionSpec()))

    def train(self, step: Callable[..., Any]) -> Callable[[Any, Batch], Any]:
        """Compiles ``step(state, batch)``; the state it is given is donated."""
        return self._place(step, donate=(0,))

    def evaluate(self, step: Callable[..., Any]) -> Callable[[Any, Batch], Any]:
        """Compiles ``step(params, batch)`` whose results are sums over all rows."""
        return self._place(step, donate=())

    def map(self, function: Callable[..., Any]) -> Callable[[Any, Batch], Any]:
        """Compiles ``function(params, batch)`` whose results keep the batch's rows."""
        if self.kind == "jit":
            return self._jit(function, donate=())
        mapped = jax.pmap(
            lambda params, fields: function(params, Batch(**fields)),
            in_axes=(None, 0),
            devices=self.devices,
        )

        def call(params: Any, batch: Batch) -> Any:
            parts = mapped(params, rows(batch, self.count))
            return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), parts)

        return call

    def _place(
        self, step: Callable[..., Any], donate: tuple[int, ...]
    ) -> Callable[[Any, Batch], Any]:
        if self.kind == "jit":
            return self._jit(step, donate)
        mapped = jax.pmap(
            lambda state, fields: step(state, Batch(**fields), axis=DATA),
            axis_name=DATA,
            in_axes=(None, 0),
            out_axes=None,
            devices=self.devices,
        )
        return lambda state, batch: mapped(state, rows(batch, self.count))

    def _jit(
        self, function: Callable[..., Any], donate: tuple[int, ...]
    ) -> Callable[[Any, Batch], Any]:
        by_rows = NamedSharding(self.mesh, PartitionSpec(DATA))
        compiled = jax.jit(function, donate_argnums=donate)
        return lambda state, batch: compiled(state, jax.device_put(batch, by_rows))


def choose_placement(
    kind: PlacementKind = "jit", count: int | None = None
) -> Placement:
    """Takes the first ``count`` devices; all of them by default.

    Raises:
      ConfigError: There are not as many devices.
    """
    devices = jax.devices()
    if count is not None and not 1 <= count <= len(devices):
        raise ConfigError(
            f"--devices {count}: there are {len(devices)} here. On a CPU more can be "
            "had by XLA_FLAGS=--xla_force_host_platform_device_count=N."
        )
    return Placement(kind, tuple(devices[:count]))
