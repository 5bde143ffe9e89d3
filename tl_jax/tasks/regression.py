"""Regression on single sentences and pairs, such as semantic textual similarity.

BERT's classification layer with one output and the squared error (Devlin et al. 2019,
section 4.1, STS-B).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from tl_jax.data.examples import Examples, make_examples
from tl_jax.data.readers import (
    USUAL_COLUMNS,
    Columns,
    LabelledTexts,
    read_labelled,
    require_labels,
)
from tl_jax.files.errors import DataError
from tl_jax.metrics.regression import pearson, spearman
from tl_jax.metrics.sums import Loss, Ratio, Sums
from tl_jax.models.batch import Array, Batch
from tl_jax.models.compose import Model, Params
from tl_jax.models.heads import Classify
from tl_jax.tasks.task import Encoded, Files, Judged, Segments, only_json_lines
from tl_jax.text.encodings import TextEncoder, encode

VALUE = "value"


def row_values(rows: LabelledTexts) -> Float[np.ndarray, " N"]:
    """Reads the labels of rows as numbers.

    Raises:
      DataError: There are no labels, or some that are not finite numbers.
    """
    labels = require_labels(rows)
    values = np.array([_number(label) for label in labels])
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        shown = "\n  ".join(
            f"{rows.places[i]}: {labels[i]!r} is no number" for i in bad[:10]
        )
        raise DataError(f"{len(bad)} labels are no values to learn:\n  {shown}")
    return values


def _number(label: str) -> float:
    try:
        return float(label)
    except ValueError:
        return np.nan


def featurise(
    encoder: TextEncoder,
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    values: Float[np.ndarray, " N"] | None = None,
    *,
    max_length: int,
) -> Examples:
    """Encodes texts or pairs, with their values where they have any."""
    encoded = encode(encoder, texts, pairs, max_length=max_length)
    targets = {} if values is None else {VALUE: values}
    return make_examples(encoded.tokens, encoded.types, targets=targets)


def loss(model: Model) -> Loss:
    """Makes the summed squared error Σ w·(ŷ − y)² of a model."""

    def sums(
        params: Params, batch: Batch, key: jax.Array | None = None, *, train: bool
    ) -> Sums:
        predicted = model.apply(params, batch, key, train=train)[..., 0]
        weights = batch.weights[VALUE]
        errors = (predicted.astype(jnp.float32) - batch.targets[VALUE]) ** 2
        return {"loss": Ratio(jnp.sum(weights * errors), jnp.sum(weights))}

    return sums


def values(model: Model) -> Callable[[Params, Batch], Float[Array, "B S"]]:
    """Makes the function of (params, batch) that predicts each example's value."""

    def function(params: Params, batch: Batch) -> Float[Array, "B S"]:
        return model.apply(params, batch, train=False)[..., 0].astype(jnp.float32)

    return function


def scores(
    predicted: Float[np.ndarray, " M"], gold: Float[np.ndarray, " M"]
) -> dict[str, float]:
    """Scores predictions: mean squared error and both correlations."""
    return {
        "loss": float(((predicted - gold) ** 2).mean(dtype=float)),
        "pearson": pearson(predicted, gold),
        "spearman": spearman(predicted, gold),
    }


@dataclass(frozen=True)
class Regression:
    """Regression as a run's task.

    Attributes:
      columns: Where texts and values stand, if not in columns of the usual names.
    """

    max_length: ClassVar[int] = 128
    per_token: ClassVar[bool] = False
    by_segments: ClassVar[bool] = False
    own_format: ClassVar[bool] = False

    columns: Columns = USUAL_COLUMNS

    @property
    def score(self) -> str:
        """Spearman's correlation."""
        return "spearman"

    def read(
        self, files: Files, part: str | None, *, on_bad: str, labelled: bool
    ) -> LabelledTexts:
        """Reads texts or pairs with their values."""
        del part
        rows = read_labelled(
            files, columns=self.columns, labelled=labelled, on_bad=on_bad
        )
        if labelled:
            row_values(rows)
        return rows

    def texts(self, rows: LabelledTexts) -> list[str]:
        """The texts, then the second ones."""
        return [*rows.texts, *(rows.pairs or [])]

    def labels(self, rows: LabelledTexts) -> tuple[str, ...]:
        """There are no classes; the values must differ."""
        if np.ptp(row_values(rows)) == 0:
            raise DataError(f"{rows.places[0]}: all training values are equal.")
        return ()

    def check(self, rows: LabelledTexts, labels: Sequence[str]) -> None:
        """Any values can be scored."""
        del rows, labels

    def segments(self, rows: LabelledTexts) -> Segments:
        """Pairs are compared."""
        return "ignore" if rows.pairs is None else "compare"

    def head(self, labels: Sequence[str], dropout: float) -> nn.Module:
        """One output on the pooled vector."""
        del labels
        return Classify(1, dropout=dropout)

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
        del labels
        gold = row_values(rows) if targets else None
        return Encoded(
            featurise(text, rows.texts, rows.pairs, gold, max_length=max_length)
        )

    def loss(self, model: Model) -> Loss:
        """See `loss`."""
        return loss(model)

    def outputs(self, model: Model) -> Callable[..., Any]:
        """See `values`."""
        return values(model)

    def judge(
        self,
        found: Sequence[Any],
        encoded: Encoded,
        rows: LabelledTexts,
        labels: Sequence[str],
        *,
        labelled: bool,
    ) -> Judged:
        """Each row's value; answers are rounded to 4 decimals, which seldom differ."""
        del encoded, labels
        predicted = np.array(found)
        records = [
            {"index": i, "value": round(float(value), 6)}
            for i, value in enumerate(predicted)
        ]
        answers = [f"{value:.4f}" for value in predicted]
        metrics = scores(predicted, row_values(rows)) if labelled else {}
        return Judged(records, answers, metrics)

    def tune(self, found: Sequence[Any], encoded: Encoded, rows: Any) -> dict[str, Any]:
        """There is nothing to tune."""
        del found, encoded, rows
        return {}

    def write(self, file: Path, judged: Judged, rows: Any) -> None:
        """There is no format but JSON lines."""
        del judged, rows
        raise only_json_lines(file)
