from __future__ import annotations

import numpy as np
import pytest

from policies.advantages import explained_variance
from policies.critic import CriticSettings, fit_critic, renormalized
from policies.networks import Array
from policies.neural_policy import Parameters, critic_values, new_policy


def _critic(heads: int = 3, size: int = 4) -> Parameters:
    return new_policy(size, 1, heads - 1, continuous=True, critic_hidden=(32, 32), seed=0).critic


def _data(seed: int, rows: int = 2000) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(rows, 4)).astype(np.float32)
    heads = [np.sin(inputs[:, 0]) + inputs[:, 1], 1000.0 + 50.0 * inputs[:, 2], 0.001 * inputs[:, 3] ** 2]
    return inputs, np.stack(heads, axis=1).astype(np.float32)


def test_renormalising_leaves_the_function_alone() -> None:
    inputs, targets = _data(0)
    critic = fit_critic(_critic(), inputs, targets, CriticSettings(epochs=1), np.random.default_rng(0))
    moved = renormalized(critic, 7.0 * targets + 3.0)
    before = critic_values(critic, inputs)
    np.testing.assert_allclose(critic_values(moved, inputs), before, atol=1e-3 * before.std(axis=0).max())
    np.testing.assert_allclose(moved.network.part(moved.vector, "target_scale"), 7.0 * targets.std(axis=0), rtol=1e-4)


def test_heads_of_every_scale_are_fitted() -> None:
    """Held-out explained variance although the heads differ by a factor of 50,000."""
    inputs, targets = _data(0)
    critic = fit_critic(_critic(), inputs, targets, CriticSettings(epochs=20), np.random.default_rng(0))
    fresh, truth = _data(1)
    assert (explained_variance(critic_values(critic, fresh), truth) > 0.95).all()


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
