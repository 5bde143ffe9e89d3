"""A tiny biLM with random weights, as a folder that runs load."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from tiny_runs import WORDS

from tl_jax.interop.elmo import save_elmo
from tl_jax.models.compose import init_module
from tl_jax.models.elmo import BiLm, ElmoConfig, character_cnn
from tl_jax.text.characters import word_characters

SMALL_BILM = ElmoConfig(
    character_size=4,
    filters=((1, 16), (3, 32)),
    num_highways=1,
    max_characters=12,
    projection_size=16,
    cell_size=16,
    num_layers=2,
)


def save_tiny_elmo(folder: Path) -> Path:
    """Writes options.json and HDF5 of a biLM that was never trained."""
    c, tokens, spelt = SMALL_BILM, np.ones((1, 2), np.int32), np.ones((1, 12), np.int32)
    params: Any = init_module(BiLm(c), jax.random.key(0), tokens, tokens, spelt)
    params = jax.tree.map(np.asarray, params)
    # Words whose vectors are hardly distinct would take long to be told apart.
    spelt = word_characters(WORDS, length=12)
    weights = {"params": params["characters"]}
    words = np.asarray(character_cnn(c).apply(weights, spelt))
    projection = params["characters"]["projection"]
    projection["kernel"] = projection["kernel"] / words.std(axis=0)
    projection["bias"] = -words.mean(axis=0) / words.std(axis=0)
    save_elmo(folder / "options.json", folder / "weights.hdf5", c, params)
    return folder
