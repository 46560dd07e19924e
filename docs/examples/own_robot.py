"""Hoppers with a reward and a cost of your own, on the project's fast batch of MuJoCo robots."""
# ruff: noqa: D102, RUF012

import gymnasium
import numpy as np

from tasks.contract.family import Family
from tasks.mujoco.mujoco_batch import MujocoBatch, StepValues, compile_model
from tasks.mujoco.objectives import ObjectiveEnv
from tasks.mujoco.robots import ROBOTS

HOPPER = ROBOTS["hopper"]


def objective(parameters):
    """Reward and costs of n copies from their speeds, survival and applied actions."""

    def compute(values: StepValues):
        forward = values.velocity[:, 0]
        reward = values.survival - np.abs(forward - parameters["speed"])
        return reward, np.abs(values.actions).max(axis=1, keepdims=True).astype(np.float64)

    return compute


class Hoppers(Family):
    """Hop at a given speed with small torques."""

    cost_names = ("peak_torque",)
    cost_limits: tuple[float, ...] = (30.0,)
    gauges = {"speed": "x_velocity"}

    def draw(self, rng):
        return {"speed": rng.uniform(0.5, 1.5)}

    def make(self, parameters):
        env = gymnasium.make(HOPPER.gymnasium_id, max_episode_steps=self.horizon, disable_env_checker=True)
        return ObjectiveEnv(env, HOPPER, objective(parameters), "hopper")

    def batch(self, parameters, num_copies, label=None):
        return MujocoBatch(
            HOPPER,
            compile_model(HOPPER, None),
            num_copies,
            objective=objective(parameters),
            num_costs=1,
            horizon=self.horizon,
            label=label or "hopper",
        )
