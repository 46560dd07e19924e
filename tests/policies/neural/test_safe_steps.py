"""Safe steps of a network: costs of a candidate to first order, and plain CRPO where the bounds never bind."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from policies.common.results import Start, TaskResult
from policies.common.safety import Safety, SafetySettings
from policies.exact.drawing import draw_task
from policies.neural.crpo import fresh_policy
from policies.neural.neural_settings import NeuralSettings
from policies.neural.policy_state import PolicyState
from policies.neural.rollouts import NeuralRollouts, NeuralTransitions
from policies.neural.safe_steps import costs_of_episodes, moved_by, ratios
from policies.solving.solve_task import solve_task
from tasks.contract.task import TaskError
from tests.support.point_batch import PointBatch, PointFamily

SETTINGS = NeuralSettings(
    num_iterations=4, steps_per_iteration=200, num_copies=10, hidden=(8,), critic_hidden=(8,), dataset_size=60
)
FAMILY = PointFamily(0, 4)


def learned(settings: NeuralSettings = SETTINGS) -> PolicyState:
    """A policy that has seen observations and has a critic."""
    task = draw_task(FAMILY, "point", 0, "train", 1)
    start = Start(fresh_policy(PointBatch(1), settings, 0), np.full(2, 0.1))
    policy = solve_task(FAMILY, task, start, settings, collect=False)[0].policy
    assert isinstance(policy, PolicyState)
    return policy


def solved(limit: float, start: PolicyState, confidence: float | None = None, **changes: Any) -> TaskResult:
    task = dataclasses.replace(draw_task(FAMILY, "point", 0, "train", 0), limits=(limit,))
    safety = None if confidence is None else Safety(SafetySettings(confidence=confidence), np.zeros(1))
    settings = SETTINGS.model_copy(update=changes)
    return solve_task(FAMILY, task, Start(start, np.full(2, 0.1), safety=safety), settings, collect=False)[0]


def test_costs_to_first_order_by_hand() -> None:
    """Two copies of three steps; the first ends an episode after two, whose follower does not count."""
    signals = np.zeros((3, 2, 2), np.float32)
    signals[:, :, 1] = [[1.0, 2.0], [3.0, 4.0], [100.0, 6.0]]
    ended = np.array([[False, False], [True, False], [False, True]])
    empty = np.zeros((3, 2, 1), np.float32)
    data = NeuralTransitions(empty, empty, signals, ended, np.zeros_like(ended), np.zeros((0, 2), int), empty[0])
    ratio = np.array([[1.5, 1.0], [1.0, 0.5], [9.0, 2.0]])
    advantages = np.array([[2.0], [1.0], [1.0], [4.0], [1.0], [-1.0]], np.float32)
    found = costs_of_episodes(data, ratio, advantages, 0.5)
    first = (1.0 + 0.5 * 2.0) + 0.5 * 3.0
    second = 2.0 + 0.5 * (4.0 - 0.5 * 4.0) + 0.25 * (6.0 - 1.0)
    np.testing.assert_allclose(found[:, 0], [first, second])


def test_ratios_of_a_policy_to_itself_are_1_and_shares_of_a_step_lie_on_its_way() -> None:
    policy = learned()
    other = learned(SETTINGS.model_copy(update={"num_iterations": 5}))
    batch = PointBatch(10)
    data = NeuralRollouts(batch, batch.horizon, 0, "point").collect(policy, 0)
    assert ratios(policy, policy, data) == pytest.approx(1.0)
    assert abs(ratios(policy, other, data).mean() - 1.0) < 0.1
    assert moved_by(policy, other, 1.0) is other
    half = moved_by(policy, other, 0.5)
    middle = 0.5 * (policy.actor.vector + other.actor.vector)
    np.testing.assert_allclose(half.actor.vector, middle, rtol=1e-5, atol=1e-6)


def test_where_the_bounds_never_bind_it_is_plain_crpo_to_the_last_bit() -> None:
    start = learned()
    plain, safe = solved(1e6, start), solved(1e6, start, 0.95)
    assert safe.safety is not None
    assert (safe.safety.shares == 1.0).all()
    np.testing.assert_array_equal(safe.values, plain.values)
    assert isinstance(safe.policy, PolicyState)
    assert isinstance(plain.policy, PolicyState)
    for name, array in safe.policy.to_arrays().items():
        np.testing.assert_array_equal(array, plain.policy.to_arrays()[name])
    assert safe.env_steps == plain.env_steps + safe.safety.test_steps
    assert safe.safety.test_steps == 4 * 10 * PointBatch(1).horizon


def test_no_step_where_the_bounds_allow_none_and_the_critic_learns_on() -> None:
    start = learned()
    cost = float(solved(1e6, start, num_iterations=1, evaluate_last=False).values[0, 1])
    safe = solved(cost * (1.0 + 1e-6) + 1e-6, start, 0.9999, num_iterations=1, output="last")
    report = safe.safety
    assert report is not None
    assert report.shares.tolist() == [0.0]
    assert report.reasons[0].startswith("cost 1 ")
    policy = safe.policy
    assert isinstance(policy, PolicyState)
    np.testing.assert_array_equal(policy.actor.vector, start.actor.vector)
    np.testing.assert_array_equal(policy.statistics.mean, start.statistics.mean)


def test_too_few_copies_for_a_bound_are_an_error() -> None:
    few = {"num_copies": 5, "steps_per_iteration": 100}
    with pytest.raises(TaskError, match=r"5 test episodes are too few for a bound .* at least 8"):
        solved(1.0, learned(), 0.9, **few)
