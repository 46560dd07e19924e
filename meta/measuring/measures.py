"""What is measured of tasks, starts and runs (THEORY section 5)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats
from scipy.special import entr, xlogy

from meta.learning.bounds import initialization_loss
from meta.learning.kinds import Item
from meta.learning.tabular import Contribution
from policies.common.branches import REWARD_BRANCH
from policies.common.policy import Policy, table_of
from policies.common.results import TaskResult
from policies.exact.softmax import kl_divergence
from policies.exact.solver import OptimalPolicy
from tasks.contract.tabular_model import FloatArray


@dataclass(frozen=True, slots=True)
class Measures:
    """One solved task. ``gap`` is NaN without an exact model.

    ``violation`` [p]: max(0, J_i(pi_hat) - d_i). ``violation_during`` [p]: the mean of max(0, J_i(pi_m) - d_i) over
    the iterates m = 0..M. ``score``: max(gap, 0) / |J_0*| plus the mean over costs of violation_during / d_i; without
    an exact model its first term is -J_0(pi_hat), in the environment's units.
    """

    gap: float
    violation: FloatArray
    violation_during: FloatArray
    score: float


def measure(result: TaskResult) -> Measures:
    """Gap and violations of a solved task from its true values."""
    limits = np.array(result.task.limits)
    excess = np.maximum(0.0, result.values[:, 1:] - limits)
    during = excess.mean(axis=0)
    gap, relative_gap = math.nan, -float(result.values[result.output, 0])
    if result.reference is not None:
        optimum = float(result.reference.values[0])
        gap = optimum - float(result.values[result.output, 0])
        relative_gap = max(gap, 0.0) / max(abs(optimum), 1e-12)
    score = relative_gap + float((during / np.where(limits > 0.0, limits, 1.0)).mean())
    return Measures(gap, excess[result.output], during, score)


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
    if result.reference is None or result.occupancy is None or not isinstance(item, Contribution):
        return None
    initialization = table_of(initialization)
    reference = result.reference
    divergence = kl_divergence(item.policy, initialization)
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
    """
    if result.reference is None:
        return math.nan
    solution, reference = result.solution, result.reference
    assert solution is not None
    on_reward = solution.branches == REWARD_BRANCH
    rates = solution.steps[on_reward]
    if rates.size == 0:
        return math.nan
    early, taken = np.flatnonzero(~on_reward), solution.branches[~on_reward]
    room = np.array(result.task.limits)[taken - 1] - result.values[early, taken]
    slack = float(-solution.steps[early] @ np.maximum(room, 0.0))
    loss = initialization_loss(reference.occupancy, reference.policy, np.exp(solution.iterates[0]))
    return (loss + slack + float((solution.log_normalizers @ reference.occupancy).sum())) / float(rates.sum())


@dataclass(frozen=True, slots=True)
class Similarity:
    """How alike the tasks of a sequence are. ``comparator`` [S, A] minimises the first.

    ``task_similarity``: D*^2. ``task_relatedness``: V_psi^2 with one comparator per segment; ``path_length``: sum over
    segment borders of the occupancy-weighted L1 distance of the comparators.
    """

    task_similarity: float
    comparator: FloatArray
    task_relatedness: float
    path_length: float


def similarity(references: Iterable[OptimalPolicy], num_segments: int, num_tasks: int) -> Similarity:
    """D*^2 and V_psi^2 of a sequence of ``num_tasks`` optimal policies; one pass, memory of ``num_segments`` policies.

    min_phi (1/T) sum_t E_{nu*_t}[KL(pi*_t || phi)] is reached by the nu*-weighted average policy.
    """
    sums: list[FloatArray] = []
    negative_entropy, count = 0.0, 0
    for index, reference in enumerate(references):
        segment = index * num_segments // num_tasks
        weighted = reference.occupancy[:, None] * reference.policy
        if segment == len(sums):
            sums.append(np.zeros_like(weighted))
        sums[segment] += weighted
        negative_entropy -= float(reference.occupancy @ entr(reference.policy).sum(axis=1))
        count += 1
    total = np.sum(sums, axis=0)
    comparators = [_average_policy(weighted) for weighted in sums]
    cross = sum(float(xlogy(weighted, policy).sum()) for weighted, policy in zip(sums, comparators, strict=True))
    overall = _average_policy(total)
    visits = total.sum(axis=1) / count
    path = sum(float(visits @ np.abs(b - a).sum(axis=1)) for a, b in itertools.pairwise(comparators))
    return Similarity(
        task_similarity=(negative_entropy - float(xlogy(total, overall).sum())) / count,
        comparator=overall,
        task_relatedness=(negative_entropy - cross) / count,
        path_length=path,
    )


def _average_policy(weighted: FloatArray) -> FloatArray:
    mass = weighted.sum(axis=1, keepdims=True)
    return np.where(mass > 0.0, weighted / np.where(mass > 0.0, mass, 1.0), 1.0 / weighted.shape[1])


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with the half-open facts a reader needs: 95 % confidence interval (Student's t) and sample size."""

    mean: float
    low: float
    high: float
    n: int

    def as_json(self) -> dict[str, object]:
        """``{"mean", "ci95": [low, high], "n"}`` with null for what is not known."""
        bounds = [None if math.isnan(bound) else bound for bound in (self.low, self.high)]
        return {"mean": None if math.isnan(self.mean) else self.mean, "ci95": bounds, "n": self.n}


def interval(values: Sequence[float] | FloatArray) -> Interval:
    """Mean and t-interval of independent values; NaN bounds for fewer than two."""
    array = np.asarray(values, dtype=np.float64)
    mean = float(array.mean()) if array.size else math.nan
    if array.size < 2:
        return Interval(mean, math.nan, math.nan, array.size)
    half = float(stats.t.ppf(0.975, array.size - 1) * array.std(ddof=1) / math.sqrt(array.size))
    return Interval(mean, mean - half, mean + half, array.size)


def ratio_interval(numerators: FloatArray, denominators: FloatArray, seed: int = 0) -> Interval:
    """Ratio of means of paired values with a 95 % BCa bootstrap interval over the pairs."""

    def ratio(top: FloatArray, bottom: FloatArray, axis: int = -1) -> FloatArray:
        return np.asarray(top.mean(axis=axis) / bottom.mean(axis=axis))

    point = float(ratio(numerators, denominators))
    if np.ptp(numerators / denominators) == 0.0:
        return Interval(point, point, point, numerators.size)
    result = stats.bootstrap(
        (numerators, denominators),
        ratio,
        paired=True,
        vectorized=True,
        n_resamples=9999,
        rng=np.random.default_rng(seed),
    )
    limits = result.confidence_interval
    return Interval(point, float(limits.low), float(limits.high), numerators.size)


@dataclass(frozen=True, slots=True)
class FailureSignature:
    """Did learning help, and is it still going the right way (THEORY section 5)?

    ``improved``: values of the last half lie below those of the first round (one-sided Mann-Whitney, p < 0.05);
    ``rising``: Kendall's tau of the last half is positive with p < 0.05.
    """

    improved: bool
    improvement_p: float
    rising: bool
    trend: float
    trend_p: float


def failure_signature(values: FloatArray, first_round: int) -> FailureSignature | None:
    """Test a per-task series; None where it is too short (fewer than 8 values) or not known."""
    if values.size < 8 or np.isnan(values).any():
        return None
    late = values[values.size // 2 :]
    test = stats.mannwhitneyu(late, values[: max(first_round, 1)], alternative="less")
    trend = (0.0, 1.0)
    if np.ptp(late) > 0.0:
        kendall = stats.kendalltau(np.arange(late.size), late)
        trend = (float(kendall.statistic), float(kendall.pvalue))
    return FailureSignature(bool(test.pvalue < 0.05), float(test.pvalue), trend[0] > 0.0 and trend[1] < 0.05, *trend)
