"""pcrpo: soft switching between reward and cost with gradient manipulation (Gu et al. 2024, arXiv 2405.01677)."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import Field

from policies.common.branches import REWARD_BRANCH
from policies.rules.rule import Decision, RuleSettings, View, single
from tasks.contract.tabular_model import FloatArray


class PCRPO(RuleSettings):
    """CRPO with a band about the limit in which a step serves the reward and the cost together (algorithm 1).

    Angles and projections are those of the natural gradients in the Fisher metric, in which a projected step leaves
    the other objective unchanged to first order.
    """

    below: float = Field(default=0.1, ge=0.0, lt=1.0)
    """-h^-: the band begins at (1 - below) d_i."""
    above: float = Field(default=0.1, ge=0.0)
    """h^+: the band ends at (1 + above) d_i; beyond it, steps are on the cost alone."""
    reward_weight: float = Field(default=0.5, gt=0.0, lt=1.0)
    """Weight of the reward's direction within the band; that of the cost's is 1 - reward_weight."""

    def first(self, num_costs: int) -> tuple[()]:
        """Nothing."""
        del num_costs
        return ()

    def decide(self, view: View, memory: Any) -> Decision:
        """The reward below the band, a cost above it, and within it both, each without what harms the other."""
        over = view.branch(1.0 + self.above)
        if over != REWARD_BRANCH:
            return single(view, over, memory)
        near = view.branch(1.0 - self.below)
        if near == REWARD_BRANCH:
            return single(view, REWARD_BRANCH, memory)
        step = manipulated(view.products(), view.rates, near, self.reward_weight)
        return Decision(step, REWARD_BRANCH, memory)


def manipulated(products: FloatArray, rates: FloatArray, cost: int, weight: float) -> FloatArray:
    """Coefficients [1+p] of w x_r + (1 - w) x_c, with x_r = alpha_0 D_0 and x_c = -alpha_i D_i for the ``cost`` i.

    Where they conflict, <x_r, x_c> < 0 (an angle of more than 90 degrees), each is first projected onto the plane
    normal to the other: x_r - <x_r, x_c> / <x_c, x_c> x_c, and likewise.
    """
    reward, descent = np.zeros(len(products)), np.zeros(len(products))
    reward[0], descent[cost] = rates[0], -rates[cost]
    inner = float(reward @ products @ descent)
    if inner < 0.0:
        sizes = float(reward @ products @ reward), float(descent @ products @ descent)
        reward, descent = reward - inner / sizes[1] * descent, descent - inner / sizes[0] * reward
    return weight * reward + (1.0 - weight) * descent
