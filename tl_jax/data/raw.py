"""Raw text to be predicted on: sentences, questions, and predicates marked in a text.

``.txt`` holds a text a line, ``.jsonl`` an object a line. There are no labels.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from tl_jax.data.conll import TaggedSentences, looks_tagged
from tl_jax.data.propbank import NOTHING, Propositions, Sentence
from tl_jax.data.questions import Question, Questions, questions_of
from tl_jax.data.readers import read_labelled, read_table
from tl_jax.data.table import Problems, Table, one_field
from tl_jax.files.errors import DataError
from tl_jax.text.located import Located, join, locate

ENDINGS = (".txt", ".jsonl")


def is_raw(files: str | Sequence[str]) -> bool:
    """True for a file whose name says that it holds raw text."""
    return isinstance(files, str) and files.lower().endswith(ENDINGS)


def read_sentences(file: str, *, characters: bool, on_bad: str) -> TaggedSentences:
    """Reads texts to be tagged, cut into words or into characters.

    Args:
      file: ``.txt``, or ``.jsonl`` with ``{"text": …}``.
      characters: The tokens are the text's characters.
      on_bad: As for `read_table`.

    Raises:
      DataError: As for `read_labelled`; or no text has a word, or they are columns.
    """
    rows = read_labelled(file, on_bad=on_bad)
    if looks_tagged(rows.texts):
        raise DataError(
            f"{file}: its lines are a token and a tag each, not a text; name it .conll."
        )
    located = [locate(text, characters=characters) for text in rows.texts]
    sentences = [text.words for text in located]
    if not any(word.strip() for words in sentences for word in words):
        raise DataError(f"{file}: there is not one word.")
    return TaggedSentences(
        sentences=sentences,
        tags=None,
        places=rows.places,
        lines=[[one_field(word) for word in words] for words in sentences],
        comments=[[] for _ in sentences],
        scheme=None,
        skipped=rows.skipped,
        located=located,
    )


def read_asked(file: str, *, on_bad: str) -> Questions:
    """Reads questions to be answered: ``{"question": …, "context": …}`` a line.

    A line may have an ``id``; without one it is the line's place, from 0.

    Raises:
      DataError: As for `read_table`; or a line lacks a part, or an id occurs twice.
    """
    table = read_table(file, on_bad=on_bad)
    problems = Problems(on_bad, count=table.skipped)
    names = table.columns.get("id", [None] * len(table))
    rows: dict[str, Question] = {}
    form = '{"question": "…", "context": "…"}'
    asked = _parts(table, ("question", "context"), form)
    for n, (question, context, given) in enumerate(zip(*asked, names, strict=True)):
        place, name = table.place(n), given or str(n)
        if not (question and context and question.strip() and context.strip()):
            problems.add(place, "a question and a context are needed")
        elif name in rows:
            where = rows[name].place
            problems.add(place, f"the id {name!r} stands already in {where}")
        else:
            rows[name] = Question("", context, name, question, (), False, place)
    problems.finish()
    if not rows:
        raise DataError(f"{file}: there is not one good question.")
    return questions_of(list(rows.values()), problems.count)


def read_marked(file: str, *, on_bad: str) -> Propositions:
    """Reads texts with their predicates, to find the roles of each.

    ``{"text": …, "predicates": […]}`` a line, or ``"words": […]`` for the text. A
    predicate is the number of a word, from 0, or the characters of one, first and one
    past the last: ``[3, 7]``. Where the words are not given, those of `split_words`
    count.

    Raises:
      DataError: As for `read_table`; or a line lacks a part, or a predicate is no word.
    """
    table = read_table(file, on_bad=on_bad)
    problems = Problems(on_bad, count=table.skipped)
    form = '{"text": "…", "predicates": [0]}'
    (marked,) = _parts(table, ("predicates",), form)
    texts, words = (
        table.columns.get(name, [None] * len(table)) for name in ("text", "words")
    )
    located: list[Located] = []
    found: list[tuple[int, int, str]] = []
    for n, row in enumerate(zip(texts, words, marked, strict=True)):
        try:
            text, predicates = _marked(*row)
        except (ValueError, RecursionError) as wrong:
            problems.add(table.place(n), str(wrong))
            continue
        found += [(len(located), word, table.place(n)) for word in predicates]
        located.append(text)
    problems.finish()
    if not found:
        raise DataError(f"{file}: there is not one predicate.")
    sentence, predicate, places = zip(*found, strict=True)
    return Propositions(
        sentences=[_sentence(text.words) for text in located],
        sentence=np.array(sentence, np.int64),
        predicate=np.array(predicate, np.int64),
        tags=None,
        places=list(places),
        skipped=problems.count,
        located=located,
    )


def _parts(table: Table, names: Sequence[str], form: str) -> list[list[str | None]]:
    """The columns of what each line must have; DataError if the lines are others."""
    if lacking := [name for name in names if name not in table.columns]:
        raise DataError(
            f"{table.files[0]}: there is no {' and no '.join(lacking)} in it. Raw text "
            f"is given as JSON lines (.jsonl) such as {form}."
        )
    return [table.columns[name] for name in names]


def _marked(
    text: str | None, words: str | None, predicates: str | None
) -> tuple[Located, list[int]]:
    """The text of a line and the words that are predicates; ValueError if they err."""
    if (text is None) == (words is None):
        raise ValueError("either a text or words are needed")
    located = locate(text) if text is not None else join(_words(words or ""))
    marks = _list(predicates, "predicates")
    return located, [_word(located, mark) for mark in marks]


def _list(value: str | None, name: str) -> list[Any]:
    found = json.loads(value) if value and value.startswith("[") else None
    if not isinstance(found, list):
        raise ValueError(f"{name} must be a list")
    return found


def _words(value: str) -> list[str]:
    found = _list(value, "words")
    if not all(isinstance(word, str) and word.split() == [word] for word in found):
        raise ValueError("words must be strings without white space")
    return found


def _word(located: Located, mark: Any) -> int:
    """The number of the word that a predicate's mark is on."""
    begins, ends = located.offsets.T
    if type(mark) is int and 0 <= mark < len(begins):
        return mark
    if isinstance(mark, list) and [type(x) for x in mark] == [int, int]:
        touched = np.flatnonzero((begins < mark[1]) & (ends > mark[0]))
        if len(touched):
            return int(touched[0])
    raise ValueError(
        f"the predicate {str(mark)[:40]} is none of its {len(begins)} words: give a "
        "word's number, or its first and one-past-last character"
    )


def _sentence(words: Sequence[str]) -> Sentence:
    fields = ["\t".join([str(n), w, *[NOTHING] * 3]) for n, w in enumerate(words)]
    return Sentence(list(words), fields, [])
