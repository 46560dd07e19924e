"""ppo_lagrangian: clipped policy steps on a Lagrangian whose multipliers a PID controller sets (Stooke et al. 2020)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydantic import Field

from policies.common.branches import REWARD_BRANCH
from policies.rules.rule import ClippedSettings, Decision, RuleSettings, Units, View
from tasks.contract.tabular_model import FloatArray


@dataclass(frozen=True, slots=True)
class Controller:
    """``integral`` I [p] and the ``previous`` violation [p]; NaN before the first."""

    integral: FloatArray
    previous: FloatArray


class PPOLagrangian(RuleSettings):
    """PID Lagrangian (Stooke, Achiam, Abbeel 2020, algorithm 2) with PPO's steps; natural-gradient steps in a table."""

    proportional: float = Field(default=1.0, ge=0.0)
    """K_P, on the violation."""
    integral: float = Field(default=0.1, ge=0.0)
    """K_I, on the sum of violations, which is kept at least 0."""
    derivative: float = Field(default=0.0, ge=0.0)
    """K_D, on the rise of the cost since the last iteration; a fall counts as 0."""
    largest_multiplier: float = Field(default=100.0, gt=0.0)
    """Multipliers, and K_I times the sum, are at most this."""
    units: Units = "relative"
    """relative: violations are shares of the limits, advantages in units of their spread; absolute: of the returns."""
    clipped: ClippedSettings = ClippedSettings()
    """The steps of a network."""

    def first(self, num_costs: int) -> Controller:
        """I = 0 and no earlier cost."""
        return Controller(np.zeros(num_costs), np.full(num_costs, np.nan))

    def decide(self, view: View, memory: Controller) -> Decision:
        """alpha_0 (D_0 - sum_i lambda_i D_i) / (1 + sum_i lambda_i), with the multipliers of this iterate."""
        multipliers, controller = self.controlled(memory, view.violations(self.units))
        coefficients = view.rates[0] * view.priced(multipliers, self.units) / (1.0 + multipliers.sum())
        return Decision(coefficients, REWARD_BRANCH, controller, clipped=self.clipped)

    def controlled(self, memory: Controller, violations: FloatArray) -> tuple[FloatArray, Controller]:
        """lambda = (K_P e + K_I I + K_D (e - e')_+)_+ [p] with I = (I' + e)_+, and what the next iteration needs.

        e are the violations J_i - d_i now and e' those of the last iteration (algorithm 2).
        """
        most = self.largest_multiplier / self.integral if self.integral > 0.0 else np.inf
        total = np.clip(memory.integral + violations, 0.0, most)
        rise = np.where(np.isnan(memory.previous), 0.0, np.maximum(violations - memory.previous, 0.0))
        raw = self.proportional * violations + self.integral * total + self.derivative * rise
        return np.clip(raw, 0.0, self.largest_multiplier), Controller(total, violations)
