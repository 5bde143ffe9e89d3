"""A manifest with the SHA-256 of every file: the commit of a folder, and its check.

``MANIFEST.json`` is written last, so a folder without one was never finished. It
holds ``{"files": {path: {"bytes", "sha256"}}, "format": 1, "meta": …, "sha256"}``
where the last is the hash of the rest; its bytes must be exactly those that
:func:`write_manifest` would write, so that no flipped bit goes unseen, not even one
that JSON takes for the same value (``1e-05``, ``1E-05``).
"""

import hashlib
import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

from tl_jax.files.atomic import sync_folder, write_bytes
from tl_jax.files.errors import IntegrityError
from tl_jax.files.locks import LOCK

MANIFEST = "MANIFEST.json"
_FORMAT = 1
_THREADS = 2  # hashing leaves the interpreter lock; more would only fight for the disk


def sha256_file(path: Path) -> str:
    """Returns the SHA-256 of a file's contents in hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_manifest(folder: Path, meta: dict[str, Any] | None = None) -> str:
    """Brings every file below ``folder`` to the disk, hashes it, and commits.

    A ``.lock`` and an older manifest at the top are left out.

    Args:
      folder: Holds regular files and folders only.
      meta: Anything that JSON can say; :func:`verify_manifest` gives it back.

    Returns:
      The manifest's own hash, which stands for the whole folder.

    Raises:
      IntegrityError: There is a link, a socket or the like below ``folder``.
      OSError: The disk is full or fails; there is then no new manifest.
    """
    found, links = _files_below(folder)
    _raise_all(folder, [*links.values()], "Remove it and commit again.")
    with ThreadPoolExecutor(_THREADS) as pool:
        hashes = list(pool.map(_sync_and_hash, (folder / name for name in found)))
    for path in {parent for name in found for parent in (folder / name).parents}:
        if path == folder or folder in path.parents:
            sync_folder(path)
    entries = zip(found, found.values(), hashes, strict=True)
    files = {name: {"bytes": size, "sha256": sha} for name, size, sha in entries}
    # Through JSON once: tuples become lists, and what cannot be said fails here.
    body = {"files": files, "format": _FORMAT, "meta": meta or {}}
    body = json.loads(_text(body))
    digest = hashlib.sha256(_text(body)).hexdigest()
    write_bytes(folder / MANIFEST, _text(body | {"sha256": digest}))
    return digest


def verify_manifest(folder: Path, *, extras: bool = False) -> dict[str, Any]:
    """Checks that ``folder`` holds the files that were committed, and only those.

    Args:
      folder: Was committed by :func:`write_manifest`.
      extras: Others may have been laid beside them.

    Returns:
      The ``meta`` given to :func:`write_manifest`.

    Raises:
      IntegrityError: Names every file that is missing, extra, of another size or of
        other contents, or says what is wrong with the manifest.
    """
    manifest = _read(folder)
    files: dict[str, dict[str, Any]] = manifest["files"]
    found, links = _files_below(folder)
    problems = [link for name, link in links.items() if name in files or not extras]
    problems += [f"{name}: missing" for name in files.keys() - found.keys()]
    if not extras:
        problems += [f"{name}: extra" for name in found.keys() - files.keys()]
    to_hash: list[str] = []
    for name in files.keys() & found.keys():
        want, have = files[name]["bytes"], found[name]
        if want == have:
            to_hash.append(name)
        else:
            what = "truncated" if have < want else "longer than written"
            problems.append(f"{name}: {what} ({have} bytes, not {want})")
    with ThreadPoolExecutor(_THREADS) as pool:
        hashes = list(pool.map(sha256_file, (folder / name for name in to_hash)))
    for name, sha in zip(to_hash, hashes, strict=True):
        if sha != files[name]["sha256"]:
            problems.append(f"{name}: contents differ")
    _raise_all(folder, sorted(problems), "Restore the folder or write it again.")
    return manifest["meta"]


def _sync_and_hash(path: Path) -> str:
    with open(path, "rb") as stream:
        os.fsync(stream.fileno())
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _text(body: dict[str, Any]) -> bytes:
    text = json.dumps(body, indent=1, sort_keys=True, allow_nan=False)
    return text.encode() + b"\n"


def _raise_all(folder: Path, problems: list[str], mend: str) -> None:
    if problems:
        listed = "".join(f"\n  {problem}" for problem in problems)
        raise IntegrityError(
            f"{folder}: not what was written there:{listed}\n{mend}"
        ) from None


def _files_below(folder: Path) -> tuple[dict[str, int], dict[str, str]]:
    """Lists regular files with their sizes; links and special files are problems."""
    sizes: dict[str, int] = {}
    problems: dict[str, str] = {}

    def fail(error: OSError) -> None:
        raise error

    for root, folders, names in os.walk(folder, onerror=fail):
        for name in sorted(folders + names):
            path = Path(root, name)
            relative = path.relative_to(folder).as_posix()
            status = path.lstat()
            if relative in (MANIFEST, LOCK) or stat.S_ISDIR(status.st_mode):
                continue
            if stat.S_ISREG(status.st_mode):
                sizes[relative] = status.st_size
            else:
                problems[relative] = f"{relative}: a link or special file, refused"
    return dict(sorted(sizes.items())), problems


def _read(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file() or path.is_symlink():
        raise IntegrityError(
            f"{folder}: no {MANIFEST}, so it was never finished (or is not a folder "
            "of ours). Use an older one or write it again."
        )
    raw = path.read_bytes()
    mend = "Restore the folder or write it again."
    manifest: dict[str, Any] = {}
    try:
        manifest = json.loads(raw)
        body = {key: value for key, value in manifest.items() if key != "sha256"}
        intact = _text(manifest) == raw
        intact &= hashlib.sha256(_text(body)).hexdigest() == manifest["sha256"]
    except (ValueError, KeyError, AttributeError, RecursionError, TypeError):
        intact = False
    if not intact:
        _raise_all(folder, [f"{MANIFEST}: contents differ"], mend)
    _raise_all(folder, _malformed(manifest), mend)
    return manifest


def _malformed(manifest: dict[str, Any]) -> list[str]:
    """Lists problems of a manifest whose hash is right: forged, or another version."""
    if manifest.get("format") != _FORMAT:
        return [f"{MANIFEST}: format {manifest.get('format')!r}, not {_FORMAT}"]
    files = manifest.get("files")
    if not isinstance(files, dict) or not isinstance(manifest.get("meta"), dict):
        return [f"{MANIFEST}: no table of files or no meta"]
    problems: list[str] = []
    for name, entry in files.items():
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or path.as_posix() != name:
            problems.append(f"{MANIFEST}: {name!r} leads out of the folder, refused")
        if not isinstance(entry, dict) or not (
            type(entry.get("bytes")) is int and type(entry.get("sha256")) is str
        ):
            problems.append(f"{MANIFEST}: {name!r} has no size or hash")
    return problems
