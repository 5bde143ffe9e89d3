"""What a run needs of its task: one value whose methods are pure functions.

A task's file holds its functions, to be used by themselves; the value at its end joins
them with the task's options.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, cast, runtime_checkable

import flax.linen as nn

from tl_jax.data.examples import Examples
from tl_jax.files.errors import ConfigError
from tl_jax.metrics.sums import Loss
from tl_jax.models.compose import Model
from tl_jax.text.encodings import TextEncoder

Files = str | Sequence[str]
# What word vectors do with segment ids; BERT embeds them.
Segments = Literal["ignore", "compare", "embed"]


class Encoded(NamedTuple):
    """Rows as examples.

    Attributes:
      examples: What batches are made of.
      source: What `Task.judge` needs to lead an example's output back to its row.
    """

    examples: Examples
    source: Any = None


class Judged(NamedTuple):
    """Predictions of rows.

    Attributes:
      records: One JSON object a row.
      answers: What was decided for each row; `tl-jax verify` compares their hash.
      metrics: The scores; empty if the rows bear no labels.
    """

    records: list[dict[str, Any]]
    answers: list[str]
    metrics: dict[str, float]


@runtime_checkable
class Task(Protocol):
    """How rows of data become examples, and a model's outputs predictions.

    ``rows`` is what `read` gives, a frozen dataclass with a length and a list
    ``places`` (``FILE:LINE`` of each row).

    Attributes:
      max_length: Most tokens of an example, unless the user says otherwise.
      per_token: `outputs` gives one entry a token instead of one an example.
      by_segments: An encoder that does not read segment ids cannot do it.
      own_format: Its field has a format of predictions, which `write` writes.
    """

    max_length: ClassVar[int]
    per_token: ClassVar[bool]
    by_segments: ClassVar[bool]
    own_format: ClassVar[bool]

    @property
    def score(self) -> str:
        """The metric that tells which checkpoint is best; higher is better."""
        ...

    def read(
        self, files: Files, part: str | None, *, on_bad: str, labelled: bool
    ) -> Any:
        """Reads one part (train, dev, test) of the data, or all that files hold.

        Raises:
          DataError: A file or a row is bad, or ``labelled`` and there are no labels.
        """
        ...

    def texts(self, rows: Any) -> list[str]:
        """All text of the rows, for a vocabulary and for checks."""
        ...

    def labels(self, rows: Any) -> tuple[str, ...]:
        """The names of the classes that the training rows hold; may be empty.

        Raises:
          DataError: They are too few to learn from.
        """
        ...

    def check(self, rows: Any, labels: Sequence[str]) -> None:
        """Makes sure that rows can be scored.

        Raises:
          DataError: They hold labels that the model cannot know.
        """
        ...

    def segments(self, rows: Any) -> Segments:
        """What word vectors do with the segment ids of such rows."""
        ...

    def head(self, labels: Sequence[str], dropout: float) -> nn.Module:
        """The head that scores these classes."""
        ...

    def encode(
        self,
        text: TextEncoder,
        rows: Any,
        labels: Sequence[str],
        *,
        max_length: int,
        targets: bool,
    ) -> Encoded:
        """Encodes rows, with ``targets`` if they are to be learnt from.

        Raises:
          DataError: A target is not among ``labels``.
        """
        ...

    def loss(self, model: Model) -> Loss:
        """The loss that is minimised, as sums with weights."""
        ...

    def outputs(self, model: Model) -> Callable[..., Any]:
        """The function of (params, batch) that `judge` decides by.

        It gives a tree of arrays ``[B, S, …]``, or ``[B, T, …]`` if ``per_token``.
        """
        ...

    def judge(
        self,
        found: Sequence[Any],
        encoded: Encoded,
        rows: Any,
        labels: Sequence[str],
        *,
        labelled: bool,
    ) -> Judged:
        """Decides on every row by its examples' outputs, and scores what is labelled.

        Args:
          found: What `outputs` gave for each example, in order.
          encoded: What `encode` gave.
          rows: The rows.
          labels: The names of the classes.
          labelled: Score the predictions by the rows' own labels.
        """
        ...

    def tune(self, found: Sequence[Any], encoded: Encoded, rows: Any) -> dict[str, Any]:
        """Chooses options of the decision on labelled rows (`dev`), by option."""
        ...

    def write(self, file: Path, judged: Judged, rows: Any) -> None:
        """Writes predictions in the format of the field.

        Raises:
          ConfigError: The task has none but JSON lines.
        """
        ...


def with_options(task: Task, options: Mapping[str, Any]) -> Task:
    """The same task with other options."""
    return replace(cast(Any, task), **options)


def only_json_lines(file: Path) -> ConfigError:
    """The error of a task whose predictions have no format of their own."""
    return ConfigError(
        f"{file}: this task's predictions are JSON lines; name it .jsonl."
    )
