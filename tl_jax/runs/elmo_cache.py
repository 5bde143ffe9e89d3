"""The states of a frozen biLM: computed once for each sentence, kept, and read again.

They depend on the sentence and the weights alone, and so do their names: a later run on
the same sentences finds them. They lie under ``$TL_JAX_CACHE/elmo``, mapped into memory
and not loaded; a manifest with their SHA-256 is their commit.
"""

import hashlib
import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Bool, Int
from rich.console import Console
from rich.progress import track

from tl_jax.data.examples import Examples, TokenInputs
from tl_jax.files.atomic import writing
from tl_jax.files.errors import IntegrityError
from tl_jax.files.locks import LOCK, hold
from tl_jax.files.manifest import MANIFEST, verify_manifest, write_manifest
from tl_jax.files.sources import cache_home
from tl_jax.models.compose import Params, flatten_paths
from tl_jax.models.elmo import BiLm, ElmoConfig
from tl_jax.models.elmo_encoder import CHARACTERS, STATES, Elmo
from tl_jax.runs.elmo_features import read_states
from tl_jax.runs.folder import Setup
from tl_jax.runs.tell import tell
from tl_jax.training.signals import exit_on_signal
from tl_jax.transfer.presets import stages_from_json

_FILE = "states.bin"
_FORMAT = 1
_WAIT_SECONDS = 24 * 3600.0  # for another process that computes the same states


class Sentences(NamedTuple):
    """The distinct sentences of examples, the longest first.

    Attributes:
      words: Rows of the table of characters, a sequence a sentence.
      places: Each token's row of the table of their states; 0 stands for no word.
      sha256: Of all that the sentences hold; other orders of the examples have it, too.
    """

    words: list[Int[np.ndarray, "_"]]
    places: Int[np.ndarray, "M"]
    sha256: str


def remember_states(
    examples: Examples,
    setup: Setup,
    encoder: nn.Module,
    params: Params,
    *,
    compute: bool = True,
) -> Examples:
    """Lets examples bring their biLM's states, where the run does not change these.

    Args:
      examples: Which bring the characters of their words.
      setup: Of the run.
      encoder: Of the run; examples for another than `Elmo` are returned as they are.
      params: The model's.
      compute: What is not known yet is computed; else such examples are returned as
        they are.
    """
    frozen = isinstance(encoder, Elmo) and _is_frozen(setup, params)
    if not frozen or not setup.config.elmo_cache or examples.inputs is None:
        return examples
    config = encoder.config.bilm
    sentences = find_sentences(examples)
    told = f"{_FORMAT} {setup.weights['sha256']} {json.dumps(asdict(config))} "
    name = hashlib.sha256((told + sentences.sha256).encode()).hexdigest()
    folder = cache_home() / "elmo" / name
    rows = 1 + sum(map(len, sentences.words))
    shape = rows, config.num_layers + 1, 2 * config.projection_size
    if not compute and not (folder / MANIFEST).exists():
        return examples
    with (
        exit_on_signal("the run is as it was"),
        hold(folder, wait=_WAIT_SECONDS, told=tell),
    ):
        if not _intact(folder):
            if not compute or not _room(folder, 4 * int(np.prod(shape))):
                return examples
            bilm = jax.device_get(params["encoder"]["bilm"])
            table = examples.inputs.tables[CHARACTERS]
            _write(folder, config, bilm, sentences, table)
    states = np.memmap(folder / _FILE, np.float32, "r", shape=shape)
    return replace(examples, inputs=TokenInputs(sentences.places, {STATES: states}))


def _is_frozen(setup: Setup, params: Params) -> bool:
    """True if no stage of the plan lets the biLM learn."""
    plans = [stage.plan for stage in stages_from_json(setup.plan)]
    paths = flatten_paths({"encoder": {"bilm": params["encoder"]["bilm"]}})
    rules = [plan.rule(path) for plan in plans for path in paths]
    return all(rule is not None and rule.frozen for rule in rules)


def find_sentences(examples: Examples) -> Sentences:
    """Finds what the biLM reads: runs of words of one example, each of them once.

    A token without characters, such as the separator of a pair, ends a sentence.
    """
    assert examples.inputs is not None
    index, table = examples.inputs.index, examples.inputs.tables[CHARACTERS]
    spelt = np.ascontiguousarray(table, np.int32)
    words = np.asarray(spelt.any(axis=1))
    starts, ends = _runs(words[index], examples.offsets)
    runs = list(map(slice, starts.tolist(), ends.tolist()))
    keys = [hashlib.sha256(spelt[index[run]].data).digest() for run in runs]
    first = dict(zip(reversed(keys), reversed(runs), strict=True))
    ordered = sorted(first, key=lambda key: (first[key].start - first[key].stop, key))
    lengths = [first[key].stop - first[key].start for key in ordered]
    begin = dict(zip(ordered, np.cumsum([1, *lengths]).tolist(), strict=False))
    places = np.zeros(len(index), np.int64)
    for key, run in zip(keys, runs, strict=True):
        places[run] = begin[key] + np.arange(run.stop - run.start)
    sha256 = hashlib.sha256(b"".join(ordered)).hexdigest()
    return Sentences([index[first[key]] for key in ordered], places, sha256)


def _runs(
    words: Bool[np.ndarray, "M"], offsets: Int[np.ndarray, "_"]
) -> tuple[Int[np.ndarray, "R"], Int[np.ndarray, "R"]]:
    """Where runs of words begin and end; none goes on over an example's border."""
    border = np.zeros(len(words) + 1, bool)
    border[offsets] = True
    before = np.concatenate([[False], words[:-1]])
    after = np.concatenate([words[1:], [False]])
    starts = np.flatnonzero(words & (border[:-1] | ~before))
    return starts, np.flatnonzero(words & (border[1:] | ~after)) + 1


def _intact(folder: Path) -> bool:
    if not (folder / MANIFEST).exists():
        return False  # new, or never finished
    try:
        verify_manifest(folder)
    except IntegrityError as problem:
        tell(f"ELMo's states that were kept are damaged and left aside: {problem}")
        return False
    return True


def _room(folder: Path, size: int) -> bool:
    """Says whether there is room for states, and tells so if there is none."""
    free = shutil.disk_usage(folder).free
    if size > free:
        tell(
            f"{folder}: no room to keep ELMo's states ({size / 1e9:.1f} GB, "
            f"{free / 1e9:.1f} GB are free); they are computed at each step."
        )
    return size <= free


def _write(
    folder: Path,
    config: ElmoConfig,
    params: Params,
    sentences: Sentences,
    characters: Int[np.ndarray, "V C"],
) -> None:
    """Computes all states; a manifest, written last, says that they are whole."""
    for leftover in folder.iterdir():
        if leftover.name != LOCK:
            leftover.unlink()
    words = sentences.words
    tell(f"ELMo reads {len(words):,} distinct sentences once; kept in {folder}")
    layers = range(config.num_layers + 1)
    found = read_states(BiLm(config), params, words, characters, layers)
    console = Console(stderr=True)
    shown = track(
        found,
        "ELMo reads",
        total=len(words),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    width = config.num_layers + 1, 2 * config.projection_size
    with writing(folder / _FILE) as stream:
        stream.write(np.zeros(width, np.float32).tobytes())
        for expected, (number, states) in enumerate(shown):
            assert number == expected  # the longest first, as they are in the file
            stream.write(states.tobytes())
    write_manifest(folder)
