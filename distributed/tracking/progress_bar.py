"""Training progress on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from distributed.settings.console import Console
from distributed.tracking.run_tracker import RunContext, RunStart, RunTracker
from distributed.tracking.work_progress import noted_bar
from meta.learning.online import State
from meta.training.loop import Finished
from meta.training.records import Row, column
from meta.training.warm_up import rounds_of
from policies.common.digits import digits
from policies.common.results import TaskResult
from policies.mixtures.team import TeamStep, round_numbers

_TASKS = "training tasks"


class ProgressTracker(RunTracker):
    """A progress bar over the training tasks; outside a terminal, a line after every round."""

    def __init__(self, console: Console, warm_up_rounds: int) -> None:
        self._warm_up_rounds = warm_up_rounds
        self._console, self._total, self._done = console, 0, 0
        what = TextColumn("{task.fields[what]}")
        times = TimeElapsedColumn(), TimeRemainingColumn()
        self._progress = noted_bar(console, what, BarColumn(), MofNCompleteColumn(), *times)
        self._bar = self._progress.add_task("tasks", total=None, note="", what=_TASKS)

    @classmethod
    def of(cls, context: RunContext) -> Self:
        """Every run has one."""
        return cls(context.console, rounds_of(context.config.meta))

    def started(self, start: RunStart) -> None:
        """Show the bar, unless every task is finished already."""
        self._total = len(start.drawn.train)
        done = start.position.state.num_tasks + len(start.position.finished)
        self._progress.update(self._bar, total=self._total, completed=done)
        self._done = done
        if start.position.state.num_tasks < self._total:
            self._progress.start()

    def warmed_up(self, state: State, steps: Sequence[TeamStep]) -> None:
        """Show the rounds of direct steps, then the tasks; outside a terminal a line every tenth of the way."""
        done, total = state.warm_up_rounds, self._warm_up_rounds
        found = round_numbers(steps)
        note = f"reward {digits(found['warm_up_reward'])}, {found['warm_up_over']:.0%} of tasks over a limit"
        self._progress.update(self._bar, what="warm-up rounds", total=total, completed=done, note=note)
        if not self._console.error.is_terminal and (done * 10 // total > (done - 1) * 10 // total):
            self._console.say(f"{done}/{total} warm-up rounds, {note}")
        if done >= total:
            self._progress.reset(self._bar, total=self._total, completed=self._done, what=_TASKS, note="")

    def task_finished(self, finished: Finished, result: TaskResult) -> None:
        """Advance by one task."""
        self._progress.advance(self._bar)

    def round_finished(self, state: State, rows: Sequence[Row]) -> None:
        """Show the round's mean gap (reward without an exact model) and the learned rates."""
        rates = " | ".join(", ".join(f"{rate:.3g}" for rate in start.learning_rates) for start in state.starts)
        measure = "reward" if np.isnan(column(list(rows), "gap")).all() else "gap"
        note = (
            f"round {state.num_rounds}: {measure} {digits(float(np.mean(column(list(rows), measure))))}, rates {rates}"
        )
        self._progress.update(self._bar, note=note)
        if not self._console.error.is_terminal:
            self._console.say(f"{state.num_tasks}/{self._total} tasks, {note}")
        if state.num_tasks >= self._total:  # the evaluation shows its own progress
            self._progress.stop()

    def failed(self) -> None:
        """Restore the terminal."""
        self._progress.stop()

    def interrupted(self) -> None:
        """Restore the terminal."""
        self._progress.stop()
