"""Lakes whose rewards and costs are in other units: the toy on which scale-free learning is tested."""

from __future__ import annotations

import dataclasses
from typing import Any

import gymnasium
from pydantic import Field

from tasks.contract.tabular_model import TabularModel
from tasks.contract.task import Parameters
from tasks.lakes.frozen_lake import FrozenLake


class _InUnits(gymnasium.Wrapper[Any, Any, Any, Any]):
    def __init__(self, env: gymnasium.Env[Any, Any], reward: float, cost: float) -> None:
        super().__init__(env)
        self._reward, self._cost = reward, cost

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        costs = self._cost * float(info["cost"])
        return observation, self._reward * float(reward), terminated, truncated, {**info, "cost": costs}


class ScaledLake(FrozenLake):
    """FrozenLake with every reward times ``reward_unit`` and every cost times ``cost_unit``."""

    reward_unit: float = Field(default=1.0, gt=0.0)
    cost_unit: float = Field(default=1.0, gt=0.0)

    def make(self, parameters: Parameters, render_mode: str | None = None) -> gymnasium.Env[Any, Any]:
        return _InUnits(super().make(parameters, render_mode), self.reward_unit, self.cost_unit)

    def model(self, parameters: Parameters) -> TabularModel:
        model = super().model(parameters)
        return dataclasses.replace(model, reward=self.reward_unit * model.reward, costs=self.cost_unit * model.costs)
