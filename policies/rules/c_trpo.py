"""c_trpo: a trust region that holds safe policies only, and recovery with hysteresis (Milosevic, Mueller, Scherf 2025).

The divergence D_C = KL + beta sum_i D_phi(slack_i' || slack_i) adds a Bregman divergence of the slack d_i - J_i to KL,
which grows without bound as the slack of the next policy falls to 0 (logarithm), or is infinite beyond it (entropy).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from policies.common.branches import REWARD_BRANCH
from policies.rules.rule import Barrier, Decision, RuleSettings, View, single
from tasks.contract.tabular_model import FloatArray


class CTRPO(RuleSettings):
    """Constrained trust region policy optimisation (arXiv 2411.02957, algorithm 1)."""

    weight: float = Field(default=1.0, gt=0.0)
    """beta, of the divergence of the slack beside KL."""
    barrier: Literal["entropy", "logarithm"] = "entropy"
    """phi: x log x, as in the paper's experiments, or -log x, which keeps farther from the limit."""
    recover_to: float = Field(default=0.8, gt=0.0, le=1.0)
    """A violated cost is descended on until it is below this share of its limit; then the reward is maximised again."""

    def first(self, num_costs: int) -> NDArray[np.bool_]:
        """No cost is recovering, [p]."""
        return np.zeros(num_costs, dtype=np.bool_)

    def decide(self, view: View, memory: NDArray[np.bool_]) -> Decision:
        """CRPO's step on a cost while any is recovering, else alpha_0 H^{-1} grad J_0 with D_C at most the radius.

        A cost begins to recover at J_i > d_i + eta_i, and has recovered at J_i <= ``recover_to`` d_i + eta_i.
        """
        shares = np.where(memory, self.recover_to, 1.0)
        recovering = view.values[1:] > shares * view.limits + view.tolerance
        branch = view.branch(shares)
        if branch != REWARD_BRANCH:
            return single(view, branch, recovering)
        slack = -view.excess
        products = view.products()
        direction = barrier_direction(products, slack, self.weight, self.barrier, view.slope)
        step = view.rates[0] * direction
        divergence = 0.5 * float(view.rates[0] * (products @ step)[0])  # c' H c / 2 in D_C's own metric
        if divergence > view.radius:
            step = step * np.sqrt(view.radius / divergence)
        barrier = Barrier(self.weight, self.barrier, slack)
        return Decision(step, REWARD_BRANCH, recovering, barrier=barrier)


def curvature(slack: FloatArray, form: Literal["entropy", "logarithm"]) -> FloatArray:
    """1 / phi''(slack) [p]: the slack for x log x, its square for -log x."""
    return slack if form == "entropy" else slack**2


def barrier_direction(
    products: FloatArray, slack: FloatArray, weight: float, form: Literal["entropy", "logarithm"], slope: float
) -> FloatArray:
    """Coefficients [1+p] of H^{-1} grad J_0 with H = F + sum_i beta phi''(slack_i) grad J_i grad J_i'.

    With y the coefficients of the costs, (V + K_cc) y = -K_c0 and V = diag(1 / (beta phi'' slope^2)): the Woodbury
    identity, which has a limit where a slack is 0. Then the first-order change of that cost is 0.
    """
    given = np.diag(curvature(slack, form) / (weight * slope**2))
    costs, mixed = products[1:, 1:], products[1:, 0]
    return np.concatenate([[1.0], -np.linalg.lstsq(given + costs, mixed, rcond=None)[0]])


def barrier_divergence(rises: FloatArray, barrier: Barrier) -> float:
    """beta sum_i D_phi(slack_i - rise_i || slack_i) for the ``rises`` [p] of the costs; infinite beyond the slack.

    A cost at its limit counts as 0 where it does not rise.

    x log x: rise + (slack - rise) log((slack - rise) / slack); -log x: -log((slack - rise) / slack) - rise / slack.
    """
    left, slack = barrier.slack - rises, barrier.slack
    if (left < 0.0).any() or (barrier.form == "logarithm" and ((left == 0.0) & (slack > 0.0)).any()):
        return float("inf")
    apart = slack > 0.0
    shares = np.where(apart, left, 1.0) / np.where(apart, slack, 1.0)
    logs = np.log(np.where(shares > 0.0, shares, 1.0))
    parts = rises + left * logs if barrier.form == "entropy" else -logs - (1.0 - shares)
    return barrier.weight * float(np.where(apart, parts, 0.0).sum())
