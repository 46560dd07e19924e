"""Means with confidence intervals, and tests for trends over the tasks of a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy  # scipy.stats, which takes a second to load, loads where it is first used
from scipy.special import stdtrit

from tasks.contract.tabular_model import FloatArray

BETTER, WORSE, UNKNOWN = "better", "worse", "no difference shown"


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with what a reader needs to judge it: 95 % confidence interval (Student's t) and sample size."""

    mean: float
    low: float
    high: float
    n: int

    def as_json(self) -> dict[str, object]:
        """``{"mean", "ci95": [low, high], "n"}`` with null for what is not known."""
        bounds = [None if math.isnan(bound) else bound for bound in (self.low, self.high)]
        return {"mean": None if math.isnan(self.mean) else self.mean, "ci95": bounds, "n": self.n}


def verdict_of(gain: Interval) -> str:
    """Whether a difference, of which more is better, is shown: its interval does not reach 0."""
    if gain.low > 0.0:
        return BETTER
    return WORSE if gain.high < 0.0 else UNKNOWN


def interval(values: Sequence[float] | FloatArray) -> Interval:
    """Mean and t-interval of independent values; NaN bounds for fewer than two."""
    array = np.asarray(values, dtype=np.float64)
    mean = float(array.mean()) if array.size else math.nan
    if array.size < 2:
        return Interval(mean, math.nan, math.nan, array.size)
    half = float(stdtrit(array.size - 1, 0.975) * array.std(ddof=1) / math.sqrt(array.size))
    return Interval(mean, mean - half, mean + half, array.size)


def ratio_interval(numerators: FloatArray, denominators: FloatArray, seed: int = 0) -> Interval:
    """Ratio of means of paired values with a 95 % BCa bootstrap interval over the pairs."""

    def ratio(top: FloatArray, bottom: FloatArray, axis: int = -1) -> FloatArray:
        return np.asarray(top.mean(axis=axis) / bottom.mean(axis=axis))

    point = float(ratio(numerators, denominators))
    if np.ptp(numerators / denominators) == 0.0:
        return Interval(point, point, point, numerators.size)
    result = scipy.stats.bootstrap(
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
    """Test a per-task series; None where it is too short (fewer than 8 values), not known, or 0 throughout."""
    if values.size < 8 or np.isnan(values).any() or not values.any():
        return None
    late = values[values.size // 2 :]
    test = scipy.stats.mannwhitneyu(late, values[: max(first_round, 1)], alternative="less")
    trend = (0.0, 1.0)
    if np.ptp(late) > 0.0:
        kendall = scipy.stats.kendalltau(np.arange(late.size), late)
        trend = (float(kendall.statistic), float(kendall.pvalue))
    return FailureSignature(bool(test.pvalue < 0.05), float(test.pvalue), trend[0] > 0.0 and trend[1] < 0.05, *trend)
