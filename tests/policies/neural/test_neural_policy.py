from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from policies.neural.policy_state import ObservationStatistics, merge, new_policy, no_observations, policy_from_arrays


def test_merged_statistics_are_those_of_all_rows() -> None:
    rng = np.random.default_rng(0)
    batches = [rng.normal(loc=100.0 * k, scale=1.0 + k, size=(5 + 7 * k, 3)) for k in range(4)]
    statistics = no_observations(3)
    for batch in batches:
        statistics = statistics.merged(batch)
    rows = np.concatenate(batches)
    assert statistics.count == len(rows)
    np.testing.assert_allclose(statistics.mean, rows.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(statistics.variance, rows.var(axis=0), rtol=1e-12)
    halves = [no_observations(3).merged(rows[:9]), no_observations(3).merged(rows[9:])]
    np.testing.assert_allclose(merge(*halves).variance, merge(*halves[::-1]).variance, rtol=1e-12)


def test_a_narrow_spread_far_from_zero_survives_single_precision() -> None:
    rows = (1000.0 + 0.1 * np.random.default_rng(1).normal(size=(4000, 1))).astype(np.float32)
    statistics = no_observations(1).merged(rows[:2000]).merged(rows[2000:])
    assert statistics.variance[0] == pytest.approx(0.01, rel=0.1)


def test_normalisation_clips_and_survives_constant_observations() -> None:
    statistics = ObservationStatistics(np.array([1.0, 5.0]), np.array([4.0, 0.0]), 10.0)
    given = np.array([[3.0, 5.0], [101.0, 5.0]], dtype=np.float32)
    result = statistics.normalize(given)
    np.testing.assert_allclose(result, [[1.0, 0.0], [10.0, 0.0]])
    assert result.dtype == np.float32
    assert given[1, 0] == 101.0


@pytest.mark.parametrize("continuous", [True, False])
def test_a_policy_is_its_arrays(continuous: bool) -> None:
    policy = new_policy(4, 2, 3, continuous=continuous, hidden=(8, 5), critic_hidden=(6,), seed=1)
    arrays = dict(sorted(policy.to_arrays().items()))
    again = policy_from_arrays(arrays)
    assert again.actor.network == policy.actor.network
    assert again.critic.network == policy.critic.network
    np.testing.assert_array_equal(again.actor.vector, policy.actor.vector)
    np.testing.assert_array_equal(again.critic.vector, policy.critic.vector)
    assert ("actor.log_std" in arrays) == continuous
    assert arrays["critic.weights_1"].shape == (6, 4)
    assert policy.num_objectives == 4


def test_incomplete_arrays_are_refused_by_name() -> None:
    arrays = new_policy(4, 2, 1, continuous=True).to_arrays()
    with pytest.raises(ValueError, match=r"statistics\.mean"):
        policy_from_arrays({name: value for name, value in arrays.items() if name != "statistics.mean"})
    with pytest.raises(ValueError, match="bias_1"):
        policy_from_arrays({name: value for name, value in arrays.items() if name != "actor.bias_1"})
    with pytest.raises(ValueError, match="optimizer"):
        policy_from_arrays({**arrays, "optimizer.step": np.zeros(1)})


def test_a_fresh_policy_hardly_depends_on_the_observation_and_values_are_nearly_zero() -> None:
    policy = new_policy(4, 2, 1, continuous=True, seed=0)
    observations = np.random.default_rng(0).normal(size=(100, 4)).astype(np.float32)
    outputs, log_std = policy.act(observations)
    assert np.abs(outputs).max() < 0.05
    np.testing.assert_allclose(log_std, -0.5)
    assert np.abs(policy.values(observations)).max() < 0.05


def _seen(mean: float, spread: float, seed: int) -> ObservationStatistics:
    rows = mean + spread * np.random.default_rng(seed).normal(size=(500, 4))
    return no_observations(4).merged(rows)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 2e-5)])
@pytest.mark.parametrize("continuous", [True, False])
def test_other_statistics_keep_actions_and_values(continuous: bool, dtype: type, tolerance: float) -> None:
    policy = new_policy(4, 2, 3, continuous=continuous, hidden=(16,), critic_hidden=(8, 8), seed=2, dtype=dtype)
    rng = np.random.default_rng(1)
    for parameters in (policy.actor, policy.critic):
        parameters.vector[:] += 0.3 * rng.normal(size=parameters.vector.size)
    policy = dataclasses.replace(policy, statistics=_seen(1.0, 2.0, 0))
    before = policy.actor.vector.copy(), policy.critic.vector.copy()
    other = policy.with_statistics(_seen(-0.5, 3.0, 1))
    observations = (1.0 + 2.0 * rng.normal(size=(200, 4))).astype(dtype)
    for ours, theirs in zip(other.act(observations), policy.act(observations), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=tolerance)
        assert ours.dtype == dtype
    np.testing.assert_allclose(other.values(observations), policy.values(observations), atol=tolerance)
    assert other.statistics.mean[0] == pytest.approx(-0.5, abs=0.5)
    assert np.abs(other.actor.vector - policy.actor.vector).max() > 0.1, "the weights must have changed for it"
    np.testing.assert_array_equal(policy.actor.vector, before[0])
    np.testing.assert_array_equal(policy.critic.vector, before[1])


def test_a_policy_that_has_seen_nothing_keeps_its_weights_under_other_statistics() -> None:
    policy = new_policy(4, 2, 1, continuous=True, seed=3)
    statistics = _seen(100.0, 5.0, 4)
    other = policy.with_statistics(statistics)
    np.testing.assert_array_equal(other.actor.vector, policy.actor.vector)
    np.testing.assert_array_equal(other.critic.vector, policy.critic.vector)
    assert other.statistics is statistics
    inputs = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    same = other.act((100.0 + 5.0 * inputs).astype(np.float32))[0]
    np.testing.assert_allclose(same, policy.act(inputs)[0], atol=0.02)


def test_the_same_statistics_change_nothing() -> None:
    policy = dataclasses.replace(new_policy(4, 2, 1, continuous=True, seed=3), statistics=_seen(1.0, 2.0, 0))
    again = policy.with_statistics(policy.statistics)
    np.testing.assert_array_equal(again.actor.vector, policy.actor.vector)
    np.testing.assert_array_equal(again.critic.vector, policy.critic.vector)
