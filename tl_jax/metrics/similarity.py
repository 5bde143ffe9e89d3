"""Word vectors against human judgement: similarity of pairs, and analogies."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from tl_jax.data.table import Problems, bad_characters
from tl_jax.files.errors import DataError
from tl_jax.metrics.regression import spearman

Judged = tuple[str, str, float]
_PART_OF_SPEECH = re.compile("[A-Z]")
_QUESTIONS = 256  # that are answered at once


@dataclass(frozen=True)
class Analogy:
    """``a`` is to ``b`` as ``c`` is to ``d``, in a section of the file."""

    section: str
    words: tuple[str, str, str, str]


def read_similarities(file: Path) -> list[Judged]:
    """Reads pairs of words and how similar people found them, parted by tabs.

    Lines that begin with ``#``, and SimLex-999's own header, are passed over; where the
    third field is a part of speech, as in SimLex-999, the fourth is the judgement.

    Raises:
      DataError: The file is missing or has other lines.
    """
    problems, found = Problems(), []
    for number, line in enumerate(_lines(file), 1):
        fields = line.split("\t")
        if not line or line.startswith("#") or fields[:2] == ["word1", "word2"]:
            continue
        try:
            first, second = fields[0], fields[1]
            score = float(fields[3 if _PART_OF_SPEECH.fullmatch(fields[2]) else 2])
            if bad_characters(fields) or not np.isfinite(score):
                raise ValueError
            found.append((first, second, score))
        except (ValueError, IndexError):
            problems.add(
                f"{file}:{number}", f"no two words and a number: {line[:60]!r}"
            )
    problems.finish()
    if not found:
        raise DataError(f"{file}: there are no judged pairs in it.")
    return found


def read_analogies(file: Path) -> list[Analogy]:
    """Reads Google's ``questions-words.txt``: sections ``: name``, then four words.

    Raises:
      DataError: The file is missing or has other lines.
    """
    problems, found, section = Problems(), [], ""
    for number, line in enumerate(_lines(file), 1):
        words = line.split()
        if line.startswith(":"):
            section = line[1:].strip()
        elif len(words) == 4 and not bad_characters(words):
            a, b, c, d = words
            found.append(Analogy(section, (a, b, c, d)))
        elif words:
            problems.add(f"{file}:{number}", f"not four words: {line[:60]!r}")
    problems.finish()
    if not found:
        raise DataError(f"{file}: there are no analogies in it.")
    return found


def _lines(file: Path) -> list[str]:
    try:
        text = file.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except (FileNotFoundError, IsADirectoryError) as problem:
        raise DataError(f"{file}: there is no such file; check the path.") from problem
    return text.split("\n")


def similarity_scores(
    vectors: Float[np.ndarray, "V D"],
    index: Mapping[str, int],
    pairs: Sequence[Judged],
    *,
    lowercase: bool,
) -> dict[str, float]:
    """Ranks pairs by their cosine and compares with people's ranks.

    Args:
      vectors: One a word.
      index: The row of each word.
      pairs: Those with a word that has no row are left out.
      lowercase: Look for the lower-cased words.

    Returns:
      ``spearman`` (0 if fewer than two pairs are left), and how many pairs are
      ``covered`` of ``pairs``.
    """
    unit = normalised(vectors)
    rows = [(_row(a, index, lowercase), _row(b, index, lowercase)) for a, b, _ in pairs]
    known = [k for k, (a, b) in enumerate(rows) if a is not None and b is not None]
    rho = 0.0
    if len(known) > 1:
        left, right = np.array([rows[k] for k in known], np.int64).T
        cosines = (unit[left] * unit[right]).sum(axis=1)
        rho = spearman(cosines, np.array([pairs[k][2] for k in known]))
    return {"spearman": rho, "covered": len(known), "pairs": len(pairs)}


def analogy_scores(
    vectors: Float[np.ndarray, "V D"],
    index: Mapping[str, int],
    questions: Sequence[Analogy],
    *,
    lowercase: bool,
    most_frequent: int = 300_000,
) -> dict[str, float]:
    """Answers analogies by 3CosAdd: the word nearest to b - a + c, none of the three.

    Args:
      vectors: One a word, the most frequent words first.
      index: The row of each word.
      questions: Those with a word that has no row are left out.
      lowercase: Look for the lower-cased words.
      most_frequent: Only these are known. The limit is gensim's; word2vec's own script
        takes 30,000.

    Returns:
      ``accuracy``, that of ``semantic`` and ``syntactic`` sections (named ``gram…``),
      NaN-free (0 where nothing is covered), and ``covered`` of ``questions``.
    """
    unit = normalised(vectors[:most_frequent])
    rows, syntactic = [], []
    for question in questions:
        found = [_row(word, index, lowercase) for word in question.words]
        if all(row is not None and row < len(unit) for row in found):
            rows.append(found)
            syntactic.append(question.section.startswith("gram"))
    asked = np.array(rows, np.int64).reshape(-1, 4)
    right = np.zeros(len(asked), bool)
    for k in range(0, len(asked), _QUESTIONS):
        some = asked[k : k + _QUESTIONS]
        right[k : k + _QUESTIONS] = _answers(unit, some[:, :3]) == some[:, 3]
    grammar = np.array(syntactic, bool)

    def share(hits: np.ndarray) -> float:
        return float(hits.mean()) if len(hits) else 0.0

    return {
        "accuracy": share(right),
        "semantic": share(right[~grammar]),
        "syntactic": share(right[grammar]),
        "covered": len(asked),
        "questions": len(questions),
    }


def normalised(vectors: Float[np.ndarray, "V D"]) -> Float[np.ndarray, "V D"]:
    """Scales vectors to length 1; a vector of zeros stays."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths == 0, 1, lengths)


def _answers(
    unit: Float[np.ndarray, "V D"], given: Int[np.ndarray, "Q 3"]
) -> Int[np.ndarray, " Q"]:
    a, b, c = unit[given[:, 0]], unit[given[:, 1]], unit[given[:, 2]]
    scores = (b - a + c) @ unit.T
    np.put_along_axis(scores, given, -np.inf, axis=1)
    return scores.argmax(axis=1)


def _row(word: str, index: Mapping[str, int], lowercase: bool) -> int | None:
    return index.get(word.lower() if lowercase else word)
