"""Starts for safe steps: mixed until they are safe on enough tasks, margins learned, the same bits in any order."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from meta.judging.deployed import over_a_limit
from meta.judging.protocol import judge
from meta.judging.safe_starts import along, mixture, path_to_safety, safe_start, safe_starts
from meta.learning.settings import MetaSettings
from meta.offline.dice_settings import DICESettings
from meta.training.evaluation_settings import EvaluationSettings, GridPoint
from meta.training.experiment import Experiment
from meta.training.pool import LocalPool, Solved, solve_in_order
from policies.common.policy import table_of
from policies.common.results import Candidates, Start, Starts
from policies.common.safety import SafetySettings
from policies.exact.solver import ExactModel, evaluate
from policies.solving.algorithms import WithinTask
from policies.tabular.crpo import WithinTaskSettings
from tasks.contract.family_registry import FamilySpec
from tasks.contract.task import Split, Task, TaskError

SAFETY = SafetySettings(confidence=0.6, tasks=9, descent_tasks=6, test_episodes=20, margin_tasks=4)


def experiment(evaluation: str = "exact", **safety: Any) -> Experiment:
    return Experiment(
        FamilySpec("frozen_lake", 1, 8, {"map_size": 4, "limit_fraction": 0.6}),
        4,
        WithinTaskSettings(num_iterations=3, episodes_per_iteration=10, evaluation=evaluation),  # type: ignore[arg-type]
        DICESettings(),
        MetaSettings(),
        EvaluationSettings(num_test_tasks=3, safety=SAFETY.model_copy(update=safety)),
    )


def greedy(pool: LocalPool, given: Experiment) -> Start:
    """A start that earns much and is over most limits: one policy for the training tasks without limits."""
    (first,) = pool.draw("train", [0])
    free = dataclasses.replace(first, limits=(1e6,))
    uniform = Start(np.full((16, 4), 0.25), np.array([2.0, 2.0]))
    (result,) = solve_in_order(pool, [free], uniform, given.within.model_copy(update={"num_iterations": 30}))
    return Start(0.99 * table_of(result.policy) + 0.01 / 4.0, np.array([1.0, 1.0]))


def over(pool: LocalPool, given: Experiment, start: Start) -> int:
    family = given.family.make()
    tasks = pool.draw("train", range(8, 17))
    models = [ExactModel(family.model(task.parameters)) for task in tasks]  # type: ignore[arg-type]
    costs = [evaluate(model, table_of(start.initialization)).values[1] for model in models]
    return sum(cost > task.limits[0] for cost, task in zip(costs, tasks, strict=True))


def test_a_start_over_the_limits_is_mixed_until_it_is_safe_on_enough_tasks() -> None:
    given = experiment()
    pool = LocalPool(given.family)
    start = greedy(pool, given)
    assert over(pool, given, start) > 3
    safe = safe_start(pool, given, start)
    assert over(pool, given, safe) <= 3, "three of nine may be, at 0.6"
    assert safe.safety is not None
    assert "of the way to the safest policy: over a limit on" in safe.safety.note
    np.testing.assert_allclose(table_of(safe.initialization).sum(axis=1), 1.0)
    np.testing.assert_array_equal(safe.learning_rates, start.learning_rates)


def test_a_safe_start_stays_itself() -> None:
    given = experiment()
    pool = LocalPool(given.family)
    path = path_to_safety(pool, given, greedy(pool, given))
    safest = Start(path[-1], np.array([1.0, 1.0]))
    safe = safe_start(pool, given, safest)
    assert safe.initialization is safest.initialization
    assert safe.safety is not None
    assert safe.safety.note.startswith("start not changed: over a limit on 3 of 9")


def test_tasks_that_repeat_are_counted_in_the_note() -> None:
    given = experiment(confidence=0.5)
    pool = LocalPool(given.family)
    tasks = [str(task.parameters) for task in pool.draw("train", range(17))]
    new = len(set(tasks)) - len(set(tasks[:8]))
    assert new < 9, "a small map with one changed tile"
    safe = safe_start(pool, given, greedy(pool, given))
    assert safe.safety is not None
    assert f"; {9 - new} of these tasks repeat others" in safe.safety.note


def test_no_safe_start_is_an_error_that_says_what_to_do() -> None:
    given = experiment()
    pool = _Tight(given.family)
    start = greedy(pool, given)
    with pytest.raises(
        TaskError, match=r"no start is safe enough: .* on 9 of 9 training tasks, and 3 may be .* of 0\.6"
    ):
        safe_start(pool, given, start)


class _Tight(LocalPool):
    """New training tasks have limits that no policy keeps."""

    def draw(self, split: Split, indices: Sequence[int]) -> list[Task]:
        tasks = super().draw(split, indices)
        return [dataclasses.replace(task, limits=(0.0,)) if task.index >= 8 else task for task in tasks]


class _Backwards(LocalPool):
    """Workers of which the last finishes first."""

    def solve(self, tasks: Sequence[Task], start: Starts, settings: WithinTask, *, collect: bool) -> Iterator[Solved]:
        yield from reversed(list(super().solve(tasks, start, settings, collect=collect)))


def test_the_order_in_which_workers_finish_does_not_matter() -> None:
    given = experiment("sampled", margin_rate=0.2)
    found = []
    for pool in (LocalPool(given.family), _Backwards(given.family)):
        safe = safe_start(pool, given, greedy(pool, given))
        assert safe.safety is not None
        found.append((safe.initialization, safe.safety.margins))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    np.testing.assert_array_equal(found[0][1], found[1][1])


def test_held_out_tasks_are_solved_by_safe_policies() -> None:
    given = experiment()
    pool = LocalPool(given.family)
    start = greedy(pool, given)
    tasks = pool.draw("test", range(12))
    safe = solve_in_order(pool, tasks, safe_starts(pool, given, start, given.family), given.held_out_within)
    plain = solve_in_order(pool, tasks, start, given.held_out_within)
    shares = [np.mean([over_a_limit(result) for result in results]) for results in (safe, plain)]
    assert shares[0] <= 0.4 < shares[1]
    for result in safe:
        if not over_a_limit(result)[0]:
            assert not any(over_a_limit(result)), "with exact values a safe policy is followed by safe ones"
    cell = judge(given, "random", GridPoint(rate=1.0))
    assert np.max(cell["curves"]["over_a_limit"][1:]) <= np.max(cell["curves"]["over_a_limit"][0])


def test_what_cannot_be_mixed_is_an_error() -> None:
    given = experiment()
    pool = LocalPool(given.family)
    start = Start(np.full((16, 4), 0.25), np.ones(2))
    with pytest.raises(TaskError, match=r"works with one start; set meta\.groups\.number to 1"):
        safe_start(pool, given, Candidates((start, start)))
    with pytest.raises(TaskError, match="needs a start without contexts"):
        mixture(start.initialization, object(), 0.5)  # type: ignore[arg-type]
    assert safe_starts(pool, dataclasses.replace(given, evaluation=EvaluationSettings()), start, given.family) is start


def test_the_path_is_walked_leg_by_leg() -> None:
    path = [np.full((1, 2), value) for value in (0.0, 1.0, 5.0)]
    assert [float(table_of(along(path, share))[0, 0]) for share in (0.0, 0.25, 0.5, 0.75, 1.0)] == [0, 0.5, 1, 3, 5]
