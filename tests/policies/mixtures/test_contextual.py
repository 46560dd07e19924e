from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from policies.common.branches import REWARD_BRANCH
from policies.mixtures.contextual import condition
from policies.mixtures.mixture import Mixture, combined_advantages, improve_mixture, task_returns
from policies.networks.distributions import extra_of
from policies.neural.advantages import life_table_returns
from policies.neural.neural_settings import NeuralSettings
from policies.neural.policy_state import ObservationStatistics, PolicyState, new_policy
from policies.neural.rollouts import NeuralRollouts, NeuralTransitions
from tasks.stepping.context_batch import ContextBatch
from tests.support.point_batch import PointBatch

CONTEXT = 2
SETTINGS = NeuralSettings(num_iterations=1, hidden=(8,), critic_hidden=(8,), steps_per_iteration=120, num_copies=4)


def _policy(seed: int = 1) -> PolicyState:
    """A policy on [observation 2, context 2] that has seen something."""
    policy = new_policy(2 + CONTEXT, 1, 1, continuous=True, hidden=(8, 8), critic_hidden=(8,), seed=seed)
    policy.actor.vector[:] += np.random.default_rng(seed).normal(0.0, 0.3, policy.actor.vector.size).astype(np.float32)
    statistics = ObservationStatistics(np.array([0.3, -0.2, 0.0, 0.0]), np.array([2.0, 0.5, 1.0, 1.0]), 100.0)
    return PolicyState(policy.actor, policy.critic, statistics)


@pytest.mark.parametrize("context", [[0.0, 0.0], [0.7, -1.4], [30.0, -0.1]])
def test_a_conditioned_policy_acts_and_values_as_the_one_that_sees_the_context(context: list[float]) -> None:
    policy, entries = _policy(), np.array(context)
    observations = np.random.default_rng(0).normal(0.0, 2.0, (50, 2)).astype(np.float32)
    with_context = np.hstack([observations, np.tile(entries.astype(np.float32), (50, 1))])
    plain = condition(policy, entries)
    assert plain.statistics.mean.size == 2
    np.testing.assert_allclose(plain.act(observations)[0], policy.act(with_context)[0], atol=2e-5)
    np.testing.assert_array_equal(plain.act(observations)[1], policy.act(with_context)[1])
    np.testing.assert_allclose(plain.values(observations), policy.values(with_context), atol=2e-5)


def _mixed(copies: int, contexts: list[list[float]]) -> ContextBatch:
    return ContextBatch(PointBatch(copies, horizon=30), np.repeat(np.array(contexts), copies // len(contexts), axis=0))


def test_every_observation_carries_the_context_of_its_copy() -> None:
    data = NeuralRollouts(_mixed(4, [[1.0, 2.0], [3.0, 4.0]]), 40, 0, "mixture").collect(_policy(), 0)
    expected = np.array([[1.0, 2.0]] * 2 + [[3.0, 4.0]] * 2)
    np.testing.assert_array_equal(data.observations[..., 2:], np.tile(expected, (40, 1, 1)))
    plain = NeuralRollouts(PointBatch(4, horizon=30), 40, 0, "mixture")
    plain_policy = new_policy(2, 1, 1, continuous=True, seed=0)
    np.testing.assert_array_equal(data.observations[0, :, :2], plain.collect(plain_policy, 0).observations[0])


def _step(limits: list[list[float]], contexts: list[list[float]], **mixture: Any) -> tuple[NeuralTransitions, Any, Any]:
    policy = _policy()
    data = NeuralRollouts(_mixed(4, contexts), 30, 0, "mixture").collect(policy, 0)
    what = Mixture(np.array(limits), np.zeros(1), 4 // len(limits), 0.99, 30, CONTEXT, **mixture)
    after, report = improve_mixture(policy, data, what, 0.1, SETTINGS, np.random.default_rng(0))
    return data, after, report


def test_each_task_steps_on_the_branch_of_its_own_returns() -> None:
    data, _, _ = _step([[1e9], [1e9]], [[0.0, 0.0], [1.0, 0.0]])
    parts = task_returns(data, Mixture(np.zeros((2, 1)), np.zeros(1), 2, 0.99, 30, CONTEXT))
    own = [life_table_returns(data.signals[:, k : k + 2], data.ended[:, k : k + 2], 0.99, 30) for k in (0, 2)]
    np.testing.assert_array_equal(parts, own)
    assert (parts[0] != parts[1]).all()
    _, _, report = _step([[1e9], [-1.0]], [[0.0, 0.0], [1.0, 0.0]])
    assert report.branches.tolist() == [REWARD_BRANCH, 1]


def test_copies_ascend_on_the_reward_or_descend_on_their_tasks_cost() -> None:
    advantages = np.random.default_rng(2).normal(3.0, [5.0, 0.1], (50, 4, 2))
    advantages[:, 2:] += 7.0  # one task has other advantages throughout, which says nothing of its actions
    mixture = Mixture(np.zeros((2, 1)), np.zeros(1), 2, 0.99, 30, CONTEXT)
    combined = combined_advantages(advantages, np.array([REWARD_BRANCH, 1]), mixture)
    means = np.repeat([advantages[:, :2].mean(axis=(0, 1)), advantages[:, 2:].mean(axis=(0, 1))], 2, axis=0)
    standard = (advantages - means) / advantages.std(axis=(0, 1))
    np.testing.assert_allclose(combined[:, :2], standard[:, :2, 0])
    np.testing.assert_allclose(combined[:, 2:], -standard[:, 2:, 1])


def test_one_mean_of_all_tasks_leaves_in_what_a_tasks_own_actions_have_earned() -> None:
    advantages = np.random.default_rng(2).normal(3.0, [5.0, 0.1], (50, 4, 2))
    advantages[:, 2:] += 7.0
    mixture = Mixture(np.zeros((4, 1)), np.zeros(1), 1, 0.99, 30, CONTEXT, centring="batch")
    combined = combined_advantages(advantages, np.array([REWARD_BRANCH] * 4), mixture)
    standard = (advantages - advantages.mean(axis=(0, 1))) / advantages.std(axis=(0, 1))
    np.testing.assert_allclose(combined, standard[:, :, 0])
    assert combined[:, 2:].mean() > 0.5


def test_the_noise_ends_at_its_ceiling() -> None:
    _, after, _ = _step([[1e9], [1e9]], [[0.5, 0.0], [1.0, 0.0]], least_log_std=-4.5, most_log_std=-4.5)
    np.testing.assert_allclose(extra_of(after.actor.network, after.actor.vector), -4.5)


def test_the_noise_keeps_its_floor_and_contexts_stay_plain() -> None:
    _, after, report = _step([[1e9], [1e9]], [[0.5, 0.0], [1.0, 0.0]], least_log_std=0.25)
    assert extra_of(after.actor.network, after.actor.vector).min() == pytest.approx(0.25)
    np.testing.assert_array_equal(after.statistics.mean[2:], 0.0)
    np.testing.assert_array_equal(after.statistics.variance[2:], 1.0)
    assert report.step.kl > 0.0
