"""Copies of HalfCheetah-v5 for benchmarks of the update, stepped one after the other by Gymnasium."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

SPEED_LIMIT = 1.0


class HalfCheetahBatch:
    """Gymnasium's reward; cost 1 for each step faster than ``SPEED_LIMIT``; episodes end after ``horizon`` steps."""

    num_costs = 1
    num_actions: int | None = None
    observation_size = 17

    def __init__(self, num_copies: int, horizon: int) -> None:
        self.num_copies, self.horizon = num_copies, horizon
        self._envs = [gymnasium.make("HalfCheetah-v5", max_episode_steps=horizon) for _ in range(num_copies)]
        self.action_low: NDArray[np.float32] | None = np.full(6, -1.0, dtype=np.float32)
        self.action_high: NDArray[np.float32] | None = np.full(6, 1.0, dtype=np.float32)
        self.observations = np.zeros((num_copies, 17), dtype=np.float32)
        self.reward = np.zeros(num_copies)
        self.costs = np.zeros((num_copies, 1))
        self.terminated = np.zeros(num_copies, dtype=np.bool_)
        self.truncated = np.zeros(num_copies, dtype=np.bool_)

    def reset(self, copies: NDArray[Any], seeds: NDArray[Any]) -> None:
        """Begin new episodes in ``copies``."""
        for copy, seed in zip(copies.tolist(), seeds.tolist(), strict=True):
            self.observations[copy], _ = self._envs[copy].reset(seed=seed)

    def step(self, actions: NDArray[Any]) -> None:
        """Step every copy."""
        for copy, env in enumerate(self._envs):
            observation, reward, ended, cut, info = env.step(actions[copy])
            self.observations[copy] = observation
            self.reward[copy] = reward
            self.costs[copy, 0] = float(info["x_velocity"] > SPEED_LIMIT)
            self.terminated[copy], self.truncated[copy] = ended, cut

    def close(self) -> None:
        """Close the environments."""
        for env in self._envs:
            env.close()  # type: ignore[no-untyped-call]
