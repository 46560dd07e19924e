from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tasks.contract.family_registry import make_family
from tasks.contract.task import Task, TaskFamily
from tasks.mujoco.locomotion import Locomotion
from tasks.mujoco.mujoco_batch import MujocoBatch
from tasks.mujoco.robots import ROBOTS
from tasks.safety_gymnasium.adapter import velocity_env
from tasks.safety_gymnasium.safety_velocity import SAFETY_ROBOTS
from tasks.stepping.batch import GymnasiumBatch, make_batch

NAMES = list(SAFETY_ROBOTS)


def _class_name(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("_"))


def _family(name: str, **parameters: Any) -> Any:
    return make_family("safety_velocity", seed=2, num_tasks=8, parameters={"robot": name, **parameters})


@pytest.mark.parametrize("name", NAMES)
def test_it_equals_the_package_step_for_step(name: str) -> None:
    family, env = _family(name), velocity_env(_class_name(name))
    batch = family.batch({"speed_limit": ROBOTS[name].speed_limit}, 2)
    assert env._velocity_threshold == ROBOTS[name].speed_limit  # type: ignore[attr-defined]
    assert env.observation_space.shape == (batch.observation_size,)
    rng, seed, ends = np.random.default_rng(3), 11, 0
    observation, _ = env.reset(seed=seed)
    batch.reset(np.arange(2), np.array([1, seed]))
    np.testing.assert_array_equal(batch.observations[1], observation.astype(np.float32))
    for _ in range(90):
        actions = (rng.uniform(-1.0, 1.0, (2, batch.action_high.size)) * batch.action_high).astype(np.float32)
        batch.step(actions)
        results: Any = env.step(actions[1])
        observation, reward, cost, terminated, _, _ = results
        np.testing.assert_array_equal(batch.observations[1], observation.astype(np.float32))
        assert batch.reward[1] == reward
        assert batch.costs[1] == cost
        assert batch.terminated[1] == terminated
        if terminated:
            ends, seed = ends + 1, seed + 1
            env.reset(seed=seed)
            batch.reset(np.array([1]), np.array([seed]))
        if batch.terminated[0]:
            batch.reset(np.array([0]), np.array([seed]))
    assert (ends > 0) == (ROBOTS[name].healthy is not None)


@pytest.mark.parametrize("name", NAMES)
def test_fast_and_general_path_give_the_same_bits(name: str) -> None:
    family = _family(name, horizon=20, similarity="low")
    parameters = family.parameters("train", 1, 0) | {"speed_limit": -0.2}
    task = Task("safety_velocity", "train", 1, 0, parameters, family.limits(parameters))
    fast = make_batch(family, task, 2)
    general = GymnasiumBatch(lambda: family.make(parameters), 2, 1, family.horizon, task.label)
    assert isinstance(fast, MujocoBatch)
    rng, cost = np.random.default_rng(0), 0.0
    for step in range(30):
        ended = np.flatnonzero(fast.terminated | fast.truncated) if step else np.arange(2)
        actions = rng.normal(size=(2, fast.action_high.size)) * fast.action_high
        for batch in (fast, general):
            batch.reset(ended, ended + 10 * step)
            batch.step(actions)
        for field in ("observations", "reward", "costs", "terminated", "truncated"):
            np.testing.assert_array_equal(getattr(fast, field), getattr(general, field), err_msg=field)
        cost += fast.costs.sum()
    assert cost > 0.0


def test_differences_from_the_v5_robots_are_those_on_the_page() -> None:
    """Same starts and speeds for all but Walker2d; same rewards where there are neither falls nor contact costs."""
    for name in ("half_cheetah", "hopper", "swimmer", "ant", "humanoid"):
        limit = {"speed_limit": ROBOTS[name].speed_limit}
        ours = Locomotion(robot=name, seed=0, variant="speed_limit", horizon=50).batch(limit, 1)  # type: ignore[arg-type]
        theirs = _family(name).batch(limit, 1)
        for batch in (ours, theirs):
            batch.reset(np.array([0]), np.array([5]))
        rng = np.random.default_rng(1)
        for _ in range(40):
            action = rng.uniform(-1.0, 1.0, (1, ours.action_high.size)) * ours.action_high
            for batch in (ours, theirs):
                batch.step(action)
            np.testing.assert_array_equal(ours.state[0], theirs.state[0])
            np.testing.assert_array_equal(ours.costs, theirs.costs)
            healthy = ROBOTS[name].healthy_reward
            extra = theirs.reward[0] - ours.reward[0] - healthy * ours.terminated[0]
            assert extra >= -1e-12 if name in ("ant", "humanoid") else abs(extra) < 1e-12
            if ours.terminated[0]:
                break


def test_speed_limits_spread_around_the_packages() -> None:
    family = _family("swimmer", similarity="low")
    limits = np.array([family.parameters("train", index, 0)["speed_limit"] for index in range(50)])
    assert (np.abs(limits / 0.2282 - 1.0) <= 0.5 + 1e-9).all()
    assert limits.std() > 0.1 * 0.2282
    assert family.limits({}) == pytest.approx((0.025 * (1 - 0.99**1000) / 0.01,))
    assert isinstance(family, TaskFamily)
    assert family.cost_names == ("overspeed",)
    assert family.model({}) is None
