"""BERT's tensors by Hugging Face's names and by ours: one flat table, read both ways.

The table says, line by line: their name, our path, their shape. ``{l}`` is the layer.
A kernel of two axes stands transposed there (torch keeps ``[outputs, inputs]``).
"""

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from tl_jax.models.bert import BertConfig

_ENCODER = """
embeddings.word_embeddings.weight         embeddings/word/embedding        V,D
embeddings.position_embeddings.weight     embeddings/position/embedding    P,D
embeddings.token_type_embeddings.weight   embeddings/type/embedding        Y,D
embeddings.LayerNorm.weight               embeddings/norm/scale            D
embeddings.LayerNorm.bias                 embeddings/norm/bias             D
"""

_LAYER = """
encoder.layer.{l}.attention.self.query.weight         attention/query/kernel       D,D
encoder.layer.{l}.attention.self.query.bias           attention/query/bias         D
encoder.layer.{l}.attention.self.key.weight           attention/key/kernel         D,D
encoder.layer.{l}.attention.self.key.bias             attention/key/bias           D
encoder.layer.{l}.attention.self.value.weight         attention/value/kernel       D,D
encoder.layer.{l}.attention.self.value.bias           attention/value/bias         D
encoder.layer.{l}.attention.output.dense.weight       attention/output/kernel      D,D
encoder.layer.{l}.attention.output.dense.bias         attention/output/bias        D
encoder.layer.{l}.attention.output.LayerNorm.weight   attention_norm/scale         D
encoder.layer.{l}.attention.output.LayerNorm.bias     attention_norm/bias          D
encoder.layer.{l}.intermediate.dense.weight           feed_forward/input/kernel    F,D
encoder.layer.{l}.intermediate.dense.bias             feed_forward/input/bias      F
encoder.layer.{l}.output.dense.weight                 feed_forward/output/kernel   D,F
encoder.layer.{l}.output.dense.bias                   feed_forward/output/bias     D
encoder.layer.{l}.output.LayerNorm.weight             feed_forward_norm/scale      D
encoder.layer.{l}.output.LayerNorm.bias               feed_forward_norm/bias       D
"""

_POOLER = """
pooler.dense.weight   pooler/kernel   D,D
pooler.dense.bias     pooler/bias     D
"""

_CLASSIFIER = """
classifier.weight   output/kernel   N,D
classifier.bias     output/bias     N
"""

_SPAN = """
qa_outputs.weight   output/kernel   N,D
qa_outputs.bias     output/bias     N
"""

_MASKED_LM = """
cls.predictions.transform.dense.weight       transform/kernel   D,D
cls.predictions.transform.dense.bias         transform/bias     D
cls.predictions.transform.LayerNorm.weight   norm/scale         D
cls.predictions.transform.LayerNorm.bias     norm/bias          D
cls.predictions.bias                         bias               V
"""

_NEXT_SENTENCE = """
cls.seq_relationship.weight   output/kernel   N,D
cls.seq_relationship.bias     output/bias     N
"""


class Tensor(NamedTuple):
    """One line of the table, made out for a config.

    Attributes:
      path: Where it stands in our parameters, from ``encoder/`` or ``head/``.
      shape: Its shape in the checkpoint.
      transposed: True for kernels, which we keep ``[inputs, outputs]``.
    """

    path: str
    shape: tuple[int, ...]
    transposed: bool


class Architecture(NamedTuple):
    """What the checkpoint of a class of Hugging Face's holds.

    Attributes:
      head: Tables of the head's tensors, by their folder below ``head``.
      pooler: True if it has BERT's pooler.
      classes: Its number of outputs; 0 means that the config's labels tell.
    """

    head: tuple[tuple[str, str], ...]
    pooler: bool
    classes: int = 0


def architectures() -> dict[str, Architecture]:
    """Returns the classes that are understood, by Hugging Face's names."""
    pretrain = ("head/masked_lm/", _MASKED_LM), ("head/next_sentence/", _NEXT_SENTENCE)
    return {
        "BertModel": Architecture((), pooler=True),
        "BertForSequenceClassification": Architecture(
            (("head/", _CLASSIFIER),), pooler=True
        ),
        "BertForTokenClassification": Architecture(
            (("head/", _CLASSIFIER),), pooler=False
        ),
        "BertForQuestionAnswering": Architecture((("head/", _SPAN),), False, 2),
        "BertForMaskedLM": Architecture((("head/", _MASKED_LM),), pooler=False),
        "BertForNextSentencePrediction": Architecture(
            (("head/", _NEXT_SENTENCE),), True, 2
        ),
        "BertForPreTraining": Architecture(pretrain, True, 2),
    }


def encoder_tensors(config: BertConfig, *, pooler: bool) -> dict[str, Tensor]:
    """Lists an encoder's tensors by Hugging Face's names, without a ``bert.``."""
    sizes = _sizes(config, 0)
    tensors = dict(_rows(_ENCODER, "encoder/", sizes))
    for layer in range(config.num_layers):
        table = _LAYER.replace("{l}", str(layer))
        tensors |= _rows(table, f"encoder/layer_{layer}/", sizes)
    return tensors | dict(_rows(_POOLER, "encoder/", sizes) if pooler else ())


def head_tensors(
    config: BertConfig, architecture: Architecture, classes: int
) -> dict[str, Tensor]:
    """Lists the tensors of an architecture's head by Hugging Face's names."""
    sizes = _sizes(config, architecture.classes or classes)
    return {
        name: tensor
        for folder, table in architecture.head
        for name, tensor in _rows(table, folder, sizes)
    }


def plain_name(name: str) -> str:
    """Takes off ``bert.`` and turns the old ``gamma`` and ``beta`` into today's."""
    name = name.removeprefix("bert.")
    name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)
    return re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)


def is_buffer(name: str) -> bool:
    """True for what old checkpoints hold and nobody needs: 0, 1, 2, … of positions."""
    return name in ("embeddings.position_ids", "embeddings.token_type_ids")


def is_head(name: str) -> bool:
    """True for tensors beside the encoder: the pooler and every known head."""
    heads = (_POOLER, _CLASSIFIER, _SPAN, _MASKED_LM, _NEXT_SENTENCE)
    known = {line.split()[0] for table in heads for line in table.strip().splitlines()}
    return name in known or name in TIED


# Copies that a checkpoint may hold of tensors with another name.
TIED: Mapping[str, str] = {
    "cls.predictions.decoder.weight": "embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}


def _sizes(config: BertConfig, classes: int) -> dict[str, int]:
    return {
        "V": config.vocab_size,
        "P": config.max_positions,
        "Y": config.type_vocab_size,
        "D": config.hidden_size,
        "F": config.intermediate_size,
        "N": classes,
    }


def _rows(
    table: str, folder: str, sizes: Mapping[str, int]
) -> Iterator[tuple[str, Tensor]]:
    for line in table.strip().splitlines():
        name, path, axes = line.split()
        shape = tuple(sizes[axis] for axis in axes.split(","))
        yield name, Tensor(folder + path, shape, path.endswith("kernel"))
