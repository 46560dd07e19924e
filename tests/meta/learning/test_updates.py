from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from meta.learning.bounds import initialization_loss, upper_bound
from meta.learning.settings import InitializationSettings, LearningRateSettings
from meta.learning.updates import (
    initialization_gradient,
    leading_rates,
    log_rate_gradient,
    project_to_shrunk_simplex,
    scheduled_step,
)
from policies.tabular.kernel_table import leader, shrink
from tasks.contract.tabular_model import FloatArray
from tests.support.few_variants import few
from tests.support.meta_helpers import random_rows


def nearest(point: FloatArray, shrinkage: float) -> FloatArray:
    """The projection as a quadratic programme; taking a number off every coordinate does not change it."""
    actions = point.size
    point = point - point.max()
    scale = 1.0 + float(np.abs(point).max())
    result = minimize(
        lambda row: (0.5 * row @ row - row @ point) / scale,
        np.full(actions, 1.0 / actions),
        jac=lambda row: (row - point) / scale,
        method="SLSQP",
        bounds=[(shrinkage / actions, 1.0)] * actions,
        constraints={"type": "eq", "fun": lambda row: row.sum() - 1.0, "jac": np.ones_like},
        options={"ftol": 1e-15, "maxiter": 500},
    )
    assert result.success
    return np.asarray(result.x)


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("shrinkage", [1e-6, 0.05, 0.9])
@pytest.mark.parametrize("actions", [1, 2, 5, 9])
def test_projection_solves_the_quadratic_programme(actions: int, shrinkage: float, scale: float) -> None:
    points = np.random.default_rng(actions).normal(scale=scale, size=(10, actions))
    projected = project_to_shrunk_simplex(points, shrinkage)
    expected = np.array([nearest(point, shrinkage) for point in points])
    np.testing.assert_allclose(projected, expected, rtol=0.0, atol=1e-7)


@pytest.mark.parametrize("shrinkage", [1e-6, 0.05, 0.9])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6])
def test_projection_is_feasible_idempotent_and_optimal(shrinkage: float, scale: float) -> None:
    """Optimal: <x - P x, y - P x> <= 0 for every feasible y, so for every vertex of the set."""
    points = np.random.default_rng(3).normal(scale=scale, size=(50, 6))
    projected = project_to_shrunk_simplex(points, shrinkage)
    rounding = 1e-14 * max(scale, 1.0)
    np.testing.assert_allclose(projected.sum(axis=1), 1.0, rtol=0.0, atol=50 * rounding)
    assert projected.min() >= shrinkage / 6
    np.testing.assert_allclose(project_to_shrunk_simplex(projected, shrinkage), projected, atol=50 * rounding)
    for vertex in shrink(np.eye(6), shrinkage):
        products = ((points - projected) * (vertex - projected)).sum(axis=1)
        assert products.max() <= 1e4 * rounding * max(scale, 1.0)


def test_projection_leaves_feasible_points_where_they_are_and_breaks_ties_evenly() -> None:
    inside = shrink(random_rows(np.random.default_rng(0), 20, 4), 0.1)
    np.testing.assert_allclose(project_to_shrunk_simplex(inside, 0.1), inside, rtol=0.0, atol=1e-15)
    tied = project_to_shrunk_simplex(np.array([[7.0, 7.0, -5.0, -5.0]]), 0.2)
    np.testing.assert_allclose(tied, [[0.45, 0.45, 0.05, 0.05]], rtol=0.0, atol=1e-15)


def test_shrinking_reaches_the_shrunk_simplex_and_keeps_the_order() -> None:
    policy = random_rows(np.random.default_rng(1), 20, 4)
    shrunk = shrink(policy, 0.2)
    np.testing.assert_allclose(shrunk.sum(axis=1), 1.0, rtol=0.0, atol=1e-15)
    assert shrunk.min() >= 0.05
    np.testing.assert_array_equal(np.argsort(shrunk, axis=1), np.argsort(policy, axis=1))


def losses(seed: int, num_tasks: int, states: int, actions: int) -> tuple[FloatArray, FloatArray]:
    """Occupancies [T, S] and policies [T, S, A]."""
    rng = np.random.default_rng(seed)
    mass = rng.dirichlet(np.ones(states), size=num_tasks)
    return mass, np.array([random_rows(rng, states, actions) for _ in range(num_tasks)])


def summed_loss(mass: FloatArray, policies: FloatArray, initialization: FloatArray) -> float:
    return sum(initialization_loss(nu, policy, initialization) for nu, policy in zip(mass, policies, strict=True))


@pytest.mark.parametrize("seed", range(3))
def test_leader_minimises_the_summed_losses(seed: int) -> None:
    mass, policies = losses(seed, num_tasks=7, states=4, actions=3)
    policy_sum = np.einsum("ts,tsa->sa", mass, policies)
    led = leader(policy_sum, prior_weight=1e-12)
    closed = policy_sum / mass.sum(axis=0)[:, None]
    np.testing.assert_allclose(led, closed, rtol=0.0, atol=1e-10)

    def objective(logits: FloatArray) -> float:
        unnormalised = np.exp(logits.reshape(4, 3))
        return summed_loss(mass, policies, unnormalised / unnormalised.sum(axis=1, keepdims=True))

    found = minimize(objective, np.zeros(12), method="BFGS", options={"gtol": 1e-7})
    assert summed_loss(mass, policies, led) <= found.fun + 1e-9
    np.testing.assert_allclose(
        led, np.exp(found.x.reshape(4, 3)) / np.exp(found.x.reshape(4, 3)).sum(1)[:, None], atol=1e-4
    )


def test_leader_counts_its_prior_as_one_more_task_of_the_uniform_policy() -> None:
    mass, policies = losses(0, num_tasks=3, states=4, actions=3)
    policy_sum = np.einsum("ts,tsa->sa", mass, policies)
    policy_sum[2] = 0.0
    led = leader(policy_sum, prior_weight=0.5)
    expected = (policy_sum + 0.5 / 3.0) / (policy_sum.sum(axis=1) + 0.5)[:, None]
    np.testing.assert_allclose(led, expected, rtol=1e-15)
    np.testing.assert_allclose(led[2], 1.0 / 3.0, rtol=1e-15)


def test_initialization_gradient_is_that_of_the_loss() -> None:
    mass, policies = losses(1, num_tasks=1, states=4, actions=3)
    initialization = random_rows(np.random.default_rng(9), 4, 3)
    gradient = initialization_gradient(mass[0], policies[0], initialization)
    step = 1e-6
    for state in range(4):
        for action in range(3):
            moved = np.zeros((4, 3))
            moved[state, action] = step
            difference = initialization_loss(mass[0], policies[0], initialization + moved)
            difference -= initialization_loss(mass[0], policies[0], initialization - moved)
            assert gradient[state, action] == pytest.approx(difference / (2.0 * step), rel=1e-7)


@pytest.mark.parametrize("seed", few(range(3), 0))
def test_online_gradient_descent_finds_the_minimiser(seed: int) -> None:
    """Many passes with beta / sqrt(t) over fixed tasks end at the closed-form minimiser."""
    mass, policies = losses(seed, num_tasks=5, states=3, actions=3)
    best = np.einsum("ts,tsa->sa", mass, policies) / mass.sum(axis=0)[:, None]
    shrinkage = 0.03
    initialization = np.full((3, 3), 1.0 / 3.0)
    for count in range(1, 20_001):
        task = count % 5
        gradient = initialization_gradient(mass[task], policies[task], initialization)
        step = scheduled_step(0.05, "static", count)
        initialization = project_to_shrunk_simplex(initialization - step * gradient, shrinkage)
    assert best.min() > shrinkage / 3
    np.testing.assert_allclose(initialization, best, rtol=0.0, atol=0.01)
    assert summed_loss(mass, policies, initialization) < summed_loss(mass, policies, best) + 1e-3


@pytest.mark.parametrize("seed", range(3))
def test_online_gradient_descent_stops_at_the_edge_of_the_shrunk_simplex(seed: int) -> None:
    """A deterministic policy's minimiser lies outside; the constrained one has rho_min / A on the other actions."""
    rng = np.random.default_rng(seed)
    policy, mass = np.eye(3)[rng.integers(3, size=4)], np.full(4, 0.25)
    initialization = random_rows(rng, 4, 3)
    for count in range(1, 3001):
        gradient = initialization_gradient(mass, policy, initialization)
        step = scheduled_step(0.5, "static", count)
        initialization = project_to_shrunk_simplex(initialization - step * gradient, 0.06)
    np.testing.assert_allclose(initialization, shrink(policy, 0.06), rtol=0.0, atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_leading_rates_minimise_the_summed_upper_bounds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    loss, curvature = rng.uniform(0.1, 2.0, size=8), 10.0 ** rng.uniform(-3.0, 4.0, size=(8, 3))
    rates = leading_rates(np.full(3, loss.sum()), curvature.sum(axis=0), 5, regularizer=1e-15)
    for objective in range(3):

        def summed(log_rate: FloatArray, objective: int = objective) -> float:
            rate = float(np.exp(log_rate[0]))
            bounds = (upper_bound(f, rate, 5, b) for f, b in zip(loss, curvature[:, objective], strict=True))
            return float(np.log(sum(bounds)))

        found = minimize(summed, np.zeros(1), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-14})
        assert np.log(rates[objective]) == pytest.approx(found.x[0], abs=1e-5)


def test_leading_rates_without_any_loss_or_curvature_rest_on_the_regularizer() -> None:
    rates = leading_rates(np.array([0.0, 3.0]), np.array([0.0, 0.0]), 4, regularizer=1.0)
    np.testing.assert_allclose(rates, [0.5, 1.0], rtol=1e-15)


def test_log_rate_gradient_is_that_of_the_logarithm_of_the_upper_bound() -> None:
    rng = np.random.default_rng(0)
    rates, curvature = 10.0 ** rng.uniform(-3.0, 2.0, size=6), 10.0 ** rng.uniform(-4.0, 4.0, size=6)
    gradient = log_rate_gradient(0.7, rates, 5, curvature)
    step = 1e-5
    for index in range(6):
        above, below = (
            np.log(upper_bound(0.7, rates[index] * np.exp(sign * step), 5, curvature[index])) for sign in (1.0, -1.0)
        )
        assert gradient[index] == pytest.approx((above - below) / (2.0 * step), abs=1e-8)
    assert np.abs(gradient).max() <= 1.0


def test_log_rate_gradient_vanishes_at_the_best_rate_and_is_nan_where_nothing_was_measured() -> None:
    curvature = np.array([20.0, np.nan, 0.0])
    rates = np.sqrt(0.3 / (5 * np.array([20.0, 1.0, 1.0])))
    gradient = log_rate_gradient(0.3, rates, 5, curvature)
    assert gradient[0] == pytest.approx(0.0, abs=1e-15)
    assert np.isnan(gradient[1])
    assert gradient[2] == -1.0
    assert log_rate_gradient(0.0, np.ones(1), 5, np.zeros(1)) == 0.0


def test_schedules() -> None:
    assert [scheduled_step(3.0, "static", count) for count in (1, 4, 9)] == [3.0, 1.5, 1.0]
    assert [scheduled_step(3.0, "dynamic", count) for count in (1, 4, 9)] == [3.0, 3.0, 3.0]


def test_initial_rates_are_one_number_or_one_per_objective() -> None:
    np.testing.assert_array_equal(LearningRateSettings(initial=0.5).initial_rates(2), [0.5, 0.5, 0.5])
    np.testing.assert_array_equal(LearningRateSettings(initial=(0.5, 0.1)).initial_rates(1), [0.5, 0.1])
    with pytest.raises(ValueError, match=r"2 rates given.*1 \+ 2 are needed"):
        LearningRateSettings(initial=(0.5, 0.1)).initial_rates(2)


@pytest.mark.parametrize(
    ("settings", "reported"),
    [
        ({"initial": -1.0}, "initial"),
        ({"initial": (1.0, 0.0)}, "initial"),
        ({"initial": float("nan")}, "initial"),
        ({"initial": 1e5}, "between"),
        ({"initial": (1.0, 1e-9)}, "between"),
        ({"minimum": 10.0, "maximum": 1.0}, "must be less"),
        ({"maximum": 0.0}, "maximum"),
        ({"forgetting": 0.0}, "forgetting"),
        ({"forgetting": 1.5}, "forgetting"),
        ({"method": "adam"}, "method"),
        ({"rate": 1.0}, "rate"),
    ],
)
def test_learning_rate_settings_refuse(settings: dict[str, object], reported: str) -> None:
    with pytest.raises(ValueError, match=reported):
        LearningRateSettings.model_validate(settings)


@pytest.mark.parametrize(
    ("settings", "reported"),
    [
        ({"shrinkage": 0.0}, "shrinkage"),
        ({"shrinkage": 1.0}, "shrinkage"),
        ({"step_size": -1.0}, "step_size"),
        ({"prior_weight": 0.0}, "prior_weight"),
        ({"method": "best"}, "method"),
        ({"schedule": "sometimes"}, "schedule"),
        ({"beta": 1.0}, "beta"),
    ],
)
def test_initialization_settings_refuse(settings: dict[str, object], reported: str) -> None:
    with pytest.raises(ValueError, match=reported):
        InitializationSettings.model_validate(settings)
