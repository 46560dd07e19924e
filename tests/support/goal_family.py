"""Tasks that differ in the action that is right: the toy on which contexts are tested."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import gymnasium
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from tasks.contract.family import Family
from tasks.contract.task import Parameters


class GoalEnv(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """Reward -|a - goal| and cost a^2; the observation says nothing."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, goal: float, breaks_above: float) -> None:
        self._goal, self._breaks_above = goal, breaks_above

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed, options=options)
        return np.zeros(1, np.float32), {}

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        if self._goal > self._breaks_above:
            raise RuntimeError("the goal is out of reach")
        reward = -abs(float(action[0]) - self._goal)
        return np.zeros(1, np.float32), reward, False, False, {"cost": [float(action[0]) ** 2]}


class GoalFamily(Family):
    """Goals between -``widest`` and ``widest``; those over ``breaks_above`` fail; one parameter is no number."""

    cost_names: ClassVar[tuple[str, ...]] = ("effort",)

    horizon: int = Field(default=20, gt=0)
    cost_limits: tuple[float, ...] = (10.0,)
    widest: float = 1.0
    breaks_above: float = float("inf")

    def draw(self, rng: np.random.Generator) -> Mapping[str, Any]:
        return {"goal": rng.uniform(-self.widest, self.widest), "kind": f"goal {rng.integers(1_000_000)}"}

    def make(self, parameters: Parameters) -> gymnasium.Env[Any, Any]:
        return GoalEnv(float(parameters["goal"]), self.breaks_above)
