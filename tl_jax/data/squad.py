"""SQuAD's JSON, which KorQuAD v1 and KLUE-MRC share → questions on paragraphs."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tl_jax.data.prepared import tfds_questions
from tl_jax.data.questions import Gold, Question, Questions, questions_of
from tl_jax.data.table import Problems, bad_characters
from tl_jax.data.text_file import read_text
from tl_jax.data.tfds import PREFIX
from tl_jax.files import atomic
from tl_jax.files.errors import ConfigError, DataError, did_you_mean


def read_questions(
    files: str | Path | Sequence[str | Path],
    *,
    on_bad: str = "raise",
    max_bad: int = 100,
    titles: str | Path | None = None,
    part: str | None = None,
    labelled: bool = True,
    data_dir: str | Path | None = None,
) -> Questions:
    """Reads questions from files in the JSON of SQuAD v1.1, SQuAD v2.0 or KorQuAD v1.

    Or from data sets of TFDS that have the features of its ``squad``.

    ``{"data": [{"title", "paragraphs": [{"context", "qas": [{"id", "question",
    "answers": [{"text", "answer_start"}], "is_impossible"}]}]}]}``. KLUE-MRC says
    ``guid`` for ``id``. ``plausible_answers`` (of questions that have no answer) and
    all other keys are passed over. An answer must stand in its paragraph, character by
    character, where ``answer_start`` says.

    Args:
      files: One or more paths, in UTF-8; or ``tfds:NAME/CONFIG[:SPLIT]``.
      on_bad: ``"raise"``: all bad questions and paragraphs are told in one error.
        ``"skip"``: they are left out and counted.
      max_bad: With ``"skip"``, more than this are an error.
      titles: A JSON object that lists titles by part, ``{"train": […], "dev": […]}``:
        articles of other parts than ``part`` are left out unread.
      part: A key of that object.
      labelled: If False, questions are to be answered: ``answers`` and
        ``is_impossible`` are passed over, whatever they say.
      data_dir: Where TFDS keeps prepared data; ``$TFDS_DATA_DIR`` by default.

    Raises:
      SourceError: A data set of TFDS cannot be had.
      ConfigError: Only one of ``titles`` and ``part`` is given, or there is no such
        part.
      DataError: A file is missing, is no such JSON, or has bad questions.
    """
    problems = Problems(on_bad, max_bad)
    wanted = _wanted(titles, part)
    paths = [files] if isinstance(files, (str, Path)) else list(files)
    if not paths:
        raise DataError("No data file was named.")
    rows: list[Question] = []
    ids: dict[str, str] = {}
    seen: set[str] = set()
    for path in map(str, paths):
        if path.startswith(PREFIX):
            found = _prepared(path, wanted, seen, problems, labelled, data_dir)
        else:
            found = _rows(Path(path), wanted, seen, problems, labelled)
        for row in found:
            if row.id in ids:
                problems.add(row.place, f"the id stands already in {ids[row.id]}")
                continue
            ids[row.id] = f"{path}, in the article {row.title!r}"
            rows.append(row)
    problems.finish()
    shown = ", ".join(map(str, paths))
    if wanted is not None and (lost := sorted(wanted - seen)):
        raise DataError(
            f"{titles}: {len(lost)} titles of {part!r} are not in {shown}, such as "
            f"{lost[:5]}: is it the list for this data?"
        )
    if not rows:
        raise DataError(f"{shown}: there is not one good question.")
    return questions_of(rows, problems.count)


def write_predictions(
    path: Path,
    predictions: Mapping[str, str],
    null_odds: Mapping[str, float] | None = None,
) -> None:
    """Writes answers as the official evaluation scripts read them: ``{id: text}``.

    Args:
      path: The file, such as ``predictions.json``.
      predictions: The answer to each question by its id; ``""`` for none.
      null_odds: By id, the score of no answer above that of the best span. They go
        into ``STEM_null_odds.json`` beside it, which SQuAD v2's script takes as
        ``--na-prob-file``, to find the best threshold. Its scores are then those at
        ``--na-prob-thresh``, by default 1: name the threshold answered by.

    Raises:
      ValueError: Some odds are not finite; neither file is touched.
    """
    if null_odds is not None:
        odds = path.with_name(f"{path.stem}_null_odds.json")
        atomic.write_json(odds, dict(null_odds))
    atomic.write_json(path, dict(predictions))


def _wanted(titles: str | Path | None, part: str | None) -> frozenset[str] | None:
    """Reads the titles of a part; None if the data are not to be cut."""
    if titles is None and part is None:
        return None
    if titles is None or part is None:
        raise ConfigError("titles and part belong together: give both or neither.")
    path = Path(titles)
    parts = atomic.read_json(path)
    if not isinstance(parts, dict) or not all(map(_is_strings, parts.values())):
        raise DataError(
            f'{path}: an object of lists of titles is needed, {{"train": […], …}}.'
        )
    if part not in parts:
        raise ConfigError(
            f"{path}: there is no part {part!r} among {', '.join(parts)}."
            f"{did_you_mean(part, parts)}"
        )
    others = {t for name, listed in parts.items() if name != part for t in listed}
    if twice := sorted(others.intersection(parts[part])):
        raise DataError(
            f"{path}: {len(twice)} titles of {part!r} stand in another part as well, "
            f"such as {twice[:5]}: give each to one."
        )
    return frozenset(parts[part])


def _is_strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(x, str) for x in value)


class _Bad(Exception):
    """What is wrong with one article, paragraph or question."""


def _rows(
    path: Path,
    wanted: frozenset[str] | None,
    seen: set[str],
    problems: Problems,
    labelled: bool,
) -> Iterator[Question]:
    """Yields a file's good questions and notes what is bad."""
    for place, title, paragraph in _paragraphs(path, wanted, seen, problems):
        try:
            context, qas = _text(paragraph, "context"), _list(paragraph, "qas")
        except _Bad as bad:
            problems.add(place, str(bad))
            continue
        for number, qa in enumerate(qas, 1):
            name = _id(qa)
            where = f"{path}: question {name}" if name else f"{place}, qa {number}"
            try:
                yield _row(qa, title, context, where, labelled)
            except _Bad as bad:
                problems.add(where, str(bad))


def _prepared(
    source: str,
    wanted: frozenset[str] | None,
    seen: set[str],
    problems: Problems,
    labelled: bool,
    data_dir: str | Path | None,
) -> Iterator[Question]:
    """Yields a data set's good questions and notes what is bad."""
    for place, qa in tfds_questions(source, labelled=labelled, data_dir=data_dir):
        try:
            title = _text(qa, "title", needed=wanted is not None)
            if wanted is not None and title not in wanted:
                continue
            seen.add(title)
            yield _row(qa, title, _text(qa, "context"), place, labelled)
        except _Bad as bad:
            problems.add(place, str(bad))


def _paragraphs(
    path: Path, wanted: frozenset[str] | None, seen: set[str], problems: Problems
) -> Iterator[tuple[str, str, Any]]:
    """Yields place, title and paragraph; adds the articles' titles to ``seen``."""
    for number, article in enumerate(_articles(path), 1):
        place = f"{path}: article {number}"
        try:
            title = _text(article, "title", needed=wanted is not None)
            if wanted is not None and title not in wanted:
                continue
            seen.add(title)
            paragraphs = _list(article, "paragraphs")
            if not paragraphs:
                raise _Bad(f"{title!r} has no paragraphs")
        except _Bad as bad:
            problems.add(place, str(bad))
            continue
        for nth, paragraph in enumerate(paragraphs, 1):
            yield f"{place} ({title!r}), paragraph {nth}", title, paragraph


def _articles(path: Path) -> list[Any]:
    text = read_text(path)
    try:
        state = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}:{error.lineno}: broken JSON at column {error.colno}: {error.msg}."
        ) from error
    except RecursionError as error:
        raise DataError(f"{path}: JSON nested too deeply to be genuine.") from error
    except ValueError as error:  # an integer of thousands of digits
        raise DataError(f"{path}: broken JSON: {error}.") from error
    articles = state.get("data") if isinstance(state, dict) else None
    if not isinstance(articles, list):
        raise DataError(
            f"{path}: is not in SQuAD's format, "
            '{"data": [{"title": …, "paragraphs": [{"context": …, "qas": […]}]}]}.'
        )
    return articles


def _row(qa: Any, title: str, context: str, place: str, labelled: bool) -> Question:
    """Checks one question; all that is wrong with it is told at once."""
    wrong: list[str] = []
    question, answers, impossible = "", [], False
    name = _id(qa)
    if not name:
        wrong.append("there is no id (or guid), which must be a string")
    try:
        question = _text(qa, "question")
        if labelled:
            answers, impossible = _labels(qa)
    except _Bad as bad:
        wrong.append(str(bad))
    golds: list[Gold] = []
    for answer in answers:
        try:
            golds.append(_gold(answer, context))
        except _Bad as bad:
            wrong.append(str(bad))
    if wrong:
        raise _Bad("; ".join(wrong))
    return Question(title, context, name, question, tuple(golds), impossible, place)


def _labels(qa: Any) -> tuple[list[Any], bool]:
    """Returns the answers of a question, and whether it is known to have none."""
    impossible = qa.get("is_impossible", False)
    if not isinstance(impossible, bool):
        raise _Bad(f"is_impossible must be true or false, not {impossible!r}")
    answers = _list(qa, "answers") if not impossible or "answers" in qa else []
    if not impossible and not answers:
        raise _Bad("has no answers and is not marked is_impossible")
    if impossible and answers:
        raise _Bad(f"is_impossible is true, but there are {len(answers)} answers")
    return answers, impossible


def _id(qa: Any) -> str:
    """Returns the id, or the guid of KLUE; ``""`` if there is none to be used."""
    name = (qa.get("id") or qa.get("guid")) if isinstance(qa, dict) else None
    return name if isinstance(name, str) and not bad_characters([name]) else ""


def _gold(answer: Any, context: str) -> Gold:
    text = _text(answer, "text")
    start = answer.get("answer_start")
    if not isinstance(start, int) or isinstance(start, bool):
        raise _Bad(
            f"answer {_short(text)}: answer_start must be a number of characters"
        )
    if start < 0 or not context.startswith(text, start):
        stands = context[start : start + len(text)] if start >= 0 else ""
        raise _Bad(
            f"answer {_short(text)} is not at character {start}, where "
            f"{_short(stands) if stands else 'nothing'} stands; {_found(text, context)}"
        )
    return Gold(text, start)


def _found(text: str, context: str) -> str:
    """Says at which characters a text occurs (the first three)."""
    places: list[str] = []
    at = context.find(text)
    while at >= 0 and len(places) < 3:
        places.append(str(at))
        at = context.find(text, at + 1)
    if not places:
        return "nor does it occur elsewhere in the paragraph"
    return f"it occurs at {', '.join(places)}{', …' if at >= 0 else ''}"


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:59] + "…")


def _text(owner: Any, key: str, *, needed: bool = True) -> str:
    """Returns a string of an object, which must not be blank if it is needed."""
    value = _value(owner, key, needed)
    if value is None and not needed:
        return ""
    if not isinstance(value, str):
        raise _Bad(f"{key} must be a string, not {_short(str(value))}")
    if wrong := bad_characters([value]):
        raise _Bad(f"{key} {wrong}")
    if needed and not value.strip():
        raise _Bad(f"{key} is blank")
    return value


def _list(owner: Any, key: str) -> list[Any]:
    value = _value(owner, key, needed=True)
    if not isinstance(value, list):
        raise _Bad(f"{key} must be a list, not {_short(str(value))}")
    return value


def _value(owner: Any, key: str, needed: bool) -> Any:
    if not isinstance(owner, dict):
        raise _Bad(f"an object {{…}} with {key} is needed, not {_short(str(owner))}")
    if needed and key not in owner:
        raise _Bad(f"there is no {key} among its keys {sorted(map(str, owner))}")
    return owner.get(key)
