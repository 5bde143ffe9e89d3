"""Answers as spans of a text: P(start) = softmax(T·S), P(end) = softmax(T·E).

Devlin et al. 2019, sections 4.2 and 4.3 (SQuAD v1.1 and v2.0). A text that is too long
is read through windows that overlap; the answer is searched over all of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float

from tl_jax.data.questions import Questions
from tl_jax.data.raw import is_raw, read_asked
from tl_jax.data.squad import read_questions, write_predictions
from tl_jax.files.errors import DataError
from tl_jax.metrics.sums import Loss, Ratio, Sums
from tl_jax.models.batch import Array, Batch, first_columns, membership
from tl_jax.models.compose import Model, Params
from tl_jax.models.heads import Span
from tl_jax.tasks.span_answers import Answer, decode, scores, tune_threshold
from tl_jax.tasks.span_windows import END, START, Windows, windows
from tl_jax.tasks.task import Encoded, Files, Judged, Segments
from tl_jax.text.encodings import TextEncoder


def loss(model: Model) -> Loss:
    """Makes the loss −Σ w·(log P(start) + log P(end)) / 2, and how often both are best.

    Both softmaxes are over all tokens of one example, [CLS] and question too, as in
    Google's run_squad.py. The second entry is ``exact``.
    """

    def sums(
        params: Params, batch: Batch, key: jax.Array | None = None, *, train: bool
    ) -> Sums:
        logits = model.apply(params, batch, key, train=train).astype(jnp.float32)
        by_end = jnp.swapaxes(logits, 1, 2)[:, None]
        own = membership(batch)[:, :, None]
        logits = jnp.where(own, by_end, jnp.finfo(jnp.float32).min)
        places = jnp.stack([batch.targets[START], batch.targets[END]], axis=-1)
        columns = first_columns(batch)[:, :, None] + places
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, columns)
        right = (logits.argmax(axis=-1) == columns).all(axis=-1)
        weights = batch.weights[START]
        weight = jnp.sum(weights)
        return {
            "loss": Ratio(jnp.sum(weights * losses.mean(axis=-1)), weight),
            "exact": Ratio(jnp.sum(weights * right.astype(jnp.float32)), weight),
        }

    return sums


def token_scores(model: Model) -> Callable[[Params, Batch], Float[Array, "B T 2"]]:
    """Makes the function of (params, batch) that scores tokens as start and as end."""

    def function(params: Params, batch: Batch) -> Float[Array, "B T 2"]:
        return model.apply(params, batch, train=False).astype(jnp.float32)

    return function


# How questions are of two kinds: with an answer in the text, and without.
ANSWER, NO_ANSWER = "answer", "no_answer"
SHOWN = 5  # spans that a record tells, the best first


@dataclass(frozen=True)
class SpanQa:
    """Span QA as a run's task.

    Attributes:
      mode: Whose rules score answers: a key of `metrics.span_qa.MODES`; ``squad`` is
        ``squad-v2`` where questions may have no answer.
      window_step: Pieces from one window's begin to the next.
      max_query: Most pieces of a question.
      max_answer: Most pieces of an answer.
      titles: A JSON file that cuts the data by titles, ``{"train": […], "dev": […]}``.
      null_threshold: No answer is given where the null odds are greater; tuned on dev.
    """

    max_length: ClassVar[int] = 384
    per_token: ClassVar[bool] = True
    by_segments: ClassVar[bool] = False
    own_format: ClassVar[bool] = True

    mode: str = "squad"
    window_step: int = 128
    max_query: int = 64
    max_answer: int = 30
    titles: str | None = None
    null_threshold: float = 0.0

    @property
    def score(self) -> str:
        """F1, or what KLUE has in its place."""
        return "rouge_w" if self.mode.startswith("klue") else "f1"

    def read(
        self, files: Files, part: str | None, *, on_bad: str, labelled: bool
    ) -> Questions:
        """Reads questions, only those of the part's titles if there is such a list.

        Without labels also raw text (`read_asked`).
        """
        if not labelled and isinstance(files, str) and is_raw(files):
            return read_asked(files, on_bad=on_bad)
        return read_questions(
            files,
            on_bad=on_bad,
            titles=None if part is None else self.titles,
            part=None if self.titles is None else part,
            labelled=labelled,
        )

    def texts(self, rows: Questions) -> list[str]:
        """The paragraphs, then the questions."""
        return [*rows.contexts, *rows.questions]

    def labels(self, rows: Questions) -> tuple[str, ...]:
        """The kinds of questions: whether there are some without an answer."""
        if rows.impossible.all():
            raise DataError(f"{rows.places[0]}: no training question has an answer.")
        return (ANSWER, NO_ANSWER) if rows.impossible.any() else (ANSWER,)

    def check(self, rows: Questions, labels: Sequence[str]) -> None:
        """Any answers can be scored."""
        del rows, labels

    def segments(self, rows: Questions) -> Segments:
        """The text is told from the question."""
        del rows
        return "embed"

    def head(self, labels: Sequence[str], dropout: float) -> nn.Module:
        """Scores tokens as start and as end."""
        del labels, dropout
        return Span()

    def encode(
        self,
        text: TextEncoder,
        rows: Questions,
        labels: Sequence[str],
        *,
        max_length: int,
        targets: bool,
    ) -> Encoded:
        """One example a window."""
        del labels, targets
        laid = windows(
            text,
            rows,
            max_length=max_length,
            window_step=self.window_step,
            max_query=self.max_query,
        )
        return Encoded(laid.examples, laid)

    def loss(self, model: Model) -> Loss:
        """See `loss`."""
        return loss(model)

    def outputs(self, model: Model) -> Callable[..., Any]:
        """See `token_scores`."""
        return token_scores(model)

    def judge(
        self,
        found: Sequence[Any],
        encoded: Encoded,
        rows: Questions,
        labels: Sequence[str],
        *,
        labelled: bool,
    ) -> Judged:
        """The best answer to each question."""
        impossible = NO_ANSWER in labels
        answers = self._decode(found, encoded.source, rows, impossible)
        records = [
            {
                "id": name,
                "answer": answer.text,
                "start": answer.start,
                "end": answer.end,
                "n_best": [
                    span._asdict() | {"score": round(span.score, 6)}
                    for span in answer.n_best[:SHOWN]
                ],
            }
            for name, answer in zip(rows.ids, answers, strict=True)
        ]
        if impossible:
            for record, answer in zip(records, answers, strict=True):
                record["null_odds"] = round(answer.null_odds, 6)
                record["null_probability"] = round(answer.null_probability, 6)
        metrics = scores(answers, rows, self.mode_of(rows)) if labelled else {}
        return Judged(records, [answer.text for answer in answers], metrics)

    def tune(
        self, found: Sequence[Any], encoded: Encoded, rows: Questions
    ) -> dict[str, Any]:
        """The threshold of no answer that serves F1 best."""
        if not rows.impossible.any():
            return {}
        answers = self._decode(found, encoded.source, rows, impossible=True)
        best = tune_threshold(answers, rows, self.mode_of(rows))[self.score]
        return {"null_threshold": best.threshold}

    def write(self, file: Path, judged: Judged, rows: Questions) -> None:
        """Writes the predictions file of the official scripts.

        And the null odds, if the run has learnt that there may be no answer.
        """
        del rows
        texts = {record["id"]: record["answer"] for record in judged.records}
        odds = {r["id"]: r["null_odds"] for r in judged.records if "null_odds" in r}
        write_predictions(file, texts, odds or None)

    def mode_of(self, rows: Questions) -> str:
        """How these are scored: questions that may have no answer by SQuAD's v2."""
        second = self.mode == "squad" and rows.impossible.any()
        return "squad-v2" if second else self.mode

    def _decode(
        self,
        found: Sequence[Any],
        laid: Windows,
        rows: Questions,
        impossible: bool,
    ) -> list[Answer]:
        return decode(
            found,
            laid,
            rows,
            impossible=impossible,
            null_threshold=self.null_threshold,
            max_answer=self.max_answer,
        )
