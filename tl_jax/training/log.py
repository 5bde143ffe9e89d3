"""What a run tells: a metrics log that a resume makes exact, and a progress display.

The log is JSON Lines: one object a line, each with the ``step`` it belongs to. Whatever
differs between two equal runs (times, rates) lies under the key ``clock``; the rest of
the log of an interrupted and resumed run equals that of an uninterrupted one.
"""

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, SupportsFloat, TextIO

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar
from rich.table import Column

from tl_jax.files.atomic import write_bytes
from tl_jax.files.errors import ConfigError, DataError

CLOCK = "clock"
Record = dict[str, Any]


class MetricsLog:
    """An append-only JSON Lines file; every line is flushed as it is written.

    Close it or use it as a context manager. ``also`` is handed every record, say by
    `tensorboard_writer`.
    """

    def __init__(
        self, path: Path, also: Callable[[Record], None] | None = None
    ) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._also = also
        self._file = path.open("a", encoding="utf-8")

    def append(self, step: int, values: Mapping[str, Any], **clock: float) -> None:
        """Writes one record. Arrays of one number become numbers; ``clock`` is apart.

        NaN and infinities, which JSON has no numbers for, become the strings that
        ``float`` reads back: ``"NaN"``, ``"Infinity"``, ``"-Infinity"``.
        """
        record: Record = {"step": step, **{k: _plain(v) for k, v in values.items()}}
        if clock:
            record[CLOCK] = {k: _plain(v) for k, v in clock.items()}
        line = json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"
        self._file.write(line)
        self._file.flush()
        if self._also is not None:
            self._also(record)

    def sync(self) -> None:
        """Brings all lines to the disk; call it before a checkpoint is committed."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file; closing twice is allowed."""
        self._file.close()

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def read_log(path: Path) -> list[Record]:
    """The records of a log. A last line without its end (a kill) is left out.

    Raises:
        DataError: a line is not a JSON object with a step; file and line are named.
    """
    records = []
    text = path.read_bytes().decode("utf-8", errors="replace")
    complete, _, _ = text.rpartition("\n")
    for number, line in enumerate(complete.split("\n") if complete else [], 1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict) or not isinstance(record.get("step"), int):
            raise DataError(
                f"{path}:{number}: not a record of a metrics log (a JSON object with "
                "a step). Delete the line to go on."
            )
        records.append(record)
    return records


def truncate_log(path: Path, step: int) -> int:
    """Drops every record after ``step``, atomically; returns how many went.

    Call it when resuming from the checkpoint of ``step``, before the log is opened. It
    also drops what a kill left of a line. A log that does not exist stays so.
    """
    if not path.exists():
        return 0
    lines = path.read_bytes().split(b"\n")[:-1]
    records = read_log(path)
    kept = [
        line
        for line, record in zip(lines, records, strict=True)
        if record["step"] <= step
    ]
    write_bytes(path, b"".join(line + b"\n" for line in kept))
    return len(lines) - len(kept)


def without_clock(records: Iterable[Record]) -> list[Record]:
    """The records without times: equal for equal runs."""
    return [{k: v for k, v in record.items() if k != CLOCK} for record in records]


def tensorboard_writer(folder: Path, start: int = 0) -> Callable[[Record], None]:
    """A function for ``MetricsLog(also=…)`` that writes every number to TensorBoard.

    ``start`` is the first step of this process: what an interrupted run had written
    from there on is hidden. Needs the extra ``tensorboard``.
    """
    try:
        from tensorboardX import SummaryWriter  # pyright: ignore[reportMissingImports]
    except ImportError as problem:
        raise ConfigError(
            "TensorBoard was asked for and tensorboardX is not installed: "
            "pip install 'tl-jax[tensorboard]'"
        ) from problem
    writer = SummaryWriter(str(folder), purge_step=start)

    def write(record: Record) -> None:
        for name, value in {**record, **record.get(CLOCK, {})}.items():
            if name != "step" and isinstance(value, int | float):
                writer.add_scalar(name, value, record["step"])
        writer.flush()

    return write


class Progress:
    """A bar on a terminal, one plain line every ``every`` steps elsewhere; to stderr.

    Shows the loss, the learning rate, tokens and examples per second since the line
    before, the mean of other figures since then, and the time that is left at that
    rate. Use it as a context manager.
    """

    def __init__(
        self,
        total: int,
        *,
        start: int = 0,
        every: int = 50,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total, self._every, self._clock = total, every, clock
        self._stream = sys.stderr if stream is None else stream
        self._shown, self._since = start, clock()
        self._tokens = self._examples = 0
        self._figures: dict[str, float] = {}
        self._bar: Bar | None = None
        if self._stream.isatty():
            self._bar = _bar(self._stream)
            self._task = self._bar.add_task("", total=total, completed=start, told="")

    def update(
        self,
        step: int,
        *,
        loss: SupportsFloat,
        learning_rate: SupportsFloat,
        tokens: int,
        examples: int,
        figures: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        """Tells that ``step`` is done; what is counted is that of this update."""
        self._tokens += tokens
        self._examples += examples
        for name, value in figures.items():
            self._figures[name] = self._figures.get(name, 0.0) + value
        if self._bar is not None:
            self._bar.update(self._task, completed=step)
        due = step % self._every == 0 or step >= self._total
        if not due or step <= self._shown:
            return
        told = self._told(step, float(loss), float(learning_rate))
        if self._bar is not None:
            self._bar.update(self._task, told=told)
        else:
            self.note(f"step {step}/{self._total}  {told}")

    def note(self, text: str) -> None:
        """Prints a line above the bar, or between the lines."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=self._stream, flush=True)

    def _told(self, step: int, loss: float, learning_rate: float) -> str:
        now = self._clock()
        seconds = max(now - self._since, 1e-9)
        steps = step - self._shown
        left = (self._total - step) * seconds / steps
        figures = (f"{name} {x / steps:.4f}  " for name, x in self._figures.items())
        told = (
            f"loss {loss:.4f}  {''.join(figures)}lr {learning_rate:.2e}  "
            f"{self._tokens / seconds:,.0f} tokens/s  "
            f"{self._examples / seconds:,.1f} examples/s  ETA {_duration(left)}"
        )
        self._shown, self._since = step, now
        self._tokens = self._examples = 0
        self._figures = {}
        return told

    def __enter__(self) -> "Progress":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


def _bar(stream: TextIO) -> Bar:
    # On a narrow terminal the numbers go on over a second line, and nothing is cut.
    return Bar(
        BarColumn(bar_width=12),
        MofNCompleteColumn(table_column=Column(no_wrap=True)),
        TextColumn("{task.fields[told]}", markup=False, table_column=Column()),
        console=Console(file=stream),
    )


def _duration(seconds: float) -> str:
    """``_duration(3725) == "1:02:05"``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"


def _plain(value: Any) -> Any:
    """Numbers as JSON has them; anything else as it is."""
    if isinstance(value, np.ndarray | np.generic) or hasattr(value, "__array__"):
        value = np.asarray(value).item()
    if isinstance(value, float) and not math.isfinite(value):
        if math.isnan(value):
            return "NaN"
        return "Infinity" if value > 0 else "-Infinity"
    return value
