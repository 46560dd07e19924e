"""The one training loop: rounds of tasks from a common start, one meta-update per round (THEORY section 4)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, cast

import numpy as np

from meta.learning.kinds import Item
from meta.learning.online import State
from meta.learning.settings import MetaSettings
from meta.training.experiment import Drawn, Experiment
from meta.training.pool import Learner, Pool, ProcessLostError, solve_and_estimate
from meta.training.records import Row, task_row, with_groups
from meta.training.warm_up import rounds_of, teams_of_round
from policies.common.results import TaskResult
from policies.mixtures.team import TeamStep
from policies.neural.neural_settings import NeuralSettings
from policies.neural.policy_state import PolicyState
from policies.solving.algorithms import WithinTask
from tasks.contract.tabular_model import FloatArray
from tasks.contract.task import Task, TaskError


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

    ``meta`` says which direct steps come before, on the tasks ``together``; ``known`` [T, k] are the contexts of the
    training tasks.
    """

    tasks: Sequence[Task]
    tasks_per_round: int
    settings: WithinTask
    meta: MetaSettings | None = None
    together: Sequence[Task] = ()
    known: FloatArray = field(default_factory=lambda: np.zeros((0, 0)))


def training_plan(experiment: Experiment, drawn: Drawn, tasks: Sequence[Task] | None = None) -> TrainingPlan:
    """How ``experiment`` trains on ``tasks``; by default on all training tasks."""
    return TrainingPlan(
        drawn.train if tasks is None else tasks,
        experiment.tasks_per_round,
        experiment.training_within,
        experiment.meta,
        drawn.together,
        np.zeros((0, 0)) if drawn.family.contexts is None else drawn.family.contexts.known,
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
    """Take the rounds before the online steps that are still to be taken."""
    meta = plan.meta or MetaSettings()
    for number in range(state.warm_up_rounds, rounds_of(meta)):
        steps = _team_steps(plan, pool, state, meta, number)
        state = learner.warm_up(steps)
        for tracker in trackers:
            tracker.warmed_up(state, steps)
    return state


def _team_steps(plan: TrainingPlan, pool: Pool, state: State, meta: MetaSettings, number: int) -> list[TeamStep]:
    """The direct steps of a round; without the tasks that fail alone, too, which are set aside.

    Raises:
        Exception: a team fails, and none of its tasks does alone, or none may be set aside.
    """
    start, settings = state.starts[0], cast("NeuralSettings", plan.settings)
    policy = cast("PolicyState", start.initialization)
    while True:
        teams = teams_of_round(plan.together, meta, start, plan.known, number, pool.quarantine.without)
        try:
            return pool.step_teams(teams, policy, settings)
        except (TaskError, ProcessLostError):
            before = len(pool.quarantine)
            for task in {task.stem: task for team in teams for task in team.tasks}.values():
                alone = dataclasses.replace(teams[0], tasks=(task,), latents=None, others=None)
                try:
                    pool.step_teams([alone], policy, settings)
                except (TaskError, ProcessLostError) as error:
                    pool.quarantine.set_aside(task, error, pool.quarantine.attempts)
                else:
                    pool.quarantine.solved(task)
            if len(pool.quarantine) == before:
                raise


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
