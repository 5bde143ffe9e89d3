"""Runs with ELMo: what is loaded, how it learns, and what it reads of the examples."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float32

from tl_jax.data.examples import Examples, TokenInputs
from tl_jax.files.errors import ConfigError
from tl_jax.files.sources import resolve
from tl_jax.interop.elmo import ElmoFiles, known_words, load_elmo
from tl_jax.interop.embedding import is_cased, read_embedding
from tl_jax.models.batch import Array
from tl_jax.models.compose import Params, flatten_paths
from tl_jax.models.elmo_encoder import CHARACTERS, Elmo, ElmoEncoderConfig
from tl_jax.runs.config import RANDOM, FinetuneConfig
from tl_jax.runs.options import given
from tl_jax.tasks.task import Segments
from tl_jax.text.characters import NO_WORDS, SpeltWords, Splits, vector_words
from tl_jax.text.encodings import TextEncoder
from tl_jax.text.words import WordVocabulary

Penalty = Callable[[Params], Float[Array, ""]]
# Whose texts are words already; others are split as word vectors' texts are.
_OF_WORDS = ("tag", "srl")
_DEFAULTS = {
    "elmo_at": "input",
    "elmo_dropout": 0.5,
    "elmo_l2": 1e-3,
    "elmo_cache": True,
}


class ElmoParts(NamedTuple):
    """What `load_elmo_encoder` gives; the fields are those of a `Representation`."""

    encoder: Elmo
    weights: Mapping[str, Any]
    text: SpeltWords
    told: str


def load_elmo_encoder(
    config: FinetuneConfig, files: ElmoFiles, texts: Sequence[str], segments: Segments
) -> ElmoParts:
    """Loads a biLM, and the word vectors beside it, for these training texts.

    Raises:
      WeightsError: The files do not hold what they are named as.
      ConfigError: An option does not fit ELMo, or this biLM.
    """
    config = settle_elmo(config)
    bilm, params = load_elmo(*files)
    known = known_words(files.options, bilm.config)
    pooling = config.pooling or "max"
    if pooling == "pooler":
        raise ConfigError("--pooling pooler: ELMo has last, max and mean.")
    if config.elmo_at == "output" and config.vectors is None:
        raise ConfigError(
            "--elmo-at output leaves the LSTM nothing to read. Add --vectors, a file "
            "or random, or say --elmo-at both."
        )
    split_already = config.task in _OF_WORDS and not config.characters
    splits = "spaces" if split_already else "words"
    _refuse_vectors_options(config)
    vocabulary, table, beside = _vectors_beside(config, texts, splits)
    rows, width = table.shape if table is not None else (0, 0)
    if config.vectors == RANDOM:
        rows, width = len(vocabulary), config.vector_size
    assert config.elmo_at is not None and config.elmo_dropout is not None
    sizes = ElmoEncoderConfig(
        bilm=replace(bilm.config, dtype=config.precision),
        at=config.elmo_at,
        vocab_size=rows,
        embedding_size=width,
        hidden_size=config.hidden_size,
        dropout=config.dropout,
        mix_dropout=config.elmo_dropout,
        mix_norm=config.elmo_norm,
        pooling=pooling,
        segments=segments,
        dtype=config.precision,
    )
    weights: dict[str, Any] = {"encoder/bilm": params}
    if table is not None:
        weights["encoder/embedding"] = {"embedding": table}
    told = (
        f"ELMo, {sizes.bilm.num_layers} layers of width "
        f"2 × {sizes.bilm.projection_size}, at the LSTM's {sizes.at}"
    )
    if rows:
        told += f", beside {rows:,} word vectors of width {width}, {beside}"
    text = SpeltWords(vocabulary, splits, sizes.bilm.max_characters, known)
    return ElmoParts(Elmo(sizes), weights, text, told)


def _refuse_vectors_options(config: FinetuneConfig) -> None:
    """Raises a ConfigError for options of word vectors that are not there, or read."""
    idle = {"units": "ELMo has vectors of words beside it, none of sub-words"}
    if config.vectors is None:
        idle["max_words"] = "of the words that --vectors gives"
    if config.vectors != RANDOM:
        idle["vector_size"] = "of --vectors random"
    problems = [
        f"{flag}: {idle[name]}" for name in idle for flag in given(config, [name])
    ]
    if problems:
        raise ConfigError(f"{'; '.join(problems)}.")


def _vectors_beside(
    config: FinetuneConfig, texts: Sequence[str], splits: Splits
) -> tuple[WordVocabulary, Float32[np.ndarray, "V D"] | None, str]:
    """The words that have a vector beside ELMo's, the vectors if read, and of whom."""
    if config.vectors is None:
        return NO_WORDS, None, ""
    path = None if config.vectors == RANDOM else resolve(config.vectors)
    words = vector_words(
        texts,
        splits,
        max_size=config.max_words,
        lowercase=path is None or not is_cased(path),
    )
    if path is None:
        return words, None, "drawn at random"
    full, table, known = read_embedding(
        path, words, max_words=config.max_words, seed=config.seed
    )
    return full, table, f"{known:,} of the data's {len(words):,} words among them"


def settle_elmo(config: FinetuneConfig) -> FinetuneConfig:
    """Settles what the options of ELMo leave open."""
    defaults: dict[str, Any] = _DEFAULTS
    open_ones = {k: v for k, v in defaults.items() if getattr(config, k) is None}
    return replace(config, **open_ones)


def refuse_elmo_options(config: FinetuneConfig) -> None:
    """Raises a ConfigError if options of ELMo are given with other weights."""
    if flags := given(config, (*_DEFAULTS, "vectors", "elmo_norm")):
        raise ConfigError(
            f"{' and '.join(flags)}: of ELMo, and --weights {config.weights} is no "
            "folder with options.json and an HDF5 file."
        )


def mix_penalty(config: FinetuneConfig, encoder: nn.Module) -> Penalty | None:
    """λ‖s‖² of all of ELMo's mixes (Peters et al. 2018, section 3.3)."""
    if not isinstance(encoder, Elmo) or not config.elmo_l2:
        return None
    rate = config.elmo_l2

    def penalty(params: Params) -> Float[Array, ""]:
        leaves = flatten_paths(params["encoder"])
        weights = [x for path, x in leaves.items() if re.fullmatch("mix_.*/s", path)]
        return rate * jnp.sum(jnp.square(jnp.concatenate(weights)))

    return penalty


def learnt_mixes(params: Params) -> dict[str, dict[str, Any]]:
    """What each of ELMo's mixes has learnt, as JSON can hold it; empty without ELMo.

    Returns:
      By place (``input``, ``output``) softmax(s), the layers' ``weights``, and
      ``gamma``.
    """
    mixes = {
        name.removeprefix("mix_"): part
        for name, part in params["encoder"].items()
        if name.startswith("mix_")
    }
    return {
        name: {
            "weights": np.asarray(jax.nn.softmax(jnp.asarray(part["s"]))).tolist(),
            "gamma": float(part["gamma"]),
        }
        for name, part in mixes.items()
    }


def spelt(examples: Examples, text: TextEncoder) -> Examples:
    """Gives examples what their encoder reads beside the ids of ``text``.

    The ids of `SpeltWords` become those of word vectors, with the words' characters
    beside them; other examples are returned as they are.
    """
    if not isinstance(text, SpeltWords):
        return examples
    found = text.spell(examples.tokens)
    inputs = TokenInputs(found.rows, {CHARACTERS: found.characters})
    return replace(examples, tokens=found.vectors, inputs=inputs)
