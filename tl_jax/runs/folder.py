"""A run directory: where everything lies, and the setup that a run starts from.

::

    RUN/
      run.json           what the run starts from, to be read (and changed knowingly)
      setup/             the tokenizer or vocabulary; its MANIFEST.json seals run.json
      checkpoints/       the best and the last, each with its own MANIFEST.json
      metrics.jsonl      one line a step and one an evaluation
      predictions/       what the best checkpoint says of the dev and test data
      results.json       its scores, and the hash of those predictions
"""

import json
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from importlib import metadata
from pathlib import Path
from typing import Any

from tl_jax.files.atomic import read_object, write_json, writing_folder
from tl_jax.files.errors import ConfigError, IntegrityError, did_you_mean
from tl_jax.files.manifest import verify_manifest, write_manifest
from tl_jax.runs.config import FinetuneConfig
from tl_jax.runs.encoders import TextEncoder, load_text_encoder
from tl_jax.tasks.task import Segments

SETUP = "setup"
RUN_FILE = "run.json"
CHECKPOINTS = "checkpoints"
RESULTS = "results.json"
SEEDS = "seeds.json"
PREDICTIONS = "predictions"
PACKAGES = ("tl-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


@dataclass(frozen=True)
class Setup:
    """All that a run starts from, as plain values.

    Attributes:
      config: The options, settled.
      encoder: Kind and sizes of the encoder.
      segments: What segment ids mean in the data: compare, the texts of a pair.
      labels: The classes, in the order of the logits.
      plan: The transfer plan's stages.
      data: Name, number of examples and SHA-256 of each part of the data.
      weights: Source and SHA-256 of the pretrained weights.
      versions: Of Python and of the packages that compute.
    """

    config: FinetuneConfig
    encoder: dict[str, Any]
    segments: Segments
    labels: tuple[str, ...]
    plan: list[dict[str, Any]]
    data: dict[str, dict[str, Any]]
    weights: dict[str, str]
    versions: dict[str, str]


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that compute."""
    return {"python": platform.python_version()} | {
        name: metadata.version(name) for name in PACKAGES
    }


def write_setup(
    run: Path, told: Mapping[str, Any], save: Callable[[Path], object]
) -> None:
    """Writes run.json and the setup folder, which is there as a whole or not at all.

    Args:
      run: The run directory.
      told: What run.json holds.
      save: Writes the tokenizer or the vocabulary into a folder.
    """
    with writing_folder(run / SETUP) as fresh:
        save(fresh)
        write_manifest(fresh, dict(told))
        write_json(run / RUN_FILE, dict(told))


def seal(run: Path, setup: Setup) -> None:
    """Accepts a changed setup: from now on the run is the one that it describes."""
    write_json(run / RUN_FILE, asdict(setup))
    write_manifest(run / SETUP, asdict(setup))


def is_run(run: Path) -> bool:
    """True if the folder holds a run of one seed."""
    return (run / SETUP).is_dir()


def refuse_used(out: Path) -> None:
    """Refuses a folder for a new run if there is one, of any kind or number of seeds.

    Raises:
      ConfigError: Nothing in the folder was touched.
    """
    if is_run(out) or (out / SEEDS).exists():
        raise ConfigError(
            f"{out} already holds a run. Go on with it by `tl-jax resume {out}`, "
            "or choose another --out."
        )
    if (out / RESULTS).exists():
        raise ConfigError(f"{out} already holds a run; choose another --out.")


def read_setup(run: Path, allowed: set[str] | None = None) -> Setup:
    """Reads a run's setup and verifies that it is the one that the run started from.

    Args:
      run: The run directory.
      allowed: Keys of run.json that may have been changed by hand since.

    Raises:
      ConfigError: The folder is not a run directory, or run.json was changed.
      IntegrityError: The tokenizer, the vocabulary or the seal was changed.
    """
    if not is_run(run):
        near = ""
        if run.parent.is_dir() and not run.exists():
            near = did_you_mean(run.name, (p.name for p in run.parent.iterdir()))
        inside = sorted(str(p.parent) for p in run.glob(f"*/{SETUP}"))
        hint = f" It holds the runs {', '.join(inside)}." if inside else near
        raise ConfigError(f"{run} is not a run directory (no {SETUP}/ in it).{hint}")
    sealed = verify_manifest(run / SETUP)
    told = read_object(run / RUN_FILE, error=IntegrityError)
    if "kind" in told:
        raise ConfigError(
            f"{run} is a run of pre-training. What it has trained goes into "
            f"`tl-jax finetune --weights {run}/model`; its scores stand in {RESULTS}."
        )
    refuse_changes(run, sealed, told, allowed or set())
    return _parse_setup(told)


def read_text_encoder(run: Path) -> TextEncoder:
    """Loads a run's tokenizer or vocabulary."""
    return load_text_encoder(run / SETUP)


def _parse_setup(raw: Mapping[str, Any]) -> Setup:
    known = {field.name for field in fields(FinetuneConfig)}
    config = {k: v for k, v in raw["config"].items() if k in known}
    config["train"] = tuple(config["train"])
    return Setup(
        **{
            **{k: v for k, v in raw.items() if k != "config"},
            "config": FinetuneConfig(**config),
            "labels": tuple(raw["labels"]),
        }
    )


def refuse_changes(
    run: Path, old: Mapping[str, Any], new: Mapping[str, Any], allowed: set[str]
) -> None:
    """Refuses to go on with another setup than a run was started with.

    Args:
      run: The run directory, for the message.
      old: The setup as it was, as nested dicts.
      new: The setup as it is now.
      allowed: Keys, such as ``data.train``, whose change is accepted (so is that of
        all keys below them).

    Raises:
      ConfigError: Shows every difference, and how to allow it.
    """
    before, now = (_flat(json.loads(json.dumps(setup))) for setup in (old, new))
    changed = [
        key
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
        and not any(key == a or key.startswith(f"{a}.") for a in allowed)
    ]
    if changed:
        listed = "\n".join(
            f"  {key}\n  - {before.get(key)}\n  + {now.get(key)}" for key in changed
        )
        raise ConfigError(
            f"{run} was started with another setup:\n{listed}\n"
            f"Restore it, or resume with --allow {' '.join(changed)}."
        )


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            leaves |= _flat(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves
