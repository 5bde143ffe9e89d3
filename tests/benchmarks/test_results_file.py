"""Files of results: what was appended is read back, and what is stored can be read."""

import importlib
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def results_file(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("results_file")


def test_what_was_appended_is_read_back(
    results_file: ModuleType, tmp_path: Path
) -> None:
    file = tmp_path / "results.jsonl"
    assert results_file.read(file) == []
    results_file.append(file, {"run": "한국어\u2028×", "score": 0.1})
    results_file.append_table(file, [["train", "2.1 ×"]])
    results_file.append_table(None, [["train", "2.1 ×"]])
    one, other = results_file.read(file)
    assert one == {"run": "한국어\u2028×", "score": 0.1}
    assert other["rows"] == [["train", "2.1 ×"]] and other["time"] > 1.7e9
    assert "한국어" in file.read_text(encoding="utf-8")


@pytest.mark.parametrize("file", sorted(FOLDER.glob("results/*.jsonl")), ids=str)
def test_stored_results_can_be_read(file: Path, results_file: ModuleType) -> None:
    lines = file.read_text(encoding="utf-8").split("\n")
    assert len(results_file.read(file)) == len(lines) - 1 > 0
