"""Tagging of words, as with named entities: softmax(T·Wᵀ) at first pieces, or a CRF.

Devlin et al. 2019, section 5.3; Lample et al. 2016, section 2.2, for the CRF. Tags are
IOB2. Whatever the head, only legal sequences are decoded: I-X after B-X or I-X alone.
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

from tl_jax.data.conll import TaggedSentences, read_tagged, write_tagged
from tl_jax.data.iob2 import Rule
from tl_jax.data.raw import is_raw, read_sentences
from tl_jax.files.errors import ConfigError, DataError
from tl_jax.metrics.entities import entity_scores, klue_ner, tag_accuracy
from tl_jax.metrics.sums import Loss, Ratio, Sums
from tl_jax.models.batch import Array, Batch
from tl_jax.models.compose import Model, Params
from tl_jax.models.crf import (
    iob2_constraints,
    log_likelihood,
    marginals,
    viterbi,
)
from tl_jax.models.heads import Tag, TagCrf, TagScores
from tl_jax.tasks.task import Encoded, Files, Judged, Segments
from tl_jax.tasks.word_tags import (
    TAG,
    Tagged,
    decode,
    featurise,
    mentions,
    tag_ids,
    tag_names,
)
from tl_jax.text.alignment import align
from tl_jax.text.encodings import TextEncoder
from tl_jax.text.located import join


def loss(model: Model) -> Loss:
    """Makes the summed negative log-likelihood of a model's tags, and their accuracy.

    With `Tag` it is the cross-entropy −Σ w·log P(tag). With `TagCrf` it is −log P of
    each example's tags among all legal sequences (Papay et al. 2022), and a weight only
    tells whether a token has a tag. Both are divided by the number of tagged tokens, so
    that their figures and rates can be compared; a long sentence counts for more.

    The accuracy is that of each token's best tag, with `TagCrf` of the best sequence.
    """

    def sums(
        params: Params, batch: Batch, key: jax.Array | None = None, *, train: bool
    ) -> Sums:
        output = model.apply(params, batch, key, train=train)
        tags, weights = batch.targets[TAG], jnp.asarray(batch.weights[TAG])
        if isinstance(output, TagScores):
            emissions, transitions = _legal(output)
            counted = weights > 0
            weights = counted.astype(jnp.float32)
            chains = (transitions, counted, batch.example)
            slots = batch.ids.shape[1]
            total = -log_likelihood(emissions, tags, *chains, slots).sum()
            best = viterbi(emissions, *chains)
        else:
            logits = output.astype(jnp.float32)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, tags)
            total = jnp.sum(weights * losses)
            best = logits.argmax(axis=-1)
        weight = jnp.sum(weights)
        right = jnp.sum(weights * (best == tags).astype(jnp.float32))
        return {"loss": Ratio(total, weight), "accuracy": Ratio(right, weight)}

    return sums


def tagger(model: Model) -> Callable[[Params, Batch], Tagged]:
    """Makes the function of (params, batch) that gives the best legal tags, ``[B, T]``.

    A tag's probability is its posterior over all legal sequences of the example.
    """

    def function(params: Params, batch: Batch) -> Tagged:
        emissions, transitions = _legal(model.apply(params, batch, train=False))
        chains = (transitions, jnp.asarray(batch.weights[TAG]) > 0, batch.example)
        tags = viterbi(emissions, *chains)
        posterior = marginals(emissions, *chains)
        chosen = jnp.take_along_axis(posterior, tags[:, :, None], axis=2)[:, :, 0]
        return Tagged(tags, chosen)

    return function


def scores(
    gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]
) -> dict[str, float]:
    """Scores words' tags: entities by both rules of `data.iob2`, and accuracy.

    ``conlleval_f1/X`` is the F1 of type X. Between legal tags the rules agree.
    """
    found: dict[str, float] = {}
    rules: dict[str, Rule] = {"conlleval": "conlleval", "strict_iob2": "IOB2"}
    for name, rule in rules.items():
        score = entity_scores(gold, predicted, rule)
        found[f"{name}_f1"] = score.micro.f1
        found[f"{name}_precision"] = score.micro.precision
        found[f"{name}_recall"] = score.micro.recall
        found[f"{name}_macro_f1"] = score.macro_f1
        found |= {f"{name}_f1/{kind}": s.f1 for kind, s in score.kinds.items()}
    return found | {"accuracy": tag_accuracy(gold, predicted)}


def character_scores(
    sentences: Sequence[Sequence[str]],
    gold: Sequence[Sequence[str]],
    predicted: Sequence[Sequence[str]],
    names: Sequence[str],
) -> dict[str, float]:
    """Scores characters' tags as KLUE-NER does, which leaves out blanks (`klue_ner`).

    The arguments are those of `klue_ner`, with the characters themselves before them.
    """

    def seen(tags: Sequence[Sequence[str]]) -> list[list[str]]:
        return [
            [tag for character, tag in zip(s, own, strict=True) if character != " "]
            for s, own in zip(sentences, tags, strict=True)
        ]

    return klue_ner(seen(gold), seen(predicted), names)


def _refuse_words(rows: TaggedSentences) -> None:
    """Raises for tokens that are no single characters, with their places."""
    bad = [
        f"{rows.place(sentence, number)}: {token!r}"
        for sentence, tokens in enumerate(rows.sentences)
        for number, token in enumerate(tokens)
        if len(token) != 1
    ]
    if bad:
        shown = "\n  ".join(bad[:10])
        raise DataError(
            f"By --characters each token is one character, and {len(bad)} are not (a "
            f"decomposed one is to be composed, as by NFC):\n  {shown}"
        )


def _legal(output: TagScores | Float[Array, "B T N"]) -> TagScores:
    """Forbids a head's illegal steps, in float32."""
    if not isinstance(output, TagScores):
        return TagScores(output.astype(jnp.float32), iob2_constraints(output.shape[-1]))
    emissions = output.emissions.astype(jnp.float32)
    constraints = iob2_constraints(emissions.shape[-1])
    return TagScores(emissions, jax.tree.map(jnp.add, output.transitions, constraints))


@dataclass(frozen=True)
class Tagging:
    """Tagging as a run's task.

    Attributes:
      crf: Scores of whole sequences (`TagCrf`) instead of each tag by itself.
      characters: The tokens are a raw sentence's characters, blanks included, as in
        KLUE-NER.
      token_column: Where the tokens stand, from 0; or the name of a feature of TFDS.
      tag_column: Where the tags stand; -1 is the last column.
    """

    max_length: ClassVar[int] = 128
    per_token: ClassVar[bool] = True
    by_segments: ClassVar[bool] = False
    own_format: ClassVar[bool] = True

    crf: bool = False
    characters: bool = False
    token_column: int | str = 0
    tag_column: int | str = -1

    @property
    def score(self) -> str:
        """F1 of whole entities."""
        return "strict_iob2_f1"

    def read(
        self, files: Files, part: str | None, *, on_bad: str, labelled: bool
    ) -> TaggedSentences:
        """Reads columns; or, without labels, raw text (`read_sentences`)."""
        del part
        if not labelled and isinstance(files, str) and is_raw(files):
            return read_sentences(files, characters=self.characters, on_bad=on_bad)
        rows = read_tagged(
            files,
            on_bad=on_bad,
            token_column=self.token_column,
            tag_column=self.tag_column,
            labelled=labelled,
        )
        if self.characters:
            _refuse_words(rows)
        return rows

    def texts(self, rows: TaggedSentences) -> list[str]:
        """The sentences."""
        between = "" if self.characters else " "
        return [between.join(sentence) for sentence in rows.sentences]

    def labels(self, rows: TaggedSentences) -> tuple[str, ...]:
        """The tags; there must be a type to be found."""
        names = tag_names(rows.tags or [])
        if len(names) < 2:
            raise DataError(f"{rows.places[0]}: all training tags are O.")
        if not self.characters and all(
            len(word) == 1 for sentence in rows.sentences for word in sentence
        ):
            raise ConfigError(
                f"{rows.places[0]}: all tokens are single characters. Say --characters "
                "to have whole sentences tokenised."
            )
        return names

    def check(self, rows: TaggedSentences, labels: Sequence[str]) -> None:
        """Tags that training did not hold are scored as missed."""
        del rows, labels

    def segments(self, rows: TaggedSentences) -> Segments:
        """There is one sentence."""
        del rows
        return "ignore"

    def head(self, labels: Sequence[str], dropout: float) -> nn.Module:
        """Scores tags, and with ``crf`` their sequences."""
        return (TagCrf if self.crf else Tag)(len(labels), dropout=dropout)

    def encode(
        self,
        text: TextEncoder,
        rows: TaggedSentences,
        labels: Sequence[str],
        *,
        max_length: int,
        targets: bool,
    ) -> Encoded:
        """One example a sentence, or several of a long one."""
        aligned = align(
            text, rows.sentences, max_length=max_length, characters=self.characters
        )
        tags = tag_ids(rows, labels) if targets else None
        return Encoded(featurise(aligned, tags), aligned)

    def loss(self, model: Model) -> Loss:
        """See `loss`."""
        return loss(model)

    def outputs(self, model: Model) -> Callable[..., Any]:
        """See `tagger`."""
        return tagger(model)

    def judge(
        self,
        found: Sequence[Any],
        encoded: Encoded,
        rows: TaggedSentences,
        labels: Sequence[str],
        *,
        labelled: bool,
    ) -> Judged:
        """The best tags of each sentence, and the entities that they make."""
        tagged = decode(encoded.source, found, rows.sentences, labels)
        between = "" if self.characters else " "
        texts = rows.located or [join(words, between) for words in rows.sentences]
        records = [
            {
                "index": index,
                "text": text.text,
                "tags": sentence.tags,
                "entities": mentions(text, sentence),
            }
            for index, (text, sentence) in enumerate(zip(texts, tagged, strict=True))
        ]
        predicted = [sentence.tags for sentence in tagged]
        answers = [" ".join(tags) for tags in predicted]
        if not labelled or rows.tags is None:
            return Judged(records, answers, {})
        metrics = scores(rows.tags, predicted)
        if self.characters:
            names = tag_names([*rows.tags, labels])
            metrics |= character_scores(rows.sentences, rows.tags, predicted, names)
        return Judged(records, answers, metrics)

    def tune(self, found: Sequence[Any], encoded: Encoded, rows: Any) -> dict[str, Any]:
        """There is nothing to tune."""
        del found, encoded, rows
        return {}

    def write(self, file: Path, judged: Judged, rows: TaggedSentences) -> None:
        """Writes the input's columns and the tags as the last one."""
        write_tagged(file, rows, [record["tags"] for record in judged.records])
