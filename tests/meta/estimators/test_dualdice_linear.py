from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from meta.estimators import dualdice_linear
from meta.estimators.closed_form import estimate
from meta.estimators.estimation import estimate_corrections
from meta.offline.diagnostics import EstimateError
from meta.offline.dice_settings import DICESettings, LinearDICESettings
from meta.offline.target_policy import NeuralTarget, TableTarget
from policies.common.transition_sample import TransitionSample
from policies.exact.solver import ExactModel, occupancy
from policies.neural.policy_state import new_policy
from policies.tabular.transitions import tabular_sample
from tasks.contract.tabular_model import FloatArray
from tests.support.linear_system import HORIZON, LinearSystem
from tests.support.meta_helpers import ending_cmdp, random_rows, sample, sample_mixture
from tests.support.problems import random_cmdp

TABULAR = DICESettings(estimator="dualdice_tabular")
UNRIDGED = DICESettings(estimator="dualdice_linear", linear=LinearDICESettings(ridges=(0.0,)))
FOURIER = DICESettings(estimator="dualdice_linear", linear=LinearDICESettings(num_features=256))
NONE = DICESettings(estimator="none")


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize("changes", [{}, {"drop_iterations": 1, "iteration_weight": 0.5}])
def test_indicators_give_the_tabular_answer(ends: bool, changes: dict[str, float]) -> None:
    model = ending_cmdp(2, 6, 3, 0.9) if ends else random_cmdp(2, 6, 3, 1, 0.9)
    rng = np.random.default_rng(4)
    data = sample_mixture(model, [random_rows(rng, 6, 3) for _ in range(3)], 60, 15, rng)
    rows, target = tabular_sample(data, np.zeros(len(data))), random_rows(rng, 6, 3)
    settings, linear = TABULAR.model_copy(update=changes), UNRIDGED.model_copy(update=changes)
    direct = estimate(data, target, 0.9, 15, settings)
    fitted = estimate_corrections(rows, TableTarget(target), 0.9, 15, settings, seed=0)
    features = estimate_corrections(rows, TableTarget(target), 0.9, 15, linear, seed=0)
    table = np.zeros(target.shape)
    np.add.at(table, (data.states, data.actions), fitted.mass)
    np.testing.assert_allclose(table, direct.pair_occupancy, atol=1e-12)
    np.testing.assert_allclose(features.mass, fitted.mass, atol=1e-8)
    live = rows.iterations >= settings.drop_iterations
    np.testing.assert_allclose(fitted.correction[live], direct.correction[live], rtol=1e-9)
    for name in ("mean_correction", "effective_sample_size", "negative_share", "missing_mass"):
        expected = getattr(direct.diagnostics, name)
        assert getattr(fitted.diagnostics, name) == pytest.approx(expected, abs=1e-9), name
        assert getattr(features.diagnostics, name) == pytest.approx(expected, abs=1e-6), name
    if not ends:  # they share out d^D with the absorbing state, or among the live rows alone
        assert fitted.diagnostics.flow_residual == pytest.approx(direct.diagnostics.flow_residual, rel=1e-6)


def test_weights_of_iterations_change_what_the_model_of_the_data_is() -> None:
    """Two iterations that saw different kernels: the newest one decides where the first is dropped."""
    rng = np.random.default_rng(0)
    policy = random_rows(rng, 6, 3)
    both = [sample_mixture(random_cmdp(seed, 6, 3, 1, 0.9), [policy], 2000, 15, rng) for seed in (0, 1)]
    second = dataclasses.replace(both[1], iterations=both[1].iterations + 1)
    data = type(second)(*(np.concatenate([getattr(p, n) for p in (both[0], second)]) for n in type(second).__slots__))
    exact = occupancy(ExactModel(random_cmdp(1, 6, 3, 1, 0.9)), policy)
    errors = [
        np.abs(estimate(data, policy, 0.9, 15, TABULAR.model_copy(update=change)).occupancy - exact).sum()
        for change in ({}, {"iteration_weight": 0.1}, {"drop_iterations": 1})
    ]
    assert errors[0] > 2 * errors[1] > 2 * errors[2]


def moments_of(rows: TransitionSample, mass: FloatArray) -> FloatArray:
    """E[x] and E[x x'] under ``mass``, one vector."""
    x = rows.observations.astype(np.float64)
    return np.concatenate([mass @ x, ((x * mass[:, None]).T @ x).ravel()])


def error_on_linear_system(settings: DICESettings, seed: int, num_episodes: int) -> float:
    """Largest error of the discounted first and second moments of the state; the largest of them is 2.95."""
    system = LinearSystem.make()
    rows = system.sample(seed, num_episodes)
    found = estimate_corrections(rows, system.target, system.discount, HORIZON, settings, seed)
    assert found.diagnostics.mean_correction == pytest.approx(1.0, abs=0.01)
    assert not found.diagnostics.failures(settings) or settings.estimator == "none"
    return float(np.abs(moments_of(rows, found.mass) - system.discounted_moments(system.target)).max())


def test_random_features_find_the_occupancy_of_a_linear_system() -> None:
    errors = [error_on_linear_system(FOURIER, seed, 400) for seed in range(3)]
    assert max(errors) < 0.2
    assert min(error_on_linear_system(NONE, seed, 400) for seed in range(3)) > 2.0


def test_a_large_ridge_gives_all_samples_the_same_weight() -> None:
    system = LinearSystem.make()
    rows = system.sample(0, 60)
    settings = DICESettings(estimator="dualdice_linear", linear=LinearDICESettings(ridges=(1e6,)))
    found = estimate_corrections(rows, system.target, system.discount, HORIZON, settings, seed=0)
    np.testing.assert_allclose(found.correction, 1.0, atol=0.03)


@pytest.mark.parametrize("settings", [TABULAR, UNRIDGED])
def test_pairs_without_data_are_flagged(settings: DICESettings) -> None:
    """The behaviour never took action 1 in state 0, the policy always does."""
    model, rng = random_cmdp(0, 4, 2, 1, 0.9), np.random.default_rng(0)
    behaviour, target = np.full((4, 2), 0.5), np.full((4, 2), 0.5)
    behaviour[0], target[0] = [1.0, 0.0], [0.0, 1.0]
    data = sample_mixture(model, [behaviour], 40, 20, rng)
    rows = tabular_sample(data, np.zeros(len(data)))
    found = estimate_corrections(rows, TableTarget(target), 0.9, 20, settings, seed=0)
    assert found.diagnostics.missing_mass > 0.2
    assert "missing_mass" in found.diagnostics.failures(settings)
    assert found.diagnostics.trust(settings) == 0.0


def test_features_that_do_not_exist_are_named() -> None:
    system = LinearSystem.make()
    rows = system.sample(0, 30)
    for features in ("one_hot", "last_layer"):
        settings = DICESettings(estimator="dualdice_linear", linear=LinearDICESettings(features=features))
        with pytest.raises(EstimateError, match=f"dice.linear.features: {features} needs"):
            estimate_corrections(rows, system.target, system.discount, HORIZON, settings, seed=0)


@pytest.mark.parametrize("continuous", [False, True])
def test_last_layer_of_a_network(continuous: bool) -> None:
    """Its flow equation holds on its own features: the constant, the hidden layer, the actions."""
    policy = new_policy(2, 3 if not continuous else 1, 1, continuous=continuous, hidden=(8,), seed=1)
    system = LinearSystem.make()
    rows = system.sample(0, 90)
    if not continuous:
        rows = dataclasses.replace(rows, actions=np.arange(len(rows)) % 3)
    linear = LinearDICESettings(features="last_layer", ridges=(1e-6,))
    settings = DICESettings(estimator="dualdice_linear", linear=linear)
    found, again = (estimate_corrections(rows, NeuralTarget(policy), 0.95, HORIZON, settings, seed=0) for _ in range(2))
    np.testing.assert_array_equal(found.mass, again.mass)
    assert found.diagnostics.mean_correction == pytest.approx(1.0, abs=1e-2)
    hidden = np.tanh(policy.statistics.normalize(rows.observations) @ policy.actor.arrays()["weights_0"])
    following = np.tanh(rows.next_observations @ policy.actor.arrays()["weights_0"])
    first = np.tanh(rows.initial_observations @ policy.actor.arrays()["weights_0"])
    flow = found.mass @ (hidden - 0.95 * following) - 0.05 * first.mean(axis=0)
    plain = (hidden - 0.95 * following).mean(axis=0) - 0.05 * first.mean(axis=0)
    assert np.abs(flow).max() < 0.2 * np.abs(plain).max()


def test_a_singular_diagnostic_does_not_lose_the_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    """With ridge 0 the fit on four fifths of the episodes may be singular; a small ridge gives the residual then."""
    asked: list[float] = []
    solve = dualdice_linear._Solver.solve

    def four_fifths_fail(self: dualdice_linear._Solver, moments: dualdice_linear.Moments, ridge: float) -> FloatArray:
        asked.append(ridge)
        if len(asked) > 1 and ridge == 0.0:
            raise EstimateError("singular")
        return solve(self, moments, ridge)

    monkeypatch.setattr(dualdice_linear._Solver, "solve", four_fifths_fail)
    model, rng = random_cmdp(3, 5, 2, 1, 0.9), np.random.default_rng(1)
    policy = random_rows(rng, 5, 2)
    data = sample(model, policy, 60, 30, rng)
    rows = tabular_sample(data, np.log(policy[data.states, data.actions]))
    found = estimate_corrections(rows, TableTarget(policy), 0.9, 30, UNRIDGED, seed=0)
    assert np.isfinite(found.diagnostics.flow_residual)
    assert asked[:2] == [0.0, 0.0]
    assert 0.0 < asked[2] < 1e-6
