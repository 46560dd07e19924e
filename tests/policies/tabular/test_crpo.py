from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pydantic
import pytest

from policies.common.branches import REWARD_BRANCH, choose_branch, choose_output, relative_violations
from policies.common.results import Solution
from policies.exact.softmax import kl_divergence, log_policy
from policies.exact.solver import Evaluation, ExactModel, evaluate, optimal_policy
from policies.tabular.crpo import ExactEvaluator, WithinTaskSettings, solve
from tasks.contract.tabular_model import FloatArray
from tests.support.few_variants import few
from tests.support.problems import PROBLEMS, Problem, interior_limits, random_cmdp, uniform_policy

LIMITS = np.array([1.0, 10.0, 4.0])
NO_TOLERANCE = np.zeros(3)


@dataclasses.dataclass
class Script:
    """An evaluator that returns given values: ``values`` [M+1, 1+p] and one action-value table per objective."""

    values: FloatArray
    action_values: FloatArray
    asked: list[int] = dataclasses.field(default_factory=list)

    def evaluate(self, policy: FloatArray, iteration: int) -> Evaluation:
        self.asked.append(iteration)
        state_values = np.einsum("sa,isa->is", policy, self.action_values)
        return Evaluation(self.values[iteration], state_values, self.action_values)

    def evaluate_last(self, policy: FloatArray) -> Evaluation:
        return self.evaluate(policy, len(self.values) - 1)


def _run(values: Sequence[Sequence[float]], seed: int = 0, **settings: Any) -> Solution:
    """CRPO on scripted values with limits 1 for every cost, rates 0.1, 0.2, 0.3, ... and 1 state."""
    table = np.array(values)
    objectives = table.shape[1]
    script = Script(table, np.random.default_rng(1).random((objectives, 1, 3)))
    chosen = WithinTaskSettings(num_iterations=len(table) - 1, **settings)
    rates, limits = 0.1 * np.arange(1, objectives + 1), np.ones(objectives - 1)
    return solve(script, np.zeros((1, 3)), rates, limits, chosen, 0.5, np.random.default_rng(seed))


def _solve_exactly(
    model: ExactModel, limits: FloatArray, rates: FloatArray, seed: int = 0, **settings: Any
) -> Solution:
    chosen = WithinTaskSettings(**settings)
    rng = np.random.default_rng(seed)
    return solve(ExactEvaluator(model), np.zeros(model.shape), rates, limits, chosen, model.tabular.discount, rng)


def _branch(costs: Sequence[float], rule: str, tolerance: FloatArray = NO_TOLERANCE, seed: int = 0) -> int:
    return choose_branch(np.array([0.0, *costs]), LIMITS, tolerance, rule, np.random.default_rng(seed))


@pytest.mark.parametrize("rule", ["largest", "first", "random"])
def test_reward_is_improved_up_to_the_limit_itself(rule: str) -> None:
    assert _branch([1.0, 10.0, 4.0], rule) == REWARD_BRANCH
    assert _branch([1.0, 10.0, 4.0 + 1e-9], rule) == 3


def test_largest_is_relative_to_the_limit() -> None:
    costs = [1.2, 16.0, 6.0]
    assert _branch(costs, "largest") == 2
    assert _branch(costs, "first") == 1
    assert _branch([2.0, 13.0, 4.0], "largest") == 1
    np.testing.assert_allclose(relative_violations(np.array([0.0, *costs]), LIMITS), [0.2, 0.6, 0.5], rtol=1e-12)


def test_largest_passes_over_a_tolerated_violation() -> None:
    assert _branch([1.2, 10.5, 4.0], "largest", np.array([0.3, 0.1, 0.0])) == 2


def test_a_limit_of_zero_takes_the_violation_itself() -> None:
    violations = relative_violations(np.array([[9.0, 0.25, 3.0]]), np.array([0.0, 2.0]))
    np.testing.assert_array_equal(violations, [[0.25, 0.5]])


def test_first_skips_kept_limits() -> None:
    assert _branch([1.0, 10.1, 40.0], "first") == 2


def test_random_takes_each_violated_cost_equally_often() -> None:
    draws = [_branch([1.2, 9.0, 400.0], "random", seed=seed) for seed in range(2000)]
    counts = np.bincount(draws, minlength=4)
    assert counts[[0, 2]].sum() == 0
    assert abs(counts[1] - 1000) < 5 * np.sqrt(500)


def test_tolerance_counts_per_cost() -> None:
    costs = [1.3, 10.3, 4.3]
    assert _branch(costs, "first", np.array([0.3, 0.2, 0.3])) == 2
    assert _branch(costs, "first", np.array([0.31, 0.31, 0.2])) == 3
    assert _branch(costs, "first", np.array([0.31, 0.31, 0.31])) == REWARD_BRANCH


VALUES = np.array([[5.0, 1.4], [3.0, 0.5], [4.0, 0.9], [1.0, 0.2], [9.0, 1.1]])
BRANCHES = np.array([1, 0, 0, 0])


def _output(rule: str, limit: float = 1.0, tolerance: float = 0.0, seed: int = 0) -> tuple[int, bool]:
    rng = np.random.default_rng(seed)
    return choose_output(VALUES, BRANCHES, np.array([limit]), np.array([tolerance]), rule, rng)


def test_best_is_the_feasible_iterate_of_most_reward() -> None:
    assert _output("best") == (2, True)
    assert _output("best", tolerance=0.15) == (4, True)


def test_last_is_the_last_feasible_iterate() -> None:
    assert _output("last") == (3, True)
    assert _output("last", tolerance=0.15) == (4, True)


def test_uniform_draws_from_the_iterates_improved_on_the_reward() -> None:
    draws = [_output("uniform", tolerance=0.15, seed=seed)[0] for seed in range(1500)]
    counts = np.bincount(draws, minlength=5)
    assert counts[[0, 4]].sum() == 0
    assert (np.abs(counts[1:4] - 500) < 5 * np.sqrt(1500 * 2 / 9)).all()


@pytest.mark.parametrize("rule", ["best", "last"])
def test_without_a_feasible_iterate_the_least_violation_is_chosen_and_reported(rule: str) -> None:
    assert _output(rule, limit=0.1) == (3, False)


def test_uniform_without_an_improved_iterate_takes_the_least_violation() -> None:
    values = np.array([[1.0, 2.0, 1.0], [1.0, 1.1, 1.7], [1.0, 1.4, 1.5]])
    rng = np.random.default_rng(0)
    assert choose_output(values, np.array([1, 2]), np.ones(2), np.zeros(2), "uniform", rng) == (0 + 2, False)


def test_branches_and_signed_rates_follow_the_values() -> None:
    solution = _run([[0, 0.5, 0.5], [0, 1.5, 1.2], [0, 1.1, 1.2], [0, 0.9, 3.0], [0, 1.0, 1.0]])
    np.testing.assert_array_equal(solution.branches, [0, 1, 2, 2])
    np.testing.assert_allclose(solution.steps, [0.1, -0.2, -0.3, -0.3])
    assert solution.values.shape == (5, 3)
    assert (solution.output, solution.feasible) == (0, True)


def test_each_objective_steps_at_its_own_rate() -> None:
    values = [[0, 0.5, 0.5], [0, 1.5, 0.5], [0, 0.5, 1.5], [0, 0, 0]]
    solution = _run(values)
    tables = np.random.default_rng(1).random((3, 1, 3))
    for step, (objective, rate) in enumerate([(0, 0.1), (1, -0.2), (2, -0.3)]):
        expected = log_policy(solution.iterates[step] + rate * tables[objective] / 0.5)
        np.testing.assert_allclose(solution.iterates[step + 1], expected, rtol=1e-12)


def test_recorded_normalisers_are_the_divergences_of_the_steps() -> None:
    model = ExactModel(random_cmdp(0, 5, 3, 2, 0.8))
    solution = _solve_exactly(model, interior_limits(model.tabular, 0.5), np.array([0.3, 0.2, 0.1]), num_iterations=30)
    policies = np.exp(solution.iterates)
    np.testing.assert_allclose(solution.log_normalizers, kl_divergence(policies[:-1], policies[1:]), atol=1e-12)
    assert np.unique(solution.branches).size > 1


def test_every_iterate_is_normalised_and_evaluated() -> None:
    model = ExactModel(random_cmdp(1, 4, 3, 1, 0.9))
    solution = _solve_exactly(model, interior_limits(model.tabular, 0.5), np.full(2, 0.2), num_iterations=7)
    assert solution.iterates.shape == (8, 4, 3)
    np.testing.assert_allclose(np.exp(solution.iterates).sum(axis=-1), 1.0, rtol=1e-13)
    for logits, values in zip(solution.iterates, solution.values, strict=True):
        np.testing.assert_allclose(evaluate(model, np.exp(logits)).values, values, rtol=1e-13)
    np.testing.assert_array_equal(solution.logits, solution.iterates[solution.output])


def test_evaluator_is_asked_once_for_each_iterate() -> None:
    script = Script(np.zeros((5, 2)), np.zeros((2, 1, 3)))
    settings = WithinTaskSettings(num_iterations=4)
    solve(script, np.zeros((1, 3)), np.ones(2), np.ones(1), settings, 0.5, np.random.default_rng(0))
    assert script.asked == [0, 1, 2, 3, 4]


def test_a_step_of_rate_zero_stays() -> None:
    solution = _solve_exactly(ExactModel(random_cmdp(2, 3, 2, 1, 0.9)), np.array([1e3]), np.zeros(2))
    np.testing.assert_allclose(solution.iterates - solution.iterates[0], 0.0, atol=1e-14)


def _check_against_programme(seed: int, num_costs: int, count: int, tolerance: float, gap: float, slack: float) -> None:
    """The output keeps d + eta, is at most ``gap`` below the optimum under d and ``slack`` below that under d + eta."""
    model = ExactModel(random_cmdp(seed, 5, 3, num_costs, 0.8))
    limits = interior_limits(model.tabular, 0.5)
    rates = np.full(1 + num_costs, 0.05)
    solution = _solve_exactly(model, limits, rates, num_iterations=count, tolerance=tolerance)
    reached = evaluate(model, np.exp(solution.logits)).values
    optimum, relaxed = (optimal_policy(model, limits + extra).values[0] for extra in (0.0, tolerance))
    assert (optimal_policy(model).values[1:] > limits + tolerance).any()
    assert solution.feasible
    assert (reached[1:] <= limits + tolerance).all()
    assert optimum - reached[0] <= gap
    assert -1e-8 <= relaxed - reached[0] <= slack


@pytest.mark.parametrize("num_costs", [1, 2, 3])
@pytest.mark.parametrize("seed", few(range(17), 0, 1, 2))
def test_ends_at_the_optimum_of_the_programme(seed: int, num_costs: int) -> None:
    """Values reach c_max / (1 - gamma) = 5: violation and gap are 0.4 % and 0.2 % of it."""
    _check_against_programme(seed, num_costs, count=500, tolerance=0.02, gap=0.01, slack=0.04)


@pytest.mark.slow
@pytest.mark.parametrize("num_costs", [1, 2, 3])
@pytest.mark.parametrize("seed", range(17))
def test_more_iterations_end_closer(seed: int, num_costs: int) -> None:
    _check_against_programme(seed, num_costs, count=2000, tolerance=0.005, gap=0.005, slack=0.02)


@pytest.mark.parametrize("problem", few(PROBLEMS, 0, -1), ids=str)
def test_ends_at_closed_form_optima(problem: Problem) -> None:
    model = ExactModel(problem.model)
    scale = 1.0 / (1.0 - problem.model.discount)
    tolerance = 0.002 * scale
    rates = np.full(1 + problem.limits.size, 0.02 / scale)
    solution = _solve_exactly(model, problem.limits, rates, num_iterations=3000, tolerance=tolerance)
    reached = solution.values[solution.output]
    assert solution.feasible
    assert (reached[1:] <= problem.limits + tolerance).all()
    assert abs(reached[0] - problem.values[0]) <= 0.01 * scale


@pytest.mark.parametrize("output", ["best", "uniform", "last"])
@pytest.mark.parametrize("constraint_choice", few(["largest", "first", "random"], 0))
def test_every_rule_reaches_the_optimum(output: str, constraint_choice: str) -> None:
    model = ExactModel(random_cmdp(4, 5, 3, 2, 0.8))
    limits = interior_limits(model.tabular, 0.5)
    settings = {"output": output, "constraint_choice": constraint_choice, "num_iterations": 1500, "tolerance": 0.02}
    solution = _solve_exactly(model, limits, np.full(3, 0.05), **settings)
    reached = solution.values[solution.output]
    assert (reached[1:] <= limits + 0.02).all()
    if output != "uniform":
        assert optimal_policy(model, limits).values[0] - reached[0] <= 0.05
    assert solution.output in np.flatnonzero(np.append(solution.branches, 0) == REWARD_BRANCH)


def test_same_seed_gives_the_same_bits_and_another_seed_another_draw() -> None:
    model = ExactModel(random_cmdp(4, 5, 3, 3, 0.8))
    limits = interior_limits(model.tabular, 0.3)
    settings = {"num_iterations": 60, "constraint_choice": "random", "output": "uniform"}
    first, again, other = (_solve_exactly(model, limits, np.full(4, 0.2), seed, **settings) for seed in (0, 0, 1))
    for field in dataclasses.fields(Solution):
        np.testing.assert_array_equal(getattr(first, field.name), getattr(again, field.name))
    assert first.output != other.output or (first.branches != other.branches).any()


def test_tolerance_is_one_number_or_one_per_cost() -> None:
    np.testing.assert_array_equal(WithinTaskSettings(tolerance=0.1).tolerances(3), [0.1, 0.1, 0.1])
    np.testing.assert_array_equal(WithinTaskSettings(tolerance=(0.1, 0.2)).tolerances(2), [0.1, 0.2])
    for count in (1, 3):
        with pytest.raises(ValueError, match=rf"within_task.tolerance: 2 numbers given for {count} cost"):
            WithinTaskSettings(tolerance=(0.1, 0.2)).tolerances(count)


def test_solve_refuses_a_tolerance_of_the_wrong_length() -> None:
    with pytest.raises(ValueError, match="1 numbers given for 2"):
        _run([[0, 0, 0], [0, 0, 0]], tolerance=(0.1,))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_iterations", 0),
        ("tolerance", -0.1),
        ("tolerance", (0.1, -0.1)),
        ("constraint_choice", "smallest"),
        ("output", "first"),
        ("evaluation", "guessed"),
        ("episodes_per_iteration", 0),
        ("num_copies", 0),
        ("learning_rate", 0.1),
    ],
)
def test_settings_refuse_what_they_do_not_know(field: str, value: object) -> None:
    with pytest.raises(pydantic.ValidationError, match=field):
        WithinTaskSettings(**{field: value})


def test_a_safety_margin_is_a_smaller_limit() -> None:
    model = ExactModel(random_cmdp(4, 5, 3, 2, 0.9))
    limits = interior_limits(model.tabular, 0.4)
    start, rates = np.log(uniform_policy(model.tabular)), np.full(3, 0.3)

    def run(limits: FloatArray, margin: float) -> Solution:
        settings = WithinTaskSettings(num_iterations=20, safety_margin=margin)
        return solve(ExactEvaluator(model), start, rates, limits, settings, 0.9, np.random.default_rng(0))

    tightened, margin = run(0.8 * limits, 0.0), run(limits, 0.2)
    np.testing.assert_array_equal(margin.values, tightened.values)
    assert margin.output == tightened.output
    assert (margin.branches != run(limits, 0.0).branches).any()
