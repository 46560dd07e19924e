"""A tracker that keeps the rows of a run in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from meta.training.loop import Finished
from meta.training.records import Row
from policies.common.results import TaskResult


@dataclass
class Rows:
    """The rows of every finished round, in task order."""

    rows: list[Row] = field(default_factory=list)

    def task_finished(self, finished: Finished, result: TaskResult) -> None:
        """Ignore single tasks."""

    def warmed_up(self, state: object, steps: object) -> None:
        """Not used."""

    def round_finished(self, state: object, rows: Sequence[Row]) -> None:
        """Keep the rows of a round."""
        del state
        self.rows += rows
