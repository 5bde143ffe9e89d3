"""Writes that are there in full or not at all, and JSON read back with typed errors.

A file or a folder is written beside its place as ``NAME.tmp-PID-RANDOM``, brought to
the disk, and renamed; rename is atomic, so a reader sees the old one or the new one.
What a killed writer leaves behind is such a temporary name, and :func:`sweep` removes
it.
"""

import contextlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from tl_jax.files.errors import DataError, TlJaxError

_LEFTOVER = re.compile(r".*\.tmp-\d+-[0-9a-f]{8}", re.DOTALL)


def temporary_path(path: Path) -> Path:
    """Returns a fresh name beside ``path`` that :func:`sweep` knows as a leftover."""
    return path.with_name(f"{path.name}.tmp-{os.getpid()}-{secrets.token_hex(4)}")


def sync_folder(folder: Path) -> None:
    """Brings a folder's entries (creations, renames, deletions) to the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """Opens a binary stream that becomes ``path`` when the block ends without error.

    On any exception the temporary file is removed, an older ``path`` stays as it was,
    and the exception passes through (an ``OSError``, for a full disk, names ``path``).
    """
    temporary = temporary_path(path)
    try:
        with open(temporary, "xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException as problem:
        temporary.unlink(missing_ok=True)
        _name(problem, temporary, path)
        raise
    sync_folder(path.parent)


def _name(problem: BaseException, temporary: Path, path: Path) -> None:
    """Lets an error of the disk name the file that was to be, if it names no other."""
    if isinstance(problem, OSError) and problem.errno is not None:
        named = problem.filename
        if named is None or Path(str(named)).is_relative_to(temporary):
            problem.filename = str(path)


@contextlib.contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """Makes a folder beside ``path`` that is gone when the block ends."""
    folder = temporary_path(path)
    try:
        folder.mkdir(parents=True)
        yield folder
    except OSError as problem:
        _name(problem, folder, path)
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def writing_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Makes a folder that becomes ``path`` when the block ends without error.

    What the block writes in it, it brings to the disk, best by `write_manifest`. On any
    exception the folder is removed, and an older ``path`` stays as it was.

    Args:
      path: Missing or an empty folder, or else there is an ``OSError`` at the end.
      replace: An older ``path`` makes way, whatever it holds. A kill may leave it, too,
        under a name that :func:`sweep` removes, but never a part of it as ``path``.
    """
    with temporary_folder(path) as fresh:
        yield fresh
        old = temporary_path(path)
        if replace and path.exists():
            path.replace(old)
        try:
            fresh.replace(path)
        except OSError:
            if old.exists():
                old.replace(path)
            raise
        sync_folder(path.parent)
        shutil.rmtree(old, ignore_errors=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Writes ``data`` to ``path`` atomically and durably."""
    with writing(path) as stream:
        stream.write(data)


def write_text(path: Path, text: str) -> None:
    """Writes ``text`` to ``path`` as UTF-8, atomically and durably."""
    write_bytes(path, text.encode())


def write_json(path: Path, obj: Any) -> None:
    """Writes ``obj`` as indented JSON, atomically and durably.

    Raises:
      ValueError: ``obj`` holds NaN or infinity, which JSON cannot say.
      TypeError: ``obj`` holds something that is not JSON.
    """
    text = json.dumps(obj, indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def read_json(path: Path, *, error: type[TlJaxError] = DataError) -> Any:
    """Reads one JSON document.

    Args:
      path: The file, in UTF-8.
      error: What to raise if the file is missing or broken (``IntegrityError`` for
        files that this package wrote itself).
    """
    try:
        return json.loads(path.read_bytes().decode())
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as problem:
        raise error(f"{path}: there is no such JSON file; check the path.") from problem
    except RecursionError as problem:
        raise error(f"{path}: JSON nested too deeply to be genuine.") from problem
    except json.JSONDecodeError as problem:
        where = f"line {problem.lineno}, column {problem.colno}"
        raise error(
            f"{path}: broken JSON at {where}: {problem.msg}. "
            "Restore the file or write it again."
        ) from problem
    except UnicodeDecodeError as problem:
        raise error(
            f"{path}: JSON must be UTF-8, and byte {problem.start} is not. "
            "Restore the file or convert it to UTF-8."
        ) from problem
    except ValueError as problem:  # an integer of thousands of digits
        raise error(f"{path}: broken JSON: {problem}.") from problem


def read_object(path: Path, *, error: type[TlJaxError] = DataError) -> dict[str, Any]:
    """Reads one JSON document that is an object; see `read_json`."""
    found = read_json(path, error=error)
    if not isinstance(found, dict):
        raise error(f"{path}: a JSON object is needed. Restore the file.")
    return found


def sweep(folder: Path) -> list[Path]:
    """Removes temporary files and folders that killed writers left below ``folder``.

    Only names as :func:`temporary_path` makes them are touched, and links are not
    followed. Hold the folder while sweeping: a living writer's file looks the same.

    Returns:
      What was removed, sorted.
    """
    removed: list[Path] = []
    for root, folders, files in os.walk(folder):
        for name in filter(_LEFTOVER.fullmatch, [*folders, *files]):
            path = Path(root, name)
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
            removed.append(path)
        folders[:] = [name for name in folders if not _LEFTOVER.fullmatch(name)]
    return sorted(removed)
