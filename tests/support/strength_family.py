"""Tasks that differ in how strongly an action moves the state: a context that shows in the transitions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import gymnasium
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from tasks.contract.family import Family
from tasks.contract.task import Parameters


class StrengthEnv(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """x' = 0.8 x + strength a from x = 0; reward -|x' - 0.3| and cost a^2."""

    observation_space = gymnasium.spaces.Box(-10.0, 10.0, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, strength: float) -> None:
        self._strength, self._x = strength, 0.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed, options=options)
        self._x = 0.0
        return np.zeros(1, np.float32), {}

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        self._x = 0.8 * self._x + self._strength * float(action[0])
        observation = np.array([self._x], np.float32)
        return observation, -abs(self._x - 0.3), False, False, {"cost": [float(action[0]) ** 2]}


class StrengthFamily(Family):
    """Strengths between 0.2 and 1."""

    cost_names: ClassVar[tuple[str, ...]] = ("effort",)

    horizon: int = Field(default=20, gt=0)
    cost_limits: tuple[float, ...] = (10.0,)

    def draw(self, rng: np.random.Generator) -> Mapping[str, Any]:
        return {"strength": rng.uniform(0.2, 1.0)}

    def make(self, parameters: Parameters) -> gymnasium.Env[Any, Any]:
        return StrengthEnv(float(parameters["strength"]))
