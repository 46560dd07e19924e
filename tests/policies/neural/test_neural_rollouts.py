from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from policies.networks.mlp import Array
from policies.neural.policy_state import ObservationStatistics, PolicyState, new_policy
from policies.neural.rollouts import NeuralRollouts, NeuralTransitions
from tasks.contract.task import TaskError
from tests.support.point_batch import PointBatch


def _policy(*, discrete: bool = False, costs: int = 1) -> PolicyState:
    return new_policy(2, 3 if discrete else 1, costs, continuous=not discrete, hidden=(8,), seed=1)


def _collect(batch: Any, steps: int, seed: int = 5, iteration: int = 0, **policy: Any) -> NeuralTransitions:
    return NeuralRollouts(batch, steps, seed, "point/0").collect(_policy(**policy), iteration).copy()


def _same(first: NeuralTransitions, second: NeuralTransitions) -> bool:
    names = [field.name for field in dataclasses.fields(NeuralTransitions)]
    return all(np.array_equal(getattr(first, name), getattr(second, name)) for name in names)


@pytest.mark.parametrize("discrete", [True, False])
def test_transitions_follow_the_environment(discrete: bool) -> None:
    data = _collect(PointBatch(3, horizon=7, discrete=discrete), 17, discrete=discrete)
    assert data.observations.shape == (17, 3, 2)
    push = data.actions - 1.0 if discrete else np.clip(data.actions[..., 0], -1.0, 1.0)
    place = data.observations[..., 0] + 0.25 * push
    np.testing.assert_allclose(data.reward, place, atol=1e-6)
    np.testing.assert_array_equal(data.costs[..., 0], np.abs(data.reward) > 1.0)
    goes_on = ~data.ended[:-1]
    np.testing.assert_allclose(data.observations[1:, :, 0][goes_on], place[:-1][goes_on], atol=1e-6)
    assert (np.abs(data.observations[1:, :, 0][data.ended[:-1]]) <= 0.05).all()
    assert np.argwhere(data.truncated).tolist() == [[t, c] for t in (6, 13) for c in range(3)]
    assert data.final_steps.tolist() == [[t, c] for t in (6, 13, 16) for c in range(3)]
    np.testing.assert_allclose(data.final_observations[:, 0], place[tuple(data.final_steps.T)], atol=1e-6)


def test_terminated_and_truncated_are_distinguished() -> None:
    policy = _policy()
    policy.actor.network.part(policy.actor.vector, "bias_1")[:] = 5.0
    data = NeuralRollouts(PointBatch(2, horizon=20), 40, 0, "point").collect(policy, 0)
    assert data.terminated.any()
    assert not data.truncated.any()


def test_the_same_seed_gives_the_same_bits_and_another_does_not() -> None:
    first = _collect(PointBatch(4), 30)
    assert _same(first, _collect(PointBatch(4), 30))
    assert not _same(first, _collect(PointBatch(4), 30, seed=6))
    assert not _same(first, _collect(PointBatch(4), 30, iteration=1))


def test_noise_depends_on_the_copy_and_the_step_not_on_what_else_is_run() -> None:
    policy = _policy()
    policy.actor.vector[:-1] = 0.0
    noise = []
    for copies, steps in ((2, 10), (5, 25)):
        data = NeuralRollouts(PointBatch(copies, horizon=50), steps, 5, "point").collect(policy, 3)
        noise.append(data.actions[:10, :2].copy())
    np.testing.assert_array_equal(noise[0], noise[1])
    assert len(np.unique(noise[0])) == 20


def test_every_reset_has_its_own_seed() -> None:
    batch = PointBatch(3, horizon=5)
    rollouts = NeuralRollouts(batch, 15, 0, "point")
    rollouts.collect(_policy(), 0)
    rollouts.collect(_policy(), 1)
    assert [copy for copy, _ in batch.resets] == [0, 1, 2] * 6
    assert len({seed for _, seed in batch.resets}) == 18


def test_actions_are_scaled_and_clipped_to_the_bounds() -> None:
    batch = PointBatch(4)
    batch.action_low, batch.action_high = np.array([0.1], np.float32), np.array([0.3], np.float32)
    data = _collect(batch, 20)
    taken = np.stack(batch.actions)
    np.testing.assert_allclose(taken, np.clip(0.2 + 0.1 * data.actions, 0.1, 0.3), rtol=1e-6)
    assert np.abs(data.actions).max() > 1.0


def test_statistics_are_part_of_the_policy() -> None:
    moved = dataclasses.replace(_policy(), statistics=ObservationStatistics(np.ones(2), np.full(2, 4.0), 9.0))
    observations = np.array([[3.0, 1.0]], dtype=np.float32)
    np.testing.assert_allclose(moved.act(observations)[0], _policy().act(np.array([[1.0, 0.0]], np.float32))[0])


class BrokenBatch(PointBatch):
    """Puts a number that is not finite into one array at one step."""

    def __init__(self, name: str, at: int) -> None:
        super().__init__(3)
        self._name, self._at = name, at

    def step(self, actions: Array) -> None:
        super().step(actions)
        if len(self.actions) == self._at + 1:
            getattr(self, self._name)[1] = np.inf


@pytest.mark.parametrize("name", ["observations", "reward", "costs"])
def test_numbers_that_are_not_finite_name_task_iteration_step_and_tensor(name: str) -> None:
    with pytest.raises(TaskError, match=rf"point/0, iteration 2, step 4, copy 1: {name} not finite"):
        _collect(BrokenBatch(name, 4), 10, iteration=2)


class BrokenReset(PointBatch):
    def reset(self, copies: Any, seeds: Any) -> None:
        super().reset(copies, seeds)
        self.observations[2, 1] = np.nan


def test_an_observation_of_a_reset_that_is_not_finite_is_named() -> None:
    with pytest.raises(TaskError, match="point/0, iteration 0, reset, copy 2: observations not finite"):
        _collect(BrokenReset(3), 10)


def test_a_policy_of_another_shape_is_refused() -> None:
    with pytest.raises(TaskError, match="2 inputs, 1 outputs and 3 critic heads, the task needs 2, 1 and 2"):
        _collect(PointBatch(2), 5, costs=2)
