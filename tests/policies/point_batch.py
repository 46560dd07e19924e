"""A point on a line, vectorised, with known answers: the toy on which neural policies are tested."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


class PointBatch:
    """x' = x + 0.25 a from x = 0, reward x', cost 1 where |x'| > 1 (and, with two costs, a^2 beside it).

    Episodes end in truth at |x'| > 3 and are cut after ``horizon`` steps. The observation is (x, share of the horizon
    gone). Staying at x = 1 is the best that a cost limit of 0 allows: its return is 1 a step from the fourth on.
    """

    action_low: NDArray[np.float32] | None
    action_high: NDArray[np.float32] | None
    num_actions: int | None

    def __init__(self, num_copies: int, horizon: int = 20, num_costs: int = 1, *, discrete: bool = False) -> None:
        self.num_copies, self.horizon, self.num_costs, self.observation_size = num_copies, horizon, num_costs, 2
        self.num_actions = 3 if discrete else None
        self.action_low = None if discrete else np.array([-1.0], dtype=np.float32)
        self.action_high = None if discrete else np.array([1.0], dtype=np.float32)
        self.observations = np.zeros((num_copies, 2), dtype=np.float32)
        self.reward = np.zeros(num_copies, dtype=np.float32)
        self.costs = np.zeros((num_copies, num_costs), dtype=np.float32)
        self.terminated = np.zeros(num_copies, dtype=np.bool_)
        self.truncated = np.zeros(num_copies, dtype=np.bool_)
        self.ages = np.zeros(num_copies, dtype=np.int64)
        self.resets: list[tuple[int, int]] = []
        self.actions: list[NDArray[Any]] = []

    def reset(self, copies: NDArray[np.int64], seeds: NDArray[np.uint32]) -> None:
        self.resets += list(zip(copies.tolist(), seeds.tolist(), strict=True))
        starts = [np.random.default_rng(seed).uniform(-0.05, 0.05) for seed in seeds]
        self.observations[copies, 0] = starts
        self.observations[copies, 1] = 0.0
        self.ages[copies] = 0

    def step(self, actions: NDArray[Any]) -> None:
        self.actions.append(actions.copy())
        push = actions - 1.0 if self.num_actions else actions[:, 0]
        place = self.observations[:, 0] + 0.25 * push
        self.ages += 1
        self.observations = np.stack([place, self.ages / self.horizon], axis=1).astype(np.float32)
        self.reward = place.astype(np.float32)
        self.costs = np.stack([np.abs(place) > 1.0, push**2][: self.num_costs], axis=1).astype(np.float32)
        self.terminated = np.abs(place) > 3.0
        self.truncated = (self.ages >= self.horizon) & ~self.terminated
