"""What a person sees while a job runs: messages and a progress bar on standard error, results on standard output."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
import rich.console
from rich.markdown import Markdown
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from meta.learning.online import State
from meta.training.loop import Finished
from meta.training.records import Row, column
from policies.common.results import TaskResult


class Console:
    """Messages to standard error, results to standard output."""

    def __init__(self) -> None:
        self.error = rich.console.Console(stderr=True, highlight=False)
        self._out = rich.console.Console(highlight=False)

    def say(self, message: str) -> None:
        """Tell something in passing."""
        self.error.print(message, markup=False, soft_wrap=True)

    def warn(self, message: str) -> None:
        """Tell something that needs attention."""
        self.error.print(f"warning: {message}", style="yellow", markup=False, soft_wrap=True)

    def fail(self, message: str) -> None:
        """Tell why it ended."""
        self.error.print(f"error: {message}", style="bold red", markup=False, soft_wrap=True)

    def result(self, markdown: str) -> None:
        """Print a result; plain Markdown when it goes to a file or a pipe."""
        self._out.print(Markdown(markdown) if self._out.is_terminal else markdown, soft_wrap=True, markup=False)

    @contextlib.contextmanager
    def status(self, what: str) -> Iterator[None]:
        """Show that something takes a moment."""
        with self.error.status(what) if self.error.is_terminal else contextlib.nullcontext():
            yield


class ProgressTracker:
    """A progress bar over the training tasks; a line a round where standard error is no terminal."""

    def __init__(self, console: Console, total: int, rows: Sequence[Row], finished: int) -> None:
        self._console, self._total, self._rows = console, total, list(rows)
        self._progress = Progress(
            TextColumn("training tasks"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[told]}"),
            console=console.error,
            disable=not console.error.is_terminal,
        )
        self._bar: Any = self._progress.add_task("tasks", total=total, completed=len(rows) + finished, told="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def task_finished(self, finished: Finished, result: TaskResult) -> None:
        """One task further."""
        del finished, result
        self._progress.advance(self._bar)

    def round_finished(self, state: State, rows: Sequence[Row]) -> None:
        """Tell the round's mean gap (reward without an exact model) and the rates."""
        self._rows += rows
        rates = " | ".join(", ".join(f"{rate:.3g}" for rate in start.learning_rates) for start in state.starts)
        value = "reward" if np.isnan(column(list(rows), "gap")).all() else "gap"
        told = f"round {state.num_rounds}: {value} {np.mean(column(list(rows), value)):.4f}, rates {rates}"
        self._progress.update(self._bar, told=told)
        if not self._console.error.is_terminal:
            self._console.say(f"{state.num_tasks}/{self._total} tasks, {told}")
