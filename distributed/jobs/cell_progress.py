"""Progress of a comparison: finished cells and an estimate of the remaining time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Protocol, Self

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from distributed.settings.console import Console

Seconds = Mapping[tuple[str, ...], Sequence[float]]
"""Computing times by group."""


class Grouped(Protocol):
    """The part of a cell that the progress display uses."""

    @property
    def name(self) -> str:
        """Name in messages."""

    @property
    def group(self) -> tuple[str, ...]:
        """Cells of a group take similar times; groups with a common prefix are related."""


def expected_seconds(group: tuple[str, ...], seconds: Seconds) -> float | None:
    """Mean time of finished cells of ``group``, else of the most closely related groups; None without any."""
    for length in range(len(group), -1, -1):
        similar = [value for key, values in seconds.items() if key[:length] == group[:length] for value in values]
        if similar:
            return float(np.mean(similar))
    return None


class CellProgress:
    """A progress bar over cells; outside a terminal, a line for every cell.

    Args:
        console: Where progress is shown.
        what: Name of the work.
        missing: Cells to compute.
        known: Number of cells that are finished already.
        seconds: Computing times by group; the caller may extend it.
        num_workers: Cells computed at the same time.
    """

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
            TextColumn("{task.fields[note]}"),
            console=console.error,
            disable=not console.error.is_terminal,
        )
        total = known + len(self._left)
        self._bar = self._progress.add_task(what, total=total, completed=known, note=self.remaining())

    def __enter__(self) -> Self:
        self._console.say(
            f"{self._what}: {self._known} cells are finished, {len(self._left)} to compute{self.remaining()}"
        )
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def remaining(self) -> str:
        """The estimated remaining time as text; empty if unknown."""
        guesses = [expected_seconds(cell.group, self._seconds) for cell in self._left]
        if not self._left or None in guesses:
            return ""
        minutes = sum(guess for guess in guesses if guess is not None) / self._workers / 60.0
        return f", about {minutes:.1f} min left"

    def finished(self, cell: Grouped, seconds: float) -> None:
        """Advance by one cell."""
        self._left.remove(cell)
        self._done += 1
        self._progress.update(self._bar, advance=1, note=self.remaining())
        if not self._console.error.is_terminal:
            total = self._done + len(self._left)
            self._console.say(f"{self._what} {self._done}/{total}: {cell.name} in {seconds:.1f} s{self.remaining()}")
