"""Every rule on tables: the linear programme's optimum, the returns of any p, the same bits."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from policies.common.results import Solution
from policies.exact.softmax import kl_divergence
from policies.exact.solver import ExactModel, evaluate, occupancy, optimal_policy
from policies.rules.rule_registry import RULES
from policies.tabular.crpo import ExactEvaluator, WithinTaskSettings, solve
from policies.tabular.empirical import TransitionCounts, empirical_visits
from tasks.contract.tabular_model import FloatArray
from tests.policies.tabular.test_empirical import _data_of, _rational_model
from tests.support.problems import interior_limits, random_cmdp, random_policy

ABSOLUTE = {"units": "absolute"}
METHODS: dict[str, tuple[dict[str, Any], float]] = {
    "crpo": ({}, 0.05),
    "npg_primal_dual": ({"dual_rate": 0.05}, 0.03),
    "cpo": ({}, 1e-4),
    "ppo_lagrangian": ({**ABSOLUTE, "integral": 0.05}, 0.02),
    "p3o": ({**ABSOLUTE, "penalty": 5.0}, 0.05),
    "c_trpo": ({"recover_to": 0.95}, 0.01),
    "pcrpo": ({"below": 0.01, "above": 0.01}, 0.05),
}
"""Settings on small random problems, and the largest gap to the optimum after 600 iterations of rate 0.05."""


def _solve(model: ExactModel, limits: FloatArray, method: str, seed: int = 0, **settings: Any) -> Solution:
    given = {"num_iterations": 600, "method": {"name": method, **METHODS[method][0]}, **settings}
    chosen, rates = WithinTaskSettings.model_validate(given), np.full(1 + limits.size, 0.05)
    rng = np.random.default_rng(seed)
    return solve(ExactEvaluator(model), np.zeros(model.shape), rates, limits, chosen, model.tabular.discount, rng)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("seed", "costs"),
    [(0, 2), *(pytest.param(seed, costs, marks=pytest.mark.slow) for seed in range(6) for costs in (1, 2))],
)
def test_ends_at_the_optimum_of_the_programme(method: str, costs: int, seed: int) -> None:
    model = ExactModel(random_cmdp(seed, 5, 3, costs, 0.8))
    limits = interior_limits(model.tabular, 0.5)
    assert (optimal_policy(model).values[1:] > limits).any()
    solution = _solve(model, limits, method)
    reached = evaluate(model, np.exp(solution.logits)).values
    assert solution.feasible
    assert (reached[1:] <= limits).all()
    assert -1e-6 <= optimal_policy(model, limits).values[0] - reached[0] <= METHODS[method][1]


@pytest.mark.parametrize("method", METHODS)
def test_what_is_recorded_of_a_step_is_what_was_taken(method: str) -> None:
    """log Z is the divergence of each step, and the same task gives the same bits, from fresh memory."""
    model = ExactModel(random_cmdp(2, 5, 3, 3, 0.8))
    limits = interior_limits(model.tabular, 0.4)
    first, again = (_solve(model, limits, method, num_iterations=25) for _ in range(2))
    policies = np.exp(first.iterates)
    np.testing.assert_allclose(first.log_normalizers, kl_divergence(policies[:-1], policies[1:]), atol=1e-12)
    np.testing.assert_allclose(policies.sum(axis=-1), 1.0, rtol=1e-12)
    for field in dataclasses.fields(Solution):
        np.testing.assert_array_equal(getattr(first, field.name), getattr(again, field.name))


def test_cpo_and_c_trpo_exceed_limits_less_than_crpo() -> None:
    """From a start that keeps the limit, on problems whose best policy without it does not; over 200 iterations."""
    means: dict[str, list[float]] = {"crpo": [], "cpo": [], "c_trpo": []}
    for seed in range(12):
        model = ExactModel(random_cmdp(seed, 5, 3, 1, 0.8))
        start = evaluate(model, np.full(model.shape, 1.0 / 3.0)).values[1:]
        greedy = optimal_policy(model).values[1:]
        for method, found in means.items():
            if (greedy > start + 0.1).all():
                values = _solve(model, 0.5 * (start + greedy), method, num_iterations=200).values
                found.append(float(np.maximum(values[:, 1:] - 0.5 * (start + greedy), 0.0).mean()))
    assert len(means["crpo"]) >= 3
    assert np.mean(means["crpo"]) > 1e-3
    assert np.mean(means["cpo"]) < 0.2 * np.mean(means["crpo"])
    assert np.mean(means["c_trpo"]) < 0.2 * np.mean(means["crpo"])


def test_every_rule_is_tested_here() -> None:
    assert set(METHODS) == set(RULES)


@pytest.mark.parametrize("seed", range(2))
def test_empirical_visits_are_those_of_the_model_that_the_data_are_from(seed: int) -> None:
    model, policy = _rational_model(seed), random_policy(seed, 4, 3)
    counts = TransitionCounts(4, 3, 2)
    counts.add(_data_of(model))
    np.testing.assert_allclose(
        empirical_visits(counts.model(0.9), policy), occupancy(ExactModel(model), policy), atol=1e-12
    )
