"""Where a step runs: jit over a mesh of devices (the main road), fsdp, or pmap.

A step does not know its placement. Under jit the batch's rows are sharded over the
mesh's data axis and the compiler adds the sums up; fsdp also shards parameters and
optimizer over that axis, for models that do not fit on a device; under pmap the step is
told the axis and adds the sums up itself. All give the same numbers.

The devices may be those of several processes (`tl_jax.training.processes`): then each
hands over its own rows of a batch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from tl_jax.files.errors import ConfigError, did_you_mean
from tl_jax.models.batch import Batch
from tl_jax.models.mesh import DATA
from tl_jax.training.state import TrainState, join_rows, rows, split_rows

PlacementKind = Literal["jit", "fsdp", "pmap"]
CALL = "/tl_jax/call"  # told to `jax.monitoring` before a compiled step is called


@dataclass(frozen=True)
class Placement:
    """A way to run steps on devices.

    Attributes:
      kind: ``jit``, ``fsdp`` or ``pmap``.
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

    def sharding(self, leaf: Any) -> NamedSharding:
        """Where a leaf of the state lies: whole on every device, or cut by fsdp.

        That cuts along the largest axis that the devices can share evenly. Vectors are
        small and stay whole.
        """
        able = [n for n in leaf.shape if n % self.count == 0]
        if self.kind != "fsdp" or leaf.ndim < 2 or not able:
            return NamedSharding(self.mesh, PartitionSpec())
        before = [None] * leaf.shape.index(max(able))
        return NamedSharding(self.mesh, PartitionSpec(*before, DATA))

    @property
    def by_rows(self) -> NamedSharding:
        """Where lies what has the batch's rows first: on each device its share."""
        return NamedSharding(self.mesh, PartitionSpec(DATA))

    def _lay(self, put: Callable[[Any, NamedSharding], Any], tree: Any) -> Any:
        """Maps ``put(leaf, where it lies)``; a state's carry lies by rows."""
        if isinstance(tree, TrainState):
            rest, carry = _apart(tree)
            carry = jax.tree.map(lambda leaf: put(leaf, self.by_rows), carry)
            return TrainState(**self._lay(put, rest), carry=carry)
        return jax.tree.map(lambda leaf: put(leaf, self.sharding(leaf)), tree)

    def replicate(self, tree: Any, *, copy: bool = True) -> Any:
        """Puts a tree of arrays on the devices: on every one, or cut by fsdp.

        Args:
          tree: The arrays.
          copy: Without it the result may share memory with ``tree``, so that a step
            that is given the one takes the other away, too.
        """
        if copy or self.kind == "pmap":
            tree = jax.tree.map(np.asarray, tree)
        if self.kind == "pmap":
            return tree
        return self._lay(_put, tree)

    def make(self, state_of: Callable[[Any], TrainState], params: Any) -> TrainState:
        """Makes a state of parameters where it is to lie; they are taken away.

        So that by fsdp no device holds more than its share, but for the parameters
        alone while they are drawn or loaded.
        """
        laid = self.replicate(params)
        for leaf in jax.tree.leaves(params):
            if isinstance(leaf, jax.Array):
                leaf.delete()

        def fields(params: Any) -> dict[str, Any]:
            return dict(vars(state_of(params)))

        shapes = jax.eval_shape(fields, laid)
        places = jax.tree.map(self.sharding, shapes)
        places["carry"] = jax.tree.map(lambda _: self.by_rows, shapes["carry"])
        made = jax.jit(fields, out_shardings=places, donate_argnums=0)(laid)
        return TrainState(**made)

    def fetch(self, tree: Any) -> Any:
        """Returns a tree of whole numpy arrays; all processes must call it."""
        if jax.process_count() == 1:
            return jax.device_get(tree)
        whole = NamedSharding(self.mesh, PartitionSpec())
        gather = jax.jit(lambda leaf: leaf, out_shardings=whole)
        return jax.tree.map(lambda leaf: jax.device_get(gather(leaf)), tree)

    def train(self, step: Callable[..., Any]) -> Callable[[Any, Batch], Any]:
        """Compiles ``step(state, batch)``; but for pmap, the state is donated."""
        if self.kind != "pmap":
            return self._jit(self._pinned(step), donate=(0,))

        def local(rest: dict[str, Any], carry: Any, fields: dict[str, Any]) -> Any:
            state = TrainState(**rest, carry=carry)
            state, sums = step(state, Batch(**fields), axis=DATA)
            return *_apart(state), sums

        mapped = self._pmap(local, (None, 0, 0), (None, 0, None))

        def call(state: TrainState, batch: Batch) -> Any:
            rest, carry = _apart(state)
            parts = split_rows(carry, self.count), rows(batch, self.count)
            rest, carry, sums = mapped(rest, *parts)
            return TrainState(**rest, carry=join_rows(carry)), sums

        return call

    def evaluate(self, step: Callable[..., Any]) -> Callable[[Any, Batch], Any]:
        """Compiles ``step(params, batch)`` whose results are sums over all rows."""
        if self.kind != "pmap":
            return self._jit(step, donate=())

        def local(params: Any, fields: dict[str, Any]) -> Any:
            return step(params, Batch(**fields), axis=DATA)

        mapped = self._pmap(local, (None, 0), None)
        return lambda params, batch: mapped(params, rows(batch, self.count))

    def map(self, function: Callable[..., Any]) -> Callable[[Any, Batch], Any]:
        """Compiles ``function(params, batch)`` whose results keep the batch's rows."""
        if self.kind != "pmap":
            return self._jit(function, donate=())

        def local(params: Any, fields: dict[str, Any]) -> Any:
            return function(params, Batch(**fields))

        mapped = self._pmap(local, (None, 0), 0)

        def call(params: Any, batch: Batch) -> Any:
            return join_rows(mapped(params, rows(batch, self.count)))

        return call

    def _pmap(self, local: Callable[..., Any], inward: Any, outward: Any) -> Any:
        return jax.pmap(
            local,
            axis_name=DATA,
            in_axes=inward,
            out_axes=outward,
            devices=self.devices,
        )

    def _jit(
        self, function: Callable[..., Any], donate: tuple[int, ...]
    ) -> Callable[[Any, Batch], Any]:
        mesh, by_rows = self.mesh, self.by_rows
        compiled = jax.jit(function, donate_argnums=donate)

        def call(state: Any, batch: Batch) -> Any:
            jax.monitoring.record_event(CALL)
            with jax.set_mesh(mesh):  # so that models know it (`tl_jax.models.mesh`)
                return compiled(state, _put_rows(batch, by_rows))

        return call

    def _pinned(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """Lets the new state lie as the old one did."""
        if self.kind != "fsdp":
            return step

        def pinned(state: Any, batch: Batch) -> Any:
            state, sums = step(state, batch)
            keep = jax.lax.with_sharding_constraint
            return self._lay(keep, state), sums

        return pinned

    def trace(self, step: Callable[..., Any], state: Any, batch: Batch) -> Any:
        """Traces a train step by shapes alone, to lower it for any platform.

        Args:
          step: As for `train`.
          state: Arrays, or what has their shape and type.
          batch: Likewise.

        Returns:
          What ``jax.jit(…).trace`` returns; ``.lower()`` and ``.compile()`` follow.
        """
        states, form = jax.tree.flatten(state)
        fields, shape = jax.tree.flatten(batch)
        abstract = (
            [jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s(x)) for x in leaves]
            for leaves, s in ((states, self.sharding), (fields, lambda _: self.by_rows))
        )

        def call(states: list[Any], fields: list[Any]) -> Any:
            state, batch = jax.tree.unflatten(form, states), shape.unflatten(fields)
            return jax.tree.leaves(self._pinned(step)(state, batch))

        with jax.set_mesh(self.mesh):
            return jax.jit(call, donate_argnums=0).trace(*abstract)


def choose_placement(
    kind: PlacementKind = "jit", count: int | None = None
) -> Placement:
    """Takes the first ``count`` devices; all of them by default.

    Raises:
      ConfigError: There is no such kind, or there are not as many devices; or of
        several processes not all.
    """
    kinds = get_args(PlacementKind)
    if kind not in kinds:
        raise ConfigError(
            f"No placement is named {kind!r}.{did_you_mean(kind, kinds)} "
            f"Known: {', '.join(kinds)}."
        )
    devices = jax.devices()
    if jax.process_count() > 1 and (
        kind == "pmap" or count not in (None, len(devices))
    ):
        raise ConfigError(
            "Several processes train by --placement jit or fsdp, on all of their "
            f"{len(devices)} devices."
        )
    if count is not None and not 1 <= count <= len(devices):
        raise ConfigError(
            f"--devices {count}: there are {len(devices)} here. On a CPU more can be "
            "had by XLA_FLAGS=--xla_force_host_platform_device_count=N."
        )
    return Placement(kind, tuple(devices[:count]))


def _apart(state: TrainState) -> tuple[dict[str, Any], Any]:
    """A state's fields, which every device has, and its carry, which is cut by rows."""
    fields = dict(vars(state))
    return fields, fields.pop("carry")


def _put(leaf: Any, sharding: NamedSharding) -> jax.Array:
    """Puts an array that every process has, or that is on the devices already."""
    here = getattr(leaf, "is_fully_addressable", True)
    if sharding.is_fully_addressable or not here:
        return jax.device_put(leaf, sharding)
    host = np.asarray(leaf)
    return jax.make_array_from_callback(host.shape, sharding, lambda at: host[at])


def _put_rows(batch: Batch, sharding: NamedSharding) -> Batch:
    """Puts a batch, of which every process has its own rows."""
    if sharding.is_fully_addressable:
        return jax.device_put(batch, sharding)
    put = jax.make_array_from_process_local_data
    return jax.tree.map(lambda x: put(sharding, x), batch)
