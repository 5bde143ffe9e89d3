"""Files of the field's own formats → tables of strings → labelled texts."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tl_jax.data import formats
from tl_jax.data.table import Problems, Table, bad_characters
from tl_jax.data.text_file import read_text
from tl_jax.files.errors import ConfigError, DataError

TEXT_COLUMNS = ("sentence", "text", "document", "review")
PAIR_COLUMNS = (
    ("sentence1", "sentence2"),
    ("question", "sentence"),
    ("premise", "hypothesis"),
)
LABEL_COLUMNS = ("label", "gold_label", "score")
# SNLI and MNLI: what stands for a label where the annotators did not agree; such rows
# are neither for training nor for evaluation (Bowman et al. 2015, section 2.3).
GOLD, NO_CONSENSUS = "gold_label", "-"


@dataclass(frozen=True)
class Columns:
    """Names of columns; None takes those of the usual names.

    Attributes:
      text: Column of the (first) text; on its own it means single texts.
      pair: Column of the second text; needs ``text``.
      label: Column of the label.
    """

    text: str | None = None
    pair: str | None = None
    label: str | None = None


USUAL_COLUMNS = Columns()


@dataclass(frozen=True, eq=False)
class LabelledTexts:
    """Texts, or pairs of texts, with labels as they stand in the data.

    Attributes:
      texts: The (first) text of each row.
      pairs: The second one; None if the data are single texts.
      labels: The label of each row; None if the data have no label column.
      places: ``FILE:LINE`` of each row.
      columns: The names of the columns read: text, pair and label, as far as there.
      skipped: How many bad rows were left out.
      notes: What else was left out.
    """

    texts: list[str]
    pairs: list[str] | None
    labels: list[str] | None
    places: list[str]
    columns: tuple[str, ...]
    skipped: int = 0
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.texts)

    def first(self, count: int | None) -> "LabelledTexts":
        """The first ``count`` rows; all of them if it is None."""
        return replace(
            self,
            texts=self.texts[:count],
            pairs=None if self.pairs is None else self.pairs[:count],
            labels=None if self.labels is None else self.labels[:count],
            places=self.places[:count],
        )


def read_table(
    files: str | Path | Sequence[str | Path],
    *,
    on_bad: str = "raise",
    max_bad: int = 100,
    data_dir: str | Path | None = None,
) -> Table:
    """Reads one or more files of the same columns into one table.

    By the name's ending: ``.tsv`` (a header, fields between tabs; quotes are text),
    ``.csv`` (RFC 4180 with a header), ``.jsonl`` (one object a line), ``.json`` (a list
    of objects, or one under ``"data"``), ``.txt`` (a text a line, in the column
    ``text``; as ``.tsv`` where its first line names usual columns, as in NSMC's
    ratings_test.txt); ``tfds:NAME/CONFIG[:SPLIT]`` is a data set of TFDS
    (:mod:`tl_jax.data.tfds`). All files are UTF-8; U+FEFF is dropped at the start
    of a file and kept elsewhere.

    Args:
      files: Paths, or names with ``tfds:``.
      on_bad: ``"raise"``: all bad rows are told in one error. ``"skip"``: they are left
        out and counted.
      max_bad: With ``"skip"``, more bad rows than this are an error.
      data_dir: Where TFDS keeps prepared data; ``$TFDS_DATA_DIR`` by default.

    Raises:
      DataError: A file is missing, is not what its name says, or has bad rows
        (not UTF-8, wrong number of columns, NUL, broken JSON).
      SourceError: A data set of TFDS cannot be had.
    """
    problems = Problems(on_bad, max_bad)
    return _read_table(files, problems, data_dir)


def read_labelled(
    files: str | Path | Sequence[str | Path],
    *,
    columns: Columns = USUAL_COLUMNS,
    labelled: bool = True,
    on_bad: str = "raise",
    max_bad: int = 100,
    data_dir: str | Path | None = None,
) -> LabelledTexts:
    """Reads texts and labels for classification or regression.

    Columns that are not named are recognised: first the pairs (sentence1, sentence2),
    (question, sentence), (premise, hypothesis), if both of a pair are there; then
    sentence, text, document, review; for the label: label, gold_label, score. Rows
    whose gold_label is "-" are left out, and that is noted.

    Args:
      files: As for :func:`read_table`, as are the arguments not named here.
      columns: Where texts and labels stand; the lines of a ``.txt`` have no names.
      labelled: False: labels are not read, whatever stands in their column.

    Raises:
      ConfigError: A named column is not there.
      DataError: As for :func:`read_table`; or no text column is recognised, or rows
        lack a text or a label. An empty string is a text, but not a label.
    """
    problems = Problems(on_bad, max_bad)
    table = _read_table(files, problems, data_dir, finish=False)
    plain = all(name.lower().endswith(".txt") for name in table.files)
    if plain and list(table.columns) == ["text"]:
        columns = replace(columns, text=None, pair=None)
    text, pair = _text_columns(table, columns.text, columns.pair)
    usual = (name for name in LABEL_COLUMNS if name in table.columns)
    label = (columns.label or next(usual, None)) if labelled else None
    names = tuple(name for name in (text, pair, label) if name is not None)
    kept: list[int] = []
    undecided = 0
    for i, row in enumerate(zip(*map(table.column, names), strict=True)):
        lacking = [n for n, v in zip(names, row, strict=True) if v is None]
        if label and not lacking and not (row[-1] or "").strip():
            lacking = [label]
        if lacking:
            problems.add(table.place(i), f"no value in {' and '.join(lacking)}")
        elif label == GOLD and row[-1] == NO_CONSENSUS:
            undecided += 1
        else:
            kept.append(i)
    problems.finish()
    if not kept:
        raise DataError(f"{', '.join(table.files)}: no good row is left.")

    def values(name: str) -> list[str]:
        column = table.columns[name]
        return [column[i] or "" for i in kept]

    return LabelledTexts(
        texts=values(text),
        pairs=values(pair) if pair else None,
        labels=[v.strip() for v in values(label)] if label else None,
        places=[table.place(i) for i in kept],
        columns=names,
        skipped=problems.count,
        notes=(
            (f"{undecided:,} rows have no gold label ({NO_CONSENSUS}): left out",)
            if undecided
            else ()
        ),
    )


def require_labels(rows: LabelledTexts) -> list[str]:
    """Returns the rows' labels.

    Raises:
      DataError: They have none.
    """
    if rows.labels is None:
        raise DataError(
            f"{rows.places[0]}: there is no label column. Recognised are "
            f"{', '.join(LABEL_COLUMNS)}; others are named to finetune, by "
            "--label-column."
        )
    return rows.labels


def _text_columns(
    table: Table, text: str | None, pair: str | None
) -> tuple[str, str | None]:
    """Finds the column of the text and, for pairs, that of the second text."""
    if text is not None or pair is not None:
        if text is None:
            raise ConfigError(
                "A pair column is named without a text column: name both."
            )
        table.column(text)
        if pair is not None:
            table.column(pair)
        return text, pair
    for first, second in PAIR_COLUMNS:
        if first in table.columns and second in table.columns:
            return first, second
    for name in TEXT_COLUMNS:
        if name in table.columns:
            return name, None
    found = [name if len(name) <= 40 else name[:39] + "…" for name in table.columns]
    raise DataError(
        f"{table.files[0]}: no text column is known by name. Looked for "
        f"{' | '.join(TEXT_COLUMNS)}, and the pairs "
        f"{' | '.join(f'({a}, {b})' for a, b in PAIR_COLUMNS)}; the header has "
        f"{found[:12]}. If that is no header, put one in the first line; "
        "otherwise name the columns (--text-column, --pair-column, --label-column)."
    )


def _read_table(
    files: str | Path | Sequence[str | Path],
    problems: Problems,
    data_dir: str | Path | None,
    *,
    finish: bool = True,
) -> Table:
    names = [files] if isinstance(files, (str, Path)) else list(files)
    if not names:
        raise DataError("No data file was named.")
    parts = [_read_one(name, problems, data_dir) for name in names]
    table = parts[0] if len(parts) == 1 else _join(parts)
    if finish or not len(table):
        problems.finish()
    if not len(table):
        raise DataError(f"{', '.join(table.files)}: there is not one good row.")
    return Table(table.columns, table.files, table.where, table.unit, problems.count)


def _join(parts: list[Table]) -> Table:
    first = parts[0]
    for part in parts[1:]:
        if set(part.columns) != set(first.columns):
            raise DataError(
                f"{first.files[0]} has the columns {sorted(first.columns)}, but "
                f"{part.files[0]} has {sorted(part.columns)}: files that are read "
                "together need the same ones."
            )
    return Table(
        columns={
            name: [v for part in parts for v in part.columns[name]]
            for name in first.columns
        },
        files=tuple(part.files[0] for part in parts),
        where=[(k, line) for k, part in enumerate(parts) for _, line in part.where],
        unit=first.unit,
    )


def _read_one(
    name: str | Path, problems: Problems, data_dir: str | Path | None
) -> Table:
    if str(name).startswith("tfds:"):
        from tl_jax.data.tfds import read_tfds  # it takes a second to import

        return read_tfds(str(name), problems, data_dir=data_dir)
    path = Path(name)
    kinds = {
        ".tsv": formats.tsv,
        ".csv": formats.csv,
        ".jsonl": formats.jsonl,
        ".json": formats.json_list,
        ".txt": formats.lines,
    }
    if path.is_dir():
        raise DataError(f"{path}: is a folder; name a file in it.")
    ending = path.suffix.lower()
    if ending not in kinds:
        raise DataError(
            f"{path}: the format is told from the name's ending, and {path.suffix!r} "
            f"is none of {' '.join(kinds)}."
        )
    text = read_text(path)
    if ending == ".txt" and _names_columns(text):
        ending = ".tsv"
    header, rows = kinds[ending](text, str(path))
    columns: list[list[str | None]] = [[] for _ in header]
    where: list[tuple[int, int]] = []
    for line, row in rows:
        wrong = row if isinstance(row, str) else bad_characters(row)
        if wrong is None and len(row) != len(header):
            wrong = f"{len(row)} columns, where the header has {len(header)}"
        if wrong is not None:
            problems.add(f"{path}:{line}", wrong)
            continue
        for column, value in zip(columns, row, strict=True):
            column.append(value)
        where.append((0, line))
    return Table(dict(zip(header, columns, strict=True)), (str(path),), where)


def _names_columns(text: str) -> bool:
    """True if the first line is a header between tabs, with a usual text column."""
    names = [name.strip() for name in text.split("\n", 1)[0].split("\t")]
    usual = {*TEXT_COLUMNS, *(name for pair in PAIR_COLUMNS for name in pair)}
    words = all(name.isidentifier() for name in names)
    return words and len(names) > 1 and not usual.isdisjoint(names)
