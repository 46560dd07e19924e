"""What a tracker of a run is: its life cycle, and all trackers of a run as one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from distributed.settings.console import Console
from distributed.settings.run_config import RunConfig
from distributed.settings.stopping import Stopped
from distributed.storage.run_directory import RunDirectory
from meta.learning.online import State
from meta.reporting.summary import RunSummary
from meta.training.experiment import Drawn
from meta.training.loop import Finished, Position
from meta.training.pool import Learner, Pool
from meta.training.records import Row
from policies.common.results import TaskResult
from policies.mixtures.team import TeamStep


@dataclass(frozen=True)
class RunContext:
    """What is known before a run starts."""

    config: RunConfig
    directory: RunDirectory
    console: Console


@dataclass(frozen=True)
class RunStart:
    """What is known once the tasks are drawn."""

    pool: Pool
    learner: Learner
    drawn: Drawn
    position: Position


class RunTracker:
    """Base of all trackers; a :class:`meta.training.loop.Tracker` with a life cycle.

    The order of calls: ``of``, ``started``, ``warmed_up``, then ``task_finished`` and ``round_finished``, and exactly
    one of ``finished``, ``failed`` and ``interrupted`` (without ``started`` if the run ends before; with ``failed`` too
    if ``finished`` raises). Every hook does nothing by default, so that a tracker defines only those it needs.
    ``distributed.jobs.trackers`` lists the classes.
    """

    @classmethod
    def of(cls, context: RunContext) -> Self | None:
        """The tracker of a run, or None if the run does not need it.

        Raises:
            ConfigurationError: The tracker cannot work, for instance because its store is not writable.
        """
        raise NotImplementedError

    def started(self, start: RunStart) -> None:
        """The tasks are drawn; training begins or resumes."""

    def task_finished(self, finished: Finished, result: TaskResult) -> None:
        """A task is solved and estimated."""

    def round_finished(self, state: State, rows: Sequence[Row]) -> None:
        """The meta-learner has taken a step; ``rows`` are the tasks of the round."""

    def warmed_up(self, state: State, steps: Sequence[TeamStep]) -> None:
        """A round of direct steps is over."""

    def finished(self, summary: RunSummary) -> None:
        """The run is evaluated, and all its results are in the run directory."""

    def failed(self) -> None:
        """The run ended with an error."""

    def interrupted(self) -> None:
        """The run was stopped by SIGTERM and has about a second left; it can be resumed."""


class Trackers(RunTracker):
    """Several trackers as one. As a context manager it reports failure or interruption to every unfinished one."""

    def __init__(self, members: Sequence[RunTracker]) -> None:
        self.members = list(members)
        self._unfinished = list(members)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.interrupted() if isinstance(error, Stopped) else self.failed()

    def started(self, start: RunStart) -> None:
        """Call every member."""
        for member in self.members:
            member.started(start)

    def task_finished(self, finished: Finished, result: TaskResult) -> None:
        """Call every member."""
        for member in self.members:
            member.task_finished(finished, result)

    def round_finished(self, state: State, rows: Sequence[Row]) -> None:
        """Call every member."""
        for member in self.members:
            member.round_finished(state, rows)

    def warmed_up(self, state: State, steps: Sequence[TeamStep]) -> None:
        """Call every member."""
        for member in self.members:
            member.warmed_up(state, steps)

    def finished(self, summary: RunSummary) -> None:
        """Call every member in turn."""
        while self._unfinished:
            self._unfinished[0].finished(summary)
            self._unfinished.pop(0)

    def failed(self) -> None:
        """Call every unfinished member, even if one of them raises."""
        self._end([member.failed for member in self._unfinished])

    def interrupted(self) -> None:
        """Call every unfinished member, even if one of them raises."""
        self._end([member.interrupted for member in self._unfinished])

    def _end(self, calls: Sequence[Callable[[], None]]) -> None:
        self._unfinished = []
        with contextlib.ExitStack() as stack:
            for call in reversed(calls):
                stack.callback(call)
