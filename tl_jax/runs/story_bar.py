"""Progress of a job that is made of many trainings."""

from collections.abc import Mapping
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from tl_jax.runs.tell import tell


class StoryBar:
    """One bar for the whole story and one for the training that runs; on stderr."""

    def __init__(self, trainings: int) -> None:
        console = Console(stderr=True)
        self._console = console
        self._bars = Progress(
            BarColumn(bar_width=30),
            TextColumn("{task.completed}/{task.total}"),
            TimeElapsedColumn(),
            TextColumn("{task.description}", markup=False),
            console=console,
        )
        self._whole = self._bars.add_task("the whole story", total=trainings)
        self._part = self._bars.add_task("", total=None)
        self._begun = 0

    def begin(self, told: str, steps: int) -> "StoryBar":
        """Starts the next part; returns itself, for `fit` to tell of the steps."""
        self._bars.update(self._whole, completed=self._begun)
        self._begun += 1
        self._bars.reset(self._part, total=steps, description=told)
        if not self._console.is_terminal:
            tell(told)
        return self

    def update(
        self,
        step: int,
        *,
        loss: float,
        learning_rate: float,
        tokens: int,
        examples: int,
        figures: Mapping[str, float],
    ) -> None:
        """Tells that a step is done."""
        self._bars.update(self._part, completed=step)

    def note(self, text: str) -> None:
        """Shows a line above the bars."""
        self._console.print(text, markup=False, highlight=False)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()
