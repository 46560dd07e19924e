"""Trials of a sweep: what one is, how it is run in its own process, and what it reports to Ray Tune."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from distributed.jobs.training_job import LATEST, run
from distributed.settings.console import Console
from distributed.settings.run_file import RawSettings, parse_config
from distributed.storage.csv_tables import read_rows
from distributed.storage.run_directory import RunDirectory
from distributed.tracking.run_tracker import RunTracker
from distributed.tuning.search_space import with_values
from meta.learning.online import State
from meta.reporting.summary import RunSummary
from meta.training.records import Row, column

SCORE = "score"
"""Name of the metric that a sweep minimises."""
Search = Literal["optuna", "random"]


@dataclass(frozen=True)
class SweepSettings:
    """Number of trials, how they are drawn, whether bad ones end early, and the seed of the search."""

    num_trials: int
    search: Search
    early_stopping: bool
    seed: int


@dataclass(frozen=True)
class Trial:
    """A finished trial: its values, its score after every round (lower is better), and whether it is complete."""

    name: str
    values: dict[str, Any]
    scores: list[float]
    complete: bool
    error: str | None

    @property
    def score(self) -> float:
        """The last score; infinity for a trial that failed or was ended early."""
        return self.scores[-1] if self.complete and self.scores else float("inf")

    @property
    def state(self) -> str:
        """``complete``, ``failed`` or ``ended early``."""
        return "complete" if self.complete else "failed" if self.error else "ended early"


class Reporter(RunTracker):
    """Reports the mean score of the last half of the tasks to Ray Tune after every round.

    ``rows`` are those of an earlier attempt of the trial.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows, self.reported = list(rows), False

    def round_finished(self, state: State, rows: Sequence[Row]) -> None:
        """Report the round; it replaces the same and later rounds of an earlier attempt."""
        self._rows = [*self._rows[: state.num_tasks - len(rows)], *rows]
        self._report(state.num_rounds)

    def finished(self, summary: RunSummary) -> None:
        """Report a trial whose rounds were all finished by an earlier attempt."""
        if not self.reported:
            self._report(-(-len(self._rows) // summary.tasks_per_round))

    def _report(self, num_rounds: int) -> None:
        from ray import tune

        self.reported = True
        tune.report({SCORE: half_score(self._rows), "round": num_rounds, "tasks": len(self._rows)})


def half_score(rows: Sequence[Row]) -> float:
    """Mean score of the last half of the rows."""
    return float(column(list(rows), "score")[len(rows) // 2 :].mean())


class _SilentConsole(Console):
    """Prints nothing: a trial has no reader."""

    def say(self, message: str) -> None:
        """Discard the message."""

    def warn(self, message: str) -> None:
        """Discard the warning."""


def run_trial(values: Mapping[str, Any], raw: RawSettings, folder: str) -> None:
    """Run or resume one trial; Ray Tune calls this in a process of its own.

    No task of it is set aside, since trials are compared on the same tasks: one that fails is the trial's failure.

    Args:
        values: Values of the trial by dotted key.
        raw: Content of the run file.
        folder: The trial writes to a subfolder with its id.
    """
    from ray import tune
    from threadpoolctl import threadpool_limits

    config = parse_config(with_values(raw, values), "the trial")
    where = Path(folder) / tune.get_context().get_trial_id()
    config = config.model_copy(
        update={
            "output": config.output.model_copy(update={"run_dir": str(where)}),
            "cluster": config.cluster.model_copy(update={"pool": "local", "set_aside_share": 0.0}),
            "tracking": config.tracking.model_copy(update={"enabled": False}),
            "evaluation": config.evaluation.model_copy(update={"methods": ("meta_srl",)}),
        }
    )
    earlier = RunDirectory.latest(config)
    reporter = Reporter([] if earlier is None else read_rows(earlier / "tasks.csv"))
    with threadpool_limits(1):
        run(config, _SilentConsole(), LATEST, trackers=(reporter,))
