"""A state's arrays on disk, by orbax, under flat names such as ``params/head/bias``.

A state is a pytree of arrays and nothing else. Typed random keys are refused: keep
``jax.random.key_data(key)``, whose uint32 words mean the same to every version of JAX.
Orbax neither checks the bytes that it reads nor minds another dtype (it casts); here
every misfit is an error, and `tl_jax.training.checkpoint` checks the bytes.
"""

import errno
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from tl_jax.files.errors import WeightsError

PyTree = Any


def named_arrays(state: PyTree) -> dict[str, Any]:
    """The leaves of a state by name, in the order of the tree.

    Raises:
        TypeError: leaves that are not arrays, typed keys, or two of one name; each is
            named.
    """
    leaves: dict[str, Any] = {}
    problems = []
    for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name in leaves:
            problems.append(f"{name}: two leaves have this name")
        elif not isinstance(
            leaf, jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct
        ):
            problems.append(f"{name}: {type(leaf).__name__} is not an array")
        elif jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            problems.append(f"{name}: a typed key; keep jax.random.key_data(key)")
        elif leaf.dtype.kind in "OSUM":
            problems.append(f"{name}: arrays of {leaf.dtype} cannot be kept")
        leaves[name] = leaf
    if problems:
        raise TypeError("not a state of arrays:\n  " + "\n  ".join(problems))
    return leaves


def write_arrays(folder: Path, arrays: Mapping[str, Any]) -> None:
    """Writes all arrays that are not empty into a new folder; returns when it is done.

    With several processes all must call this.

    Raises:
        OSError: there is too little room (told before anything is written).
        Exception: whatever orbax and tensorstore raise when a disk fails.
    """
    host = {name: _to_host(leaf) for name, leaf in arrays.items() if leaf.size}
    needed = sum(leaf.nbytes for leaf in host.values() if isinstance(leaf, np.ndarray))
    free = shutil.disk_usage(folder.parent).free
    if free < needed:
        room = f"No space left on device: {needed:,} bytes needed, {free:,} free"
        raise OSError(errno.ENOSPC, room, str(folder))
    with _checkpointer() as checkpointer:
        checkpointer.save(folder.absolute(), args=ocp.args.PyTreeSave(host))


def read_arrays(folder: Path, like: PyTree, *, subset: bool = False) -> PyTree:
    """Reads what `write_arrays` wrote into the structure and places of ``like``.

    A leaf of ``like`` is a jax array or a ``jax.ShapeDtypeStruct`` with a sharding (the
    result lies on that sharding), or a numpy array or a ShapeDtypeStruct without one
    (the result is numpy). With ``subset`` more may be stored than ``like`` asks for.

    Raises:
        WeightsError: names, dtypes or shapes do not fit; every misfit is named.
    """
    wanted = named_arrays(like)
    folder = folder.absolute()  # orbax takes no other
    with _checkpointer() as checkpointer:
        metadata = checkpointer.metadata(folder)
        tree = getattr(metadata, "item_metadata", metadata).tree or {}
        _check_fit(folder, {k: _spec(v) for k, v in tree.items()}, wanted, subset)
        names = [name for name in tree if name in wanted]
        stored = checkpointer.restore(
            folder,
            args=ocp.args.PyTreeRestore(
                item=dict.fromkeys(names, 0),
                restore_args={name: _restore_args(wanted[name]) for name in names},
                partial_restore=subset,
            ),
        )
    leaves = [
        _place(stored[name] if leaf.size else np.zeros(leaf.shape, leaf.dtype), leaf)
        for name, leaf in wanted.items()
    ]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def quiet_orbax() -> None:
    """Keeps the log lines of orbax and absl below CRITICAL off standard error.

    For the command, which tells of failures itself. It changes the process's logging.
    """
    from absl import logging

    logging.set_verbosity(logging.FATAL)


def _checkpointer() -> ocp.Checkpointer:
    # One file a process instead of two a leaf, and no compression: float32 weights
    # shrink by 8 % and take twice as long.
    handler = ocp.PyTreeCheckpointHandler(
        use_ocdbt=True, use_zarr3=False, use_compression=False
    )
    return ocp.Checkpointer(handler)


def _to_host(leaf: Any) -> Any:
    """A numpy array, written in half the time of a jax array, where all of it is here.

    Numpy scalars become 0-d arrays: orbax refuses them.
    """
    return np.asarray(leaf) if getattr(leaf, "is_fully_addressable", True) else leaf


def _spec(leaf: Any) -> tuple[str, tuple[int, ...]]:
    return str(np.dtype(leaf.dtype)), tuple(leaf.shape)


def _check_fit(
    folder: Path,
    stored: Mapping[str, tuple[str, tuple[int, ...]]],
    like: Mapping[str, Any],
    subset: bool,
) -> None:
    """Raises one error with every missing, extra and unlike array: orbax would cast."""
    wanted = {name: _spec(leaf) for name, leaf in like.items() if leaf.size}
    problems = [f"+ {n}: not in the checkpoint" for n in wanted if n not in stored]
    if not subset:
        problems += [
            f"- {n}: only in the checkpoint" for n in stored if n not in wanted
        ]
    problems += [
        f"≠ {name}: {stored[name][0]}{list(stored[name][1])} in the checkpoint, "
        f"{dtype}{list(shape)} wanted"
        for name, (dtype, shape) in wanted.items()
        if name in stored and stored[name] != (dtype, shape)
    ]
    if problems:
        raise WeightsError(
            f"the state in {folder} is not the state of this model and plan:\n  "
            + "\n  ".join(problems)
            + "\nResume with the configuration that the run was started with."
        )


def _restore_args(leaf: Any) -> ocp.RestoreArgs:
    sharding = getattr(leaf, "sharding", None)
    if sharding is None or sharding.is_fully_addressable:
        return ocp.RestoreArgs(restore_type=np.ndarray)
    return ocp.ArrayRestoreArgs(sharding=sharding)


def _place(value: Any, leaf: Any) -> Any:
    """Puts a host array where ``leaf`` lies; not committed to a device if it is not."""
    sharding = getattr(leaf, "sharding", None)
    if sharding is None or isinstance(value, jax.Array):
        return value
    committed_there = getattr(leaf, "committed", True)
    return jax.device_put(value, sharding if committed_there else None)
