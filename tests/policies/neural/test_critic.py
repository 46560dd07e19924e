from __future__ import annotations

import numpy as np
import pytest

from policies.networks.mlp import Array, linearize
from policies.neural.advantages import explained_variance
from policies.neural.critic import CriticSettings, fit_critic, solve_last_layer
from policies.neural.policy_state import Parameters, critic_values, new_policy


def _critic(heads: int = 3, size: int = 4) -> Parameters:
    return new_policy(size, 1, heads - 1, continuous=True, critic_hidden=(32, 32), seed=0).critic


def _data(seed: int, rows: int = 2000) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(rows, 4)).astype(np.float32)
    heads = [np.sin(inputs[:, 0]) + inputs[:, 1], 1000.0 + 50.0 * inputs[:, 2], 0.001 * np.cos(inputs[:, 3])]
    return inputs, np.stack(heads, axis=1).astype(np.float32)


def _gap(heads_known: bool) -> tuple[Array, Array, Array]:
    """The gradient of the ridge problem at the solution, around the old weights and around 0; and the mean error."""
    inputs, targets = _data(0, 200)
    critic = _critic()
    network, vector = critic.network, critic.vector.astype(np.float64)
    wanted = (targets - targets.mean(axis=0)) / targets.std(axis=0)
    if heads_known:
        solve_last_layer(network, vector, inputs, wanted, 0.01)
    else:
        network.part(vector, "weights_2")[:] = 50.0
    old = network.part(vector, "weights_2").copy()
    solve_last_layer(network, vector, inputs, wanted, 0.1)
    features = linearize(network, vector, inputs).activations[-1]
    weights, bias = network.part(vector, "weights_2"), network.part(vector, "bias_2")
    error = features @ weights + bias - wanted
    slope = features.T @ error / 200
    return slope + 0.1 * (weights - old), slope + 0.1 * weights, error.mean(axis=0)


def test_the_last_layer_is_the_ridge_solution_around_what_is_known() -> None:
    around_old, around_zero, mean = _gap(heads_known=True)
    np.testing.assert_allclose(around_old, 0.0, atol=1e-6)
    assert np.abs(around_zero).max() > 1e-3
    np.testing.assert_allclose(mean, 0.0, atol=1e-6)
    around_old, around_zero, mean = _gap(heads_known=False)
    np.testing.assert_allclose(around_zero, 0.0, atol=1e-6)
    np.testing.assert_allclose(mean, 0.0, atol=1e-6)


def test_a_jump_of_the_returns_is_followed_within_one_fit() -> None:
    inputs, targets = _data(0)
    settings, rng = CriticSettings(), np.random.default_rng(0)
    critic = fit_critic(_critic(), inputs, targets, settings, rng)
    for moved in (1000.0 * targets, targets - 5000.0, -0.01 * targets):
        after = fit_critic(critic, inputs, moved, settings, rng)
        assert (explained_variance(critic_values(after, inputs), moved)[:2] > 0.8).all()
        error = (critic_values(after, inputs) - moved).mean(axis=0)
        assert (np.abs(error) < 0.1 * moved.std(axis=0) + 1e-3 * np.abs(moved).mean(axis=0)).all()


def test_heads_of_every_scale_are_fitted() -> None:
    """Held-out explained variance although the heads differ by a factor of 100,000."""
    inputs, targets = _data(0)
    critic = fit_critic(_critic(), inputs, targets, CriticSettings(epochs=60), np.random.default_rng(0))
    fresh, truth = _data(1)
    assert (explained_variance(critic_values(critic, fresh), truth) > 0.93).all()


def test_the_fit_is_pure_in_its_arguments() -> None:
    inputs, targets = _data(0)
    critic = _critic()
    before = critic.vector.copy()
    fits = [fit_critic(critic, inputs, targets, CriticSettings(), np.random.default_rng(s)).vector for s in (0, 0, 1)]
    np.testing.assert_array_equal(fits[0], fits[1])
    assert not np.array_equal(fits[0], fits[2])
    np.testing.assert_array_equal(critic.vector, before)


@pytest.mark.parametrize("value", [0.0, 5.0])
def test_a_constant_target_is_learned_without_a_division_by_zero(value: float) -> None:
    inputs, targets = _data(0, 300)
    targets[:, 1] = value
    critic = fit_critic(_critic(), inputs, targets, CriticSettings(), np.random.default_rng(0))
    np.testing.assert_allclose(critic_values(critic, inputs)[:, 1], value, atol=1e-3)
