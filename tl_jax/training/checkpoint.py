"""Checkpoints: orbax writes the arrays, our manifest with SHA-256 is the commit.

A run's checkpoints lie side by side::

    RUN/checkpoints/step_00000123/
      state/          the arrays, by orbax, under flat names such as params/head/bias
      progress.json   what a person or the loop wants to know: step, best so far, …
      MANIFEST.json   the size and SHA-256 of every file above, and the step

A checkpoint is written under a hidden name and gets its own by one rename, after its
manifest and everything else has reached the disk; so a folder called ``step_…`` was
complete once, and the manifest tells whether it still is. Deleting goes the other way
round: first the rename, then the files. One process at a time may write in a run
(``tl_jax.files.locks.hold``).

What may be in a state: see `tl_jax.training.arrays`.
"""

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tl_jax.files.atomic import read_json, sync_folder, write_json
from tl_jax.files.errors import IntegrityError, TlJaxError
from tl_jax.files.manifest import verify_manifest, write_manifest
from tl_jax.training.arrays import PyTree, named_arrays, read_arrays, write_arrays
from tl_jax.training.processes import leads, meet

_STATE = "state"
_PROGRESS = "progress.json"
_NAME = re.compile(r"step_(\d{8,})")
_TEMPORARY, _OLD, _TRASH = ".tmp", ".old", ".trash"
_LEFTOVER = re.compile(rf"\.(step_\d{{8,}})({_TEMPORARY}|{_OLD}|{_TRASH})")


class SaveError(TlJaxError):
    """A checkpoint could not be written or removed: disk full, read-only, broken."""

    exit_code = 7


class Restored(NamedTuple):
    """What `restore_newest` found.

    ``notes`` holds one sentence for every newer checkpoint that was passed over.
    """

    state: PyTree
    progress: dict[str, Any]
    path: Path
    notes: list[str]


def save(folder: Path, step: int, state: PyTree, progress: Mapping[str, Any]) -> Path:
    """Writes ``folder/step_…`` and returns its path once it is safe on the disk.

    ``progress`` is JSON; ``step`` is added to it. A checkpoint of the same step is
    replaced. With several processes all must call this; the first one writes what is
    not an array.

    Raises:
        SaveError: by this very call, if anything could not be written. Nothing
            temporary is left and older checkpoints are untouched.
        TypeError: the state holds something that is not an array, or a typed key; or
            ``progress`` is not JSON (ValueError if it holds NaN or an infinity).
    """
    arrays = named_arrays(state)
    final = folder / step_name(step)
    temporary = folder / f".{final.name}{_TEMPORARY}"
    record = {**progress, "step": step}
    # A record that is no JSON is the caller's mistake, not the disk's: say so first.
    json.dumps(record, allow_nan=False)
    first = leads()
    try:
        if first:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        meet("checkpoint started", step)
        write_arrays(temporary / _STATE, arrays)
        if first:
            write_json(temporary / _PROGRESS, record)
            write_manifest(temporary, {"step": step})
            _publish(temporary, final)
        meet("checkpoint written", step)
    except BaseException as problem:
        if first:
            _clear(temporary)
        # tensorstore tells of a full disk by a ValueError, so any Exception counts.
        if not isinstance(problem, Exception):
            raise
        raise SaveError(
            f"checkpoint of step {step} could not be written to {folder}: "
            f"{_reason(problem)}. Older checkpoints are untouched; make room or mend "
            "the disk, and resume the run."
        ) from problem
    return final


def step_name(step: int) -> str:
    """The folder name of a step: ``step_name(123) == "step_00000123"``."""
    if step < 0:
        raise ValueError(f"a step is not negative, got {step}")
    return f"step_{step:08d}"


def step_of(path: Path) -> int:
    """The step that a checkpoint's folder name says; the inverse of `step_name`."""
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise IntegrityError(
            f"{path} is not a checkpoint: such folders are called step_00000123"
        )
    return int(match[1])


def committed(folder: Path) -> list[Path]:
    """The checkpoints in ``folder`` that were written to their end, oldest first."""
    if not folder.is_dir():
        return []
    found = [p for p in folder.iterdir() if _NAME.fullmatch(p.name) and p.is_dir()]
    return sorted(found, key=step_of)


def latest(folder: Path) -> Path | None:
    """The committed checkpoint of the highest step, or None; not verified."""
    return next(reversed(committed(folder)), None)


def verify(path: Path) -> None:
    """Compares every file with the manifest, and the manifest with the folder's name.

    Raises:
        IntegrityError: naming each file that is missing, extra, truncated or changed.
    """
    step = step_of(path)
    try:
        stored = verify_manifest(path).get("step")
    except OSError as problem:
        raise IntegrityError(
            f"{path}: {problem.filename} cannot be read: {_reason(problem)}. "
            "Mend the disk or use an older checkpoint."
        ) from problem
    if stored != step:
        raise IntegrityError(
            f"{path} holds the checkpoint of step {stored}: it was renamed or swapped. "
            "Give it back its name or delete it."
        )


def read_progress(path: Path) -> dict[str, Any]:
    """The progress record of a checkpoint, with its ``step``; not verified."""
    return read_json(path / _PROGRESS, error=IntegrityError)


def restore(path: Path, like: PyTree, *, subset: bool = False) -> PyTree:
    """Reads a checkpoint into the structure, dtypes, shapes and places of ``like``.

    A leaf of ``like`` is a jax array or a ``jax.ShapeDtypeStruct`` with a sharding (the
    result lies on that sharding), or a numpy array or a ShapeDtypeStruct without one
    (the result is numpy). With ``subset`` the checkpoint may hold more than ``like``
    asks for, say the optimizer's state beside the parameters.

    Raises:
        IntegrityError: the files are not the files that were written.
        WeightsError: the arrays do not fit ``like``; every misfit is named.
    """
    verify(path)
    return read_arrays(path / _STATE, like, subset=subset)


def restore_newest(folder: Path, like: PyTree | Callable[[int], PyTree]) -> Restored:
    """Restores the newest checkpoint that is whole, and says which were not.

    ``like`` is as for `restore`; or a function of the step, where the state's form
    changes during a training (gradual unfreezing).

    Raises:
        IntegrityError: none is whole, or there is none; every reason is named.
        WeightsError: the newest whole one does not fit ``like`` (see `restore`).
    """
    notes: list[str] = []
    for path in reversed(committed(folder)):
        try:
            form = like(step_of(path)) if callable(like) else like
            state = restore(path, form)
            return Restored(state, read_progress(path), path, notes)
        except IntegrityError as problem:
            notes.append(f"{path.name} is damaged and was not used: {problem}")
    reasons = "\n".join(notes) or "there is none"
    raise IntegrityError(
        f"no usable checkpoint in {folder}: {reasons}\n"
        "Start the run anew, or copy a checkpoint back from elsewhere."
    )


def keep_only(folder: Path, steps: set[int]) -> list[Path]:
    """Deletes every committed checkpoint whose step is not in ``steps``; returns them.

    Each is renamed away before its files go, so that a kill leaves no half checkpoint
    under a checkpoint's name. Only one process may call this.

    Raises:
        SaveError: a checkpoint could not be removed.
    """
    gone = [path for path in committed(folder) if step_of(path) not in steps]
    for path in gone:
        trash = folder / f".{path.name}{_TRASH}"
        with _told(f"checkpoint {path} could not be removed"):
            if trash.exists():
                shutil.rmtree(trash)
            path.rename(trash)
            shutil.rmtree(trash)
    return gone


def sweep(folder: Path) -> list[Path]:
    """Clears what a killed process left in ``folder``; returns what was removed.

    A checkpoint that was being replaced by another of the same step gets its name
    back. Committed checkpoints are never touched. Call it at the start of a run, in
    one process, under the run's lock.

    Raises:
        SaveError: something could not be removed.
    """
    removed = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        match = _LEFTOVER.fullmatch(path.name)
        if match is None:
            continue
        home = folder / match[1]
        with _told(f"leftover {path} could not be cleared"):
            if match[2] == _OLD and not home.exists():
                path.rename(home)
            else:
                shutil.rmtree(path)
                removed.append(path)
    return removed


def _publish(temporary: Path, final: Path) -> None:
    """Gives a complete checkpoint its name; `sweep` mends a kill between renames."""
    old = final.with_name(f".{final.name}{_OLD}")
    replaces = final.exists()
    if replaces:
        if old.exists():
            shutil.rmtree(old)
        final.rename(old)
    try:
        temporary.rename(final)
    except OSError:
        if replaces:
            old.rename(final)
        raise
    sync_folder(final.parent)
    if replaces:
        shutil.rmtree(old, ignore_errors=True)


def _clear(folder: Path) -> None:
    """Removes what a failed save wrote, for as long as orbax's threads still write.

    The first array that fails ends orbax's save; those under way go on for a moment and
    even create their folder again. What outlasts two seconds is left to `sweep`.
    """
    absent = 0
    for _ in range(100):
        absent = 0 if folder.exists() else absent + 1
        if absent == 3:
            return
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.02)


@contextmanager
def _told(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as problem:
        raise SaveError(f"{what}: {_reason(problem)}") from problem


def _reason(problem: BaseException) -> str:
    """The operating system's words for a failure, which orbax buries in long texts."""
    if isinstance(problem, OSError) and problem.strerror:
        return problem.strerror
    if found := re.search(r"os_error_code='(\d+)'", str(problem)):
        return os.strerror(int(found[1]))
    return (str(problem).strip().splitlines() or [type(problem).__name__])[0]
