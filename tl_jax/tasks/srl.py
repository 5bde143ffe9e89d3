"""Semantic role labelling: who did what to whom, as BIO tags of one predicate's roles.

Shi & Lin 2019, as AllenNLP's ``srl_bert`` builds it: one example a predicate, which is
told by the segment ids (1 at its word's pieces); all pieces are tagged, [CLS] and [SEP]
too; the best legal sequence of the pieces gives each word the tag of its first one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from tl_jax.data.examples import Examples, make_examples
from tl_jax.data.iob2 import spans
from tl_jax.data.propbank import (
    OUTSIDE,
    PREDICATE,
    Propositions,
    read_propositions,
    settle,
    write_propositions,
)
from tl_jax.data.raw import is_raw, read_marked
from tl_jax.metrics.spans import total
from tl_jax.metrics.srl import role_counts
from tl_jax.metrics.sums import Loss
from tl_jax.models.batch import Batch
from tl_jax.models.compose import Model, Params
from tl_jax.models.crf import iob2_constraints, viterbi
from tl_jax.models.heads import Tag
from tl_jax.tasks import tagging
from tl_jax.tasks.task import Encoded, Files, Judged, Segments
from tl_jax.tasks.word_tags import TAG, Tagged, tag_ids, tag_names
from tl_jax.text.alignment import align
from tl_jax.text.encodings import Ids, TextEncoder
from tl_jax.text.located import Located


class TaggedPieces(NamedTuple):
    """Propositions as examples of pieces.

    Attributes:
      examples: One a proposition, numbered as these are.
      starts: The token at which each word of the proposition begins; -1 for words that
        did not fit.
    """

    examples: Examples
    starts: list[Int[np.ndarray, "_"]]


def featurise(
    text: TextEncoder,
    propositions: Propositions,
    names: Sequence[str] | None = None,
    *,
    max_length: int,
) -> TaggedPieces:
    """Encodes each proposition's sentence, with its predicate and perhaps its tags.

    The types are 1 at all pieces of the predicate's word and 0 elsewhere. The first
    piece of a word bears its tag, the others I-X where that is B-X; special pieces bear
    O. All count in the loss.

    Of a sentence that is too long the example has the words around its predicate, as
    many as fit; roles beyond them cannot be found.

    Args:
      text: Tokenizer or word vocabulary.
      propositions: As they were read.
      names: The tags, as `tag_names` lists them; None leaves the targets out.
      max_length: The most tokens an example may have, special pieces included.

    Raises:
      DataError: ``names`` is given, and there are no tags or some that are not among
        the names.
    """
    views = _views(text, propositions, max_length)
    types = [
        (view.words == predicate).astype(np.int8)
        for view, predicate in zip(views, propositions.predicate, strict=True)
    ]
    targets = {}
    if names is not None:
        tags = tag_ids(propositions, names)
        targets[TAG] = [
            _piece_tags(row, view.words, view.first)
            for row, view in zip(tags, views, strict=True)
        ]
    tokens = [view.tokens for view in views]
    examples = make_examples(tokens, types, token_targets=targets)
    starts = []
    for number, view in zip(propositions.sentence, views, strict=True):
        where = np.full(len(propositions.sentences[number].words), -1)
        where[view.words[view.first]] = np.flatnonzero(view.first)
        starts.append(where)
    return TaggedPieces(examples, starts)


def loss(model: Model) -> Loss:
    """Makes the summed cross-entropy −Σ w·log P(tag) of all pieces, and its accuracy.

    That of :func:`tl_jax.tasks.tagging.loss`: all pieces weigh the same, where AllenNLP
    takes the mean of each example first.
    """
    return tagging.loss(model)


def best_tags(model: Model) -> Callable[[Params, Batch], Tagged]:
    """Makes the function of (params, batch) that tags all pieces by the Viterbi search.

    It finds argmax Σ log P(tag) over each example's pieces, special ones included,
    under IOB2: I-X follows B-X or I-X only, and no example begins with one.
    """

    def function(params: Params, batch: Batch) -> Tagged:
        logits = model.apply(params, batch, train=False).astype(jnp.float32)
        constraints = iob2_constraints(logits.shape[-1])
        tags = viterbi(logits, constraints, batch.mask, batch.example)
        chosen = jnp.take_along_axis(jax.nn.softmax(logits), tags[:, :, None], axis=2)
        return Tagged(tags, chosen[:, :, 0])

    return function


def decode(
    tags: Sequence[Int[np.ndarray, "_"]],
    starts: Sequence[Int[np.ndarray, "_"]],
    names: Sequence[str],
) -> list[list[str]]:
    """Gives each word the tag of its first piece, as legal BIO.

    An I-X whose B-X stood at the later piece of a word becomes B-X, as which it counts.
    Words that did not fit are outside of all roles.

    Args:
      tags: The tags of each example's tokens, from `best_tags`.
      starts: As `featurise` gave them.
      names: The tags, as `tag_names` lists them.
    """
    return [
        _legal([names[int(row[at])] if at >= 0 else OUTSIDE for at in first])
        for row, first in zip(tags, starts, strict=True)
    ]


def records(
    propositions: Propositions,
    tags: Sequence[Sequence[str]],
    probabilities: Sequence[Float[np.ndarray, "_"]],
) -> list[dict[str, Any]]:
    """Writes each proposition's roles, for JSON.

    A record has ``index``, ``sentence`` (its number), ``text`` (`Propositions.text`),
    ``predicate`` and ``roles``, V left out. Of each of these: its ``text``, ``words``
    and ``characters`` (`Located.passage`); of a role its ``probability``, that of its
    least probable tag: that all are right is no more probable.

    Args:
      propositions: What was predicted for.
      tags: BIO tags of the words, from `decode`.
      probabilities: Of the words' tags: those of `Tagged` at the words' starts, and
        anything where these are -1.
    """
    found = []
    texts: dict[int, Located] = {}  # of the sentences; most have several predicates
    for index, (row, chances) in enumerate(zip(tags, probabilities, strict=True)):
        sentence = int(propositions.sentence[index])
        if sentence not in texts:
            texts[sentence] = propositions.text(index)
        text = texts[sentence]
        predicate = int(propositions.predicate[index])
        roles = [
            {"role": kind}
            | text.passage(begin, end)
            | {"probability": round(float(chances[begin:end].min()), 6)}
            for begin, end, kind in spans(row, "conlleval")
            if kind != PREDICATE
        ]
        found.append(
            {
                "index": index,
                "sentence": sentence,
                "text": text.text,
                "predicate": text.passage(predicate, predicate + 1),
                "roles": roles,
            }
        )
    return found


def scores(
    gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]
) -> dict[str, float]:
    """Scores BIO tags: precision, recall and F1 of spans, over all roles (0 … 1).

    See `tl_jax.metrics.srl`, whose `role_counts` gives each role's.
    """
    counts = total(role_counts(gold, predicted))
    return {"precision": counts.precision, "recall": counts.recall, "f1": counts.f1}


class _View(NamedTuple):
    """What an example has of a sentence: as `Aligned` has it, but of one example."""

    tokens: Ids
    words: Ids
    first: Bool[np.ndarray, "_"]


def _views(
    text: TextEncoder, propositions: Propositions, max_length: int
) -> list[_View]:
    """Tokenises the sentence of each proposition, each sentence once if it fits."""
    used, which = np.unique(propositions.sentence, return_inverse=True)
    sentences = [propositions.sentences[number].words for number in used]
    aligned = align(text, sentences, max_length=max_length)
    begins = np.searchsorted(aligned.sentence, np.arange(len(used) + 1))
    found = []
    for number, predicate in zip(which, propositions.predicate, strict=True):
        begin, end = begins[number : number + 2]
        if end == begin + 1:
            fields = aligned.tokens, aligned.words, aligned.first
            found.append(_View(*(each[begin] for each in fields)))
            continue
        words = np.concatenate(aligned.words[begin:end])
        counts = np.bincount(words[words >= 0])  # its pieces, by word
        room = max_length - text.specials(pair=False)
        first, last = _around(counts, int(predicate), room)
        part = align(text, [sentences[number][first:last]], max_length=max_length)
        words = np.where(part.words[0] < 0, -1, part.words[0] + first)
        found.append(_View(part.tokens[0], words, part.first[0]))
    return found


def _around(counts: Int[np.ndarray, "_"], centre: int, room: int) -> tuple[int, int]:
    """The words next to one, first and one past the last, whose pieces fit with its."""
    first, last = centre, centre + 1
    taken = counts[centre]
    while True:
        beside = [n for n in (first - 1, last) if 0 <= n < len(counts)]
        fitting = [n for n in beside if taken + counts[n] <= room]
        if not fitting:
            return first, last
        nearest = min(fitting, key=lambda n: abs(n - centre))
        taken += counts[nearest]
        first, last = min(first, nearest), max(last, nearest + 1)


def _piece_tags(
    tags: Int[np.ndarray, "_"],
    words: Int[np.ndarray, "_"],
    first: Bool[np.ndarray, "_"],
) -> Int[np.ndarray, "_"]:
    """Spreads the tags of a sentence's words to its pieces; special ones are O."""
    found = tags[words]
    begins = found % 2 == 1  # `tag_names` puts each I-X behind its B-X
    return np.where(words < 0, 0, found + (begins & ~first)).astype(np.int32)


def _legal(tags: Sequence[str]) -> list[str]:
    return [
        f"B-{tag[2:]}" if tag[0] == "I" and before[2:] != tag[2:] else tag
        for before, tag in zip([OUTSIDE, *tags], tags, strict=False)
    ]


@dataclass(frozen=True)
class Srl:
    """Semantic role labelling as a run's task."""

    max_length: ClassVar[int] = 512
    per_token: ClassVar[bool] = True
    by_segments: ClassVar[bool] = True
    own_format: ClassVar[bool] = True

    @property
    def score(self) -> str:
        """F1 of roles."""
        return "f1"

    def read(
        self, files: Files, part: str | None, *, on_bad: str, labelled: bool
    ) -> Propositions:
        """Reads propositions; or, without labels, raw text (`read_marked`)."""
        del part
        if not labelled and isinstance(files, str) and is_raw(files):
            return read_marked(files, on_bad=on_bad)
        return read_propositions(files, on_bad=on_bad, labelled=labelled)

    def texts(self, rows: Propositions) -> list[str]:
        """The sentences."""
        return [" ".join(sentence.words) for sentence in rows.sentences]

    def labels(self, rows: Propositions) -> tuple[str, ...]:
        """The tags."""
        return tag_names(rows.tags or [])

    def check(self, rows: Propositions, labels: Sequence[str]) -> None:
        """Roles that training did not hold are scored as missed."""
        del rows, labels

    def segments(self, rows: Propositions) -> Segments:
        """They tell the predicate."""
        del rows
        return "embed"

    def head(self, labels: Sequence[str], dropout: float) -> nn.Module:
        """Scores each token's tags."""
        return Tag(len(labels), dropout=dropout)

    def encode(
        self,
        text: TextEncoder,
        rows: Propositions,
        labels: Sequence[str],
        *,
        max_length: int,
        targets: bool,
    ) -> Encoded:
        """One example a proposition."""
        names = labels if targets else None
        pieces = featurise(text, rows, names, max_length=max_length)
        return Encoded(pieces.examples, pieces.starts)

    def loss(self, model: Model) -> Loss:
        """See `loss`."""
        return loss(model)

    def outputs(self, model: Model) -> Callable[..., Any]:
        """See `best_tags`."""
        return best_tags(model)

    def judge(
        self,
        found: Sequence[Any],
        encoded: Encoded,
        rows: Propositions,
        labels: Sequence[str],
        *,
        labelled: bool,
    ) -> Judged:
        """The best roles of each predicate."""
        starts = encoded.source
        decoded = decode([best.tags for best in found], starts, labels)
        tags = [
            settle(row, int(predicate))
            for row, predicate in zip(decoded, rows.predicate, strict=True)
        ]
        chances = [
            best.probabilities[first] for best, first in zip(found, starts, strict=True)
        ]  # of words that did not fit anything: they bear no role
        told = [
            record | {"tags": row}
            for record, row in zip(records(rows, tags, chances), tags, strict=True)
        ]
        answers = [" ".join(row) for row in tags]
        if not labelled or rows.tags is None:
            return Judged(told, answers, {})
        return Judged(told, answers, scores(rows.tags, tags))

    def tune(self, found: Sequence[Any], encoded: Encoded, rows: Any) -> dict[str, Any]:
        """There is nothing to tune."""
        del found, encoded, rows
        return {}

    def write(self, file: Path, judged: Judged, rows: Propositions) -> None:
        """Writes the input's columns with the predicted brackets."""
        write_propositions(file, rows, [record["tags"] for record in judged.records])
