"""Reptile, MAML with a penalty and the multitask policy: closed forms, identities, finite differences."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from meta.methods.maml_penalty import PenaltyLearner, penalized_gradient
from meta.methods.multitask import mixture, multitask_policy, task_groups
from meta.methods.reptile import reptile_step
from policies.exact.softmax import log_policy, probabilities
from policies.exact.solver import ExactModel, evaluate, occupancy
from policies.tabular.crpo import WithinTaskSettings
from tasks.contract.tabular_model import FloatArray
from tests.support.meta_helpers import lake_task, random_task, run_crpo
from tests.support.problems import random_cmdp


def logits_of(seed: int, shape: tuple[int, int]) -> FloatArray:
    return log_policy(np.random.default_rng(seed).normal(size=shape))


def numerical(function: Callable[[FloatArray], float], point: FloatArray, width: float = 1e-6) -> FloatArray:
    """Central differences."""
    gradient = np.zeros_like(point)
    for index in np.ndindex(point.shape):
        step = np.zeros_like(point)
        step[index] = width
        gradient[index] = (function(point + step) - function(point - step)) / (2.0 * width)
    return gradient


def test_reptile_with_one_task_and_a_full_step_is_that_tasks_policy() -> None:
    start, adapted = logits_of(0, (5, 3)), logits_of(1, (5, 3))
    np.testing.assert_allclose(reptile_step(start, [adapted], 1.0), adapted, atol=1e-12)
    np.testing.assert_allclose(reptile_step(start, [adapted], 0.0), start, atol=1e-12)


def test_reptile_averages_logits() -> None:
    start, first, second = (logits_of(seed, (4, 3)) for seed in range(3))
    expected = probabilities(0.5 * start + 0.25 * first + 0.25 * second)
    np.testing.assert_allclose(np.exp(reptile_step(start, [first, second], 0.5)), expected, atol=1e-12)


@pytest.mark.parametrize("num_costs", [1, 2])
def test_the_penalized_gradient_is_that_of_finite_differences(num_costs: int) -> None:
    model = ExactModel(random_cmdp(3, num_states=5, num_actions=3, num_costs=num_costs, discount=0.8))
    penalties, logits = np.array([0.7, 2.0])[:num_costs], logits_of(4, (5, 3))

    def objective(z: FloatArray) -> float:
        values = evaluate(model, probabilities(z)).values
        return float(values[0] - penalties @ values[1:])

    found = penalized_gradient(model, probabilities(logits), penalties)
    np.testing.assert_allclose(found, numerical(objective, logits), atol=1e-7)
    assert np.abs(found).max() > 1e-3


def test_the_outer_step_climbs_the_penalized_objective_at_the_adapted_policy() -> None:
    """First-order: the start moves along the gradient taken at the adapted policy, whatever led there."""
    models = [ExactModel(random_cmdp(seed, 5, 3, 1, 0.8)) for seed in (0, 1)]
    adapted, start, penalties = [probabilities(logits_of(s, (5, 3))) for s in (5, 6)], logits_of(7, (5, 3)), np.ones(1)
    learner = PenaltyLearner(start.copy(), penalties, 1e-3)
    learner.update(models, adapted)
    mean = np.mean([penalized_gradient(m, p, penalties) for m, p in zip(models, adapted, strict=True)], axis=0)
    first_step = log_policy(start + 1e-3 * mean / (np.abs(mean) + 1e-8))  # Adam's first step: the sign, nearly
    np.testing.assert_allclose(learner.logits, first_step, atol=1e-9)


def test_the_mixture_of_one_task_is_the_task() -> None:
    model = ExactModel(random_cmdp(2, 6, 3, 2, 0.9))
    policy = probabilities(logits_of(0, (6, 3)))
    found, own = mixture([model], policy), evaluate(model, policy)
    np.testing.assert_allclose(found.values, own.values)
    np.testing.assert_allclose(found.advantages(), own.advantages(), atol=1e-12)


def test_a_natural_step_of_the_mixture_is_the_fisher_direction_of_the_mean_objective() -> None:
    """F x = g with g the gradient of the mean J_0 by finite differences and F the mean Fisher matrix."""
    models = [ExactModel(random_cmdp(seed, 4, 3, 1, 0.7)) for seed in (8, 9)]
    logits = logits_of(1, (4, 3))
    policy = probabilities(logits)

    def mean_reward(z: FloatArray) -> float:
        return float(np.mean([evaluate(model, probabilities(z)).values[0] for model in models]))

    visits = np.mean([occupancy(model, policy) for model in models], axis=0)
    fisher = np.zeros((12, 12))
    for state in range(4):
        row = policy[state]
        block = slice(3 * state, 3 * state + 3)
        fisher[block, block] = visits[state] * (np.diag(row) - np.outer(row, row))
    direction = (np.linalg.pinv(fisher) @ numerical(mean_reward, logits).ravel()).reshape(4, 3) * (1.0 - 0.7)
    found = mixture(models, policy).advantages()[0]
    centred = found - found.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(centred, direction - direction.mean(axis=1, keepdims=True), atol=1e-6)


def test_multitask_with_one_task_is_crpo() -> None:
    task = random_task(0, 2)
    settings, rates, start = WithinTaskSettings(num_iterations=40), np.full(3, 0.2), np.zeros((6, 3))
    solution = run_crpo(task, rates, num_iterations=40)
    found = multitask_policy([task.model], task.limits[None], start, rates, settings, group_size=4, seed=0)
    costs = solution.values[:-1, 1:]
    kept = np.flatnonzero((costs <= task.limits).all(axis=1))
    assert kept.size, "the case must have a feasible iterate"
    np.testing.assert_allclose(found, solution.iterates[kept[-1]], atol=1e-10)


def test_multitask_keeps_the_mean_limit_of_its_tasks() -> None:
    lakes = [lake_task(seed, 4, "high") for seed in range(4)]
    exact, limits = [lake.model for lake in lakes], np.array([lake.limits for lake in lakes])
    settings = WithinTaskSettings(num_iterations=60)
    found = multitask_policy(exact, limits, np.zeros((16, 4)), np.full(2, 0.5), settings, group_size=4, seed=0)
    values = np.mean([evaluate(model, np.exp(found)).values for model in exact], axis=0)
    uniform = np.mean([evaluate(model, np.full((16, 4), 0.25)).values for model in exact], axis=0)
    assert values[1] <= limits.mean() + 1e-9 < uniform[1]
    assert values[0] > uniform[0] + 0.04


def test_groups_go_round_all_tasks() -> None:
    assert list(task_groups(5, 2, 5)) == [[0, 1], [2, 3], [4, 0], [1, 2], [3, 4]]
    assert list(task_groups(2, 4, 2)) == [[0, 1], [0, 1]]
