"""Runs in processes of their own, and what they must agree in at the end."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp

from tl_jax.training.checkpoint import latest
from tl_jax.training.log import read_log, without_clock


def fingerprint(run: Path) -> dict[str, str]:
    """Hashes of the last checkpoint's arrays, its progress, the log and the results."""
    path = latest(run / "checkpoints")
    assert path is not None
    reader = ocp.PyTreeCheckpointer()
    names = reader.metadata(path / "state").item_metadata.tree
    # As numpy, whichever devices of how many processes they were written from.
    here = dict.fromkeys(names, ocp.RestoreArgs(restore_type=np.ndarray))
    arrays = reader.restore(path / "state", restore_args=here)
    digests = {}
    for name, value in sorted(arrays.items()):
        array = np.asarray(value)
        raw = f"{array.dtype}{array.shape}".encode() + array.tobytes()
        digests[name] = hashlib.sha256(raw).hexdigest()
    digests["progress"] = (path / "progress.json").read_text()
    digests["log"] = json.dumps(without_clock(read_log(run / "metrics.jsonl")))
    digests["results"] = (run / "results.json").read_text().replace(str(run), "RUN")
    return digests


def start(words: list[str], environment: dict[str, str]) -> subprocess.Popen[str]:
    """Starts the command and does not wait for it."""
    return subprocess.Popen(
        [sys.executable, "-m", "tl_jax", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        stdin=subprocess.DEVNULL,
    )
