"""Finding the hidden context of a new task by its first batch."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from policies.common.results import Start
from policies.neural.context_probe import best_context, probe_context, spread_contexts, surrogate
from policies.neural.kind import NEURAL
from policies.neural.neural_settings import NeuralSettings
from policies.neural.policy_state import PolicyState, new_policy
from policies.solving.solve_task import solve_task
from tasks.contract.context import ContextSpace
from tasks.contract.contextual_family import Contexts, ContextualFamily
from tasks.contract.task import Task
from tests.support.goal_family import GoalFamily

SETTINGS = NeuralSettings(num_iterations=1, steps_per_iteration=200, num_copies=10, hidden=(), critic_hidden=())
KNOWN = np.linspace(-1.0, 1.0, 21)[:, None]


def _family(*, hidden: bool = True) -> ContextualFamily:
    space = ContextSpace(("goal",), np.zeros(1), np.ones(1), np.array([-1.0]), np.array([1.0]), False)
    return ContextualFamily(GoalFamily(seed=0, cost_limits=(50.0,)), Contexts(space, KNOWN, hidden))


def _goes_to_its_context() -> PolicyState:
    """A linear actor whose mean action is the context."""
    policy = new_policy(2, 1, 1, continuous=True, hidden=(), critic_hidden=(), log_std=-4.0)
    policy.actor.network.part(policy.actor.vector, "weights_0")[:] = [[0.0], [1.0]]
    return dataclasses.replace(policy, statistics=dataclasses.replace(policy.statistics, count=1.0))


def _task(goal: float) -> Task:
    return Task("goal", "test", 0, 3, {"goal": goal}, (50.0,))


@pytest.mark.parametrize("goal", [-0.83, 0.0, 0.41, 0.97])
def test_probing_finds_the_context_under_which_the_start_does_best(goal: float) -> None:
    found = probe_context(_family(), _task(goal), Start(_goes_to_its_context(), np.ones(2)), SETTINGS)
    assert abs(float(found.context[0]) - goal) <= 0.2
    assert found.steps == SETTINGS.steps_per_iteration


def test_a_task_with_a_hidden_context_is_solved_under_the_one_that_was_found() -> None:
    start = Start(_goes_to_its_context(), np.full(2, 1e-6))
    hidden, _ = solve_task(_family(), _task(0.4), start, SETTINGS, collect=False)
    given, _ = solve_task(_family(hidden=False), _task(0.4), start, SETTINGS, collect=False)
    assert hidden.context is not None
    assert given.context is not None
    assert given.context.tolist() == [0.4]
    assert abs(float(hidden.context[0]) - 0.4) <= 0.2
    assert (hidden.probe_steps, given.probe_steps) == (200, 0)
    assert hidden.env_steps == given.env_steps + 200
    wrong = _family().with_context(np.array([-1.0]))
    far, _ = solve_task(wrong, _task(0.4), start, SETTINGS, collect=False)
    assert hidden.values[0, 0] > far.values[0, 0] + 5.0


def test_training_tasks_show_their_context() -> None:
    task = dataclasses.replace(_task(0.3), split="train")
    settled = NEURAL.settle(_family(), task, Start(_goes_to_its_context(), np.ones(2)), SETTINGS)
    assert settled.steps == 0
    assert settled.context is not None
    assert settled.context.tolist() == [0.3]


def test_tried_contexts_are_spread_over_the_known_ones() -> None:
    tried = spread_contexts(KNOWN, 5)[:, 0]
    assert tried[0] == 0.0
    assert sorted(tried.tolist()) == pytest.approx([-1.0, -0.5, 0.0, 0.5, 1.0])
    assert sorted(spread_contexts(KNOWN[:2], 4)[:, 0].tolist()) == pytest.approx([-1.0, -1.0, -0.9, -0.9])


def test_the_surrogate_interpolates_and_smooths() -> None:
    rng = np.random.default_rng(0)
    tried = np.linspace(-1.0, 1.0, 15)[:, None]
    exact = surrogate(tried, -10.0 * (tried[:, 0] - 0.3) ** 2 + 7.0, KNOWN)
    np.testing.assert_allclose(exact, -10.0 * (KNOWN[:, 0] - 0.3) ** 2 + 7.0, atol=0.2)
    better = 0
    for _ in range(20):
        noise = rng.normal(0.0, 1.0, 15)
        smooth = surrogate(tried, 3.0 * tried[:, 0] + noise, tried) - 3.0 * tried[:, 0]
        better += int((smooth**2).mean() < (noise**2).mean())
    assert better >= 17
    np.testing.assert_array_equal(surrogate(tried, np.full(15, 2.0), KNOWN), np.full(21, 2.0))


def test_the_best_context_keeps_the_limits_or_violates_least() -> None:
    tried = np.linspace(-1.0, 1.0, 11)[:, None]
    values = np.column_stack([tried[:, 0], 5.0 + 5.0 * tried[:, 0]])
    assert abs(KNOWN[best_context(tried, values, KNOWN, np.array([6.0])), 0] - 0.2) <= 0.11
    assert KNOWN[best_context(tried, values, KNOWN, np.array([-1.0])), 0] == -1.0
