"""Tags of words, led to the first pieces of examples and back to the words.

Devlin et al. 2019, section 5.3. Tags are IOB2.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from tl_jax.data.conll import TaggedSentences
from tl_jax.data.examples import Examples, make_examples, ranges
from tl_jax.data.iob2 import spans
from tl_jax.data.propbank import Propositions
from tl_jax.files.errors import DataError, did_you_mean
from tl_jax.models.batch import Array
from tl_jax.text.alignment import Aligned
from tl_jax.text.located import Located

TAG = "tag"
OUTSIDE_ID = 0  # the number of O; B-X of the k-th type is 2k − 1, and I-X is 2k


class Tagged(NamedTuple):
    """Tags of tokens, and how probable each is; at tokens without one both are 0."""

    tags: Int[Array, "*shape"]
    probabilities: Float[Array, "*shape"]


class WordTags(NamedTuple):
    """Tags of one sentence's words, and how probable each is."""

    tags: list[str]
    probabilities: Float[np.ndarray, "_"]


def tag_names(tags: Iterable[Sequence[str]]) -> tuple[str, ...]:
    """Lists O, then B-X and I-X of each type X that occurs, in sorted order.

    The order is what `iob2_constraints` reads, and both tags of a type are there even
    if the data have but one of them.
    """
    kinds = {tag.partition("-")[2] for sentence in tags for tag in sentence} - {""}
    return ("O", *(f"{mark}-{kind}" for kind in sorted(kinds) for mark in "BI"))


def tag_ids(
    rows: TaggedSentences | Propositions, names: Sequence[str]
) -> list[Int[np.ndarray, "_"]]:
    """Numbers each word's tag by its place among the names that `tag_names` gave.

    Raises:
      DataError: The rows have no tags, or some that are not among the names.
    """
    if rows.tags is None:
        raise DataError(
            f"{rows.places[0]}: the tags were not read (labelled=False); training "
            "needs them."
        )
    numbers = {name: number for number, name in enumerate(names)}
    unknown = [
        (rows.place(sentence, word), tag)
        for sentence, tags in enumerate(rows.tags)
        for word, tag in enumerate(tags)
        if tag not in numbers
    ]
    if unknown:
        shown = "\n  ".join(
            f"{place}: {tag!r}{did_you_mean(tag, names)}" for place, tag in unknown[:10]
        )
        raise DataError(
            f"{len(unknown)} tags are unknown to the model, which knows {len(names)}:"
            f"\n  {shown}"
        )
    return [np.array([numbers[tag] for tag in tags], np.int32) for tags in rows.tags]


def featurise(
    aligned: Aligned, tags: Sequence[Int[np.ndarray, "_"]] | None = None
) -> Examples:
    """Makes examples whose first pieces bear their words' tags, with weight 1.

    With characters for words, the label of a piece is that of its first character. An
    I-X whose X begins in no piece of its example becomes B-X: where a long sentence was
    cut within an entity, or a piece begins before the entity does.

    Args:
      aligned: The sentences' pieces.
      tags: The number of each word's tag, one array a sentence. Without them the
        targets are 0 and the weights still tell which tokens are to be tagged.
    """
    targets = [np.zeros(len(first), np.int32) for first in aligned.first]
    if tags is not None:
        for example, sentence in enumerate(aligned.sentence):
            first = aligned.first[example]
            words = aligned.words[example][first]
            targets[example][first] = _begun(tags[sentence][words])
    return make_examples(
        aligned.tokens,
        aligned.types,
        token_targets={TAG: targets},
        token_weights={TAG: [first.astype(np.float32) for first in aligned.first]},
    )


def decode(
    aligned: Aligned,
    found: Sequence[Tagged],
    sentences: Sequence[Sequence[str]],
    names: Sequence[str],
) -> list[WordTags]:
    """Leads the tokens' tags back to the words, in the data's order.

    With characters for words, the further characters of a piece of B-X are I-X. One
    that no piece covers, such as a blank, is of the entity that goes on after it, or O;
    its probability is that of the tag after it, or 1.

    Args:
      aligned: What the examples were made of.
      found: What `tagger` gave for the tokens of each example, in order.
      sentences: The words.
      names: The tags.
    """
    tags = [np.zeros(len(sentence), np.int32) for sentence in sentences]
    probabilities = [np.ones(len(sentence), np.float32) for sentence in sentences]
    covered = [np.zeros(len(sentence), bool) for sentence in sentences]
    for example, number in enumerate(aligned.sentence):
        first = aligned.first[example]
        begins, ends = aligned.words[example][first], aligned.ends[example][first]
        words = ranges(begins, ends - begins)
        piece = np.repeat(np.arange(len(begins)), ends - begins)
        own = np.asarray(found[example].tags)[first][piece]
        tags[number][words] = own + (_begins(own) & (words != begins[piece]))
        chosen = np.asarray(found[example].probabilities)[first]
        probabilities[number][words] = chosen[piece]
        covered[number][words] = True
    for own, probability, seen in zip(tags, probabilities, covered, strict=True):
        _bridge(own, probability, seen)
    return [
        WordTags([names[tag] for tag in own.tolist()], probability)
        for own, probability in zip(tags, probabilities, strict=True)
    ]


def mentions(text: Located, tagged: WordTags) -> list[dict[str, object]]:
    """Lists a sentence's entities: type, where it stands and its probability.

    Where it stands is told by `Located.passage`. The probability is that of the
    entity's least probable tag; that all are right is no more probable.
    """
    return [
        {
            "type": kind,
            **text.passage(begin, end),
            "probability": round(float(tagged.probabilities[begin:end].min()), 6),
        }
        for begin, end, kind in spans(tagged.tags, "IOB2")
    ]


def _begins(tags: Int[np.ndarray, "*shape"]) -> Bool[np.ndarray, "*shape"]:
    return tags % 2 == 1


def _inside(tags: Int[np.ndarray, "*shape"]) -> Bool[np.ndarray, "*shape"]:
    return (tags != OUTSIDE_ID) & (tags % 2 == 0)


def _begun(tags: Int[np.ndarray, "_"]) -> Int[np.ndarray, "_"]:
    """Makes each I-X that follows no X a B-X."""
    before = np.concatenate([[OUTSIDE_ID], tags[:-1]])
    goes_on = (before + 1) // 2 == (tags + 1) // 2
    return tags - (_inside(tags) & ~goes_on)


def _bridge(
    tags: Int[np.ndarray, "_"],
    probabilities: Float[np.ndarray, "_"],
    covered: Bool[np.ndarray, "_"],
) -> None:
    """Fills what no piece covers between two of one entity, in place."""
    places = np.flatnonzero(covered)
    for gap in np.flatnonzero(np.diff(places) > 1):
        left, right = places[gap], places[gap + 1]
        if _inside(tags[right : right + 1]).all():
            tags[left + 1 : right] = tags[right]
            probabilities[left + 1 : right] = probabilities[right]
