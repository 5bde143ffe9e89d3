"""Tensors of BERT's family by Hugging Face's names and by ours: tables, read both ways.

A table says, line by line: their name, our path, their shape. ``{l}`` is the layer. A
kernel of two axes stands transposed there (torch keeps ``[outputs, inputs]``).

Classifiers other than BERT's own keep no pooler but a dense layer on [CLS] in their
head. It is the same function, so it becomes our pooler. (In training, ELECTRA and
RoBERTa there drop out what goes into that layer, too, and DistilBERT drops out nothing
of attention's output.)
"""

import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from tl_jax.models.bert import BertConfig

_EMBEDDINGS = """
embeddings.word_embeddings.weight         embeddings/word/embedding        V,E
embeddings.position_embeddings.weight     embeddings/position/embedding    P,E
embeddings.LayerNorm.weight               embeddings/norm/scale            E
embeddings.LayerNorm.bias                 embeddings/norm/bias             E
"""

_SEGMENTS = """
embeddings.token_type_embeddings.weight   embeddings/type/embedding        Y,E
"""

_PROJECTION = """
embeddings_project.weight                 embeddings/projection/kernel     D,E
embeddings_project.bias                   embeddings/projection/bias       D
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

_DISTILBERT_LAYER = """
transformer.layer.{l}.attention.q_lin.weight          attention/query/kernel       D,D
transformer.layer.{l}.attention.q_lin.bias            attention/query/bias         D
transformer.layer.{l}.attention.k_lin.weight          attention/key/kernel         D,D
transformer.layer.{l}.attention.k_lin.bias            attention/key/bias           D
transformer.layer.{l}.attention.v_lin.weight          attention/value/kernel       D,D
transformer.layer.{l}.attention.v_lin.bias            attention/value/bias         D
transformer.layer.{l}.attention.out_lin.weight        attention/output/kernel      D,D
transformer.layer.{l}.attention.out_lin.bias          attention/output/bias        D
transformer.layer.{l}.sa_layer_norm.weight            attention_norm/scale         D
transformer.layer.{l}.sa_layer_norm.bias              attention_norm/bias          D
transformer.layer.{l}.ffn.lin1.weight                 feed_forward/input/kernel    F,D
transformer.layer.{l}.ffn.lin1.bias                   feed_forward/input/bias      F
transformer.layer.{l}.ffn.lin2.weight                 feed_forward/output/kernel   D,F
transformer.layer.{l}.ffn.lin2.bias                   feed_forward/output/bias     D
transformer.layer.{l}.output_layer_norm.weight        feed_forward_norm/scale      D
transformer.layer.{l}.output_layer_norm.bias          feed_forward_norm/bias       D
"""

_POOLER = """
pooler.dense.weight   pooler/kernel   D,D
pooler.dense.bias     pooler/bias     D
"""

_CLASSIFIER_DENSE = """
classifier.dense.weight   pooler/kernel   D,D
classifier.dense.bias     pooler/bias     D
"""

_PRE_CLASSIFIER = """
pre_classifier.weight   pooler/kernel   D,D
pre_classifier.bias     pooler/bias     D
"""

_CLASSIFIER = """
classifier.weight   output/kernel   N,D
classifier.bias     output/bias     N
"""

_CLASSIFIER_OUT = """
classifier.out_proj.weight   output/kernel   N,D
classifier.out_proj.bias     output/bias     N
"""

_SPAN = """
qa_outputs.weight   output/kernel   N,D
qa_outputs.bias     output/bias     N
"""

_BERT_MASKED_LM = """
cls.predictions.transform.dense.weight       transform/kernel   D,D
cls.predictions.transform.dense.bias         transform/bias     D
cls.predictions.transform.LayerNorm.weight   norm/scale         D
cls.predictions.transform.LayerNorm.bias     norm/bias          D
cls.predictions.bias                         bias               V
"""

_ELECTRA_MASKED_LM = """
generator_predictions.dense.weight       transform/kernel   E,D
generator_predictions.dense.bias         transform/bias     E
generator_predictions.LayerNorm.weight   norm/scale         E
generator_predictions.LayerNorm.bias     norm/bias          E
generator_lm_head.bias                   bias               V
"""

_ROBERTA_MASKED_LM = """
lm_head.dense.weight        transform/kernel   D,D
lm_head.dense.bias          transform/bias     D
lm_head.layer_norm.weight   norm/scale         D
lm_head.layer_norm.bias     norm/bias          D
lm_head.bias                bias               V
"""

_DISTILBERT_MASKED_LM = """
vocab_transform.weight    transform/kernel   D,D
vocab_transform.bias      transform/bias     D
vocab_layer_norm.weight   norm/scale         D
vocab_layer_norm.bias     norm/bias          D
vocab_projector.bias      bias               V
"""

_NEXT_SENTENCE = """
cls.seq_relationship.weight   output/kernel   N,D
cls.seq_relationship.bias     output/bias     N
"""

_WORDS = "embeddings.word_embeddings.weight"


class Tensor(NamedTuple):
    """One line of a table, made out for a config.

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
      pooler: Table of what is our pooler; "" if the class has none.
      classes: Its number of outputs; 0 means that the config's labels tell.
    """

    head: tuple[tuple[str, str], ...] = ()
    pooler: str = ""
    classes: int = 0


class Family(NamedTuple):
    """What a model type of Hugging Face's calls its classes and tensors.

    Attributes:
      name: The front of its classes' names.
      prefix: The front of the encoder's tensors in a class with a head.
      layer: Table of one layer.
      kinds: Its classes, by the end of their names.
      tied: Copies that a checkpoint may hold of tensors with another name.
      pooler_activation: Of what is our pooler.
      masked_lm_activation: Of the masked-LM head; "" if it is the encoder's.
      unread: Tensors of heads that are not known here.
    """

    name: str
    prefix: str
    layer: str
    kinds: Mapping[str, Architecture]
    tied: Mapping[str, str]
    pooler_activation: str
    masked_lm_activation: str = ""
    unread: tuple[str, ...] = ()

    @property
    def architectures(self) -> dict[str, Architecture]:
        """The classes that are understood, by Hugging Face's names."""
        return {self.name + end: kind for end, kind in self.kinds.items()}

    @property
    def poolers(self) -> tuple[str, ...]:
        """Tables of all that may be our pooler, a classifier's before another's."""
        classify, alone = self.kinds["ForSequenceClassification"], self.kinds["Model"]
        return tuple(dict.fromkeys(filter(None, (classify.pooler, alone.pooler))))


def _kinds(
    classifier: str, dense: str, masked_lm: str, pooler: str = ""
) -> dict[str, Architecture]:
    """The classes that every model type has."""
    return {
        "Model": Architecture(pooler=pooler),
        "ForSequenceClassification": Architecture((("head/", classifier),), dense),
        "ForTokenClassification": Architecture((("head/", _CLASSIFIER),)),
        "ForQuestionAnswering": Architecture((("head/", _SPAN),), classes=2),
        "ForMaskedLM": Architecture((("head/", masked_lm),)),
    }


_BERT = Family(
    "Bert",
    "bert.",
    _LAYER,
    _kinds(_CLASSIFIER, _POOLER, _BERT_MASKED_LM, pooler=_POOLER)
    | {
        "ForNextSentencePrediction": Architecture(
            (("head/", _NEXT_SENTENCE),), _POOLER, classes=2
        ),
        "ForPreTraining": Architecture(
            (
                ("head/masked_lm/", _BERT_MASKED_LM),
                ("head/next_sentence/", _NEXT_SENTENCE),
            ),
            _POOLER,
            classes=2,
        ),
    },
    tied={
        "cls.predictions.decoder.weight": _WORDS,
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
    pooler_activation="tanh",
)
_ELECTRA = Family(
    "Electra",
    "electra.",
    _LAYER,
    _kinds(_CLASSIFIER_OUT, _CLASSIFIER_DENSE, _ELECTRA_MASKED_LM),
    tied={"generator_lm_head.weight": _WORDS},
    pooler_activation="gelu",
    masked_lm_activation="gelu",
    unread=(
        "discriminator_predictions.dense.weight",
        "discriminator_predictions.dense.bias",
        "discriminator_predictions.dense_prediction.weight",
        "discriminator_predictions.dense_prediction.bias",
    ),
)
_ROBERTA = Family(
    "Roberta",
    "roberta.",
    _LAYER,
    _kinds(_CLASSIFIER_OUT, _CLASSIFIER_DENSE, _ROBERTA_MASKED_LM, pooler=_POOLER),
    tied={"lm_head.decoder.weight": _WORDS, "lm_head.decoder.bias": "lm_head.bias"},
    pooler_activation="tanh",
    masked_lm_activation="gelu",
)
_DISTILBERT = Family(
    "DistilBert",
    "distilbert.",
    _DISTILBERT_LAYER,
    _kinds(_CLASSIFIER, _PRE_CLASSIFIER, _DISTILBERT_MASKED_LM),
    tied={"vocab_projector.weight": _WORDS},
    pooler_activation="relu",
)

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "bert": _BERT,
        "electra": _ELECTRA,
        "roberta": _ROBERTA,
        "xlm-roberta": _ROBERTA._replace(name="XLMRoberta"),
        "distilbert": _DISTILBERT,
    }
)


def encoder_tensors(config: BertConfig, pooler: str = "") -> dict[str, Tensor]:
    """Lists an encoder's tensors by Hugging Face's names, without a ``bert.``.

    Args:
      config: The encoder's.
      pooler: The table of its pooler, one of `Family.poolers`; "" for none.
    """
    sizes = _sizes(config, 0)
    tables = [_EMBEDDINGS, pooler]
    tables += [_SEGMENTS] if config.type_vocab_size else []
    tables += [_PROJECTION] if config.embedding_width != config.hidden_size else []
    tensors = dict(_rows("".join(tables), "encoder/", sizes))
    for layer in range(config.num_layers):
        table = FAMILIES[config.model_type].layer.replace("{l}", str(layer))
        tensors |= _rows(table, f"encoder/layer_{layer}/", sizes)
    return tensors


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


def plain_name(name: str, family: Family) -> str:
    """Takes off ``bert.`` and turns the old ``gamma`` and ``beta`` into today's."""
    name = name.removeprefix(family.prefix)
    name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)
    return re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)


def full_name(name: str, family: Family) -> str:
    """Undoes `plain_name`, as a class with a head spells it today."""
    inside = ("embeddings.", "embeddings_project.", "encoder.", "transformer.")
    return family.prefix + name if name.startswith((*inside, "pooler.")) else name


def is_buffer(name: str) -> bool:
    """True for what old checkpoints hold and nobody needs: 0, 1, 2, … of positions."""
    return name in ("embeddings.position_ids", "embeddings.token_type_ids")


def is_head(name: str, family: Family) -> bool:
    """True for tensors beside the encoder: the pooler and every head."""
    tables = [*family.poolers]
    tables += [table for kind in family.kinds.values() for _, table in kind.head]
    known = {line.split()[0] for table in tables for line in table.split("\n") if line}
    return name in known or name in family.tied or name in family.unread


def _sizes(config: BertConfig, classes: int) -> dict[str, int]:
    return {
        "V": config.vocab_size,
        "P": config.max_positions + config.position_offset,
        "Y": config.type_vocab_size,
        "E": config.embedding_width,
        "D": config.hidden_size,
        "F": config.intermediate_size,
        "N": classes,
    }


def _rows(
    table: str, folder: str, sizes: Mapping[str, int]
) -> Iterator[tuple[str, Tensor]]:
    for line in filter(None, table.split("\n")):
        name, path, axes = line.split()
        shape = tuple(sizes[axis] for axis in axes.split(","))
        yield name, Tensor(folder + path, shape, path.endswith("kernel"))
