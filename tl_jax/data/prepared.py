"""Prepared sets of TFDS as questions, tagged tokens and predicates.

Which features are read is settled here; what they hold is checked by the readers of
files, which give the same values of both.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tl_jax.data.tfds import open_set, scalars, sequences, string_of
from tl_jax.files.errors import ConfigError, DataError, did_you_mean

TOKENS = ("tokens", "words", "characters")
TAGS = ("ner", "ner_tags", "tags", "labels")


class Tagged(NamedTuple):
    """A sentence of tokens, and their tags if there are any."""

    tokens: list[str]
    tags: list[str] | None


class Marked(NamedTuple):
    """A predicate of a sentence, and the tags of its words if they are read."""

    sentence: int  # its number in the file that the set was made of
    words: list[str]
    predicate: int
    lemma: str
    roleset: str
    tags: list[str] | None


def tfds_questions(
    source: str, *, labelled: bool = True, data_dir: str | Path | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields place and keys of each question, named as in SQuAD's JSON.

    The features are those of TFDS's ``squad``: id, title (if there is one), context,
    question, answers with text and answer_start, and perhaps is_impossible. Where the
    set does not have the last one, a question without answers has none.

    Args:
      source: ``tfds:NAME/CONFIG[:VERSION][:SPLIT]``.
      labelled: Whether there must be answers.
      data_dir: Where prepared data are, as for `read_tfds`.

    Raises:
      SourceError: As `read_tfds`.
      DataError: There is no such split, or it has not these features; or no question
        has an answer, and none is said to have none.
    """
    features, examples = open_set(source, data_dir)
    texts = scalars(features)
    _require(source, features, "questions", ("id", "context", "question"), texts)
    shape = getattr(features.get("answers"), "shape", None)
    golds = isinstance(shape, Mapping) and {"text", "answer_start"} <= shape.keys()
    if labelled and not golds:
        raise DataError(
            f"{source}: has no answers, a sequence of text and answer_start, among its "
            f"features {sorted(features)}."
        )
    marked, answered = "is_impossible" in features, False
    for place, example in examples:
        qa: dict[str, Any] = {
            key: string_of(example[key])
            for key in ("id", "title", "context", "question")
            if key in texts
        }
        if golds:
            qa["answers"] = [
                {"text": string_of(text), "answer_start": int(start)}
                for text, start in zip(
                    example["answers"]["text"],
                    example["answers"]["answer_start"],
                    strict=True,
                )
            ]
            answered = answered or bool(qa["answers"])
        if marked:
            qa["is_impossible"] = bool(example["is_impossible"])
        elif labelled:
            qa["is_impossible"] = not qa["answers"]
        yield place, qa
    if labelled and not (marked or answered):
        raise DataError(
            f"{source}: no question has an answer, and there is no feature "
            "is_impossible to say that none has one."
        )


def tfds_tagged(
    source: str,
    *,
    tokens: str | None = None,
    tags: str | None = None,
    labelled: bool = True,
    data_dir: str | Path | None = None,
) -> Iterator[tuple[str, Tagged]]:
    """Yields place, tokens and tags of each sentence.

    Args:
      source: As for `tfds_questions`, as are the arguments not named here.
      tokens: The feature of the tokens; by default that of `TOKENS` that is there.
      tags: The feature of the tags, strings or labels; by default that of `TAGS`.
      labelled: Whether there must be tags; otherwise they are read if they are there.

    Raises:
      ConfigError: A named feature is not there.
      SourceError: As `read_tfds`.
      DataError: There is no such split; or none of the usual features, or several.
    """
    features, examples = open_set(source, data_dir)
    known = sequences(features)
    of_tokens = _one(source, known, tokens, TOKENS, "--token-column")
    of_tags = None
    usual = TAGS if tags is None else (tags,)
    if labelled or sum(name in known for name in usual) == 1:
        of_tags = _one(source, known, tags, TAGS, "--tag-column")
    for place, example in examples:
        found = None
        if of_tags is not None:
            found = _strings(example[of_tags], known[of_tags])
        yield place, Tagged(_strings(example[of_tokens], known[of_tokens]), found)


def tfds_marked(
    source: str, *, labelled: bool = True, data_dir: str | Path | None = None
) -> Iterator[tuple[str, Marked]]:
    """Yields place and features of each predicate, as our ``ewt_propbank`` has them.

    Arguments and errors are those of `tfds_questions`.
    """
    features, examples = open_set(source, data_dir)
    known = sequences(features)
    needed = ("words", "tags") if labelled else ("words",)
    _require(source, features, "roles", needed, known)
    single = ("sentence", "predicate", "lemma", "roleset")
    _require(source, features, "roles", single, scalars(features))
    for place, example in examples:
        yield (
            place,
            Marked(
                sentence=int(example["sentence"]),
                words=_strings(example["words"], known["words"]),
                predicate=int(example["predicate"]),
                lemma=string_of(example["lemma"]) or "",
                roleset=string_of(example["roleset"]) or "",
                tags=_strings(example["tags"], known["tags"]) if labelled else None,
            ),
        )


def _strings(values: Any, names: list[str] | None) -> list[str]:
    return [string_of(value, names) or "" for value in values]


def _require(
    source: str,
    features: Mapping[str, Any],
    what: str,
    names: Sequence[str],
    known: Mapping[str, Any],
) -> None:
    if lacking := [name for name in names if name not in known]:
        raise DataError(
            f"{source}: has no {' and no '.join(lacking)} among its features "
            f"{sorted(features)}, as {what} need."
        )


def _one(
    source: str,
    known: Mapping[str, Any],
    named: str | None,
    usual: Sequence[str],
    flag: str,
) -> str:
    """The feature that is named, or else the one that has a usual name."""
    if named is not None and named not in known:
        raise ConfigError(
            f"{source}: there is no sequence {named!r} among {sorted(known)}."
            f"{did_you_mean(named, known)}"
        )
    found = [name for name in usual if name in known] if named is None else [named]
    if len(found) == 1:
        return found[0]
    told = f"it has {' and '.join(found)}" if found else f"it has {sorted(known)}"
    raise DataError(
        f"{source}: one of {' | '.join(usual)} is needed, a sequence of strings or "
        f"labels; {told}. Name the one that is meant by {flag}."
    )
