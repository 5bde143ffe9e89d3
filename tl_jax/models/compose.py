"""Representation ∘ head: two modules made one pair of pure functions."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.extend.core import jaxpr_as_fun

from tl_jax.files.errors import WeightsError, did_you_mean
from tl_jax.models.batch import Array, Batch
from tl_jax.models.dropout import token_noise
from tl_jax.models.layers import Features

Params = dict[str, Any]


@dataclass(frozen=True)
class Model:
    """An encoder with a head; parameters are ``{"encoder": …, "head": …}``.

    Attributes:
      encoder: Maps (batch, noise, pooled_only=…) to `Features`.
      head: Maps (features, batch, noise) to logits; ``pooled_only`` on its class says
        that it reads no layers.
    """

    encoder: nn.Module
    head: nn.Module

    def init(self, key: jax.Array, batch: Batch) -> Params:
        """Draws random parameters; only the shapes of ``batch`` matter."""
        for_encoder, for_head = jax.random.split(key)
        encoder = init_module(self.encoder, for_encoder, batch)

        def encode(encoder: Params, batch: Batch) -> tuple[Features, Batch]:
            return _apply(self.encoder, encoder, batch), batch

        head = init_module(self.head, for_head, encoder, batch, prepare=encode)
        return {"encoder": encoder, "head": head}

    def apply(
        self,
        params: Params,
        batch: Batch,
        key: jax.Array | None = None,
        *,
        train: bool,
    ) -> Any:
        """Computes the head's logits; ``train`` drops out by masks keyed by ``key``."""
        if train and key is None:
            raise ValueError("apply(train=True) draws dropout masks: pass a key.")
        noise = token_noise(key, batch) if train and key is not None else None
        pooled_only = getattr(self.head, "pooled_only", False)
        features = _apply(
            self.encoder, params["encoder"], batch, noise, pooled_only=pooled_only
        )
        return _apply(self.head, params["head"], features, batch, noise)

    def features(self, params: Params, batch: Batch) -> Features:
        """Computes the encoder's layers and pooled vectors, without dropout."""
        return _apply(self.encoder, params["encoder"], batch)


def compose(encoder: nn.Module, head: nn.Module) -> Model:
    """Pairs a representation with a head."""
    return Model(encoder, head)


def init_module(
    module: nn.Module,
    key: jax.Array,
    *inputs: Any,
    prepare: Callable[..., tuple[Any, ...]] | None = None,
) -> Params:
    """Draws a module's parameters from its inputs' shapes, without running it.

    Args:
      module: Any Linen module.
      key: Draws the parameters.
      *inputs: Trees of arrays; only their shapes and types matter.
      prepare: Makes the module's inputs of these; by default they are the inputs.
    """
    leaves, tree = jax.tree.flatten(inputs)
    # Leaves, not trees: a dataclass of arrays whose types are checked holds no shapes.
    shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves]

    def call(module: nn.Module, leaves: list[Array]) -> Any:
        whole = jax.tree.unflatten(tree, leaves)
        return cast(Any, module)(*(prepare(*whole) if prepare else whole))

    variables = cast(Any, module.lazy_init(key, shapes, method=call))
    return dict(variables.get("params", {}))


def _apply(module: nn.Module, params: Params, *inputs: Any, **options: Any) -> Any:
    return module.apply({"params": params}, *inputs, **options)


def graft(params: Params, **weights: Mapping[str, Any]) -> Params:
    """Replaces whole parts of a parameter tree by loaded weights, strictly.

    Args:
      params: Drawn at random, from `Model.init`.
      **weights: Loaded parameters of a part, such as ``encoder=…``, or of a part of a
        part by its path: ``**{"encoder/embedding": …}``. What no part names stays
        random.

    Returns:
      A new tree; loaded leaves are copied, so a donated step cannot delete the weights.

    Raises:
      WeightsError: A part is unknown, or a leaf is missing, left over or of another
        shape; all of them are named.
    """
    leaves = flatten_paths(params)
    problems: list[str] = []
    for part, loaded in weights.items():
        wanted = {path: x for path, x in leaves.items() if path.startswith(f"{part}/")}
        found = {f"{part}/{path}": x for path, x in flatten_paths(loaded).items()}
        if not wanted:
            problems.append(
                f"{part}: no such part.{did_you_mean(part, _parts(leaves))}"
            )
            continue
        problems += _differences(wanted, found)
        leaves |= {path: jnp.array(x) for path, x in found.items()}
    if problems:
        listed = "\n  ".join(sorted(problems))
        raise WeightsError(f"The weights do not fit the model:\n  {listed}")
    return unflatten_paths(leaves)


def init_from(
    init: Callable[[jax.Array, Batch], Params],
    key: jax.Array,
    batch: Batch,
    **weights: Mapping[str, Any],
) -> Params:
    """`graft(init(key, batch), **weights)` that draws only what no weights replace.

    One program draws it: sooner, and no more in memory than what is asked for.
    """
    parts = tuple(f"{part}/" for part in weights)
    # Traced once, for the shapes and for the program that draws.
    traced, shapes = jax.make_jaxpr(
        lambda key: flatten_paths(init(key, batch)), return_shape=True
    )(key)

    @jax.jit
    def draw(key: jax.Array) -> dict[str, Array]:
        drawn = zip(shapes, jaxpr_as_fun(traced)(key), strict=True)
        return {path: x for path, x in drawn if not path.startswith(parts)}

    return graft(unflatten_paths(shapes | draw(key)), **weights)


def _parts(leaves: Iterable[str]) -> list[str]:
    """Lists every folder that leaves stand in, from ``encoder`` downwards."""
    folders = (path.split("/")[:-1] for path in leaves)
    found = {"/".join(names[: n + 1]) for names in folders for n in range(len(names))}
    return sorted(found)


def _differences(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> Iterable[str]:
    for path in wanted.keys() - found.keys():
        yield f"{path}: missing from the weights"
    for path in found.keys() - wanted.keys():
        yield f"{path}: in the weights, not in the model"
    for path in wanted.keys() & found.keys():
        if wanted[path].shape != found[path].shape:
            shapes = f"{found[path].shape}, the model needs {wanted[path].shape}"
            yield f"{path}: the weights have {shapes}"


def flatten_paths(params: Mapping[str, Any]) -> dict[str, Any]:
    """Maps ``encoder/layer_0/attention/query/kernel`` to its leaf, in tree order."""
    return flatten_dict(dict(params), sep="/")


def unflatten_paths(leaves: Mapping[str, Any]) -> Params:
    """Undoes `flatten_paths`."""
    return unflatten_dict(dict(leaves), sep="/")
