"""What this machine has: versions, devices, what can be reached."""

import importlib.util
import os
from concurrent.futures import ThreadPoolExecutor

import jax

from tl_jax.files.sources import unreachable
from tl_jax.runs.folder import versions

EXTRAS = {
    "demo": "sklearn",
    "tensorboard": "tensorboardX",
    "tfds": "tensorflow",
    "peers": "transformers",
}


def doctor() -> list[str]:
    """Lists versions, devices, installed extras and reachable sources, a line each."""
    lines = [f"{name} {version}" for name, version in versions().items()]
    lines += [
        f"device {device.id}: {device.platform} ({device.device_kind})"
        for device in jax.devices()
    ]
    lines.append(f"processors: {os.cpu_count()}")
    for extra, module in EXTRAS.items():
        there = importlib.util.find_spec(module) is not None
        hint = "installed" if there else f"not installed: pip install 'tl-jax[{extra}]'"
        lines.append(f"extra {extra}: {hint}")
    with ThreadPoolExecutor() as pool:
        lines += pool.map(_reach, *zip(*_endpoints().items(), strict=True))
    return lines


def _endpoints() -> dict[str, str]:
    from huggingface_hub import constants

    return {"hub:": constants.ENDPOINT}


def _reach(scheme: str, url: str) -> str:
    why = unreachable(url)
    return f"{scheme} can be reached" if why is None else f"{scheme} {why}"
