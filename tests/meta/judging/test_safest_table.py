"""The safest table: its direction is a gradient, its largest cost never rises and reaches the least one."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from scipy.special import logsumexp

from meta.judging.safest_table import SHARPNESS, safest_table
from policies.exact.softmax import log_policy
from policies.exact.solver import ExactModel, evaluate, optimal_policy
from tasks.contract.tabular_model import FloatArray
from tests.support.problems import random_cmdp

UNIFORM = log_policy(np.zeros((6, 3)))


def models(count: int, costs: int = 1) -> list[ExactModel]:
    return [ExactModel(random_cmdp(seed, 6, 3, costs, 0.9)) for seed in range(count)]


def soft_maximum(given: list[ExactModel], limits: FloatArray, logits: FloatArray) -> float:
    costs = np.array([evaluate(model, np.exp(logits)).values[1:] for model in given])
    return float(logsumexp(SHARPNESS * (costs - limits) / limits)) / SHARPNESS


def test_one_cost_of_one_task_falls_to_the_least_that_any_policy_reaches() -> None:
    (model,) = models(1)
    found = safest_table([model], np.array([[0.5]]), UNIFORM, 200)
    table = model.tabular
    negated = dataclasses.replace(table, reward=-table.costs[0])
    least = -optimal_policy(ExactModel(negated), np.array([1e6])).values[0]
    assert evaluate(model, np.exp(found)).values[1] == pytest.approx(least, abs=1e-6)


@pytest.mark.parametrize("costs", [1, 2])
def test_the_soft_maximum_falls_with_every_update(costs: int) -> None:
    given, limits = models(4, costs), np.full((4, costs), 0.4)
    seen = [soft_maximum(given, limits, safest_table(given, limits, UNIFORM, updates)) for updates in range(0, 12, 2)]
    assert all(later < earlier for earlier, later in itertools.pairwise(seen))


def test_no_policy_nearby_has_a_smaller_soft_maximum_in_the_end() -> None:
    given, limits = models(3), np.full((3, 1), 0.4)
    found = safest_table(given, limits, UNIFORM, 400)
    least, rng = soft_maximum(given, limits, found), np.random.default_rng(0)
    for _ in range(200):
        near = log_policy(found + rng.normal(scale=0.05, size=found.shape))
        assert soft_maximum(given, limits, near) > least - 1e-4


def test_a_rare_task_counts_as_much_as_frequent_ones() -> None:
    """Nine tasks are alike; the cost of the tenth is the opposite. The mean asks for it to suffer."""
    (model,) = models(1)
    table = model.tabular
    opposite = ExactModel(dataclasses.replace(table, costs=table.costs.max() - table.costs))
    given, limits = [*[model] * 9, opposite], np.full((10, 1), 0.5)
    costs = [evaluate(one, np.exp(safest_table(given, limits, UNIFORM, 300))).values[1] for one in (model, opposite)]
    assert abs(costs[0] - costs[1]) <= 0.5 * np.log(10) / SHARPNESS + 0.02, "equal but for the soft maximum's slack"
