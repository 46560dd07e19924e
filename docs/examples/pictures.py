"""Tasks that are seen as pictures of 84 x 84 pixels, and networks of convolutions for them."""
# ruff: noqa: D102

import gymnasium
import numpy as np
import torch
from torch import nn

from tasks.contract.family import Family

CELLS, PIXELS = 7, 12
MOVES = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))


class Courier(gymnasium.Env):
    """A dot walks to a goal on a grid of 7 x 7 cells; the picture shows both, and a row that it should not stand on.

    The reward of a step is minus the distance to the goal, 1 at the most; the cost is a toll on the forbidden row.
    """

    observation_space = gymnasium.spaces.Box(0.0, 1.0, (CELLS * PIXELS, CELLS * PIXELS), np.float32)
    action_space = gymnasium.spaces.Discrete(len(MOVES))

    def __init__(self, row, toll):
        self._row, self._toll = row, toll

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._place, self._goal = (self.np_random.integers(CELLS, size=2) for _ in range(2))
        return self._picture(), {}

    def step(self, action):
        self._place = np.clip(self._place + MOVES[action], 0, CELLS - 1)
        distance = float(np.abs(self._place - self._goal).sum()) / (2 * (CELLS - 1))
        return self._picture(), -distance, False, False, {"cost": self._toll * (self._place[0] == self._row)}

    def _picture(self):
        cells = np.zeros((CELLS, CELLS), np.float32)
        cells[self._row] = 0.2
        cells[tuple(self._goal)] += 0.3
        cells[tuple(self._place)] += 0.5
        return cells.repeat(PIXELS, axis=0).repeat(PIXELS, axis=1)


class Couriers(Family):
    """Couriers that differ in the row that is forbidden, and in its toll."""

    cost_names = ("on the row",)
    cost_limits: tuple[float, ...] = (0.5,)
    horizon: int = 20
    discount: float = 0.9

    def draw(self, rng):
        return {"row": int(rng.integers(1, CELLS - 1)), "toll": rng.uniform(0.7, 1.3)}

    def make(self, parameters):
        return Courier(int(parameters["row"]), float(parameters["toll"]))


class Eye(nn.Module):
    """Convolutions, one linear layer, and a last layer whose outputs begin near 0.

    ``inputs`` and ``outputs`` are numbers: an observation arrives as one row, and this module shapes it back.
    """

    def __init__(self, inputs, outputs, channels=8):
        super().__init__()
        side = round(inputs**0.5)
        self.side = side
        self.look = nn.Sequential(
            nn.Conv2d(1, channels, 12, stride=6), nn.ReLU(), nn.Conv2d(channels, 2 * channels, 3, stride=2), nn.ReLU()
        )
        seen = self.look(torch.zeros(1, 1, side, side)).numel()
        self.think = nn.Linear(seen, 64)
        self.head = nn.Linear(64, outputs)
        with torch.no_grad():
            self.head.weight.mul_(0.01)
            self.head.bias.zero_()

    def forward(self, observations):
        seen = self.look(observations.view(-1, 1, self.side, self.side)).flatten(1)
        return self.head(torch.tanh(self.think(seen)))
