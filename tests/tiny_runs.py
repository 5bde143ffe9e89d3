"""Tiny data and the words of a command on them, for runs that take seconds."""

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np

WORDS = [
    "good",
    "great",
    "fine",
    "joy",
    "fun",
    "bad",
    "dull",
    "poor",
    "bore",
    "mess",
    "film",
    "story",
    "plot",
    "a",
    "the",
    "is",
    "was",
]
POSITIVE, NEGATIVE = WORDS[:5], WORDS[5:10]
Command = Callable[..., subprocess.CompletedProcess[str]]


def sentences(count: int, seed: int) -> list[tuple[str, str]]:
    """Draws sentences of 2–9 words; the label is the side of their one loaded word."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        label = int(random.integers(2))
        words = list(random.choice(WORDS[10:], random.integers(1, 9)))
        words.append(random.choice(POSITIVE if label else NEGATIVE))
        found.append((" ".join(random.permutation(words)), str(label)))
    return found


def write_tsv(file: Path, count: int, seed: int) -> Path:
    """Writes drawn sentences with a header."""
    rows = "".join(f"{text}\t{label}\n" for text, label in sentences(count, seed))
    file.write_text(f"sentence\tlabel\n{rows}", encoding="utf-8")
    return file


def finetune_words(tiny: Path, out: Path, *more: object) -> list[str]:
    """The words of a command that fine-tunes the tiny encoder with dropout on."""
    words = ["finetune", "classify", "--train", tiny / "train.tsv"]
    words += ["--dev", tiny / "dev.tsv", "--weights", tiny / "bert", "--out", out]
    words += ["--max-length", 32, "--batch-size", 8, "--learning-rate", 1e-2]
    return [str(word) for word in (*words, *more)]


def write_documents(file: Path, documents: int, seed: int) -> str:
    """Documents of sentences, each of which has its own favourite word."""
    draw = np.random.default_rng(seed)
    blocks = []
    for _ in range(documents):
        favourite = draw.choice(WORDS)
        sentences = [
            " ".join([favourite, *draw.choice(WORDS, draw.integers(1, 7)), "."])
            for _ in range(draw.integers(3, 12))
        ]
        blocks.append("\n".join(sentences))
    file.write_text("\n\n".join(blocks) + "\n", encoding="utf-8")
    return str(file)


class StopAt:
    """A display that asks the run to stop after some steps."""

    def __init__(self, step: int) -> None:
        self.step = step

    def update(self, step: int, **_: object) -> None:
        if step == self.step:
            signal.raise_signal(signal.SIGTERM)

    def note(self, text: str) -> None:
        del text
