"""Tasks with a context that shows in the first step only, and a recurrent network that remembers it."""
# ruff: noqa: D102

import gymnasium
import numpy as np
import torch
from torch import nn

from tasks.contract.family import Family

STEPS = 8


class Corridor(gymnasium.Env):
    """A sign at the entrance says which of two doors at the end is safe: the right one pays, the wrong one costs.

    An observation holds the last 8 steps, each with the sign (0 beyond the entrance) and the way gone, oldest first.
    """

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (STEPS, 2), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, pay):
        self._pay = pay

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._door, self._age = int(self.np_random.integers(2)), 0
        self._seen = np.zeros((STEPS, 2), np.float32)
        return self._look(2.0 * self._door - 1.0), {}

    def step(self, action):
        self._age += 1
        at_door, right = self._age == STEPS, action == self._door
        reward, cost = self._pay * (at_door and right), float(at_door and not right)
        return self._look(0.0), reward, at_door, False, {"cost": cost}

    def _look(self, sign):
        self._seen = np.concatenate([self._seen[1:], [[sign, self._age / STEPS]]], dtype=np.float32)
        return self._seen.copy()


class Corridors(Family):
    """Corridors that differ in what the safe door pays."""

    cost_names = ("wrong door",)
    cost_limits: tuple[float, ...] = (0.1,)
    horizon: int = STEPS
    discount: float = 0.9

    def draw(self, rng):
        return {"pay": rng.uniform(0.5, 1.5)}

    def make(self, parameters):
        return Corridor(float(parameters["pay"]))


class Remembering(nn.Module):
    """A GRU over the steps of an observation; ``steps`` = 1 forgets all but the newest."""

    def __init__(self, inputs, outputs, steps=STEPS, width=16):
        super().__init__()
        self.numbers, self.steps = inputs // STEPS, steps
        self.memory = nn.GRU(self.numbers, width, batch_first=True)
        self.head = nn.Linear(width, outputs)
        with torch.no_grad():
            self.head.weight.mul_(0.01)
            self.head.bias.zero_()

    def forward(self, observations):
        states, _ = self.memory(observations.view(len(observations), STEPS, self.numbers)[:, -self.steps :])
        return self.head(states[:, -1])
