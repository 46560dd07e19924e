from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from tasks.contract.task import TaskError
from tasks.mujoco.mujoco_batch import MujocoBatch, StepValues, change_body, compile_model, num_bodies
from tasks.mujoco.robots import ROBOTS
from tasks.stepping.batch import BatchEnvironment, FloatArray

NAMES = list(ROBOTS)
HORIZON = 60


def _own(values: StepValues) -> tuple[FloatArray, FloatArray]:
    return values.own_reward(), values.velocity


def _batch(name: str, num_copies: int, body: dict[str, Any] | None = None, horizon: int = HORIZON) -> MujocoBatch:
    robot = ROBOTS[name]
    model = compile_model(robot, body)
    return MujocoBatch(robot, model, num_copies, objective=_own, num_costs=2, horizon=horizon, label=f"{name}/train/0")


def _env(name: str, body: dict[str, Any] | None = None) -> Any:
    env = gymnasium.make(ROBOTS[name].gymnasium_id, max_episode_steps=HORIZON)
    if body is not None:
        change_body(env.unwrapped.model, body)  # type: ignore[attr-defined]
    return env


def _body(name: str) -> dict[str, Any]:
    rng = np.random.default_rng(5)
    mass = rng.uniform(0.6, 1.6, num_bodies(ROBOTS[name])).tolist()
    return {"mass": mass, "friction": 0.7, "gravity": 1.2, "strength": 0.8}


def test_a_factor_that_no_body_has_is_an_error() -> None:
    with pytest.raises(ValueError, match="a body has no frictoin: its factors are mass, friction, gravity, strength"):
        compile_model(ROBOTS["hopper"], {"frictoin": 0.7})


def test_factors_that_are_not_named_stay() -> None:
    whole, weak = compile_model(ROBOTS["hopper"]), compile_model(ROBOTS["hopper"], {"strength": [0.5, 1.0, -1.0]})
    np.testing.assert_array_equal(weak.body_mass, whole.body_mass)
    np.testing.assert_array_equal(weak.geom_friction, whole.geom_friction)
    np.testing.assert_array_equal(weak.opt.gravity, whole.opt.gravity)
    np.testing.assert_array_equal(weak.actuator_gear[:, 0], whole.actuator_gear[:, 0] * [0.5, 1.0, -1.0])


def _actions(batch: MujocoBatch, steps: int, seed: int = 0) -> Iterator[Any]:
    """Some within the bounds, some at them and some outside."""
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        yield rng.uniform(-1.3, 1.3, (batch.num_copies, batch.action_high.size)).astype(np.float32) * batch.action_high


@pytest.mark.parametrize("changed", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_it_equals_gymnasiums_environment_step_for_step(name: str, changed: bool) -> None:
    body = _body(name) if changed else None
    batch, copies = _batch(name, 3, body), range(3)
    envs, ends = [_env(name, body) for _ in copies], 0
    assert batch.observation_size == envs[0].observation_space.shape[0]
    np.testing.assert_array_equal(batch.action_low, envs[0].action_space.low)
    np.testing.assert_array_equal(batch.action_high, envs[0].action_space.high)
    batch.reset(np.arange(3), np.arange(3) + 7)
    for copy in copies:
        start, _ = envs[copy].reset(seed=copy + 7)
        np.testing.assert_array_equal(batch.observations[copy], start.astype(np.float32))
    for step, actions in enumerate(_actions(batch, 4 * HORIZON)):
        batch.step(actions)
        for copy, env in enumerate(envs):
            applied = np.clip(actions[copy], env.action_space.low, env.action_space.high)
            observation, reward, terminated, truncated, info = env.step(applied)
            np.testing.assert_array_equal(batch.state[0][copy], env.unwrapped.data.qpos)
            np.testing.assert_array_equal(batch.state[1][copy], env.unwrapped.data.qvel)
            np.testing.assert_array_equal(batch.observations[copy], observation.astype(np.float32))
            assert batch.reward[copy] == reward
            assert batch.costs[copy].tolist() == [info["x_velocity"], info.get("y_velocity", 0.0)]
            assert (batch.terminated[copy], batch.truncated[copy]) == (terminated, truncated)
            if terminated or truncated:
                ends += 1
                start, _ = env.reset(seed=1000 + 3 * step + copy)
                batch.reset(np.array([copy]), np.array([1000 + 3 * step + copy]))
                np.testing.assert_array_equal(batch.observations[copy], start.astype(np.float32))
    assert ends >= 9


@pytest.mark.parametrize("name", NAMES)
def test_changed_bodies_move_differently(name: str) -> None:
    one, other = _batch(name, 1), _batch(name, 1, _body(name))
    for batch in (one, other):
        batch.reset(np.array([0]), np.array([0]))
        for actions in _actions(batch, 5):
            batch.step(actions)
    assert not np.array_equal(one.observations, other.observations)


@pytest.mark.parametrize("name", NAMES)
def test_an_episodes_bits_depend_on_its_seed_alone(name: str) -> None:
    one, many = _batch(name, 1), _batch(name, 5)
    one.reset(np.array([0]), np.array([42]))
    many.reset(np.arange(5), np.array([1, 2, 3, 42, 4]))
    for step, actions in enumerate(_actions(many, 40)):
        many.step(actions)
        one.step(actions[3:4])
        for field in ("observations", "reward", "costs", "terminated", "truncated"):
            np.testing.assert_array_equal(getattr(one, field)[0], getattr(many, field)[3])
        if step % 7 == 0:
            others = np.array([0, 1, 2, 4])
            many.reset(others, others + step)


def test_an_episode_repeats_after_a_reset() -> None:
    batch, seen = _batch("ant", 2), []
    for _ in range(2):
        batch.reset(np.arange(2), np.array([3, 4]))
        for actions in _actions(batch, 30):
            batch.step(actions)
        seen.append((batch.observations.copy(), batch.reward.copy()))
    np.testing.assert_array_equal(seen[0][0], seen[1][0])
    np.testing.assert_array_equal(seen[0][1], seen[1][1])


def test_it_is_a_batch_environment_with_arrays_of_its_own() -> None:
    batch = _batch("hopper", 2)
    assert isinstance(batch, BatchEnvironment)
    batch.reset(np.arange(2), np.arange(2))
    arrays = [batch.observations, batch.reward, batch.costs, batch.terminated, batch.truncated]
    batch.step(np.zeros((2, 3)))
    after = [batch.observations, batch.reward, batch.costs, batch.terminated, batch.truncated]
    assert all(one is two for one, two in zip(arrays, after, strict=True))
    assert [str(array.dtype) for array in arrays] == ["float32", "float64", "float64", "bool", "bool"]
    batch.close()


def test_an_instability_names_task_step_and_state() -> None:
    batch = _batch("half_cheetah", 2)
    batch.reset(np.arange(2), np.arange(2))
    batch.step(np.zeros((2, 6)))
    batch._copies[1].qvel[3] = 1e12
    with pytest.raises(TaskError) as caught:
        batch.step(np.full((2, 6), 0.5))
    message = str(caught.value)
    assert message.startswith("half_cheetah/train/0, step 2, copy 1: MuJoCo warns: ")
    assert "unstable" in message
    assert f"qpos {batch.state[0][1].tolist()}" in message
    assert message.endswith("action [0.5, 0.5, 0.5, 0.5, 0.5, 0.5]")
    batch.reset(np.array([1]), np.array([1]))
    batch.step(np.zeros((2, 6)))


def test_actions_that_are_not_numbers_or_of_another_shape_are_reported() -> None:
    batch = _batch("hopper", 2)
    with pytest.raises(TaskError, match="copy 0 was never reset"):
        batch.step(np.zeros((2, 3)))
    batch.reset(np.arange(2), np.arange(2))
    with pytest.raises(TaskError, match=r"actions must have shape \[2, 3\], got \[3\]"):
        batch.step(np.zeros(3))
    wrong = np.zeros((2, 3))
    wrong[1, 0] = np.nan
    with pytest.raises(TaskError, match=r"hopper/train/0, step 1, copy 1: the action .* is not finite"):
        batch.step(wrong)
    with pytest.raises(TaskError, match="at least one copy"):
        _batch("hopper", 0)


def test_mujoco_writes_no_log_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _env("half_cheetah").close()
    batch = _batch("half_cheetah", 1)
    batch.reset(np.array([0]), np.array([0]))
    batch._copies[0].qvel[0] = np.nan
    with pytest.raises(TaskError):
        batch.step(np.zeros((1, 6)))
    assert not list(tmp_path.iterdir())
