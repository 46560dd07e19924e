"""Statistics of comparisons over few seeds (Agarwal et al. 2021, *Deep RL at the edge of the statistical precipice*).

Scores come in strata: one array [n_k] or [n_k, N_k] for each family setting k, one row per seed. Seeds are independent;
the columns of a row (held-out tasks that share a learned start) are not, so the bootstrap draws complete rows, within
each stratum separately. The definitions are those of the library rliable, and tests compare them with its numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy  # scipy.stats loads where it is first used

from meta.measuring.intervals import Interval, interval
from tasks.contract.tabular_model import FloatArray

Strata = Sequence[FloatArray]
Statistic = Callable[[Strata], FloatArray]
"""Of R data sets at once: strata [R, n_k, ...] give [R] or [R, K]."""
RESAMPLES = 5000
LEVEL = 0.95


def interquartile_means(strata: Strata) -> FloatArray:
    """:func:`interquartile_mean` of R data sets, [R]."""
    pooled = np.concatenate([_flat(scores) for scores in strata], axis=1)
    return np.asarray(scipy.stats.trim_mean(pooled, 0.25, axis=1))


def interquartile_mean(strata: Strata) -> float:
    """Mean of the middle half of all scores together: a quarter is cut off at each end."""
    return float(interquartile_means(_single(strata))[0])


def means(strata: Strata) -> FloatArray:
    """Mean of all scores of R data sets, [R]."""
    return np.asarray(np.concatenate([_flat(scores) for scores in strata], axis=1).mean(axis=1))


def improvement_probabilities(first: Strata, second: Strata) -> FloatArray:
    """:func:`probability_of_improvement` of R pairs of data sets, [R]."""
    shares = []
    for x, y in zip(first, second, strict=True):
        difference = _flat(x)[:, :, None] - _flat(y)[:, None, :]
        shares.append((difference > 0.0).mean(axis=(1, 2)) + 0.5 * (difference == 0.0).mean(axis=(1, 2)))
    return np.asarray(np.mean(shares, axis=0))


def probability_of_improvement(first: Strata, second: Strata) -> float:
    """Mean over strata of P(X > Y) + P(X = Y) / 2 for X of ``first`` and Y of ``second``: Mann-Whitney's U / (n m).

    Strata of the two are matched by position. Above 1/2: the scores of ``first`` are larger more often than not.
    """
    return float(improvement_probabilities(_single(first), _single(second))[0])


def performance_profiles(strata: Strata, thresholds: FloatArray) -> FloatArray:
    """:func:`performance_profile` of R data sets, [R, K]."""
    shares = [np.stack([(_flat(scores) > level).mean(axis=1) for level in thresholds], axis=1) for scores in strata]
    return np.asarray(np.mean(shares, axis=0))


def performance_profile(strata: Strata, thresholds: FloatArray) -> FloatArray:
    """Share of scores above each threshold, [K]: the mean over strata of their shares, every stratum alike."""
    return np.asarray(performance_profiles(_single(strata), thresholds)[0])


def _flat(scores: FloatArray) -> FloatArray:
    return scores.reshape(len(scores), -1)


def _single(strata: Strata) -> list[FloatArray]:
    """The data set itself as one of R = 1."""
    return [np.asarray(scores, np.float64)[None] for scores in strata]


def stratified_bootstrap(strata: Strata, statistic: Statistic, seed: int = 0, resamples: int = RESAMPLES) -> FloatArray:
    """``statistic`` of [resamples] data sets, each of rows drawn with replacement within each stratum separately."""
    rng = np.random.default_rng(seed)
    drawn = [scores[rng.integers(len(scores), size=(resamples, len(scores)))] for scores in strata]
    return np.asarray(statistic(drawn), np.float64)


def percentile_bounds(draws: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The middle 95 % of bootstrap draws (percentile method), along the first axis."""
    low, high = np.percentile(draws, [50.0 * (1.0 - LEVEL), 50.0 * (1.0 + LEVEL)], axis=0)
    return np.asarray(low), np.asarray(high)


def bootstrap_interval(strata: Strata, statistic: Statistic, seed: int = 0) -> Interval:
    """A statistic with its 95 % stratified-bootstrap interval; bounds are NaN where a stratum has fewer than 2 rows."""
    size, point = sum(len(scores) for scores in strata), float(statistic(_single(strata))[0])
    if min(len(scores) for scores in strata) < 2 or math.isnan(point):
        return Interval(point, math.nan, math.nan, size)
    low, high = percentile_bounds(stratified_bootstrap(strata, statistic, seed))
    return Interval(point, float(low), float(high), size)


def improvement_interval(first: Strata, second: Strata, seed: int = 0) -> Interval:
    """Probability of improvement with its interval; both sides are resampled independently of each other."""
    count = len(first)
    found = bootstrap_interval(
        [*first, *second], lambda both: improvement_probabilities(both[:count], both[count:]), seed
    )
    return Interval(found.mean, found.low, found.high, sum(len(scores) for scores in first))


@dataclass(frozen=True, slots=True)
class Profile:
    """A performance profile [K] at ``thresholds`` [K] with its pointwise 95 % band."""

    thresholds: FloatArray
    share: FloatArray
    low: FloatArray
    high: FloatArray


def profile_with_band(strata: Strata, thresholds: FloatArray, seed: int = 0, resamples: int = 1000) -> Profile:
    """:func:`performance_profile` with a stratified-bootstrap band."""
    draws = stratified_bootstrap(strata, lambda part: performance_profiles(part, thresholds), seed, resamples)
    return Profile(thresholds, performance_profile(strata, thresholds), *percentile_bounds(draws))


def paired_difference(first: FloatArray, second: FloatArray) -> Interval:
    """Mean of ``first`` - ``second`` over paired seeds or tasks, with Student's t interval."""
    return interval(first - second)


@dataclass(frozen=True, slots=True)
class Trend:
    """A line y = intercept + slope x by least squares, with a 95 % bootstrap interval of the slope over ``n`` runs.

    ``rank_correlation`` is Spearman's, ``p_value`` its two-sided p.
    """

    slope: Interval
    intercept: float
    rank_correlation: float
    p_value: float


def linear_trend(x: FloatArray, y: FloatArray, seed: int = 0) -> Trend:
    """Fit the trend of y in x; pairs are resampled together.

    Raises:
        ValueError: fewer than three pairs, or all x alike: there is no trend to fit.
    """
    if x.size < 3 or np.ptp(x) == 0.0:
        raise ValueError(f"a trend needs at least 3 pairs of different x, got {x.size} with a range of {np.ptp(x):g}")

    def slopes(strata: Strata) -> FloatArray:
        pairs = strata[0] - strata[0].mean(axis=1, keepdims=True)
        square = (pairs[..., 0] ** 2).sum(axis=1)
        return np.asarray((pairs[..., 0] * pairs[..., 1]).sum(axis=1) / np.where(square > 0.0, square, 1.0))

    found = bootstrap_interval([np.stack([x, y], axis=1)], slopes, seed)
    rank = scipy.stats.spearmanr(x, y) if np.ptp(y) > 0.0 else None
    return Trend(
        slope=found,
        intercept=float(y.mean() - found.mean * x.mean()),
        rank_correlation=0.0 if rank is None else float(rank.statistic),
        p_value=1.0 if rank is None else float(rank.pvalue),
    )
