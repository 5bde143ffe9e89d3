"""The head that weights come with: used where it scores the run's own classes."""

from collections.abc import Mapping, Sequence

import flax.linen as nn

from tl_jax.files.sources import resolve, weights_folder
from tl_jax.interop.bert_config import read_head_config
from tl_jax.interop.huggingface import load_bert_model
from tl_jax.models.bert import Bert
from tl_jax.models.compose import Model, Params
from tl_jax.models.heads import Classify, Span, Tag, TagCrf
from tl_jax.runs.tell import tell

# The end of the name that Hugging Face's class with such a head has.
CLASSES: Mapping[type[nn.Module], str] = {
    Classify: "ForSequenceClassification",
    Tag: "ForTokenClassification",
    TagCrf: "ForTokenClassification",  # its emissions; the steps' scores are new
    Span: "ForQuestionAnswering",
}


def stored_head(source: str, model: Model, labels: Sequence[str]) -> dict[str, Params]:
    """Loads what pretrained weights have for a model's head, its classes in our order.

    They are told by name (``id2label``): the classes of a head that has the same ones
    are put in our order; a head that has others is left out, and that is told.

    Args:
      source: The pretrained weights.
      model: What is to be trained.
      labels: The classes of its head; none for spans and for regression.

    Returns:
      Parameters by part, as `graft` takes them; nothing if the head begins at random.

    Raises:
      WeightsError: The stored head is not what its config.json says.
    """
    head, encoder = model.head, model.encoder
    if not isinstance(encoder, Bert):
        return {}
    folder = weights_folder(resolve(source))
    told = read_head_config(folder)
    if not told.architecture.endswith(CLASSES[type(head)]):
        return {}
    names = list(told.labels)
    if isinstance(head, Classify) and encoder.config.pooling != "pooler":
        return _left_out(told.architecture, "it reads the pooler")
    if isinstance(head, Span) or (len(names) == 1 and not labels):
        order = list(range(len(names)))
    elif sorted(names) == sorted(labels):
        order = [names.index(label) for label in labels]
    else:
        return _left_out(told.architecture, _difference(names, labels))
    _, params = load_bert_model(folder)
    moved = "" if order == sorted(order) else ", its classes put in order by name"
    tell(f"the head is that of {told.architecture}{moved}")
    output: Params = params["head"]["output"]
    return {"head/output": {name: x[..., order] for name, x in output.items()}}


def _left_out(architecture: str, why: str) -> dict[str, Params]:
    tell(f"the head of {architecture} is left out and a new one drawn: {why}")
    return {}


def _difference(stored: Sequence[str], labels: Sequence[str]) -> str:
    """Says which classes only one of two heads scores."""
    found = [f"it has {len(stored)} classes and the data {len(labels)}"]
    for side, names in (
        ("only it has", {*stored} - {*labels}),
        ("only the data have", {*labels} - {*stored}),
    ):
        if names:
            more = ", …" if len(names) > 5 else ""
            found.append(f"{side} {', '.join(sorted(names)[:5])}{more}")
    return "; ".join(found)
