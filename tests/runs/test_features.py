"""Features of ELMo, against what bilm-tf wrote for the same sentences."""

import errno
import json
import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from tl_jax.files.errors import ConfigError, DataError
from tl_jax.runs.features import features


@pytest.fixture(scope="module")
def folder(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """AllenNLP's options and weights by themselves."""
    found = tmp_path_factory.mktemp("elmo")
    for name in ("options.json", "lm_weights.hdf5"):
        (found / name).symlink_to(shared / "elmo" / "allennlp" / name)
    return found


@pytest.fixture(scope="module")
def lines(shared: Path) -> list[str]:
    """Line 3k + j is the k-th sentence of list j: ten batches of three."""
    lists = json.loads((shared / "elmo/allennlp/sentences.json").read_text())
    return [lists[j][k] for k in range(10) for j in range(3)]


@pytest.fixture(scope="module")
def wanted(shared: Path) -> list[np.ndarray]:
    """The top layer of every line, ``[T, D]``, the state carried on."""
    files = [
        h5py.File(shared / f"elmo/allennlp/lm_embeddings_{j}.hdf5") for j in range(3)
    ]
    found = [
        np.concatenate(list(files[j][str(k)]), axis=-1)
        for k in range(10)
        for j in range(3)
    ]
    for file in files:
        file.close()
    return found


def write(path: Path, lines: list[str]) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def arrays(path: Path) -> dict[int, np.ndarray]:
    if path.suffix == ".npz":
        with np.load(path) as file:
            return {int(name): file[name] for name in file.files}
    with h5py.File(path) as file:
        return {int(name): file[name][...] for name in file}


def test_stateful_features_are_bilm_tfs_for_all_ten_batches(
    folder: Path, lines: list[str], wanted: list[np.ndarray], tmp_path: Path
) -> None:
    source, output = write(tmp_path / "in.txt", lines), tmp_path / "out.h5"
    count = features(str(folder), source, output, batch_size=3, stateful=True)
    found = arrays(output)
    assert count == len(found) == 30
    for number, states in enumerate(wanted):
        np.testing.assert_allclose(found[number], states, rtol=0, atol=1e-5)


def test_stateless_features_are_bilm_tfs_for_the_first_batch_in_any_order(
    folder: Path, lines: list[str], wanted: list[np.ndarray], tmp_path: Path
) -> None:
    source = write(tmp_path / "in.txt", lines[::-1])
    features(str(folder), source, tmp_path / "out.h5", layers="all")
    found = arrays(tmp_path / "out.h5")
    assert len(found) == 30
    for number, states in enumerate(wanted):
        mine = found[29 - number]
        assert mine.shape == (3, *states.shape)
        np.testing.assert_array_equal(mine[0, :, :16], mine[0, :, 16:])
        close = np.abs(mine[2] - states).max() < 1e-5
        assert close == (number < 3), number


def test_a_warm_up_reads_the_first_batch_once_before(
    folder: Path, lines: list[str], tmp_path: Path
) -> None:
    once, twice = lines[:9], [*lines[:3], *lines[:9]]
    both = {"batch_size": 3, "stateful": True}
    source = write(tmp_path / "once.txt", once)
    features(str(folder), source, tmp_path / "a.npz", warmup=True, **both)
    features(str(folder), write(tmp_path / "b.txt", twice), tmp_path / "b.npz", **both)
    warmed, carried = arrays(tmp_path / "a.npz"), arrays(tmp_path / "b.npz")
    for number in range(9):
        np.testing.assert_allclose(warmed[number], carried[number + 3], atol=1e-6)
    # Not carried on: the third batch begins from what the first one left, too.
    features(str(folder), source, tmp_path / "c.npz", batch_size=3, warmup=True)
    again = arrays(tmp_path / "c.npz")
    np.testing.assert_allclose(again[0], warmed[0], atol=1e-6)
    assert np.abs(again[6] - warmed[6]).max() > 1e-3


def test_words_are_taken_as_they_are_given(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "in.jsonl"
    given = [{"tokens": ["don't", "U.S."]}, {"text": "don't  U.S."}]
    write(file, [json.dumps(line) for line in given])
    features(str(folder), file, tmp_path / "out.npz")
    found = arrays(tmp_path / "out.npz")
    assert found[0].shape == (2, 32)
    np.testing.assert_array_equal(found[0], found[1])


@pytest.mark.parametrize("stateful", [False, True])
def test_a_long_line_is_read_to_its_end_unless_it_is_to_be_cut(
    folder: Path, tmp_path: Path, stateful: bool
) -> None:
    source = write(tmp_path / "in.txt", ["the end", "a " * 200])
    features(str(folder), source, tmp_path / "a.npz", stateful=stateful)
    assert [x.shape for x in arrays(tmp_path / "a.npz").values()] == [
        (2, 32),
        (200, 32),
    ]
    features(str(folder), source, tmp_path / "b.npz", max_length=3, stateful=stateful)
    assert [x.shape for x in arrays(tmp_path / "b.npz").values()] == [(2, 32), (3, 32)]


def test_lines_without_words_and_pairs_are_refused(
    folder: Path, tmp_path: Path
) -> None:
    source = write(tmp_path / "in.txt", ["a", " ", ""])
    with pytest.raises(DataError, match=r"2 lines.*\n.*in.txt:2.*\n.*in.txt:3"):
        features(str(folder), source, tmp_path / "out.npz")
    pair = write(tmp_path / "p.jsonl", ['{"text": "a", "text_pair": "b"}'])
    with pytest.raises(DataError, match=r"p\.jsonl:1: ELMo reads no pairs"):
        features(str(folder), pair, tmp_path / "out.npz")


def test_bert_has_no_states_to_carry_on(tiny: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "in.txt", ["a"])
    with pytest.raises(ConfigError, match="--stateful"):
        features(str(tiny / "bert"), source, tmp_path / "out.npz", stateful=True)


@pytest.mark.parametrize("name", ["out.npz", "out.h5"])
def test_features_reach_the_disk_whole_or_leave_the_old_ones(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    source, output = write(tmp_path / "in.txt", ["a", "b"]), tmp_path / name
    given, synced = (str(tiny / "bert"), source, output), []

    def full(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_size)
        raise OSError(errno.ENOSPC, "No space left on device")

    features(*given, max_length=8)
    old = output.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            features(*given, max_length=8, layers="all")
    assert output.read_bytes() == old
    assert sorted(os.listdir(tmp_path)) == ["in.txt", name]
    features(*given, max_length=8, layers="all")
    assert synced == [output.stat().st_size]
    assert synced != [len(old)]


def test_of_tables_the_texts_are_read(tiny: Path, tmp_path: Path) -> None:
    """By columns as in training; the header and the labels are no text."""
    texts = ["a joy", "a bore"]
    plain = write(tmp_path / "a.txt", texts)
    rows = [f"{n}\t{text}\t1" for n, text in enumerate(texts)]
    table = write(tmp_path / "a.tsv", ["id\tsentence\tlabel", *rows])
    for source in (plain, table):
        out = tmp_path / f"{source.suffix[1:]}.npz"
        assert features(str(tiny / "bert"), source, out, max_length=8) == 2
    found = [arrays(tmp_path / f"{name}.npz") for name in ("txt", "tsv")]
    for number in range(2):
        np.testing.assert_array_equal(found[0][number], found[1][number])
