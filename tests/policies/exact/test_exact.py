from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

import policies.exact.solver
from policies.exact.solver import (
    ExactModel,
    InfeasibleError,
    cost_range,
    evaluate,
    occupancy,
    optimal_policy,
    policy_transitions,
)
from tasks.contract.tabular_model import FloatArray, TabularModel
from tasks.lakes.frozen_lake import FrozenLake
from tests.support.problems import (
    PROBLEMS,
    Problem,
    dense_transitions,
    interior_limits,
    random_cmdp,
    random_policy,
    tabular,
    two_states,
    two_states_values,
    uniform_policy,
)

RANDOM = [
    random_cmdp(seed, states, actions, costs, discount)
    for seed, (states, actions, costs, discount) in enumerate(
        [(1, 2, 1, 0.5), (2, 3, 1, 0.9), (5, 3, 2, 0.8), (7, 4, 3, 0.95), (20, 2, 1, 0.99)]
    )
]


def _policy(model: TabularModel, seed: int = 0) -> FloatArray:
    return random_policy(seed, model.num_states, model.num_actions)


def _bellman_optimum(model: TabularModel, gains: FloatArray) -> FloatArray:
    """V* [S] of maximising ``gains`` [S, A] by value iteration on the dense kernel."""
    kernel, values = dense_transitions(model), np.zeros(model.num_states)
    for _ in range(10_000):
        improved = (gains + model.discount * kernel @ values).max(axis=1)
        if np.abs(improved - values).max() < 1e-14:
            return improved
        values = improved
    return values


def _sink(num_states: int, discount: float = 0.9) -> TabularModel:
    """A ring of states: action 0 advances, action 1 stays; sparse however large."""
    states = np.arange(num_states)
    rng = np.random.default_rng(num_states)
    return TabularModel(
        pairs=np.arange(2 * num_states),
        next_states=np.stack([(states + 1) % num_states, states], axis=1).ravel(),
        probabilities=np.ones(2 * num_states),
        reward=rng.random((num_states, 2)),
        costs=rng.random((1, num_states, 2)),
        initial=np.full(num_states, 1.0 / num_states),
        absorbing=np.zeros(num_states, dtype=np.bool_),
        discount=discount,
    )


@pytest.mark.parametrize("model", RANDOM)
def test_values_and_occupancy_are_those_of_dense_linear_algebra(model: TabularModel) -> None:
    policy, kernel = _policy(model), dense_transitions(model)
    chain = np.einsum("sa,sat->st", policy, kernel)
    resolvent = np.linalg.inv(np.eye(model.num_states) - model.discount * chain)
    result = evaluate(ExactModel(model), policy)
    for i, gains in enumerate([model.reward, *model.costs]):
        values = resolvent @ (policy * gains).sum(axis=1)
        np.testing.assert_allclose(result.state_values[i], values, rtol=1e-11)
        np.testing.assert_allclose(result.action_values[i], gains + model.discount * kernel @ values, rtol=1e-11)
        assert result.values[i] == pytest.approx(model.initial @ values, rel=1e-11)
    expected = (1.0 - model.discount) * model.initial @ resolvent
    np.testing.assert_allclose(occupancy(ExactModel(model), policy), expected, rtol=1e-10)


@pytest.mark.parametrize("model", RANDOM)
def test_value_is_what_the_occupancy_collects(model: TabularModel) -> None:
    exact, policy = ExactModel(model), _policy(model)
    nu = occupancy(exact, policy)
    assert nu.sum() == pytest.approx(1.0, abs=1e-12)
    assert (nu > 0.0).all()
    collected = np.einsum("s,sa,isa->i", nu, policy, model.objectives) / (1.0 - model.discount)
    np.testing.assert_allclose(evaluate(exact, policy).values, collected, rtol=1e-11)


@pytest.mark.parametrize("model", RANDOM)
def test_action_values_average_to_state_values(model: TabularModel) -> None:
    policy = _policy(model)
    result = evaluate(ExactModel(model), policy)
    np.testing.assert_allclose((policy * result.action_values).sum(axis=-1), result.state_values, rtol=1e-12)
    np.testing.assert_allclose((policy * result.advantages()).sum(axis=-1), 0.0, atol=1e-11)


@pytest.mark.parametrize("model", RANDOM)
def test_performance_difference_lemma(model: TabularModel) -> None:
    exact, old, new = ExactModel(model), _policy(model, 1), _policy(model, 2)
    before, after = evaluate(exact, old), evaluate(exact, new)
    lemma = np.einsum("s,sa,isa->i", occupancy(exact, new), new, before.advantages()) / (1.0 - model.discount)
    np.testing.assert_allclose(after.values - before.values, lemma, atol=1e-11)


def test_values_are_the_discounted_sums_of_a_deterministic_path() -> None:
    model = tabular(
        np.roll(np.eye(3), 1, axis=1)[:, None, :],
        np.array([[1.0], [10.0], [100.0]]),
        np.ones((1, 3, 1)),
        np.eye(3)[0],
        0.5,
    )
    values = evaluate(ExactModel(model), np.ones((3, 1))).values
    cycle = (1.0 + 10.0 * 0.5 + 100.0 * 0.25) / (1.0 - 0.125)
    np.testing.assert_allclose(values, [cycle, 2.0], rtol=1e-14)


def test_policy_transitions_mix_actions() -> None:
    model = RANDOM[2]
    chain = policy_transitions(ExactModel(model), _policy(model)).toarray()
    np.testing.assert_allclose(chain, np.einsum("sa,sat->st", _policy(model), dense_transitions(model)), rtol=1e-13)


@pytest.mark.parametrize("num_states", [3, policies.exact.solver.DENSE_STATES, policies.exact.solver.DENSE_STATES + 1])
def test_dense_and_sparse_paths_agree(num_states: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ExactModel(_sink(num_states))
    policy = _policy(model.tabular)
    results = {}
    for boundary in (0, policies.exact.solver.DENSE_STATES, 10 * num_states):
        monkeypatch.setattr(policies.exact.solver, "DENSE_STATES", boundary)
        results[boundary] = evaluate(model, policy), occupancy(model, policy)
    values, visits = results.pop(0)
    for other_values, other_visits in results.values():
        np.testing.assert_allclose(values.action_values, other_values.action_values, rtol=1e-11)
        np.testing.assert_allclose(visits, other_visits, rtol=1e-11)


@pytest.mark.parametrize(
    "model", [*RANDOM, *(problem.model for problem in PROBLEMS)], ids=lambda model: model.num_states
)
def test_dense_and_sparse_bellman_matrices_are_equal_to_the_last_bit(
    model: TabularModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact, policy = ExactModel(model), _policy(model)
    dense = policies.exact.solver.bellman_matrix(exact, policy)
    monkeypatch.setattr(policies.exact.solver, "DENSE_STATES", 0)
    sparse = policies.exact.solver.bellman_matrix(exact, policy)
    assert isinstance(dense, np.ndarray)
    assert dense.tobytes() == np.ascontiguousarray(sparse.toarray()).tobytes()


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_programme_finds_the_closed_form_optimum(problem: Problem) -> None:
    exact = ExactModel(problem.model)
    found = optimal_policy(exact, problem.limits)
    np.testing.assert_allclose(evaluate(exact, problem.policy).values, problem.values, rtol=1e-12)
    np.testing.assert_allclose(found.values, problem.values, rtol=1e-9)
    np.testing.assert_allclose(found.policy, problem.policy, atol=1e-9)
    np.testing.assert_allclose(found.occupancy, occupancy(exact, problem.policy), atol=1e-9)
    np.testing.assert_allclose(optimal_policy(exact).values, problem.unconstrained, atol=1e-9)


@pytest.mark.parametrize("discount", [0.5, 0.8, 0.95])
def test_programme_beats_every_member_of_a_one_parameter_family(discount: float) -> None:
    problem = two_states(discount)
    family = np.array([two_states_values(chance, discount) for chance in np.linspace(0.0, 1.0, 10_001)])
    found = optimal_policy(ExactModel(problem.model), problem.limits).values
    best = family[family[:, 1] <= problem.limits[0], 0].max()
    steepest = np.abs(np.diff(family[:, 0])).max()
    assert best - 1e-9 <= found[0] <= best + steepest


@pytest.mark.parametrize("model", RANDOM)
def test_unconstrained_programme_is_value_iteration(model: TabularModel) -> None:
    exact = ExactModel(model)
    found = optimal_policy(exact)
    assert found.values[0] == pytest.approx(model.initial @ _bellman_optimum(model, model.reward), rel=1e-9)
    for i, cost in enumerate(model.costs):
        least = -(model.initial @ _bellman_optimum(model, -cost))
        assert optimal_policy(exact, objective=i + 1).values[i + 1] == pytest.approx(least, rel=1e-9)


@pytest.mark.parametrize("seed", range(10))
def test_constrained_programme_is_its_lagrangian_dual(seed: int) -> None:
    model = random_cmdp(seed, 4, 3, 1, 0.8)
    limits = interior_limits(model, 0.5)

    def dual(price: float) -> float:
        return float(model.initial @ _bellman_optimum(model, model.reward - price * model.costs[0]) + price * limits[0])

    smallest = minimize_scalar(dual, bounds=(0.0, 100.0), method="bounded", options={"xatol": 1e-10}).fun
    found = optimal_policy(ExactModel(model), limits)
    assert found.values[0] == pytest.approx(smallest, abs=1e-6)
    assert found.values[1] == pytest.approx(limits[0], abs=1e-8)


@pytest.mark.parametrize("seed", range(5))
def test_limits_of_any_policy_are_feasible_and_its_reward_is_beaten(seed: int) -> None:
    model = ExactModel(random_cmdp(seed, 4, 3, 2, 0.8))
    for other in range(10):
        values = evaluate(model, _policy(model.tabular, other)).values
        found = optimal_policy(model, values[1:])
        assert (found.values[1:] <= values[1:] + 1e-8).all()
        assert values[0] < found.values[0] <= optimal_policy(model).values[0] + 1e-9


def test_least_reward_is_kept() -> None:
    model = RANDOM[2]
    cheapest, richest = optimal_policy(ExactModel(model), objective=1), optimal_policy(ExactModel(model))
    wanted = 0.5 * (cheapest.values[0] + richest.values[0])
    found = optimal_policy(ExactModel(model), objective=1, least_reward=wanted)
    assert found.values[0] == pytest.approx(wanted, rel=1e-8)
    assert cheapest.values[1] < found.values[1] < richest.values[1]


def test_limits_below_the_least_cost_are_infeasible() -> None:
    for model in RANDOM[:4]:
        exact = ExactModel(model)
        limits = np.full(model.num_costs, 1e6)
        limits[0] = cost_range(exact).least[0]
        assert optimal_policy(exact, limits + 1e-6).values[1] == pytest.approx(limits[0], abs=2e-6)
        with pytest.raises(InfeasibleError, match="no policy keeps"):
            optimal_policy(exact, limits - 1e-3)


def test_limits_that_exclude_each_other_are_infeasible() -> None:
    model = tabular(np.ones((1, 2, 1)), np.zeros((1, 2)), np.eye(2)[:, None, :], np.ones(1), 0.9)
    optimal_policy(ExactModel(model), np.array([5.0, 5.0]))
    with pytest.raises(InfeasibleError):
        optimal_policy(ExactModel(model), np.array([4.9, 4.9]))


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_cost_range_of_closed_forms(problem: Problem) -> None:
    found = cost_range(ExactModel(problem.model))
    np.testing.assert_allclose(found.least, problem.least, atol=1e-9)
    np.testing.assert_allclose(found.unconstrained, problem.unconstrained[1:], atol=2e-5)


def test_cost_range_takes_the_cheapest_of_equally_rewarded_policies() -> None:
    costs = np.array([[[1.0, 0.25, 0.0]], [[0.5, 2.0, 0.0]]])
    model = tabular(np.ones((1, 3, 1)), np.array([[1.0, 1.0, 0.0]]), costs, np.ones(1), 0.9)
    found = cost_range(ExactModel(model))
    np.testing.assert_allclose(found.least, [0.0, 0.0], atol=1e-9)
    np.testing.assert_allclose(found.unconstrained, [2.5, 5.0], atol=1e-5)


def test_absorbing_and_unreached_states_get_the_uniform_policy() -> None:
    plain = two_states().model
    reward, costs = plain.reward.copy(), plain.costs.copy()
    reward[1], costs[:, 1] = reward[1, 0], costs[:, 1, :1]  # an absorbing state is alike for all actions
    model = dataclasses.replace(plain, reward=reward, costs=costs, absorbing=np.array([False, True]))
    np.testing.assert_array_equal(optimal_policy(ExactModel(model), np.array([3.0])).policy[1], [0.5, 0.5])
    np.testing.assert_allclose(optimal_policy(ExactModel(two_states().model), np.zeros(1)).policy, [[1, 0], [0.5, 0.5]])


def test_evaluation_survives_a_million_steps_of_horizon() -> None:
    model = dataclasses.replace(RANDOM[2], discount=1.0 - 1e-6)
    exact = ExactModel(model)
    assert occupancy(exact, uniform_policy(model)).sum() == pytest.approx(1.0, abs=1e-8)


@pytest.mark.parametrize("map_size", [8, 16])
def test_programme_on_lakes_is_value_iteration(map_size: int) -> None:
    family = FrozenLake(seed=3, map_size=map_size)
    model = family.model(family.parameters("train", 0, 0))
    exact = ExactModel(model)
    reward, cost = _bellman_optimum(model, model.reward), -_bellman_optimum(model, -model.costs[0])
    assert optimal_policy(exact).values[0] == pytest.approx(model.initial @ reward, abs=1e-7)
    assert optimal_policy(exact, objective=1).values[1] == pytest.approx(model.initial @ cost, abs=1e-6)


@pytest.mark.slow
def test_programme_solves_a_lake_of_4096_states() -> None:
    family = FrozenLake(seed=3, map_size=64)
    exact = ExactModel(family.model(family.parameters("train", 0, 0)))
    free = optimal_policy(exact)
    limits = 0.5 * free.values[1:]
    found = optimal_policy(exact, limits)
    assert exact.shape == (4096, 4)
    assert found.occupancy.sum() == pytest.approx(1.0, abs=1e-9)
    assert found.values[1] <= limits[0] + 1e-4
    assert 0.0 < found.values[0] <= free.values[0] + 1e-7
    assert evaluate(exact, uniform_policy(exact.tabular)).values[0] < found.values[0]
