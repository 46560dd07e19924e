from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np
import pytest

from policies.common.results import Solution, Start
from policies.exact.drawing import draw_task
from policies.exact.solver import ExactModel, evaluate, occupancy, optimal_policy
from policies.solving.solve_task import reference_solution, solve_task
from policies.tabular.crpo import WithinTaskSettings
from tasks.contract.task import TaskError
from tasks.lakes.frozen_lake import FrozenLake
from tests.support.user_families import NUM_STATES, CourierFamily

COURIER = CourierFamily(0, 8)
TASK = draw_task(COURIER, "courier", 0, "train", 1)
START = Start(np.full((NUM_STATES, 3), 1.0 / 3.0), np.array([0.3, 0.2, 0.1]))


def _settings(**changes: Any) -> WithinTaskSettings:
    return WithinTaskSettings(**{"num_iterations": 4, "episodes_per_iteration": 6, "num_copies": 3} | changes)


def _assert_same_bits(one: Solution, other: Solution) -> None:
    for field in dataclasses.fields(Solution):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name))


def test_collecting_data_changes_nothing_of_an_exact_solution() -> None:
    bare, nothing = solve_task(COURIER, TASK, START, _settings(), collect=False)
    full, dataset = solve_task(COURIER, TASK, START, _settings(), collect=True)
    assert nothing is None
    assert dataset is not None
    _assert_same_bits(bare.solution, full.solution)
    assert (bare.env_steps, full.env_steps) == (0, len(dataset.transitions))


@pytest.mark.parametrize("evaluation", ["exact", "sampled"])
def test_dataset_holds_every_episode_of_every_iteration(evaluation: str) -> None:
    _, dataset = solve_task(COURIER, TASK, START, _settings(evaluation=evaluation), collect=True)
    assert dataset is not None
    data = dataset.transitions
    starts = list(zip(data.iterations[data.episode_starts], data.episodes[data.episode_starts], strict=True))
    assert starts == [(iteration, episode) for iteration in range(4) for episode in range(6)]
    assert (dataset.task_index, dataset.discount, dataset.horizon) == (1, 0.8, 60)
    assert dataset.start is START


@pytest.mark.parametrize("evaluation", ["exact", "sampled"])
def test_result_is_measured_with_the_exact_model(evaluation: str) -> None:
    result, dataset = solve_task(COURIER, TASK, START, _settings(evaluation=evaluation), collect=True)
    model = COURIER.model(TASK.parameters)
    assert model is not None
    assert dataset is not None
    exact = ExactModel(model)
    true = np.array([evaluate(exact, np.exp(logits)).values for logits in result.solution.iterates])
    np.testing.assert_allclose(result.values, true, rtol=1e-12)
    assert np.allclose(result.solution.values, true) == (evaluation == "exact")
    assert result.reference is not None
    np.testing.assert_allclose(result.reference.values, optimal_policy(exact, np.array(TASK.limits)).values, rtol=1e-9)
    np.testing.assert_array_equal(result.policy, np.exp(result.solution.iterates[result.output]))
    np.testing.assert_allclose(result.occupancy, occupancy(exact, result.policy), rtol=1e-12)
    np.testing.assert_array_equal(dataset.policy, result.policy)


def test_reference_is_the_programmes_optimum_or_unknown() -> None:
    found, result = reference_solution(COURIER, TASK), solve_task(COURIER, TASK, START, _settings(), collect=False)[0]
    assert found is not None
    assert result.reference is not None
    np.testing.assert_array_equal(found.values, result.reference.values)
    assert reference_solution(CourierFamily(0, 8, with_model=False), TASK) is None


def test_sampled_estimates_approach_the_exact_values() -> None:
    settings = _settings(evaluation="sampled", num_iterations=2, episodes_per_iteration=1500, num_copies=50)
    result, _ = solve_task(COURIER, TASK, START, settings, collect=False)
    np.testing.assert_allclose(result.solution.values, result.values, atol=0.05)


def test_sampled_solution_does_not_depend_on_the_number_of_copies_or_on_collecting() -> None:
    results = [
        solve_task(COURIER, TASK, START, _settings(evaluation="sampled", num_copies=copies), collect=collect)[0]
        for copies, collect in ((1, True), (3, False), (10, True))
    ]
    _assert_same_bits(results[0].solution, results[1].solution)
    _assert_same_bits(results[0].solution, results[2].solution)


@pytest.mark.parametrize(("evaluation", "episodes"), [("exact", 1), ("sampled", 40)])
def test_learning_keeps_the_limits_and_loses_little_reward(evaluation: str, episodes: int) -> None:
    """The uniform start breaks the limits by 0.8 and 0.3; after 120 steps by less than 0.05, at 95 % of the optimum."""
    start = dataclasses.replace(START, learning_rates=np.full(3, 0.2))
    settings = _settings(
        evaluation=evaluation, num_iterations=120, episodes_per_iteration=episodes, tolerance=0.02, num_copies=40
    )
    result, _ = solve_task(COURIER, TASK, start, settings, collect=False)
    limits, reached = np.array(TASK.limits), result.values[result.output]
    assert result.reference is not None
    assert (result.values[0, 1:] > limits + 0.25).all()
    assert (reached[1:] <= limits + 0.05).all()
    assert reached[0] >= 0.95 * result.reference.values[0]


def test_every_iteration_is_announced_before_it_runs() -> None:
    seen: list[int] = []
    solve_task(COURIER, TASK, START, _settings(), collect=True, on_iteration=seen.append)
    assert seen == [0, 1, 2, 3]


def test_without_a_model_only_estimates_are_known() -> None:
    family = CourierFamily(0, 8, with_model=False, limit=(0.3, 0.3))
    task = dataclasses.replace(TASK, limits=(0.3, 0.3))
    result, dataset = solve_task(family, task, START, _settings(evaluation="sampled"), collect=True)
    assert (result.reference, result.occupancy) == (None, None)
    np.testing.assert_array_equal(result.values, result.solution.values)
    assert dataset is not None
    with pytest.raises(TaskError, match=r"courier/train/1: the family has no exact model.*sampled"):
        solve_task(family, task, START, _settings(), collect=False)


@pytest.mark.parametrize(
    ("evaluation", "collect"), [("exact", True), ("sampled", True), ("sampled", False), ("exact", False)]
)
def test_a_start_of_another_shape_is_reported(evaluation: str, collect: bool) -> None:
    start = Start(np.full((4, 3), 1.0 / 3.0), START.learning_rates)
    with pytest.raises(TaskError, match=r"courier/train/1: .* 6 states and 3 actions.*\(4, 3\)"):
        solve_task(COURIER, TASK, start, _settings(evaluation=evaluation), collect=collect)


def test_a_broken_contract_reaches_the_caller_by_name() -> None:
    family = CourierFamily(0, 8, fault="no_cost")
    with pytest.raises(TaskError, match="courier/train/1, iteration 0, episode 0, step 2"):
        solve_task(family, TASK, START, _settings(), collect=True)


def test_a_lake_is_solved_from_samples() -> None:
    """From data alone: reward at least 85 % of the optimum's (22 % at the start), cost at most 0.03 above its limit."""
    family = FrozenLake(seed=0, map_size=4, discount=0.9)
    task = draw_task(family, "frozen_lake", 0, "train", 0)
    start = Start(np.full((16, 4), 0.25), np.array([0.3, 0.3]))
    settings = _settings(
        evaluation="sampled", num_iterations=80, episodes_per_iteration=30, num_copies=30, tolerance=0.01
    )
    result, _ = solve_task(family, task, start, settings, collect=False)
    assert result.reference is not None
    reached = result.values[result.output]
    assert result.values[0, 0] < 0.25 * result.reference.values[0]
    assert reached[0] >= 0.85 * result.reference.values[0]
    assert reached[1] <= task.limits[0] + 0.03


class _Sleepy:
    """A family whose tasks wait before they can be made."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(COURIER, name)

    def make(self, parameters: Any) -> Any:
        time.sleep(self._seconds)
        return COURIER.make(parameters)


def test_cpu_time_is_that_of_the_process_and_not_that_of_the_clock() -> None:
    began = time.process_time()
    result, _ = solve_task(_Sleepy(0.3), TASK, START, _settings(evaluation="sampled"), collect=True)
    whole = time.process_time() - began
    assert result.seconds > 0.3
    assert 0.0 < result.facts["cpu_seconds"] <= whole
    assert result.facts["cpu_seconds"] < result.seconds
