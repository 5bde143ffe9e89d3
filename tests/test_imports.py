"""Imports run one way: a file knows only rooms to the left of its own."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "tl_jax"
ROOMS = (
    "files",
    "models",
    "text",
    "data",
    "metrics",
    "tasks",
    "transfer",
    "training",
    "interop",
    "runs",
    "report",
)
TOP = len(ROOMS)  # quickstart, cli and what else lies beside the rooms


def rank(parts):
    """The room's number of a module within the package; None if nobody knows it."""
    if len(parts) == 1 and parts[0] not in ROOMS:
        return TOP
    return ROOMS.index(parts[0]) if parts[0] in ROOMS else None


def imported(tree):
    """Every module of the package that a file imports, in functions as well."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            # `from tl_jax import data` names a room only in what is imported.
            names = [
                f"{base}.{alias.name}" if base == "tl_jax" else base
                for alias in node.names
            ]
        else:
            continue
        yield from ((node.lineno, name) for name in names)


def violations(package):
    found = []
    for file in sorted(package.rglob("*.py")):
        place = file.relative_to(package)
        if place == Path("__init__.py"):
            continue  # it gathers the rooms' public names
        own = rank(place.with_suffix("").parts)
        if own is None:
            found.append(f"{place}: lies in no known room")
            continue
        for line, name in imported(ast.parse(file.read_text(encoding="utf-8"))):
            if name.startswith("."):
                found.append(f"{place}:{line}: relative import of {name}")
            if not name.startswith("tl_jax."):
                continue
            other = rank(name.split(".")[1:])
            if other is None or other > own:
                found.append(f"{place}:{line}: imports {name}")
    return found


def test_imports_run_one_way():
    assert violations(PACKAGE) == []


def test_every_room_is_looked_at():
    rooms = {file.parent.name for file in PACKAGE.glob("*/*.py")}
    assert rooms <= set(ROOMS)
    assert {"files", "models", "training"} <= rooms


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("models/bert.py", "from tl_jax.tasks.classification import loss"),
        ("models/bert.py", "import tl_jax.data.stream"),
        ("models/bert.py", "import numpy, tl_jax.data.stream as stream"),
        ("files/atomic.py", "from tl_jax import models"),
        ("transfer/plans.py", "def f():\n    from tl_jax.training import step"),
        ("runs/job.py", "from tl_jax.cli import main"),
        ("models/bert.py", "from .layers import Dense"),
        ("models/bert.py", "from ..data import stream"),
        ("elsewhere/bert.py", "import numpy"),
        ("models/bert.py", "from tl_jax.elsewhere.bert import Bert"),
    ],
)
def test_a_violation_is_found(tmp_path, place, line):
    file = tmp_path / place
    file.parent.mkdir(parents=True)
    file.write_text(line)
    (found,) = violations(tmp_path)
    assert found.startswith(f"{place}:")


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("training/step.py", "from tl_jax.transfer.plans import Plan"),
        ("training/step.py", "from tl_jax.training import state"),
        ("cli.py", "from tl_jax import quickstart, runs"),
        ("quickstart.py", "from tl_jax.runs.job import prepare"),
        ("files/atomic.py", "import jax\nfrom data.tl_jax import training"),
        ("__init__.py", "from tl_jax.training.step import train_step"),
    ],
)
def test_what_is_allowed_is_not_reported(tmp_path, place, line):
    file = tmp_path / place
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(line)
    assert violations(tmp_path) == []


def graph(package):
    """The modules that each module imports, in functions as well."""
    files = {
        ".".join(("tl_jax", *file.relative_to(package).with_suffix("").parts)): file
        for file in package.rglob("*.py")
    }
    modules = {name.removesuffix(".__init__"): file for name, file in files.items()}
    found = {}
    for name, file in modules.items():
        found[name] = set()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found[name] |= {alias.name for alias in node.names} & modules.keys()
            elif isinstance(node, ast.ImportFrom):
                whole = {f"{node.module}.{alias.name}" for alias in node.names}
                within = whole & modules.keys()
                found[name] |= within or {node.module} & modules.keys()
    return found


def test_no_modules_import_one_another():
    TopologicalSorter(graph(PACKAGE)).prepare()


def test_a_circle_is_found(tmp_path):
    (tmp_path / "data").mkdir()
    for file, line in {
        "one.py": "from tl_jax.data import other",
        "data/other.py": "def f():\n    import tl_jax.data.third",
        "data/third.py": "from tl_jax.one import f",
    }.items():
        (tmp_path / file).write_text(line)
    with pytest.raises(CycleError, match=r"tl_jax\.data\.third"):
        TopologicalSorter(graph(tmp_path)).prepare()
