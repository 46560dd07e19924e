"""crpo: ascend on the reward while every limit is kept, else descend on one violated cost (Xu, Liang, Lan 2021)."""

from __future__ import annotations

from typing import Any

from policies.rules.rule import Decision, RuleSettings, View, single


class CRPO(RuleSettings):
    """Algorithm 1 of CRPO: hard switching, no memory."""

    def first(self, num_costs: int) -> tuple[()]:
        """Nothing."""
        del num_costs
        return ()

    def decide(self, view: View, memory: Any) -> Decision:
        """alpha_0 D_0 where J_i <= d_i + eta_i for every cost, else -alpha_i D_i of a violated one."""
        return single(view, view.branch(), memory)
