"""A point on a line, vectorised, with known answers: the toy on which neural policies are tested."""

from __future__ import annotations

import dataclasses
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from tasks.contract.tabular_model import TabularModel
from tasks.contract.task import Parameters, Split


class PointBatch:
    """x' = x + ``push`` a from x = 0, reward x', cost 1 where |x'| > 1 (and, with two costs, a^2 beside it).

    Episodes end in truth at |x'| > 3 and are cut after ``horizon`` steps. The observation is (x, share of the horizon
    gone). Staying at x = 1 is the best that a cost limit of 0 allows: its return is 1 a step from the fourth on.
    """

    action_low: NDArray[np.float32] | None
    action_high: NDArray[np.float32] | None
    num_actions: int | None

    def __init__(
        self, num_copies: int, horizon: int = 20, num_costs: int = 1, *, discrete: bool = False, push: float = 0.25
    ) -> None:
        self._push = push
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
        place = self.observations[:, 0] + self._push * push
        self.ages += 1
        self.observations = np.stack([place, self.ages / self.horizon], axis=1).astype(np.float32)
        self.reward = place.astype(np.float32)
        self.costs = np.stack([np.abs(place) > 1.0, push**2][: self.num_costs], axis=1).astype(np.float32)
        self.terminated = np.abs(place) > 3.0
        self.truncated = (self.ages >= self.horizon) & ~self.terminated

    def close(self) -> None:
        """Nothing to let go of."""


@dataclasses.dataclass(frozen=True)
class PointFamily:
    """Points that differ in how far an action moves them; stepped as a batch only."""

    seed: int
    num_tasks: int
    horizon: int = 20
    limit: float = 1.0
    effort_limit: float | None = None
    discount: float = 0.95
    discrete: bool = False

    @property
    def cost_names(self) -> tuple[str, ...]:
        return ("beyond",) if self.effort_limit is None else ("beyond", "effort")

    def parameters(self, split: Split, index: int, attempt: int) -> Parameters:
        rng = np.random.default_rng([self.seed, ("train", "test").index(split), index, attempt])
        return {"push": float(rng.uniform(0.2, 0.3)), "task": f"{split}/{index}"}

    def make(self, parameters: Parameters) -> gymnasium.Env[Any, Any]:
        raise NotImplementedError("a batch is asked for")

    def batch(self, parameters: Parameters, num_copies: int, label: str) -> PointBatch:
        costs = len(self.cost_names)
        return PointBatch(num_copies, self.horizon, costs, discrete=self.discrete, push=parameters["push"])

    def model(self, parameters: Parameters) -> TabularModel | None:
        return None

    def limits(self, parameters: Parameters) -> tuple[float, ...] | float:
        return (self.limit,) if self.effort_limit is None else (self.limit, self.effort_limit)
