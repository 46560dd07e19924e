from __future__ import annotations

from typing import Any

import numpy as np
import pydantic
import pytest

from tasks.classic_control.acrobot import Acrobot, torque_costs
from tasks.contract.task import TaskError
from tasks.stepping.batch import BatchEnvironment

GYMNASIUMS = {"lengths": [1.0, 1.0], "masses": [1.0, 1.0], "centres": [0.5, 0.5]}


def _swing_up(state: Any, rng: np.random.Generator) -> int:
    """Pumps energy, with some randomness: reaches the goal and high speeds."""
    return int(rng.integers(3)) if rng.random() < 0.2 else 2 * int(state[2] < 0.0)


@pytest.mark.parametrize("index", [None, 0, 1])
def test_the_batch_equals_gymnasiums_environment_step_for_step(index: int | None) -> None:
    family = Acrobot(seed=2, similarity="low", horizon=150)
    drawn = GYMNASIUMS if index is None else family.parameters("train", index, 0)
    envs: list[Any] = [family.make(drawn) for _ in range(4)]
    batch, rng = family.batch(drawn, 4), np.random.default_rng(0)
    batch.reset(np.arange(4), np.arange(4))
    for copy, env in enumerate(envs):
        np.testing.assert_array_equal(batch.observations[copy], env.reset(seed=copy)[0])
    goals = 0
    for step in range(500):
        actions = np.array([_swing_up(env.unwrapped.state, rng) for env in envs])
        batch.step(actions)
        for copy, env in enumerate(envs):
            observation, reward, terminated, truncated, info = env.step(actions[copy])
            np.testing.assert_array_equal(batch.state[:, copy], env.unwrapped.state)
            np.testing.assert_array_equal(batch.observations[copy], observation)
            np.testing.assert_array_equal(batch.costs[copy], info["cost"])
            assert batch.reward[copy] == reward
            assert (batch.terminated[copy], batch.truncated[copy]) == (terminated, truncated)
            if terminated or truncated:
                goals += terminated
                observation, _ = env.reset(seed=100 + 4 * step + copy)
                batch.reset(np.array([copy]), np.array([100 + 4 * step + copy]))
                np.testing.assert_array_equal(batch.observations[copy], observation)
    assert goals > 0


def test_an_episodes_bits_depend_on_its_seed_alone() -> None:
    family = Acrobot(seed=0)
    one, many = (family.batch(GYMNASIUMS, count) for count in (1, 7))
    one.reset(np.array([0]), np.array([5]))
    many.reset(np.arange(7), np.arange(7))
    for actions in np.random.default_rng(0).integers(3, size=(200, 7)):
        many.step(actions)
        one.step(actions[5:6])
        np.testing.assert_array_equal(one.observations[0], many.observations[5])


def test_torque_costs_only_in_its_region() -> None:
    angles = np.array([[-1.0, 1.0], [-1.0, 1.0], [0.5, 0.5], [-1.0, -0.1]])
    costs = torque_costs(angles, np.array([0, 1, 2, 2]), ((-1.5, 0.0), (0.0, 1.5)))
    np.testing.assert_array_equal(costs, [[1, 1], [0, 0], [0, 1], [1, 0]])


def test_links_vary_within_their_range() -> None:
    family = Acrobot(seed=0, similarity="low")
    for index in range(50):
        drawn = family.parameters("train", index, 0)
        for name in ("lengths", "masses"):
            assert all(0.6 <= value <= 1.4 for value in drawn[name])
        assert all(0 < centre < length for centre, length in zip(drawn["centres"], drawn["lengths"], strict=True))
    spread = np.ptp([family.parameters("train", index, 0)["masses"][0] for index in range(50)])
    assert spread > 0.6


def test_it_is_a_batch_and_wrong_actions_are_reported() -> None:
    batch = Acrobot(seed=0).batch(GYMNASIUMS, 2, label="acrobot/train/0")
    assert isinstance(batch, BatchEnvironment)
    with pytest.raises(TaskError, match="copy 0 was never reset"):
        batch.step(np.array([0, 0]))
    batch.reset(np.arange(2), np.arange(2))
    with pytest.raises(TaskError, match=r"acrobot/train/0, step 1, copy 1: action 3 is not one of 0\.\.2"):
        batch.step(np.array([0, 3]))
    with pytest.raises(TaskError, match=r"actions must be \[2\] integers, got float64"):
        batch.step(np.zeros(2))


@pytest.mark.parametrize("region", [(1.0, 0.0), (0.0, 4.0)])
def test_a_region_is_an_interval_of_angles(region: tuple[float, float]) -> None:
    with pytest.raises(pydantic.ValidationError, match="between -pi and pi"):
        Acrobot(seed=0, first_region=region)
