"""Progress of work whose share is known: a bar with the time left on a terminal, else a line now and then."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from distributed.settings.console import Console

EVERY_SECONDS = 60.0
"""Between two lines where there is no terminal."""
_LEAST_SHARE = 0.01
"""Of all work, before the time left is estimated."""


def time_left(share: float, seconds: float) -> str:
    """The time left after ``seconds`` for ``share`` of the work, as text; empty while little is done."""
    if not _LEAST_SHARE <= share < 1.0:
        return ""
    return f"about {duration(seconds * (1.0 - share) / share)} left"


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, with the digits that an estimate deserves."""
    if seconds < 99.5:
        return f"{max(1.0, seconds):.0f} s"
    return f"{seconds / 60.0:.0f} min" if seconds < 5970.0 else f"{seconds / 3600.0:.1f} h"


class WorkProgress:
    """Shows ``what`` while its body runs; :meth:`report` is told of the work.

    Args:
        console: Where progress is shown.
        what: Name of the work.
        clock: Seconds, from any origin.
    """

    def __init__(self, console: Console, what: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._what, self._clock = console, what, clock
        self._progress = Progress(
            TextColumn(what),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=console.error,
            disable=not console.error.is_terminal,
        )
        self._bar = self._progress.add_task(what, total=1.0, note="")
        self._began = self._told = clock()

    def __enter__(self) -> Self:
        self._began = self._told = self._clock()
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def report(self, part: str, share: float) -> None:
        """``part`` is being done, and ``share`` of all work is done, between 0 and 1."""
        now = self._clock()
        notes = [note for note in (part, time_left(share, now - self._began)) if note]
        self._progress.update(self._bar, completed=share, note=", ".join(notes))
        if not self._console.error.is_terminal and now - self._told >= EVERY_SECONDS:
            self._told = now
            self._console.say(f"{self._what}: {', '.join([f'{share:.0%}', *notes])}")
