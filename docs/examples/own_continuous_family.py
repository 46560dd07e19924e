"""Pendulums that differ in mass and length: swing up and balance with little torque."""
# ruff: noqa: D102

import gymnasium

from tasks.contract.family import Family


class Effort(gymnasium.Wrapper):
    """Adds the cost of a step: the share of the greatest torque that it uses, squared."""

    def step(self, action):
        observation, reward, terminated, truncated, info = self.env.step(action)
        effort = float(action[0] / self.unwrapped.max_torque) ** 2
        return observation, reward, terminated, truncated, {**info, "cost": effort}


class Pendulums(Family):
    """Gymnasium's Pendulum-v1; its reward falls with the angle from upright, the speed and the torque."""

    cost_names = ("effort",)
    cost_limits: tuple[float, ...] = (15.0,)

    def draw(self, rng):
        return {"mass": rng.uniform(0.7, 1.3), "length": rng.uniform(0.7, 1.3)}

    def make(self, parameters):
        env = gymnasium.make("Pendulum-v1", max_episode_steps=self.horizon)
        env.unwrapped.m, env.unwrapped.l = parameters["mass"], parameters["length"]
        return Effort(env)
