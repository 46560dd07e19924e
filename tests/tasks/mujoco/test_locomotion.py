from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import gymnasium
import numpy as np
import pydantic
import pytest

from policies.exact.drawing import draw_task
from tasks.contract.context import raw_context
from tasks.contract.family_registry import make_family
from tasks.contract.task import Task, TaskError, TaskFamily
from tasks.mujoco import objectives
from tasks.mujoco.locomotion import Locomotion
from tasks.mujoco.mujoco_batch import MujocoBatch
from tasks.mujoco.robots import ROBOTS
from tasks.mujoco.variants import Variant
from tasks.stepping.batch import GymnasiumBatch, make_batch

NAMES = list(ROBOTS)
VARIANTS: list[Variant] = ["velocity", "direction", "speed_limit", "body", "motors"]


def _family(name: str, **parameters: Any) -> Any:
    return make_family(name, seed=3, num_tasks=8, parameters=parameters)


def _steps(name: str, variant: Variant, **parameters: Any) -> tuple[Any, Any]:
    family = _family(name, variant=variant, similarity="low", horizon=40, **parameters)
    drawn = family.parameters("test", 1, 0)
    return family, drawn


@pytest.mark.parametrize("variant", [*VARIANTS, "body with overspeed"])
@pytest.mark.parametrize("name", NAMES)
def test_the_batch_agrees_with_the_environment_step_for_step(name: str, variant: Any) -> None:
    body = {"body_cost": "overspeed"} if variant == "body with overspeed" else {}
    family, drawn = _steps(name, variant.split(" ")[0], **body)
    env, batch = family.make(drawn), family.batch(drawn, 2)
    seed = 11
    observation, _ = env.reset(seed=seed)
    batch.reset(np.arange(2), np.array([99, seed]))
    rng = np.random.default_rng(1)
    for _ in range(60):
        actions = rng.uniform(-1.2, 1.2, (2, batch.action_high.size)) * batch.action_high
        batch.step(actions)
        observation, reward, terminated, truncated, info = env.step(actions[1])
        np.testing.assert_array_equal(batch.observations[1], observation.astype(np.float32))
        np.testing.assert_array_equal(batch.costs[1], info["cost"])
        assert batch.reward[1] == reward
        assert (batch.terminated[1], batch.truncated[1]) == (terminated, truncated)
        if terminated or truncated:
            seed += 1
            env.reset(seed=seed)
            batch.reset(np.array([1]), np.array([seed]))


@pytest.mark.parametrize("name", ["half_cheetah", "hopper", "humanoid"])
def test_fast_and_general_path_give_the_same_bits(name: str) -> None:
    family = _family(name, horizon=20)
    task = Task(name, "train", 0, 0, family.parameters("train", 0, 0), family.limits({}))
    fast = make_batch(family, task, 3)
    general = GymnasiumBatch(lambda: family.make(task.parameters), 3, 1, family.horizon, task.label)
    assert isinstance(fast, MujocoBatch)
    rng = np.random.default_rng(0)
    for step in range(50):
        ended = np.flatnonzero(fast.terminated | fast.truncated) if step else np.arange(3)
        for batch in (fast, general):
            batch.reset(ended, ended + 10 * step)
        actions = rng.normal(size=(3, general.observation_size))[:, : fast.action_high.size]
        for batch in (fast, general):
            batch.step(actions)
        for field in ("observations", "reward", "costs", "terminated", "truncated"):
            np.testing.assert_array_equal(getattr(fast, field), getattr(general, field), err_msg=field)


def test_velocity_of_a_robot_that_cannot_fall_is_the_distance_from_the_target() -> None:
    family = _family("half_cheetah", similarity="low")
    env = family.make({"target_speed": 1.5})
    env.reset(seed=0)
    action = np.array([2.0, -2.0, 0.5, 0.0, 0.0, 0.0])
    _, reward, _, _, info = env.step(action)
    assert reward == -abs(info["x_velocity"] - 1.5)
    assert info["cost"] == pytest.approx([0.1 * 2.25])


def test_velocity_of_a_robot_that_can_fall_pays_standing_more_than_falling() -> None:
    forward, healthy = np.array([0.0, 1.0, 2.0, 3.0, 0.5]), np.array([1.0, 1.0, 1.0, 1.0, 0.0])
    np.testing.assert_allclose(objectives.target_speed_reward(forward, healthy, 2.0), [1.0, 2.0, 3.0, 2.0, -1.5])


def test_overspeed_looks_at_one_axis_or_both() -> None:
    velocity = np.array([[3.0, 4.0], [-9.0, 0.0], [5.0, 0.0], [4.9, 0.0]])
    np.testing.assert_array_equal(objectives.overspeed(velocity, 4.95, both_axes=True), [1.0, 1.0, 1.0, 0.0])
    np.testing.assert_array_equal(objectives.overspeed(velocity, 4.95, both_axes=False), [0.0, 0.0, 1.0, 0.0])
    np.testing.assert_array_equal(objectives.overspeed(velocity, 5.0, both_axes=True), [0.0, 1.0, 0.0, 0.0])


@pytest.mark.parametrize("name", NAMES)
def test_speed_limit_keeps_gymnasiums_reward(name: str) -> None:
    family = _family(name, variant="speed_limit")
    env, own = family.make({"speed_limit": 0.1}), gymnasium.make(ROBOTS[name].gymnasium_id)
    env.reset(seed=1)
    own.reset(seed=1)
    rng = np.random.default_rng(0)
    for _ in range(10):
        action = rng.uniform(-0.4, 0.4, own.action_space.shape).astype(np.float32)
        _, reward, _, _, info = env.step(action)
        _, expected, _, _, _ = own.step(action)
        assert reward == expected
        speed = info["x_velocity"]
        if name in ("ant", "humanoid"):
            speed = np.hypot(speed, info["y_velocity"])
        assert info["cost"].tolist() == [float(speed > 0.1)]


def test_one_motor_is_damaged_and_the_others_are_whole() -> None:
    family = _family("half_cheetah", variant="motors", similarity="low")
    drawn = [family.parameters("train", index, 0)["strength"] for index in range(50)]
    damaged = [[place for place, factor in enumerate(strength) if factor != 1.0] for strength in drawn]
    assert {len(places) for places in damaged} == {1}
    assert {places[0] for places in damaged} == set(range(6))
    factors = [strength[places[0]] for strength, places in zip(drawn, damaged, strict=True)]
    assert min(factors) < -0.5
    mild = _family("half_cheetah", variant="motors", similarity="high")
    assert all(min(mild.parameters("train", index, 0)["strength"]) >= 0.5 for index in range(50))


def test_a_motor_that_turns_the_other_way_does_what_the_opposite_action_does() -> None:
    family = _family("half_cheetah", variant="motors", body_cost="overspeed")
    whole, turned = (family.batch({"strength": [first, 1.0, 1.0, 1.0, 1.0, 1.0]}, 1) for first in (1.0, -1.0))
    for batch, sign in ((whole, 1.0), (turned, -1.0)):
        batch.reset(np.arange(1), np.array([5]))
        batch.step(np.array([[0.7 * sign, 0.2, -0.3, 0.1, 0.0, 0.4]]))
    np.testing.assert_array_equal(whole.observations, turned.observations)


def test_a_motor_stronger_than_whole_is_an_error() -> None:
    family = _family("half_cheetah", variant="motors")
    with pytest.raises(ValueError, match=r"strength\[1\] must be from -1 .* to 1 .*, got 1.5"):
        family.check_parameters({"strength": [1.0, 1.5, 1.0, 1.0, 1.0, 1.0]})


def test_directions_turn_with_the_spread() -> None:
    for name in ("half_cheetah", "ant"):
        high, low = (_family(name, variant="direction", similarity=spread) for spread in ("high", "low"))
        weights = [np.array([f.parameters("train", i, 0)["weights"] for i in range(40)]) for f in (high, low)]
        assert (weights[0][:, 0] > 0.0).all()
        assert (weights[1][:, 0] < 0.0).any()
        assert (weights[1][:, 0] > 0.0).any()
        lengths = np.hypot(*weights[1].T)
        assert (np.abs(lengths - 1.0) < (0.21 if name == "half_cheetah" else 1e-12)).all()


def test_limits_are_discounted_numbers() -> None:
    steps = (1 - 0.99**200) / 0.01
    assert _family("half_cheetah").limits({}) == pytest.approx((0.2 * 0.6 * steps,))
    assert _family("humanoid").limits({}) == pytest.approx((0.2 * 0.1 * 17 * 0.16 * steps,))
    assert _family("hopper", variant="speed_limit").limits({}) == pytest.approx((0.025 * steps,))
    assert _family("hopper", limit=7.0).limits({}) == (7.0,)


def test_an_instability_in_the_environment_names_task_step_and_state() -> None:
    env = _family("hopper").make({"target_speed": 1.0})
    env.reset(seed=0)
    env.unwrapped.data.qpos[1] = np.nan
    with pytest.raises(TaskError, match=r"hopper, step 1: MuJoCo warns: .*unstable.* State before the step: qpos \["):
        env.step(np.zeros(3))


@pytest.mark.parametrize(
    "wrong", [{"similarity": 0.0}, {"similarity": 1.5}, {"body_cost": "overspeed"}, {"robot": "snake"}, {"speed": 1}]
)
def test_bad_fields_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(pydantic.ValidationError):
        Locomotion(**({"robot": "ant", "seed": 0} | wrong))


def test_a_missing_graphics_library_is_reported() -> None:
    code = "from tasks.contract.family_registry import family_class; family_class('hopper')"
    run = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "MUJOCO_GL": "slate"}, capture_output=True, text=True
    )
    assert run.returncode != 0
    last = run.stderr.strip().splitlines()[-1]
    assert "family.name: module 'tasks.mujoco.locomotion' does not import" in last
    assert "MuJoCo does not import with MUJOCO_GL='slate'" in last
    assert "set it to egl (Debian's package libegl1)" in last


def test_a_family_has_the_robot_as_its_name() -> None:
    for name in NAMES:
        family = _family(name)
        assert isinstance(family, TaskFamily)
        assert family.robot == name
        assert family.cost_names == ("control_effort",)
        assert family.model({}) is None


def test_limits_of_a_quarter_to_twice_the_usual_one_are_entries_of_the_context() -> None:
    plain, varied = _family("half_cheetah", limit=10.0), _family("half_cheetah", limit=10.0, limit_factors=(0.25, 2.0))
    factors = []
    for index in range(200):
        task = draw_task(varied, "half_cheetah", 0, "train", index)
        parameters = dict(task.parameters)
        factors.append(parameters.pop("limit_factor"))
        assert parameters == plain.parameters("train", index, 0)
        assert task.limits == (10.0 * factors[-1],)
        entries = raw_context(varied, task, limits=True)
        assert entries == {"target_speed": parameters["target_speed"], "limit of control_effort": task.limits[0]}
        assert raw_context(varied, task, limits=False) == {"target_speed": parameters["target_speed"]}
    assert min(factors) >= 0.25
    assert max(factors) <= 2.0
    assert np.median(factors) == pytest.approx(0.25**0.5 * 2.0**0.5, rel=0.2)


def test_a_heading_has_one_entry_where_the_robot_moves_along_x_only() -> None:
    entries = {}
    for name in ("half_cheetah", "ant"):
        family = _family(name, variant="direction")
        entries[name] = list(raw_context(family, draw_task(family, name, 0, "train", 0), limits=False))
    assert entries == {"half_cheetah": ["weights[0]"], "ant": ["weights[0]", "weights[1]"]}


@pytest.mark.parametrize("factors", [(2.0, 0.5), (0.0, 1.0), (1.0, 1.0)])
def test_factors_that_are_no_range_are_an_error(factors: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="limit_factors must be two rising numbers above 0"):
        _family("half_cheetah", limit_factors=factors)
