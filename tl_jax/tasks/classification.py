"""Classification of single sentences and pairs: P = softmax(C·Wᵀ).

Devlin et al. 2019, section 4.1; with word vectors, the chapter's text classifier.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, Int

from tl_jax.data.examples import Examples, make_examples
from tl_jax.data.readers import (
    USUAL_COLUMNS,
    Columns,
    LabelledTexts,
    read_labelled,
    require_labels,
)
from tl_jax.files.errors import DataError, did_you_mean
from tl_jax.metrics.classification import accuracy, confusion_matrix, macro_f1, matthews
from tl_jax.metrics.sums import Loss, Ratio, Sums
from tl_jax.models.batch import Array, Batch
from tl_jax.models.compose import Model, Params
from tl_jax.models.heads import Classify
from tl_jax.tasks.task import Encoded, Files, Judged, Segments, only_json_lines
from tl_jax.text.encodings import TextEncoder, encode

LABEL = "label"
_MOST_FRACTIONS = 21  # half stars up to ten may be classes


def label_names(labels: Sequence[str]) -> tuple[str, ...]:
    """Lists the classes in sorted order; numbers sort as numbers."""
    names = set(labels)
    if all(name.isdecimal() for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def _are_fractions(names: Sequence[str]) -> bool:
    """True if all are numbers, and some no whole ones."""
    try:
        values = [float(name) for name in names]
    except ValueError:
        return False
    return not all(value.is_integer() for value in values)


def label_ids(
    labels: Sequence[str], names: Sequence[str], places: Sequence[str]
) -> Int[np.ndarray, " N"]:
    """Numbers each label by its place among ``names``.

    Args:
      labels: One label an example.
      names: The classes, in the order of the model's logits.
      places: Where each label stands (file and line), for the error.

    Raises:
      DataError: Labels that are not among the names; the first ten are placed.
    """
    numbers = {name: index for index, name in enumerate(names)}
    unknown = [i for i, label in enumerate(labels) if label not in numbers]
    if unknown:
        shown = "\n  ".join(
            f"{places[i]}: {labels[i]!r}{did_you_mean(labels[i], names)}"
            for i in unknown[:10]
        )
        raise DataError(
            f"{len(unknown)} labels are unknown to the model, which knows "
            f"{', '.join(names)}:\n  {shown}"
        )
    return np.array([numbers[label] for label in labels], np.int32)


def featurise(
    encoder: TextEncoder,
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    labels: Int[np.ndarray, " N"] | None = None,
    *,
    max_length: int,
) -> Examples:
    """Encodes texts or pairs, with their class numbers where they have any."""
    encoded = encode(encoder, texts, pairs, max_length=max_length)
    targets = {} if labels is None else {LABEL: labels}
    return make_examples(encoded.tokens, encoded.types, targets=targets)


def row_labels(rows: LabelledTexts, names: Sequence[str]) -> Int[np.ndarray, " N"]:
    """Numbers the labels of rows as they were read.

    Raises:
      DataError: There are no labels, or some that are not among the classes' names.
    """
    return label_ids(require_labels(rows), names, rows.places)


def featurise_rows(
    encoder: TextEncoder,
    rows: LabelledTexts,
    names: Sequence[str],
    *,
    max_length: int,
) -> Examples:
    """Encodes labelled rows as they were read; errors are those of `row_labels`."""
    labels = row_labels(rows, names)
    return featurise(encoder, rows.texts, rows.pairs, labels, max_length=max_length)


def loss(model: Model) -> Loss:
    """Makes the summed cross-entropy −Σ w·log P(label) of a model, and its accuracy."""

    def sums(
        params: Params, batch: Batch, key: jax.Array | None = None, *, train: bool
    ) -> Sums:
        logits = model.apply(params, batch, key, train=train).astype(jnp.float32)
        labels, weights = batch.targets[LABEL], batch.weights[LABEL]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        right = (logits.argmax(axis=-1) == labels).astype(jnp.float32)
        weight = jnp.sum(weights)
        return {
            "loss": Ratio(jnp.sum(weights * losses), weight),
            "accuracy": Ratio(jnp.sum(weights * right), weight),
        }

    return sums


def log_probabilities(
    model: Model,
) -> Callable[[Params, Batch], Float[Array, "B S N"]]:
    """Makes the function of (params, batch) that gives log P of every class."""

    def function(params: Params, batch: Batch) -> Float[Array, "B S N"]:
        logits = model.apply(params, batch, train=False).astype(jnp.float32)
        return jax.nn.log_softmax(logits)

    return function


def scores(
    log_probs: Float[np.ndarray, "M N"], labels: Int[np.ndarray, " M"]
) -> dict[str, float]:
    """Scores predictions: loss, accuracy, macro F1 and Matthews correlation.

    F1 is over the classes that are gold or predicted (KLUE-TC; scikit-learn's default).
    """
    matrix = confusion_matrix(labels, log_probs.argmax(axis=1), log_probs.shape[1])
    return {
        "loss": float(-log_probs[np.arange(len(labels)), labels].mean(dtype=float)),
        "accuracy": accuracy(matrix),
        "macro_f1": macro_f1(matrix, seen_only=True),
        "matthews": matthews(matrix),
    }


def decode(
    log_probs: Float[np.ndarray, "M N"], names: Sequence[str]
) -> list[dict[str, object]]:
    """Writes each example's prediction: index, label and the probability of each."""
    return [
        {
            "index": index,
            "label": names[int(row.argmax())],
            "probabilities": {
                name: round(float(p), 6)
                for name, p in zip(names, np.exp(row), strict=True)
            },
        }
        for index, row in enumerate(log_probs)
    ]


@dataclass(frozen=True)
class Classification:
    """Classification as a run's task.

    Attributes:
      columns: Where texts and labels stand, if not in columns of the usual names.
      paired: The rows must be pairs of texts (True) or may be either (None).
    """

    max_length: ClassVar[int] = 128
    per_token: ClassVar[bool] = False
    by_segments: ClassVar[bool] = False
    own_format: ClassVar[bool] = False

    columns: Columns = USUAL_COLUMNS
    paired: bool | None = None

    @property
    def score(self) -> str:
        """Accuracy."""
        return "accuracy"

    def read(
        self, files: Files, part: str | None, *, on_bad: str, labelled: bool
    ) -> LabelledTexts:
        """Reads texts or pairs with their labels."""
        del part
        rows = read_labelled(
            files, columns=self.columns, labelled=labelled, on_bad=on_bad
        )
        if labelled:
            require_labels(rows)
        if self.paired and rows.pairs is None:
            raise DataError(
                f"{rows.places[0]}: these are single texts, and the task is about "
                "pairs. Columns of unusual names are named to finetune, by "
                "--text-column and --pair-column."
            )
        return rows

    def texts(self, rows: LabelledTexts) -> list[str]:
        """The texts, then the second ones."""
        return [*rows.texts, *(rows.pairs or [])]

    def labels(self, rows: LabelledTexts) -> tuple[str, ...]:
        """The classes, sorted; two are the fewest, and many fractions are none."""
        names = label_names(rows.labels or [])
        if len(names) < 2:
            found = f"only the label {names[0]!r}" if names else "no labels"
            raise DataError(
                f"{rows.places[0]}: the training data hold {found}; two classes are "
                "the fewest."
            )
        if len(names) > _MOST_FRACTIONS and _are_fractions(names):
            raise DataError(
                f"{rows.places[0]}: the training data hold {len(names)} different "
                f"numbers such as {names[1]}: values, not classes. `finetune regress` "
                "learns these."
            )
        return names

    def check(self, rows: LabelledTexts, labels: Sequence[str]) -> None:
        """All classes must be known."""
        row_labels(rows, labels)

    def segments(self, rows: LabelledTexts) -> Segments:
        """Pairs are compared."""
        return "ignore" if rows.pairs is None else "compare"

    def head(self, labels: Sequence[str], dropout: float) -> nn.Module:
        """Scores each class on the pooled vector."""
        return Classify(len(labels), dropout=dropout)

    def encode(
        self,
        text: TextEncoder,
        rows: LabelledTexts,
        labels: Sequence[str],
        *,
        max_length: int,
        targets: bool,
    ) -> Encoded:
        """One example a row."""
        ids = row_labels(rows, labels) if targets else None
        return Encoded(
            featurise(text, rows.texts, rows.pairs, ids, max_length=max_length)
        )

    def loss(self, model: Model) -> Loss:
        """See `loss`."""
        return loss(model)

    def outputs(self, model: Model) -> Callable[..., Any]:
        """See `log_probabilities`."""
        return log_probabilities(model)

    def judge(
        self,
        found: Sequence[Any],
        encoded: Encoded,
        rows: LabelledTexts,
        labels: Sequence[str],
        *,
        labelled: bool,
    ) -> Judged:
        """The most probable class of each row."""
        del encoded
        log_probs = np.stack(found)
        records = decode(log_probs, labels)
        answers = [str(record["label"]) for record in records]
        if not labelled:
            return Judged(records, answers, {})
        return Judged(records, answers, scores(log_probs, row_labels(rows, labels)))

    def tune(self, found: Sequence[Any], encoded: Encoded, rows: Any) -> dict[str, Any]:
        """There is nothing to tune."""
        del found, encoded, rows
        return {}

    def write(self, file: Path, judged: Judged, rows: Any) -> None:
        """There is no format but JSON lines."""
        del judged, rows
        raise only_json_lines(file)
