"""Event files for TensorBoard, in the run directory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

from distributed.tracking.events import Point, finite
from distributed.tracking.mlflow_tracker import final_metrics, round_metrics
from distributed.tracking.run_tracker import RunContext, RunStart, RunTracker
from meta.learning.online import State
from meta.reporting.summary import RunSummary
from meta.training.records import Row
from policies.mixtures.team import TeamStep, round_numbers

if TYPE_CHECKING:
    from tensorboardX import SummaryWriter

FOLDER = "tensorboard"


class TensorBoardTracker(RunTracker):
    """Writes what MLflow's parent run gets to ``tensorboard/``, through tensorboardX; for ``tracking.tensorboard``.

    The rounds after the checkpoint that a resume begins from are written again, and TensorBoard drops the earlier ones.
    """

    def __init__(self, folder: Path, rows: Sequence[Row]) -> None:
        self._folder, self._rows = folder, list(rows)
        self._writer: SummaryWriter | None = None

    @classmethod
    def of(cls, context: RunContext) -> Self | None:
        """None unless the settings ask for it."""
        if not context.config.tracking.tensorboard:
            return None
        return cls(context.directory.path / FOLDER, context.directory.rows)

    def started(self, start: RunStart) -> None:
        """Open a new event file."""
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(self._folder), purge_step=start.position.state.num_rounds + 1)

    def round_finished(self, state: State, rows: Sequence[Row]) -> None:
        """The running measures and learning rates after a round."""
        self._rows += rows
        self._write(round_metrics(self._rows, list(rows), state))

    def warmed_up(self, state: State, steps: Sequence[TeamStep]) -> None:
        """What a round of direct steps shows."""
        self._write([(name, value, state.warm_up_rounds) for name, value in round_numbers(steps).items()])

    def finished(self, summary: RunSummary) -> None:
        """The results on held-out tasks."""
        self._write(final_metrics(summary))
        self._close()

    def failed(self) -> None:
        """Close the event file."""
        self._close()

    def interrupted(self) -> None:
        """Close the event file."""
        self._close()

    def _write(self, metrics: Sequence[Point]) -> None:
        assert self._writer is not None
        for name, value, step in finite(list(metrics)):
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
