"""How far a comparison is: cells done, and about how long the others will take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from distributed.settings.console import Console

Seconds = Mapping[tuple[str, ...], Sequence[float]]


class Grouped(Protocol):
    """A cell, as its progress sees it."""

    @property
    def name(self) -> str:
        """How messages call it."""

    @property
    def group(self) -> tuple[str, ...]:
        """Cells that take about as long as each other."""


def expected_seconds(group: tuple[str, ...], seconds: Seconds) -> float | None:
    """Mean of the finished cells of the same group, else of those most like it; None where there are none."""
    for length in range(len(group), -1, -1):
        similar = [value for key, values in seconds.items() if key[:length] == group[:length] for value in values]
        if similar:
            return float(np.mean(similar))
    return None


class CellProgress:
    """A progress bar over cells; a line a cell where standard error is no terminal."""

    def __init__(
        self,
        console: Console,
        what: str,
        missing: Sequence[Grouped],
        known: int,
        seconds: Seconds,
        num_workers: int,
    ) -> None:
        self._console, self._what, self._seconds = console, what, seconds
        self._left, self._done, self._known = list(missing), 0, known
        self._workers = max(num_workers, 1)
        self._progress = Progress(
            TextColumn(what),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[told]}"),
            console=console.error,
            disable=not console.error.is_terminal,
        )
        total = known + len(self._left)
        self._bar: Any = self._progress.add_task(what, total=total, completed=known, told=self.left())

    def __enter__(self) -> Self:
        self._console.say(f"{self._what}: {self._known} cells are there, {len(self._left)} to compute{self.left()}")
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def left(self) -> str:
        """About how long the cells that are left will take, in words."""
        guesses = [expected_seconds(cell.group, self._seconds) for cell in self._left]
        if not self._left or None in guesses:
            return ""
        minutes = sum(guess for guess in guesses if guess is not None) / self._workers / 60.0
        return f", about {minutes:.1f} min left"

    def finished(self, cell: Grouped, seconds: float) -> None:
        """One cell further."""
        self._left.remove(cell)
        self._done += 1
        self._progress.update(self._bar, advance=1, told=self.left())
        if not self._console.error.is_terminal:
            total = self._done + len(self._left)
            self._console.say(f"{self._what} {self._done}/{total}: {cell.name} in {seconds:.1f} s{self.left()}")
