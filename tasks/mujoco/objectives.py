"""Rewards and costs of the locomotion variants on arrays; single environments use the same functions."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from tasks.contract.instability import warning_texts
from tasks.contract.task import TaskError
from tasks.mujoco.mujoco_batch import Objective, StepValues
from tasks.mujoco.robots import Robot
from tasks.stepping.batch import FloatArray

EFFORT_WEIGHT = 0.1
Number = float | FloatArray
"""One number for all copies, or one for each copy [n]."""


def control_effort(actions: NDArray[np.float32]) -> FloatArray:
    """0.1 |a|^2 [n] of the applied (clipped) actions [n, A]."""
    return np.asarray(EFFORT_WEIGHT * np.add.reduce(np.square(actions, dtype=np.float64), axis=-1))


def overspeed(velocity: FloatArray, limit: Number, both_axes: bool) -> FloatArray:
    """1 where the speed of ``velocity`` [n, 2] is above ``limit`` (m/s), else 0; [n].

    The speed is the velocity along x (as in Safety-Gymnasium) or, with ``both_axes``, the norm of the velocity.
    """
    speed = np.hypot(velocity[:, 0], velocity[:, 1]) if both_axes else velocity[:, 0]
    return np.asarray(speed > limit, dtype=np.float64)


def target_speed_reward(forward: FloatArray, survival: FloatArray, target: Number) -> FloatArray:
    """-|v - v*| [n], plus (healthy reward + v*) on healthy steps of a robot whose episodes can end early.

    Without the bonus, a robot that can fall would earn most by falling at once. With it, standing still earns the
    healthy reward, and a speed up to v* adds its own value, as in Gymnasium's own reward.
    """
    distance = np.abs(forward - target)
    return np.asarray((survival > 0.0) * target + survival - distance)


def heading_reward(velocity: FloatArray, survival: FloatArray, weights: tuple[Number, Number]) -> FloatArray:
    """w_x v_x + w_y v_y + healthy reward, [n]."""
    return np.asarray(weights[0] * velocity[:, 0] + weights[1] * velocity[:, 1] + survival)


def target_speed(target: Number, can_fall: bool) -> Objective:
    """Variant ``velocity``: reward :func:`target_speed_reward`, cost :func:`control_effort`."""

    def objective(values: StepValues) -> tuple[FloatArray, FloatArray]:
        forward = values.velocity[:, 0]
        reward = target_speed_reward(forward, values.survival, target) if can_fall else -np.abs(forward - target)
        return reward, control_effort(values.actions)[:, None]

    return objective


def heading(weights: tuple[Number, Number]) -> Objective:
    """Variant ``direction``: reward :func:`heading_reward`, cost :func:`control_effort`."""

    def objective(values: StepValues) -> tuple[FloatArray, FloatArray]:
        return heading_reward(values.velocity, values.survival, weights), control_effort(values.actions)[:, None]

    return objective


def own_reward_with_effort() -> Objective:
    """Gymnasium's own reward, cost :func:`control_effort`."""

    def objective(values: StepValues) -> tuple[FloatArray, FloatArray]:
        return values.own_reward(), control_effort(values.actions)[:, None]

    return objective


def own_reward_with_speed_limit(limit: Number, both_axes: bool) -> Objective:
    """Gymnasium's own reward, cost :func:`overspeed`."""

    def objective(values: StepValues) -> tuple[FloatArray, FloatArray]:
        return values.own_reward(), overspeed(values.velocity, limit, both_axes)[:, None]

    return objective


def discounted_steps(discount: float, horizon: int) -> float:
    """sum of gamma^t over t < horizon: the discounted cost of an episode that costs 1 at every step."""
    return (1.0 - math.pow(discount, horizon)) / (1.0 - discount)


class ObjectiveEnv(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Gymnasium's own v5 environment with a variant's reward and ``info["cost"]`` [p]; actions are clipped before use.

    Like the batch, it raises TaskError with the state if MuJoCo counts a warning (an instability).
    """

    def __init__(self, env: gymnasium.Env[Any, Any], robot: Robot, objective: Objective, label: str) -> None:
        super().__init__(env)
        self._robot, self._objective, self._label = robot, objective, label
        self._steps = 0
        space: Any = env.action_space
        self._low, self._high = space.low, space.high
        self._data = env.unwrapped.data  # type: ignore[attr-defined]
        self._warnings = self._data.warning.number

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset as Gymnasium does."""
        self._steps = 0
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Clip the action, step, and replace the reward."""
        self._steps += 1
        applied = np.clip(np.asarray(action, np.float32), self._low, self._high)
        before = f"qpos {self._data.qpos.tolist()}, qvel {self._data.qvel.tolist()}"
        observation, own, terminated, truncated, info = self.env.step(applied)
        if self._warnings.any():
            raise TaskError(
                f"{self._label}, step {self._steps}: MuJoCo warns: {warning_texts(self._warnings)} "
                f"State before the step: {before}, action {applied.tolist()}"
            )
        survival = info.get("reward_survive", 0.0) if self._robot.healthy is not None else 0.0
        values = StepValues(
            own_reward=lambda: np.array([own], np.float64),
            survival=np.array([survival], np.float64),
            velocity=np.array([[info["x_velocity"], info.get("y_velocity", 0.0)]], np.float64),
            actions=applied[None],
        )
        reward, costs = self._objective(values)
        info["cost"] = costs[0]
        return observation, float(reward[0]), bool(terminated), truncated, info
