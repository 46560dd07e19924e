from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from meta.learning.bounds import (
    a_priori_tolerance,
    best_learning_rate,
    initialization_loss,
    measured_curvature,
    per_run_inequality,
    regret_sides,
    shared_curvature,
    upper_bound,
    worst_case_curvature,
)
from policies.common.branches import REWARD_BRANCH
from policies.common.results import Solution
from policies.exact.softmax import kl_divergence
from policies.exact.solver import evaluate, occupancy
from tasks.contract.tabular_model import FloatArray
from tests.support.meta_helpers import ExactTask, exact_tasks, random_rows, random_task, run_crpo
from tests.support.problems import uniform_policy

TASKS = exact_tasks()
RATES = (1e-4, 1e-2, 0.3, 3.0, 1e2, 1e4)


def regret_gap(task: ExactTask, solution: Solution, policy: FloatArray) -> float:
    """The identity's left side minus its right side, relative to the left where that is large."""
    optimum, mass = evaluate(task.model, policy).values, occupancy(task.model, policy)
    left, right = regret_sides(solution, solution.values, optimum, policy, mass)
    return (left - right) / max(1.0, abs(left))


def comparisons(task: ExactTask, seed: int) -> list[FloatArray]:
    """The optimum, a random policy, and a deterministic one that has nothing to do with the task."""
    rng = np.random.default_rng(seed)
    size = task.model.shape
    deterministic = np.eye(size[1])[rng.integers(size[1], size=size[0])]
    return [task.optimum.policy, random_rows(rng, *size), deterministic]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("objective", [0, 1])
def test_regret_identity_of_one_objective(seed: int, objective: int) -> None:
    """Limits out of reach on one side or the other: every step is on the reward, or every step on the cost."""
    task = random_task(seed, num_costs=1)
    limit = np.array([1e6 if objective == 0 else 0.0])
    solution = run_crpo(
        task, np.array([0.05, 0.05]), limits=limit, start=random_rows(np.random.default_rng(seed), 6, 3)
    )
    assert (solution.branches == objective).all()
    for policy in comparisons(task, seed):
        assert abs(regret_gap(task, solution, policy)) < 1e-9


@pytest.mark.parametrize("seed", [0, 1, 2, 3, 5, 7])
@pytest.mark.parametrize("num_costs", [1, 2, 3])
def test_regret_identity_with_switching(seed: int, num_costs: int) -> None:
    task = random_task(seed, num_costs, fraction=0.5)
    rates = np.random.default_rng(seed).uniform(0.05, 0.3, size=1 + num_costs)
    solution = run_crpo(task, rates, num_iterations=30, choice="random")
    assert np.unique(solution.branches).size > 1
    for policy in comparisons(task, seed):
        assert abs(regret_gap(task, solution, policy)) < 1e-9


@pytest.mark.parametrize("rate", [1e2, 1e4])
def test_regret_identity_at_huge_rates(rate: float) -> None:
    task = random_task(0, num_costs=1)
    solution = run_crpo(task, np.array([rate, rate]))
    for policy in comparisons(task, 0):
        assert abs(regret_gap(task, solution, policy)) < 1e-9


def test_regret_identity_breaks_when_a_step_is_attributed_to_the_wrong_objective() -> None:
    task = random_task(0, num_costs=1)
    solution = run_crpo(task, np.array([0.1, 0.1]), num_iterations=30)
    swapped = dataclasses.replace(solution, branches=1 - solution.branches)
    assert abs(regret_gap(task, swapped, task.optimum.policy)) > 1e-2


def inequality_sides(task: ExactTask, solution: Solution, tolerance: FloatArray) -> tuple[float, float]:
    best = task.optimum
    return per_run_inequality(solution, solution.values, best.values, tolerance, best.policy, best.occupancy)


def programme_slack(task: ExactTask, solution: Solution) -> float:
    """By how much the linear programme's own tolerance may break the inequality: J_i(pi*) exceeds d_i by rounding."""
    excess = np.maximum(task.optimum.values[1:] - task.limits, 0.0)
    on_cost = solution.branches != REWARD_BRANCH
    return float(-solution.steps[on_cost] @ excess[solution.branches[on_cost] - 1])


@pytest.mark.parametrize("choice", ["largest", "random"])
@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("task", TASKS, ids=str)
def test_per_run_inequality_holds_at_every_rate(task: ExactTask, rate: float, choice: str) -> None:
    rates = rate * np.linspace(1.0, 2.0, task.limits.size + 1)
    for share in (0.0, 0.1, 1.0):
        tolerance = share * (task.limits + 1e-3)
        solution = run_crpo(task, rates, tolerance=tuple(tolerance.tolist()), choice=choice)
        left, right = inequality_sides(task, solution, tolerance)
        assert np.isfinite([left, right]).all()
        assert left <= right + programme_slack(task, solution) + 1e-9 * max(1.0, abs(right))


@pytest.mark.parametrize("task", TASKS, ids=str)
def test_per_run_inequality_is_loose_by_exactly_what_it_leaves_out(task: ExactTask) -> None:
    """right - left = E_{nu*}[KL(pi*||pi_M)] + sum over cost steps of alpha_i (J_i(pi_m) - J_i(pi*) - eta_i)."""
    solution = run_crpo(task, np.full(task.limits.size + 1, 0.01), tolerance=0.01)
    left, right = inequality_sides(task, solution, np.full(task.limits.size, 0.01))
    left_out = float(task.optimum.occupancy @ kl_divergence(task.optimum.policy, np.exp(solution.iterates[-1])))
    for values, branch, step in zip(solution.values, solution.branches, solution.steps, strict=False):
        if branch != REWARD_BRANCH:
            left_out += -step * (values[branch] - task.optimum.values[branch] - 0.01)
    assert right - left == pytest.approx(left_out, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("rate", [1e-3, 1e-2, 0.1, 1.0, 100.0])
@pytest.mark.parametrize("task", TASKS, ids=str)
def test_a_priori_tolerance_keeps_its_three_promises(task: ExactTask, rate: float) -> None:
    count = 12
    model, best = task.model.tabular, task.optimum
    loss = initialization_loss(best.occupancy, best.policy, uniform_policy(model))
    worst = worst_case_curvature(float(model.objectives.max()), *task.model.shape, model.discount)

    def run(tolerance: float) -> Solution:
        return run_crpo(task, np.full(task.limits.size + 1, rate), num_iterations=count, tolerance=tolerance)

    tolerance, solution = a_priori_tolerance(run, loss, rate, count, best.occupancy, worst)
    measured = float((solution.log_normalizers @ best.occupancy).mean()) / rate**2
    on_reward = np.flatnonzero(solution.branches == REWARD_BRANCH)
    assert tolerance >= 2.0 * upper_bound(loss, rate, count, measured) - 1e-12
    assert on_reward.size > 0
    assert np.mean(best.values[0] - solution.values[on_reward, 0]) <= tolerance + 1e-7
    assert (solution.values[on_reward, 1:] <= task.limits + tolerance).all()


def test_a_priori_tolerance_is_smaller_than_what_any_policy_could_violate() -> None:
    """At a good rate the promise says something: less than half the distance from the worst policy to the limit."""
    task, count = random_task(0, num_costs=1), 400
    best = task.optimum
    loss = initialization_loss(best.occupancy, best.policy, uniform_policy(task.model.tabular))

    def run(tolerance: float) -> Solution:
        return run_crpo(task, np.full(2, 0.05), num_iterations=count, tolerance=tolerance)

    tolerance, _ = a_priori_tolerance(run, loss, 0.05, count, best.occupancy, np.inf)
    assert tolerance < 0.5 * (10.0 - task.limits[0])


@pytest.mark.parametrize("task", TASKS, ids=str)
def test_no_run_measures_more_than_the_worst_case(task: ExactTask) -> None:
    model = task.model.tabular
    worst = worst_case_curvature(float(model.objectives.max()), *task.model.shape, model.discount)
    for rate in RATES:
        rates = np.full(task.limits.size + 1, rate)
        solution = run_crpo(task, rates)
        measured = measured_curvature(solution.log_normalizers, solution.branches, rates, task.optimum.occupancy)
        assert np.nanmax(measured) <= worst


def test_worst_case_curvature_is_the_constant_of_crpo() -> None:
    assert worst_case_curvature(2.0, 3, 5, 0.5) == 2.0 * 4.0 * 15 / 0.125


@pytest.mark.parametrize("objective", [0, 1])
def test_measured_curvature_tends_to_the_variance_of_the_advantage(objective: int) -> None:
    """As alpha -> 0, log Z / alpha^2 -> Var_{a~pi}[A_i(s,a)] / (2 (1-gamma)^2)."""
    task = random_task(1, num_costs=1)
    policy = random_rows(np.random.default_rng(0), *task.model.shape)
    limits, rates = np.array([1e6 if objective == 0 else 0.0]), np.array([1e-5, 1e-5])
    solution = run_crpo(task, rates, num_iterations=1, start=policy, limits=limits)
    advantage = evaluate(task.model, policy).advantages()[objective]
    variance = (policy * advantage**2).sum(axis=1)
    expected = task.optimum.occupancy @ variance / (2.0 * 0.1**2)
    measured = measured_curvature(solution.log_normalizers, solution.branches, rates, task.optimum.occupancy)
    assert measured[objective] == pytest.approx(expected, rel=1e-3)
    assert np.isnan(measured[1 - objective])


def test_measured_curvature_averages_each_objective_over_its_own_steps() -> None:
    task, rates = random_task(2, num_costs=2), np.array([0.02, 0.05, 0.1])
    solution = run_crpo(task, rates, num_iterations=40, choice="random")
    assert set(solution.branches.tolist()) == {0, 1, 2}
    mass = task.optimum.occupancy
    steps: dict[int, list[float]] = {0: [], 1: [], 2: []}
    for before, after, branch in zip(solution.iterates[:-1], solution.iterates[1:], solution.branches, strict=True):
        steps[int(branch)].append(float(mass @ kl_divergence(np.exp(before), np.exp(after))) / rates[branch] ** 2)
    measured = measured_curvature(solution.log_normalizers, solution.branches, rates, mass)
    np.testing.assert_allclose(measured, [np.mean(steps[i]) for i in range(3)], rtol=1e-9)


def test_shared_curvatures_add_up_to_the_term_of_the_per_run_inequality() -> None:
    """sum_m E[log Z_m] = M sum_i alpha_i^2 b_i, and what was not measured stays NaN."""
    task, rates = random_task(2, num_costs=3), np.array([0.02, 0.05, 0.1, 0.07])
    solution = run_crpo(task, rates, num_iterations=40, choice="random")
    mass = task.optimum.occupancy
    measured = measured_curvature(solution.log_normalizers, solution.branches, rates, mass)
    shared = shared_curvature(measured, solution.branches)
    unmeasured = np.bincount(solution.branches, minlength=4) == 0
    np.testing.assert_array_equal(np.isnan(shared), unmeasured)
    total = 40 * np.nansum(rates**2 * shared)
    assert total == pytest.approx((solution.log_normalizers @ mass).sum(), rel=1e-12)
    assert (shared[~unmeasured] < measured[~unmeasured]).all()


@pytest.mark.parametrize(("loss", "curvature"), [(0.3, 20.0), (2.0, 1e-3), (1e-4, 5e4)])
def test_best_learning_rate_minimises_the_upper_bound(loss: float, curvature: float) -> None:
    best = best_learning_rate(loss, 7, curvature)
    found = minimize_scalar(
        lambda log_rate: np.log(upper_bound(loss, float(np.exp(log_rate)), 7, curvature)), bounds=(-20.0, 20.0)
    )
    assert np.log(best) == pytest.approx(found.x, abs=1e-4)
    assert upper_bound(loss, best, 7, curvature) == pytest.approx(2.0 * np.sqrt(loss * curvature / 7), rel=1e-12)


def test_initialization_loss_is_the_occupancy_weighted_divergence() -> None:
    rng = np.random.default_rng(0)
    policy, other, mass = random_rows(rng, 5, 4), random_rows(rng, 5, 4), rng.dirichlet(np.ones(5))
    direct = sum(
        mass[state] * policy[state, action] * np.log(policy[state, action] / other[state, action])
        for state in range(5)
        for action in range(4)
    )
    assert initialization_loss(mass, policy, other) == pytest.approx(direct, rel=1e-12)
    assert initialization_loss(mass, policy, policy) == 0.0
    deterministic = np.eye(4)[[0, 1, 2, 3, 0]]
    assert initialization_loss(mass, deterministic, np.full((5, 4), 0.25)) == pytest.approx(np.log(4.0), rel=1e-12)
