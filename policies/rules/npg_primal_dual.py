"""npg_primal_dual: natural ascent on the Lagrangian, projected descent on its multipliers (Ding et al. 2020)."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from policies.common.branches import REWARD_BRANCH
from policies.rules.rule import Decision, RuleSettings, Units, View
from tasks.contract.tabular_model import FloatArray


class NPGPrimalDual(RuleSettings):
    """Natural policy gradient primal-dual (Ding, Zhang, Basar, Jovanovic 2020; journal form arXiv 2206.02346)."""

    dual_rate: float = Field(default=0.1, gt=0.0)
    """eta_2: a multiplier rises by this times J_i - d_i - eta_i in each iteration."""
    largest_multiplier: float = Field(default=100.0, gt=0.0)
    """Multipliers are projected onto [0, this]; the paper's is 2 / ((1 - gamma) xi), xi the slack of a safe policy."""
    units: Units = "absolute"
    """absolute: multipliers in reward per cost, as the guarantee has them; relative: see ppo_lagrangian."""

    def first(self, num_costs: int) -> FloatArray:
        """lambda_0 = 0, [p]."""
        return np.zeros(num_costs)

    def decide(self, view: View, memory: FloatArray) -> Decision:
        """alpha_0 (D_0 - sum_i lambda_i D_i); then lambda_i = Proj(lambda_i + eta_2 (J_i - d_i))."""
        coefficients = view.rates[0] * view.priced(memory, self.units)
        return Decision(coefficients, REWARD_BRANCH, self.next_multipliers(memory, view.violations(self.units)))

    def next_multipliers(self, multipliers: FloatArray, violations: FloatArray) -> FloatArray:
        """The projected step of the dual variables [p]."""
        return np.clip(multipliers + self.dual_rate * violations, 0.0, self.largest_multiplier)
