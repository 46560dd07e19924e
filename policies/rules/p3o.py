"""p3o: an exact penalty in the place of the constraints (Zhang et al. 2022, arXiv 2205.11814)."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import Field

from policies.common.branches import REWARD_BRANCH
from policies.rules.rule import ClippedSettings, Decision, RuleSettings, Units, View


class P3O(RuleSettings):
    """Penalised proximal policy optimisation: maximise J_0 - sum_i kappa max(0, J_i - d_i).

    For kappa at least the largest optimal multiplier, both problems have the same solutions (theorem 1). A network
    takes epochs on the clipped surrogates, a table the natural gradient of the penalised objective.
    """

    penalty: float = Field(default=20.0, gt=0.0)
    """kappa."""
    units: Units = "relative"
    """relative: kappa is in units of the spread of the reward's advantages over a cost's; absolute: of returns."""
    clipped: ClippedSettings = ClippedSettings()
    """The steps of a network."""

    def first(self, num_costs: int) -> tuple[()]:
        """Nothing."""
        del num_costs
        return ()

    def decide(self, view: View, memory: Any) -> Decision:
        """alpha_0 (D_0 - kappa sum over the costs over their limits of D_i)."""
        full = view.priced(np.full(view.limits.size, self.penalty), self.units)
        over = np.concatenate([[True], view.excess > 0.0])
        coefficients = view.rates[0] * np.where(over, full, 0.0)
        return Decision(coefficients, REWARD_BRANCH, memory, clipped=self.clipped, hinges=-full[1:])
