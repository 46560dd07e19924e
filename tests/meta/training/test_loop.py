from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from meta.learning.settings import MetaSettings
from meta.learning.tabular import MetaState
from meta.offline.dice_settings import DICESettings
from meta.training.evaluation_settings import EvaluationSettings
from meta.training.experiment import Drawn, Experiment, draw
from meta.training.loop import Finished, Position, TrainingPlan, train
from meta.training.pool import DatasetLostError, LocalLearner, LocalPool, Pending, Solved
from meta.training.records import Row
from policies.common.results import Start, TaskResult
from policies.tabular.crpo import WithinTaskSettings
from tasks.contract.family_registry import FamilySpec
from tasks.contract.task import Task

WITHIN = WithinTaskSettings(num_iterations=2, episodes_per_iteration=5)
EXPERIMENT = Experiment(
    FamilySpec("frozen_lake", 3, 10, {"map_size": 4}),
    4,
    WITHIN,
    DICESettings(),
    MetaSettings(),
    EvaluationSettings(num_test_tasks=1),
)


class Recorder:
    def __init__(self) -> None:
        self.finished: dict[int, Finished] = {}
        self.states: list[MetaState] = []
        self.rows: list[Row] = []

    def task_finished(self, finished: Finished, result: TaskResult) -> None:
        assert finished.contribution.task_index == result.task.index
        self.finished[result.task.index] = finished

    def warmed_up(self, state: Any, steps: Any) -> None:
        raise AssertionError("no direct steps were asked for")

    def round_finished(self, state: MetaState, rows: Sequence[Row]) -> None:
        self.states.append(state)
        self.rows += rows


class BackwardPool(LocalPool):
    """Finishes the tasks of a round in the opposite order."""

    solved = 0

    def solve(
        self, tasks: Sequence[Task], start: Start, settings: WithinTaskSettings, *, collect: bool
    ) -> Iterator[Solved]:
        for solved in super().solve(list(tasks)[::-1], start, settings, collect=collect):
            self.solved += 1
            yield solved


class ForgetfulLearner(LocalLearner):
    """Loses every third dataset."""

    lost = 0
    seen = 0

    def estimate(self, dataset: Any, label: str) -> Pending:
        self.seen += 1
        if self.seen % 3 == 0:
            self.lost += 1
            raise DatasetLostError("gone")
        return super().estimate(dataset, label)


@pytest.fixture(scope="module")
def drawn() -> Drawn:
    return draw(LocalPool(EXPERIMENT.family), EXPERIMENT)


def _learner(kind: type[LocalLearner] = LocalLearner) -> LocalLearner:
    return kind(EXPERIMENT.meta, EXPERIMENT.dice, WITHIN.num_iterations)


def _train(drawn: Drawn, pool: LocalPool, learner: LocalLearner, position: Position | None = None) -> Recorder:
    recorder = Recorder()
    plan = TrainingPlan(drawn.train, EXPERIMENT.tasks_per_round, WITHIN)
    train(plan, pool, learner, [recorder], position or Position(drawn.initial_state(EXPERIMENT.meta)))
    return recorder


@pytest.fixture(scope="module")
def undisturbed(drawn: Drawn) -> Recorder:
    return _train(drawn, LocalPool(EXPERIMENT.family), _learner())


def test_rounds_cover_every_task_once_in_order(undisturbed: Recorder) -> None:
    assert [state.num_tasks for state in undisturbed.states] == [4, 8, 10]
    assert [row["task_index"] for row in undisturbed.rows] == list(range(10))
    assert [row["round"] for row in undisturbed.rows] == [0] * 4 + [1] * 4 + [2] * 2


def test_tasks_of_a_round_share_their_start(undisturbed: Recorder) -> None:
    rates = {(row["round"], row["learning_rate_0"]) for row in undisturbed.rows}
    assert len(rates) == 3


def test_state_does_not_depend_on_the_order_of_finishing(drawn: Drawn, undisturbed: Recorder) -> None:
    backward = _train(drawn, BackwardPool(EXPERIMENT.family), _learner())
    assert backward.states[-1].sha256() == undisturbed.states[-1].sha256()


def test_lost_datasets_have_their_tasks_solved_again(drawn: Drawn, undisturbed: Recorder) -> None:
    pool, learner = BackwardPool(EXPERIMENT.family), _learner(ForgetfulLearner)
    recorder = _train(drawn, pool, learner)
    assert isinstance(learner, ForgetfulLearner)
    assert learner.lost > 0
    assert pool.solved == 10 + learner.lost
    assert recorder.states[-1].sha256() == undisturbed.states[-1].sha256()


@pytest.mark.parametrize("kept", [0, 1, 3])
def test_going_on_from_the_middle_of_a_round(drawn: Drawn, undisturbed: Recorder, kept: int) -> None:
    finished = {index: undisturbed.finished[index] for index in range(4, 4 + kept)}
    pool = BackwardPool(EXPERIMENT.family)
    recorder = _train(drawn, pool, _learner(), Position(undisturbed.states[0], finished))
    assert pool.solved == 6 - kept
    assert recorder.states[-1].sha256() == undisturbed.states[-1].sha256()


def test_another_seed_gives_another_state(undisturbed: Recorder) -> None:
    other = Experiment(
        FamilySpec("frozen_lake", 4, 10, {"map_size": 4}),
        4,
        WITHIN,
        DICESettings(),
        MetaSettings(),
        EXPERIMENT.evaluation,
    )
    pool = LocalPool(other.family)
    recorder = _train(draw(pool, other), pool, _learner())
    assert recorder.states[-1].sha256() != undisturbed.states[-1].sha256()


def test_an_update_before_a_state_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="restore a state"):
        _learner().update([])


def test_rows_agree_with_the_contributions(undisturbed: Recorder) -> None:
    for row in undisturbed.rows:
        item = undisturbed.finished[int(row["task_index"])].contribution
        assert row["f_hat"] == item.loss
        assert row["dice_missing_mass"] == item.diagnostics.missing_mass
        np.testing.assert_array_equal([row["curvature_0"], row["curvature_1"]], item.curvature)
