"""Measures of one solved task: gap, violations, score, and how inexact its loss is."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from meta.learning.bounds import initialization_loss
from meta.learning.kinds import Item
from policies.common.branches import REWARD_BRANCH
from policies.common.policy import Policy, table_of
from policies.common.results import TaskResult
from policies.common.score import relative_excess, relative_loss, score
from policies.exact.softmax import kl_divergence
from tasks.contract.tabular_model import FloatArray


@dataclass(frozen=True, slots=True)
class Measures:
    """One solved task. ``gap`` is NaN without an exact model.

    ``violation`` [p]: max(0, J_i(pi_hat) - d_i). ``violation_during`` [p]: the mean of max(0, J_i(pi_m) - d_i) over
    the iterates m = 0..M. ``score``: max(gap, 0) / |J_0*| (the gap itself where J_0* is 0) plus the mean over costs of
    violation_during / d_i; without an exact model its first term is -J_0(pi_hat), in the environment's units.
    """

    gap: float
    violation: FloatArray
    violation_during: FloatArray
    score: float


def measure(result: TaskResult) -> Measures:
    """Gap and violations of a solved task from its true values."""
    limits, reward = np.array(result.task.limits), float(result.values[result.output, 0])
    excess = np.maximum(0.0, result.values[:, 1:] - limits)
    during = excess.mean(axis=0)
    relative_during = float(relative_excess(during, limits))
    if result.reference is None:
        return Measures(math.nan, excess[result.output], during, -reward + relative_during)
    optimum = float(result.reference.values[0])
    lost = float(relative_loss(reward, optimum))
    return Measures(optimum - reward, excess[result.output], during, score(lost, relative_during))


@dataclass(frozen=True, slots=True)
class Inexactness:
    """f_hat_t(phi) - f_t(phi) = A + B + C, exactly.

    ``occupancy_shift`` (A): pi_hat's own distribution instead of pi*'s; ``estimation`` (B): DICE's error;
    ``suboptimality`` (C): pi_hat instead of pi*.
    """

    total: float
    occupancy_shift: float
    estimation: float
    suboptimality: float


def inexactness(result: TaskResult, item: Item, initialization: Policy) -> Inexactness | None:
    """Split the error of the inexact loss; None without an exact model."""
    if result.reference is None or result.occupancy is None:
        return None
    initialization, reference = table_of(initialization), result.reference
    divergence = kl_divergence(table_of(item.policy), initialization)
    exact_loss = initialization_loss(reference.occupancy, reference.policy, initialization)
    return Inexactness(
        total=item.loss - exact_loss,
        occupancy_shift=float((result.occupancy - reference.occupancy) @ divergence),
        estimation=item.loss - float(result.occupancy @ divergence),
        suboptimality=float(reference.occupancy @ divergence) - exact_loss,
    )


def gap_bound(result: TaskResult) -> float:
    """The per-run inequality as a bound on the mean gap over N_0: (f + sum E[log Z] + slack) / (alpha_0 |N_0|).

    slack = sum_{m not in N_0} alpha_i max(0, d_i - J_i(pi_m)), of steps on a cost under its limit (as a safety margin
    asks for). NaN without an exact model or where no iteration stepped on the reward. Valid for exact evaluation.
    Where steps are on several objectives at once, see :func:`mixed_gap_bound`.
    """
    if result.reference is None:
        return math.nan
    solution, reference = result.solution, result.reference
    assert solution is not None
    if solution.mixed is not None:
        return mixed_gap_bound(result, solution.mixed)
    on_reward = solution.branches == REWARD_BRANCH
    rates = solution.steps[on_reward]
    if rates.size == 0:
        return math.nan
    early, taken = np.flatnonzero(~on_reward), solution.branches[~on_reward]
    room = np.array(result.task.limits)[taken - 1] - result.values[early, taken]
    slack = float(-solution.steps[early] @ np.maximum(room, 0.0))
    loss = initialization_loss(reference.occupancy, reference.policy, np.exp(solution.iterates[0]))
    return (loss + slack + float((solution.log_normalizers @ reference.occupancy).sum())) / float(rates.sum())


def mixed_gap_bound(result: TaskResult, coefficients: FloatArray) -> float:
    """As :func:`gap_bound`, for steps of ``coefficients`` c [M, 1+p]: a bound on sum_m c_m0 gap_m / sum_m c_m0.

    (f + sum E[log Z] + sum_m sum_i slack_mi) / sum_m c_m0, from the regret identity (docs/algorithms.md); slack_mi is
    -c_mi max(0, d_i - J_i(pi_m)) for c_mi < 0, by J_i(pi*) <= d_i, and c_mi max(0, J_i(pi_m) - J_i(pi*)) for c_mi > 0.
    """
    solution, reference = result.solution, result.reference
    assert solution is not None
    assert reference is not None
    weight = float(coefficients[:, 0].sum())
    if not weight > 0.0:
        return math.nan
    costs, values = coefficients[:, 1:], result.values[:-1, 1:]
    below = np.maximum(np.array(result.task.limits) - values, 0.0)
    above = np.maximum(values - reference.values[1:], 0.0)
    slack = float(np.where(costs < 0.0, -costs * below, costs * above).sum())
    loss = initialization_loss(reference.occupancy, reference.policy, np.exp(solution.iterates[0]))
    return (loss + slack + float((solution.log_normalizers @ reference.occupancy).sum())) / weight
