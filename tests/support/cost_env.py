"""A point on a line as a Gymnasium environment for RLlib, with costs in ``info``, and its faulty relatives."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

Step = tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]


class LineEnv(gymnasium.Env[NDArray[np.float32], Any]):
    """x' = x + 0.25 a from x = 0, reward x', cost 1 where |x'| > 1; 20 steps, or less where |x'| > ``ends_at``.

    ``costs``: number, vector (with a^2), missing (after five steps), nan, or three.
    """

    def __init__(self, config: dict[str, Any] | None = None) -> None:
        given = {"costs": "number", "discrete": False, "ends_at": np.inf, **(config or {})}
        self._costs, self._ends_at = given["costs"], given["ends_at"]
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = (
            gymnasium.spaces.Discrete(3) if given["discrete"] else gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
        )
        self._x, self._age = 0.0, 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        self._x, self._age = float(self.np_random.uniform(-0.05, 0.05)), 0
        return self._seen(), {}

    def step(self, action: Any) -> Step:
        push = float(action) - 1.0 if isinstance(self.action_space, gymnasium.spaces.Discrete) else float(action[0])
        self._x, self._age = self._x + 0.25 * push, self._age + 1
        return self._seen(), self._x, abs(self._x) > self._ends_at, self._age >= 20, self._info(push)

    def _seen(self) -> NDArray[np.float32]:
        return np.array([self._x, self._age / 20], np.float32)

    def _info(self, push: float) -> dict[str, Any]:
        cost = float(abs(self._x) > 1.0)
        if self._costs == "vector":
            return {"cost": np.array([cost, push**2])}
        if self._costs == "missing" and self._age > 5:
            return {"speed": push}
        return {"cost": np.nan if self._costs == "nan" else cost}
