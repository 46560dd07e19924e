"""The one training loop: rounds of tasks from a common start, one meta-update per round (THEORY section 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from meta.learning.kinds import Item
from meta.learning.online import State
from meta.learning.settings import WarmUpSettings
from meta.training.experiment import Drawn, Experiment
from meta.training.pool import Learner, Pool, solve_and_estimate
from meta.training.records import Row, task_row, with_groups
from policies.common.results import TaskResult
from policies.mixtures.team import Team, TeamStep
from policies.neural.neural_settings import NeuralSettings
from policies.neural.policy_state import PolicyState
from policies.solving.algorithms import WithinTask
from tasks.contract.task import Task

_ORDER_STREAM = 63


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

    def warmed_up(self, state: State, steps: Sequence[TeamStep]) -> None:
        """A round of direct steps is over."""


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """What is trained on: the tasks in order, B tasks per round, and how each is solved.

    ``warm_up`` are the direct steps before, on the tasks ``together``.
    """

    tasks: Sequence[Task]
    tasks_per_round: int
    settings: WithinTask
    warm_up: WarmUpSettings | None = None
    together: Sequence[Task] = ()


def training_plan(experiment: Experiment, drawn: Drawn, tasks: Sequence[Task] | None = None) -> TrainingPlan:
    """How ``experiment`` trains on ``tasks``; by default on all training tasks."""
    return TrainingPlan(
        drawn.train if tasks is None else tasks,
        experiment.tasks_per_round,
        experiment.training_within,
        experiment.meta.warm_up,
        drawn.together,
    )


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
    state = _warm_up(plan, pool, learner, trackers, state)
    while batch := _solved_round(plan, pool, learner, trackers, state, finished):
        ordered = [finished[task.index] for task in batch]
        state = learner.update([item.contribution for item in ordered])
        rows = with_groups([item.row for item in ordered], state)
        for tracker in trackers:
            tracker.round_finished(state, rows)
        finished = {}
    return state


def _warm_up(plan: TrainingPlan, pool: Pool, learner: Learner, trackers: Sequence[Tracker], state: State) -> State:
    """Take the rounds of direct steps that are still to be taken."""
    warm_up = plan.warm_up or WarmUpSettings()
    for number in range(state.warm_up_rounds, warm_up.rounds):
        policy, settings = cast("PolicyState", state.starts[0].initialization), cast("NeuralSettings", plan.settings)
        steps = pool.step_teams(teams_of(plan.together, warm_up, number), policy, settings)
        state = learner.warm_up(steps)
        for tracker in trackers:
            tracker.warmed_up(state, steps)
    return state


def teams_of(tasks: Sequence[Task], settings: WarmUpSettings, number: int) -> list[Team]:
    """The teams of round ``number``: all tasks in turn, in a new order every time all have been used.

    The first round has one team, from which a fresh policy takes its statistics.
    """
    teams, size = 1 if number == 0 else settings.teams, settings.tasks
    first = (number * settings.teams - (settings.teams - 1 if number else 0)) * size
    orders: dict[int, NDArray[np.int64]] = {}

    def task_at(position: int) -> Task:
        again, place = divmod(position, len(tasks))
        if again not in orders:
            orders[again] = np.random.default_rng([_ORDER_STREAM, again]).permutation(len(tasks))
        return tasks[int(orders[again][place])]

    return [
        Team(
            tuple(task_at(first + team * size + place) for place in range(size)),
            number,
            team,
            settings.rate,
            settings.delta_at(number),
            settings.least_log_std,
        )
        for team in range(teams)
    ]


def _solved_round(
    plan: TrainingPlan,
    pool: Pool,
    learner: Learner,
    trackers: Sequence[Tracker],
    state: State,
    finished: dict[int, Finished],
) -> Sequence[Task]:
    """Solve and estimate the tasks of the next round that are not finished yet; the round's tasks, none at the end.

    The next tasks take the places of those that are set aside: the run learns as if the plan had never had them.
    """
    while True:
        tasks = pool.quarantine.without(plan.tasks)
        batch = tasks[state.num_tasks : state.num_tasks + plan.tasks_per_round]
        missing = [task for task in batch if task.index not in finished]
        if not missing:
            return batch
        for result, item in solve_and_estimate(pool, learner, missing, state.start, plan.settings):
            finished[result.task.index] = done = Finished(task_row(result, item, state), item)
            for tracker in trackers:
                tracker.task_finished(done, result)
