"""Progress of work whose share is known: a bar with the time left on a terminal, else a line now and then."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.progress import BarColumn, Progress, ProgressColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn

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


def noted_bar(console: Console, *columns: ProgressColumn) -> Progress:
    """A bar of ``columns`` with a note (the field ``note`` of its task) at its end; shown on a terminal only."""
    note = TextColumn("{task.fields[note]}")
    return Progress(*columns, note, console=console.error, disable=not console.error.is_terminal)


class Bar:
    """A :func:`noted_bar` while its body runs; where there is no terminal, lines, of which it knows when one is due."""

    def __init__(self, console: Console, *columns: ProgressColumn, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._clock = console, clock
        self._progress = noted_bar(console, *columns)
        self._told = clock()

    def __enter__(self) -> Self:
        self._told = self._clock()
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def _say(self, line: Callable[[], str], after: float = EVERY_SECONDS) -> None:
        """Print a line where there is no terminal, if none was printed for ``after`` seconds."""
        now = self._clock()
        if not self._console.error.is_terminal and now - self._told >= after:
            self._told = now
            self._console.say(line())


class WorkProgress(Bar):
    """Shows ``what`` while its body runs; :meth:`report` is told of the work.

    Args:
        console: Where progress is shown.
        what: Name of the work.
        clock: Seconds, from any origin.
    """

    def __init__(self, console: Console, what: str, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(console, TextColumn(what), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), clock=clock)
        self._what, self._began = what, clock()
        self._bar = self._progress.add_task(what, total=1.0, note="")

    def __enter__(self) -> Self:
        self._began = self._clock()
        return super().__enter__()

    def report(self, part: str, share: float) -> None:
        """``part`` is being done, and ``share`` of all work is done, between 0 and 1."""
        notes = [note for note in (part, time_left(share, self._clock() - self._began)) if note]
        self._progress.update(self._bar, completed=share, note=", ".join(notes))
        self._say(lambda: f"{self._what}: {', '.join([f'{share:.0%}', *notes])}")

    def part(self, first: float, last: float) -> Callable[[str, float], None]:
        """What :meth:`report` is for work that takes this one from share ``first`` to ``last``."""
        return lambda part, share: self.report(part, first + (last - first) * share)
