"""Trackers that write the run directory, and copy it to an object store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from distributed.settings.console import Console
from distributed.storage.mirror import Mirror
from distributed.storage.run_directory import RunDirectory
from distributed.storage.run_places import url_of
from distributed.tracking.run_tracker import RunContext, RunTracker
from meta.learning.online import State
from meta.reporting.summary import RunSummary
from meta.training.loop import Finished
from meta.training.records import Row
from policies.common.results import TaskResult
from policies.mixtures.team import TeamStep

_SECONDS_WHEN_INTERRUPTED = 0.5


class DirectoryTracker(RunTracker):
    """Writes finished tasks and checkpoints to the run directory."""

    def __init__(self, directory: RunDirectory) -> None:
        self._directory = directory

    @classmethod
    def of(cls, context: RunContext) -> Self:
        """Every run has one."""
        return cls(context.directory)

    def task_finished(self, finished: Finished, result: TaskResult) -> None:
        """Save the task."""
        self._directory.task_finished(finished, result)

    def round_finished(self, state: State, rows: Sequence[Row]) -> None:
        """Save the state and the rows."""
        self._directory.round_finished(state, rows)

    def warmed_up(self, state: State, steps: Sequence[TeamStep]) -> None:
        """Save the state."""
        self._directory.warmed_up(state)


class MirrorTracker(RunTracker):
    """Copies the run directory to ``output.run_dir`` if that is a URL."""

    def __init__(self, directory: RunDirectory, url: str, patience_seconds: float, console: Console) -> None:
        self._directory, self._url, self._patience, self._console = directory, url, patience_seconds, console
        self._mirror = Mirror(directory.path, url, console.say)

    @classmethod
    def of(cls, context: RunContext) -> Self | None:
        """None for a local ``output.run_dir``."""
        url, patience = url_of(context.config, context.directory.path), context.config.output.flush_timeout_seconds
        return None if url is None else cls(context.directory, url, patience, context.console)

    def task_finished(self, finished: Finished, result: TaskResult) -> None:
        """Copy what changed."""
        self._mirror.request()

    def round_finished(self, state: State, rows: Sequence[Row]) -> None:
        """Copy what changed."""
        self._mirror.request()

    def finished(self, summary: RunSummary) -> None:
        """Copy the rest."""
        self._close(self._patience)

    def failed(self) -> None:
        """Copy the rest."""
        self._close(self._patience)

    def interrupted(self) -> None:
        """Copy what fits into the remaining time; the local directory is complete."""
        self._close(_SECONDS_WHEN_INTERRUPTED)

    def _close(self, seconds: float) -> None:
        if not self._mirror.close(seconds):
            self._console.warn(
                f"{self._url} lacks the end of the run; {self._directory.path} is complete, --resume copies it"
            )
