"""A table of strings that remembers where each row came from, and what was bad."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from tl_jax.files.errors import ConfigError, DataError, did_you_mean

SHOWN = 10  # problems told in full; the rest are counted
_EXAMPLE = re.compile(r" example \d+$")
_BREAKS = re.compile("[\t\n\r]")
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, eq=False)
class Table:
    """Named columns of strings, all of one length.

    Attributes:
      columns: The values by column name; None where a row has no value (JSON only).
      files: The files (or data sets) that the rows came from.
      where: Number of the file, and line in it, by row.
      unit: What ``where`` counts: ``"line"`` or, in a data set, ``"example"``.
      skipped: How many bad rows were left out.
    """

    columns: dict[str, list[str | None]]
    files: tuple[str, ...]
    where: list[tuple[int, int]]
    unit: str = "line"
    skipped: int = 0

    def __len__(self) -> int:
        return len(self.where)

    def place(self, row: int) -> str:
        """Returns ``FILE:LINE`` of a row, for messages."""
        file, line = self.where[row]
        between = ":" if self.unit == "line" else f" {self.unit} "
        return f"{self.files[file]}{between}{line}"

    def column(self, name: str) -> list[str | None]:
        """Returns a column.

        Raises:
          ConfigError: There is none of that name.
        """
        if name not in self.columns:
            raise ConfigError(
                f"{self.files[0]}: there is no column {name!r} among "
                f"{sorted(self.columns)}.{did_you_mean(name, self.columns)}"
            )
        return self.columns[name]


@dataclass
class Problems:
    """Gathers what is wrong with rows, to be told at once or skipped up to a cap.

    Attributes:
      on_bad: ``"raise"`` or ``"skip"``.
      max_bad: With ``"skip"``, more bad rows than this are an error after all.
    """

    on_bad: str = "raise"
    max_bad: int = 100
    count: int = 0
    shown: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.on_bad not in ("raise", "skip"):
            raise ConfigError(f"on_bad must be 'raise' or 'skip', not {self.on_bad!r}.")
        if self.max_bad < 0:
            raise ConfigError(f"max_bad must be 0 or more; it is {self.max_bad}.")

    def add(self, place: str, what: str) -> None:
        """Notes one bad row.

        Raises:
          DataError: The cap is exceeded.
        """
        self.count += 1
        if len(self.shown) < SHOWN:
            self.shown.append(f"{place}: {what}")
        if self.on_bad == "skip" and self.count > self.max_bad:
            raise DataError(
                f"More than {self.max_bad} bad rows; the first:\n{self._told()}\n"
                "Mend the file, or (in Python) raise max_bad."
            )

    def finish(self) -> None:
        """Raises what was gathered, unless bad rows are to be skipped.

        Raises:
          DataError: There were bad rows, and ``on_bad`` is ``"raise"``.
        """
        if self.count and self.on_bad == "raise":
            raise DataError(
                f"{self.count} bad row{'s' * (self.count > 1)}:\n{self._told()}\n"
                "Mend the file, or leave bad rows out: on_bad='skip', which is "
                "--on-bad skip where a command has it."
            )

    def _told(self) -> str:
        more = self.count - len(self.shown)
        lines = [f"  {text}" for text in self.shown]
        return "\n".join([*lines, f"  … and {more} more"] if more > 0 else lines)


def bad_characters(values: Sequence[str | None]) -> str | None:
    """Says what makes a row's text unusable, or None: a NUL or a lone surrogate.

    Bytes that are not UTF-8 were decoded to surrogates (``surrogateescape``).
    """
    for value in values:
        if value is None or (value.isascii() and "\0" not in value):
            continue
        if "\0" in value:
            return "holds a NUL byte"
        if found := _SURROGATE.search(value):
            code = ord(found.group())
            if 0xDC80 <= code <= 0xDCFF:
                return f"byte 0x{code - 0xDC00:02x} is not UTF-8"
            return f"holds half of a surrogate pair (U+{code:04X})"
    return None


def word_place(place: str, word: int, begins: int = 0) -> str:
    """Returns the place of a sentence's word.

    Args:
      place: ``FILE:LINE`` of one of its words, each of which has a line; or that of the
        sentence, which is an example of a data set.
      word: The word's number, from 0.
      begins: Which word ``LINE`` is of.
    """
    if _EXAMPLE.search(place):
        return f"{place}, word {word}" if word else place
    file, line = place.rsplit(":", 1)
    return f"{file}:{int(line) - begins + word}"


def one_field(text: str) -> str:
    """Returns a text as it can stand in a file's column: with no tab or line end."""
    return _BREAKS.sub(" ", text)
