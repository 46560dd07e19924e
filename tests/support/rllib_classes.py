"""Classes that a user might name behind ``rllib:``, sound and faulty ones."""

from __future__ import annotations

from typing import Any, ClassVar

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.ppo import PPO, PPOConfig


class OldStack(PPO):
    """An algorithm that still runs on the old API stack."""

    @classmethod
    def get_default_config(cls) -> AlgorithmConfig:
        old: Any = PPOConfig().api_stack(enable_rl_module_and_learner=False, enable_env_runner_and_connector_v2=False)
        return old  # type: ignore[no-any-return]


class Twice(PPO):
    """An algorithm that updates twice in an iteration."""

    def training_step(self) -> None:
        super().training_step()
        super().training_step()


class Fails(PPO):
    """An algorithm whose iteration fails."""

    def training_step(self) -> None:
        raise RuntimeError("no more")


class LimitedConfig(PPOConfig):
    """PPO that is told limits."""

    def __init__(self, algo_class: Any = None) -> None:
        super().__init__(algo_class=algo_class or Limited)
        self.cost_limits: list[float] = []

    def training(self, *, cost_limits: Any = None, **kwargs: Any) -> LimitedConfig:  # type: ignore[override]
        super().training(**kwargs)
        if cost_limits is not None:
            self.cost_limits = cost_limits
        return self


class Limited(PPO):
    """Writes down which limits it is told."""

    told: ClassVar[list[list[float]]] = []

    @classmethod
    def get_default_config(cls) -> AlgorithmConfig:
        return LimitedConfig()

    def training_step(self) -> None:
        self.told.append(list(self.config.cost_limits))  # type: ignore[union-attr]
        super().training_step()
