"""CRPO's rules, the same for every kind of policy: which objective a step takes, which iterate is the result."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tasks.contract.tabular_model import FloatArray

REWARD_BRANCH = 0
"""A branch is the index of the objective that a step was taken on: 0 the reward, i >= 1 cost i."""


def branch_name(branches: Sequence[int], iteration: int) -> str:
    """What the step from iterate ``iteration`` was taken on: reward, cost i, or end where no step followed."""
    if iteration >= len(branches):
        return "end"
    branch = int(branches[iteration])
    return "reward" if branch == REWARD_BRANCH else f"cost {branch}"


def tolerance_of_each(tolerance: float | tuple[float, ...], num_costs: int) -> FloatArray:
    """eta as an array [p], from one number for all costs or one per cost.

    Raises:
        ValueError: a tuple of another length.
    """
    if isinstance(tolerance, tuple):
        if len(tolerance) != num_costs:
            raise ValueError(f"within_task.tolerance: {len(tolerance)} numbers given for {num_costs} cost(s)")
        return np.array(tolerance, dtype=np.float64)
    return np.full(num_costs, tolerance)


def relative_violations(values: FloatArray, limits: FloatArray) -> FloatArray:
    """(J_i - d_i) / d_i of every cost (J_i - d_i where the limit is 0); ``values`` [..., 1+p] gives [..., p]."""
    scale = np.where(limits > 0.0, limits, 1.0)
    return np.asarray((values[..., 1:] - limits) / scale)


def choose_branch(
    values: FloatArray, limits: FloatArray, tolerance: FloatArray, rule: str, rng: np.random.Generator
) -> int:
    """The objective of the next step: 0 if J_i <= d_i + eta_i for every cost, else the index of a violated one."""
    violated = np.flatnonzero(values[1:] > limits + tolerance)
    if violated.size == 0:
        return REWARD_BRANCH
    if rule == "first":
        return 1 + int(violated[0])
    if rule == "random":
        return 1 + int(rng.choice(violated))
    return 1 + int(violated[np.argmax(relative_violations(values, limits)[violated])])


def choose_output(
    values: FloatArray,
    branches: NDArray[np.int64],
    limits: FloatArray,
    tolerance: FloatArray,
    rule: str,
    rng: np.random.Generator,
) -> tuple[int, bool]:
    """Index of pi_hat among the iterates, and whether any candidate was feasible (see :func:`solve`)."""
    feasible = np.flatnonzero((values[:, 1:] <= limits + tolerance).all(axis=1))
    if rule == "uniform":
        feasible = np.flatnonzero(branches == REWARD_BRANCH)
    if feasible.size == 0:
        return int(np.argmin(relative_violations(values, limits).max(axis=1))), False
    if rule == "uniform":
        return int(rng.choice(feasible)), True
    if rule == "last":
        return int(feasible[-1]), True
    return int(feasible[np.argmax(values[feasible, 0])]), True
