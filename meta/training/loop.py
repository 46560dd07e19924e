"""The one training loop: rounds of tasks from a common start, one meta-update per round (THEORY section 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from meta.learning.kinds import Item
from meta.learning.online import State
from meta.training.pool import Learner, Pool, solve_and_estimate
from meta.training.records import Row, task_row, with_groups
from policies.common.results import TaskResult
from policies.solving.algorithms import WithinTask
from tasks.contract.task import Task


@dataclass(frozen=True, slots=True)
class Finished:
    """A task of the current round that is solved and estimated: its row and its contribution to the meta-update."""

    row: Row
    contribution: Item


class Tracker(Protocol):
    """An observer of the training: checkpoints, experiment tracking, progress bars."""

    def task_finished(self, finished: Finished, result: TaskResult) -> None:
        """A task is solved and estimated (called in the order tasks finish)."""

    def round_finished(self, state: State, rows: Sequence[Row]) -> None:
        """The meta-learner has taken a step; ``rows`` are the round's tasks in task order."""


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """What is trained on: the tasks in order, B tasks per round, and how each is solved."""

    tasks: Sequence[Task]
    tasks_per_round: int
    settings: WithinTask


@dataclass(slots=True)
class Position:
    """The position of a run: the state after the last complete round, and the finished tasks of the next one."""

    state: State
    finished: Mapping[int, Finished] = field(default_factory=dict)


def train(plan: TrainingPlan, pool: Pool, learner: Learner, trackers: Sequence[Tracker], position: Position) -> State:
    """Train from ``position`` to the last task and return the final state.

    Losses are reduced in task order, so the state depends neither on which task finished first nor on the pool.
    """
    state, finished = position.state, dict(position.finished)
    learner.restore(state)
    while state.num_tasks < len(plan.tasks):
        batch = plan.tasks[state.num_tasks : state.num_tasks + plan.tasks_per_round]
        _solve_round(plan, batch, pool, learner, trackers, state, finished)
        ordered = [finished[task.index] for task in batch]
        state = learner.update([item.contribution for item in ordered])
        rows = with_groups([item.row for item in ordered], state)
        for tracker in trackers:
            tracker.round_finished(state, rows)
        finished = {}
    return state


def _solve_round(
    plan: TrainingPlan,
    batch: Sequence[Task],
    pool: Pool,
    learner: Learner,
    trackers: Sequence[Tracker],
    state: State,
    finished: dict[int, Finished],
) -> None:
    """Solve and estimate the tasks of a round that are not finished yet."""
    missing = [task for task in batch if task.index not in finished]
    for result, item in solve_and_estimate(pool, learner, missing, state.start, plan.settings):
        finished[result.task.index] = done = Finished(task_row(result, item, state), item)
        for tracker in trackers:
            tracker.task_finished(done, result)
