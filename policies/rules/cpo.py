"""cpo: the best step of a trust region that keeps the linearised constraints (Achiam et al. 2017, arXiv 1705.10528)."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from policies.common.branches import REWARD_BRANCH
from policies.rules.rule import Decision, RuleSettings, View, single
from tasks.contract.tabular_model import FloatArray

MOST_COSTS = 12
"""Sets of binding constraints are tried one by one: 2^p of them."""
_SMALL = 1e-12


class CPO(RuleSettings):
    """Constrained policy optimisation with p >= 1 constraints.

    The trust region is the ellipsoid that a reward step of rate alpha_0 reaches, delta = alpha_0^2 K_00 / 2, and
    ``within_task.trust_region.delta_max`` for a network where that is smaller: with no constraint near, the step is
    CRPO's step on the reward, and rates are learned as for CRPO.
    """

    def first(self, num_costs: int) -> tuple[()]:
        """Nothing.

        Raises:
            ValueError: more costs than the solver of the dual takes.
        """
        if num_costs > MOST_COSTS:
            raise ValueError(f"within_task.method: cpo takes at most {MOST_COSTS} costs, the task has {num_costs}")
        return ()

    def decide(self, view: View, memory: Any) -> Decision:
        """max grad J_0' x with |x|_F^2 <= 2 delta and J_i - d_i - eta_i + grad J_i' x <= 0 (equation 10), or recover.

        Recovery (equation 14) is a step of rate alpha_i down a violated cost, within the radius.
        """
        products, excess = view.products(), view.excess
        delta = min(view.radius, 0.5 * float(view.rates[0]) ** 2 * float(products[0, 0]))
        found = linear_step(products, excess / view.slope, delta)
        if found is not None:
            return Decision(found, REWARD_BRANCH, memory, kept=tuple(range(1, view.values.size)))
        branch = view.branch()
        if branch == REWARD_BRANCH:  # every limit is kept, and there is no room to move
            return Decision(np.zeros(view.values.size), REWARD_BRANCH, memory)
        descent = single(view, branch, memory)
        size = 0.5 * float(view.rates[branch]) ** 2 * float(products[branch, branch])
        shorter = np.sqrt(view.radius / size) if size > view.radius else 1.0
        return Decision(descent.coefficients * shorter, branch, memory)


def linear_step(products: FloatArray, excess: FloatArray, delta: float) -> FloatArray | None:
    """Coefficients c [1+p] that maximise (K c)_0 with c' K c <= 2 delta and excess_i + (K c)_i <= 0; None if none do.

    Every set of binding constraints has a closed form: c = (e_0 - nu) / lambda with nu_A = S^{-1} (r + lambda e_A),
    lambda^2 = (q - r' S^{-1} r) / (2 delta - e_A' S^{-1} e_A), q = K_00, r = K_A0, S = K_AA (equations 11 to 13, there
    for one constraint). The problem is convex, so the set whose nu is at least 0 and whose step keeps the other
    constraints gives the optimum.
    """
    count, best, gain = excess.size, None, -np.inf
    scale = np.maximum(np.abs(excess), np.sqrt(2.0 * delta * np.diag(products)[1:]))
    for size in range(count + 1):
        for chosen in itertools.combinations(range(count), size):
            step = _binding_step(products, excess, delta, np.array(chosen, dtype=np.int64))
            if step is None or (excess + (products @ step)[1:] > 1e-7 * scale + _SMALL).any():
                continue
            if (products @ step)[0] > gain:
                best, gain = step, float((products @ step)[0])
    return best


def _binding_step(
    products: FloatArray, excess: FloatArray, delta: float, chosen: np.ndarray[Any, np.dtype[np.int64]]
) -> FloatArray | None:
    """The best step with the constraints ``chosen`` binding and no others; None where there is none.

    It is the one of least norm that meets them, plus as much of the reward's direction along them as delta leaves.
    """
    step = np.zeros(len(products))
    reward, squared, room = np.eye(len(products))[0], float(products[0, 0]), 2.0 * delta
    if chosen.size:
        matrix, mixed = products[np.ix_(1 + chosen, 1 + chosen)], products[1 + chosen, 0]
        if np.linalg.matrix_rank(matrix, hermitian=True) < chosen.size:
            return None
        meeting, along = np.linalg.solve(matrix, np.stack([excess[chosen], mixed], axis=1)).T
        step[1 + chosen] = -meeting
        reward[1 + chosen] = -along
        room -= float(excess[chosen] @ meeting)
        squared -= float(mixed @ along)
    if room < 0.0:
        return None
    if squared <= _SMALL * max(float(products[0, 0]), _SMALL):
        return step
    return step + np.sqrt(room / squared) * reward
