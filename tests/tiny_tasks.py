"""Tiny labelled data of each task, in the files that the tasks read."""

import json
from itertools import islice
from pathlib import Path
from typing import Any

from tiny_runs import sentences


def write_pairs(file: Path, count: int, seed: int) -> None:
    """Pairs of sentences, as similar as their labels are."""
    rows = zip(sentences(count, seed), sentences(count, seed + 1), strict=True)
    lines = [f"{a}\t{b}\t{int(x == y)}\n" for (a, x), (b, y) in rows]
    file.write_text("sentence1\tsentence2\tlabel\n" + "".join(lines), encoding="utf-8")


def write_questions(file: Path, count: int, seed: int) -> None:
    """Asks for the first word of a sentence."""
    paragraphs: list[Any] = []
    for number, (text, _) in enumerate(sentences(count, seed)):
        answers = [{"text": text.split()[0], "answer_start": 0}]
        qa = {"id": f"{seed}-{number}", "question": "is the story", "answers": answers}
        paragraphs.append({"context": text, "qas": [qa]})
    data = {"data": [{"title": "t", "paragraphs": paragraphs}]}
    file.write_text(json.dumps(data), encoding="utf-8")


def write_entities(file: Path, count: int, seed: int) -> None:
    """Every sentence begins with an entity."""
    lines: list[str] = []
    for text, label in sentences(count, seed):
        first, *rest = text.split()
        lines += [f"{first}\tB-{label}", *(f"{word}\tO" for word in rest), ""]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_roles(file: Path, count: int, seed: int) -> None:
    """The last word is the predicate, the first one its role."""
    lines: list[str] = []
    for text, label in sentences(count, seed):
        first, *rest = text.split()
        lines.append(f"0\t{first}\tX\t-\t-\t(ARG{label}*)")
        lines += [f"{n}\t{word}\tX\t-\t-\t*" for n, word in enumerate(rest, 1)]
        lines += [f"{len(rest) + 1}\tis\tV\tbe\tbe.01\t(V*)", ""]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def head(source: Path, target: Path, lines: int) -> Path:
    """Copies the first lines of a file."""
    with source.open(encoding="utf-8", newline="\n") as file:
        target.parent.mkdir(parents=True, exist_ok=True)
        text = "".join(islice(file, lines))
    if target.suffix == ".conll":
        text = text[: text.rindex("\n\n") + 2]  # whole sentences
    target.write_text(text, encoding="utf-8", newline="\n")
    return target
