"""The life cycle of a run's trackers: one order of calls, and one end for each, whatever happens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distributed.jobs.trackers import TRACKERS, trackers_of
from distributed.settings.console import Console
from distributed.settings.stopping import Stopped
from distributed.storage.run_directory import RunDirectory
from distributed.tracking.run_tracker import RunContext, RunTracker, Trackers
from tests.distributed.helpers import parsed, tiny

ANYTHING: Any = None


class Noting(RunTracker):
    """Notes its calls; raises in one of them."""

    def __init__(self, notes: list[str], name: str, fault: str = "") -> None:
        self._notes, self._name, self._fault = notes, name, fault

    def _note(self, what: str) -> None:
        self._notes.append(f"{self._name} {what}")
        if what == self._fault:
            raise RuntimeError(what)

    def started(self, start: Any) -> None:
        self._note("started")

    def task_finished(self, finished: Any, result: Any) -> None:
        self._note("task")

    def round_finished(self, state: Any, rows: Any) -> None:
        self._note("round")

    def finished(self, summary: Any) -> None:
        self._note("finished")

    def failed(self) -> None:
        self._note("failed")

    def interrupted(self) -> None:
        self._note("interrupted")


def test_every_tracker_is_called_in_order_by_a_good_run() -> None:
    notes: list[str] = []
    with Trackers([Noting(notes, "a"), Noting(notes, "b")]) as trackers:
        trackers.started(ANYTHING)
        trackers.task_finished(ANYTHING, ANYTHING)
        trackers.round_finished(ANYTHING, ANYTHING)
        trackers.finished(ANYTHING)
    assert notes == [f"{name} {what}" for what in ("started", "task", "round", "finished") for name in "ab"]


@pytest.mark.parametrize(
    ("error", "end"), [(Stopped(), "interrupted"), (ValueError(), "failed"), (KeyboardInterrupt(), "failed")]
)
def test_a_run_that_ends_early_ends_every_tracker(error: BaseException, end: str) -> None:
    notes: list[str] = []
    with pytest.raises(type(error)), Trackers([Noting(notes, "a"), Noting(notes, "b")]):
        raise error
    assert notes == [f"a {end}", f"b {end}"]


def test_a_tracker_that_fails_at_the_end_does_not_keep_the_others_from_theirs() -> None:
    notes: list[str] = []
    members = [Noting(notes, "a"), Noting(notes, "b", "finished"), Noting(notes, "c", "failed"), Noting(notes, "d")]
    with pytest.raises(RuntimeError, match="failed"), Trackers(members) as trackers:
        trackers.finished(ANYTHING)
    assert notes == ["a finished", "b finished", "b failed", "c failed", "d failed"]


def test_a_run_gets_the_trackers_that_its_settings_ask_for(tmp_path: Path) -> None:
    def kinds(**changes: Any) -> list[str]:
        config = parsed(tiny(output={"run_dir": str(tmp_path / "runs")}, **changes))
        context = RunContext(config, RunDirectory.create(config), Console())
        return [type(member).__name__ for member in trackers_of(context, [Noting([], "mine")]).members]

    local = {"pool": "local"}
    assert kinds(cluster=local) == ["DirectoryTracker", "ProgressTracker", "Noting"]
    assert kinds(cluster={"pool": "ray"}, tracking={"enabled": True}) == [
        *("MLflowTracker", "DirectoryTracker", "ProgressTracker", "RayMetricsTracker", "Noting")
    ]


def test_every_tracker_decides_when_it_is_needed() -> None:
    assert all("of" in vars(kind) for kind in TRACKERS)
