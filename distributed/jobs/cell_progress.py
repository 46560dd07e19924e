"""Progress of a comparison: finished cells and an estimate of the remaining time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, Self

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn

from distributed.cluster.shared_progress import Progress
from distributed.settings.console import Console
from distributed.tracking.work_progress import Bar, duration

Seconds = Mapping[tuple[str, ...], Sequence[float]]
"""Computing times by group."""
Show = Callable[[Mapping[str, Progress]], None]
"""Receives how far the cells are that are being computed, by name."""
_LEAST_SHARE = 0.02
"""Of a cell, before its time is estimated from what is done of it."""


class Grouped(Protocol):
    """The part of a cell that the progress display uses."""

    @property
    def name(self) -> str:
        """Name in messages."""

    @property
    def group(self) -> tuple[str, ...]:
        """Run file, kind and method: cells of a group take similar times."""


def expected_seconds(group: tuple[str, ...], seconds: Seconds) -> float | None:
    """Mean time of finished cells of ``group``, else of the same kind; None without any.

    The same kind: with another method of the same run file, else of another run file. Cells of another kind say
    nothing: describing the tasks takes seconds where judging a method takes an hour.
    """
    for length in (len(group), 2, 1):
        similar = [
            value
            for key, values in seconds.items()
            if (key[:length] == group[:length] if length > 1 else key[1:2] == group[1:2])
            for value in values
        ]
        if similar:
            return float(np.mean(similar))
    return None


class CellProgress(Bar):
    """A progress bar over cells and what is done of them; outside a terminal, a line for every cell, or every minute.

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
        super().__init__(console, TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._what, self._seconds = what, seconds
        self._left, self._done, self._known = list(missing), 0, known
        self._workers, self._running = max(num_workers, 1), dict[str, Progress]()
        total = known + len(self._left)
        self._bar = self._progress.add_task(what, total=total, completed=known, note=self.remaining())

    def __enter__(self) -> Self:
        self._console.say(
            f"{self._what}: {self._known} cells are finished, {len(self._left)} to compute{self.remaining()}"
        )
        return super().__enter__()

    def remaining(self) -> str:
        """The estimated remaining time as text; empty if unknown."""
        seconds = {key: list(values) for key, values in self._seconds.items()}
        for cell in self._left:
            found = self._running.get(cell.name)
            if found is not None and found.share >= _LEAST_SHARE:
                seconds.setdefault(cell.group, []).append(found.seconds / found.share)
        guesses = [expected_seconds(cell.group, seconds) for cell in self._left]
        if not self._left or None in guesses:
            return ""
        shares = [1.0 - self._running[cell.name].share if cell.name in self._running else 1.0 for cell in self._left]
        parts = [guess * share for guess, share in zip(guesses, shares, strict=True) if guess is not None]
        left = max(sum(parts) / self._workers, max(parts))
        return f", about {duration(left)} left"

    def running(self, found: Mapping[str, Progress]) -> None:
        """``found`` is what is done of the cells that are being computed."""
        names = {cell.name for cell in self._left}
        self._running = {name: progress for name, progress in found.items() if name in names}
        self._update()
        if self._running:
            self._say(self._computing)

    def _computing(self) -> str:
        done = ", ".join(f"{name} {progress.share:.0%}" for name, progress in sorted(self._running.items()))
        return f"{self._what} {self._done}/{self._done + len(self._left)}: computing {done}{self.remaining()}"

    def _update(self) -> None:
        part = sum(progress.share for progress in self._running.values())
        self._progress.update(self._bar, completed=self._known + self._done + part, note=self.remaining())

    def finished(self, cell: Grouped, seconds: float) -> None:
        """Advance by one cell."""
        self._left.remove(cell)
        self._running.pop(cell.name, None)
        self._done += 1
        self._update()
        total = self._done + len(self._left)
        line = f"{self._what} {self._done}/{total}: {cell.name} in {seconds:.1f} s{self.remaining()}"
        self._say(lambda: line, after=0.0)
