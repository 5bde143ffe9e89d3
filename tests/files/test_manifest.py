"""The manifest: every change to a committed folder is seen and named (F6, F7)."""

import hashlib
import json
import os
import random
import shutil

import pytest

from tl_jax.files.errors import IntegrityError
from tl_jax.files.locks import hold
from tl_jax.files.manifest import (
    MANIFEST,
    sha256_file,
    verify_manifest,
    write_manifest,
)

# 1e-05 has a letter whose case is one bit: the same number to JSON, another file.
META = {"step": 7, "rate": 1e-05, "이름": ["a", None, {"b": 1.5}]}
FILES = {
    "params/0": bytes(range(256)) * 40,
    "params/1": b"\0" * 1000,
    "params/nested/empty": b"",
    "config.json": b'{"layers": 2}\n',
    "이름 표.txt": "사람\n장소\n".encode(),
}


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "run"
    for name, data in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    write_manifest(folder, META)
    return folder


def test_layout_and_round_trip(folder):
    assert verify_manifest(folder) == META
    manifest = json.loads((folder / MANIFEST).read_bytes())
    assert manifest["format"] == 1
    assert manifest["meta"] == META
    assert manifest["files"] == {
        name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in FILES.items()
    }
    assert write_manifest(folder, META) == manifest["sha256"]
    assert write_manifest(folder, META | {"step": 8}) != manifest["sha256"]


def test_sha256_of_nist_example(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    want = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_file(tmp_path / "abc") == want  # FIPS 180-4's "abc"


def test_every_flipped_bit_is_detected_and_its_file_named(folder):
    names = [name for name in FILES if FILES[name]] + [MANIFEST]
    draw = random.Random(0)
    for trial in range(240):
        name = names[trial % len(names)]
        path = folder / name
        data = bytearray(path.read_bytes())
        at, bit = draw.randrange(len(data)), 1 << draw.randrange(8)
        data[at] ^= bit
        path.write_bytes(data)
        with pytest.raises(IntegrityError) as caught:
            verify_manifest(folder)
        assert f"\n  {name}: contents differ" in str(caught.value)
        data[at] ^= bit
        path.write_bytes(data)
    assert verify_manifest(folder) == META


def test_every_bit_of_the_manifest_counts(folder):
    path = folder / MANIFEST
    good = path.read_bytes()
    for at in range(len(good)):
        for bit in range(8):
            path.write_bytes(
                good[:at] + bytes([good[at] ^ (1 << bit)]) + good[at + 1 :]
            )
            with pytest.raises(IntegrityError, match=MANIFEST):
                verify_manifest(folder)


@pytest.mark.parametrize("name", [name for name in FILES if FILES[name]] + [MANIFEST])
@pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.999])
def test_truncated_file_is_named(folder, name, keep):
    path = folder / name
    os.truncate(path, int(path.stat().st_size * keep))
    with pytest.raises(IntegrityError) as caught:
        verify_manifest(folder)
    word = "contents differ" if name == MANIFEST else "truncated"
    assert f"{name}: {word}" in str(caught.value)


def test_all_problems_are_gathered(folder):
    (folder / "config.json").unlink()
    (folder / "extra.bin").write_bytes(b"x")
    (folder / "params/nested/empty").write_bytes(b"x")
    one, two = folder / "params/0", folder / "params/1"
    one.write_bytes(FILES["params/1"])
    two.write_bytes(b"\1" * 1000)
    with pytest.raises(IntegrityError) as caught:
        verify_manifest(folder)
    assert str(caught.value).splitlines()[1:-1] == [
        "  config.json: missing",
        "  extra.bin: extra",
        "  params/0: truncated (1000 bytes, not 10240)",
        "  params/1: contents differ",
        "  params/nested/empty: longer than written (1 bytes, not 0)",
    ]
    assert str(folder) in str(caught.value)


def test_swapped_files_of_one_size(folder):
    (folder / "a").write_bytes(b"1234")
    (folder / "b").write_bytes(b"4321")
    write_manifest(folder)
    (folder / "a").rename(folder / "c")
    (folder / "b").rename(folder / "a")
    (folder / "c").rename(folder / "b")
    with pytest.raises(IntegrityError, match=r"a: contents differ\n  b: contents"):
        verify_manifest(folder)


def test_manifest_of_another_folder(folder, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    (other / "config.json").write_bytes(b'{"layers": 3}\n')
    write_manifest(other)
    shutil.copy(other / MANIFEST, folder / MANIFEST)
    with pytest.raises(IntegrityError, match=r"config.json: contents differ"):
        verify_manifest(folder)


def test_without_a_manifest_nothing_was_committed(folder):
    (folder / MANIFEST).unlink()
    with pytest.raises(IntegrityError, match="never finished"):
        verify_manifest(folder)
    with pytest.raises(IntegrityError, match="never finished"):
        verify_manifest(folder / "nowhere")


def test_lock_and_holder_do_not_count(folder):
    with hold(folder):
        assert verify_manifest(folder) == META
        write_manifest(folder, META)
    (folder / ".lock").unlink()
    assert verify_manifest(folder) == META
    (folder / "params" / ".lock").write_bytes(b"")
    with pytest.raises(IntegrityError, match=r"params/.lock: extra"):
        verify_manifest(folder)


def test_links_and_pipes_are_refused_not_followed(folder, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(FILES["config.json"])
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to(secret)
    (folder / "away").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe")
    with pytest.raises(IntegrityError) as caught:
        verify_manifest(folder)
    for name in ("config.json", "away", "pipe"):
        assert f"{name}: a link or special file, refused" in str(caught.value)
    with pytest.raises(IntegrityError, match="refused"):
        write_manifest(folder)


def forge(folder, **changes):
    """Writes a manifest whose hash is right and whose contents are hostile."""
    body = json.loads((folder / MANIFEST).read_bytes()) | changes
    del body["sha256"]
    dump = dict(indent=1, sort_keys=True)
    digest = hashlib.sha256((json.dumps(body, **dump) + "\n").encode()).hexdigest()
    text = json.dumps(body | {"sha256": digest}, **dump) + "\n"
    (folder / MANIFEST).write_text(text)


ENTRY = {"bytes": 1, "sha256": "0" * 64}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"files": {"../secret": ENTRY}}, "leads out"),
        ({"files": {"/etc/passwd": ENTRY}}, "leads out"),
        ({"files": {"a/../../b": ENTRY}}, "leads out"),
        ({"files": {"./a": ENTRY}}, "leads out"),
        ({"files": {"a": 1}}, "no size or hash"),
        ({"files": {"a": {"bytes": "1", "sha256": ""}}}, "no size or hash"),
        ({"files": {"a": {"bytes": True, "sha256": ""}}}, "no size or hash"),
        ({"files": []}, "no table of files"),
        ({"meta": None}, "no meta"),
        ({"format": 2}, "format 2"),
    ],
)
def test_forged_manifest_is_refused(folder, changes, message):
    forge(folder, **changes)
    with pytest.raises(IntegrityError, match=message):
        verify_manifest(folder)


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"null", b"{}", b"[" * 99999, b"\xff", b'{"sha256": 1}\n']
)
def test_hostile_manifest_gives_the_typed_error(folder, text):
    (folder / MANIFEST).write_bytes(text)
    with pytest.raises(IntegrityError, match=f"{MANIFEST}: contents differ"):
        verify_manifest(folder)


def test_files_reach_the_disk_before_the_manifest(folder, monkeypatch):
    synced = []
    fsync = os.fsync

    def spy(descriptor):
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", spy)
    write_manifest(folder)
    commit = next(n for n, path in enumerate(synced) if f"{MANIFEST}.tmp" in path)
    before = set(synced[:commit])
    folders = {"params", "params/nested", "."}
    assert {str((folder / name).resolve()) for name in {*FILES, *folders}} <= before


def test_full_disk_commits_nothing(folder, monkeypatch):
    (folder / MANIFEST).unlink()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        write_manifest(folder)
    assert sorted(os.listdir(folder)) == ["config.json", "params", "이름 표.txt"]
