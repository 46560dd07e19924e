"""Per-decision importance sampling, self-normalised (Precup, Sutton, Singh 2000): the behaviour policies are known."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from meta.offline.diagnostics import EstimateError
from meta.offline.dice_settings import DICESettings
from meta.offline.offline_data import Fitted, OfflineData
from tasks.contract.tabular_model import FloatArray


def importance(data: OfflineData, settings: DICESettings, seed: int) -> Fitted:
    """w_n = c gamma^k rho_n / Z_k for a row of age k.

    rho_n = prod_{j<=k} pi(a_j|s_j) / pi_m(a_j|s_j) and Z_k its weighted sum over the episodes that go on at age k or
    have ended before (in the absorbing state the last rho stays); an episode that was cut off by the horizon leaves
    the sum. c makes the mass of all rows and of the absorbing state, to infinity, 1. So the estimate is a ratio: biased
    by O(1 / episodes), and consistent.

    Raises:
        EstimateError: the policy gives every episode probability 0.
    """
    del settings, seed
    logs = cumulative_log_ratio(data)
    every = np.ones(len(data), dtype=np.bool_)
    held_out = _ratio(data, logs, ~data.held_out, data.held_out) if data.has_held_out else None
    return Fitted(_ratio(data, logs, every, every), held_out)


def cumulative_log_ratio(data: OfflineData) -> FloatArray:
    """sum_{j<=k} log pi(a_j|s_j) - log pi_m(a_j|s_j) along each episode, [N]; minus infinity once pi(a_j|s_j) is 0."""
    sample = data.sample
    steps = data.target.log_probabilities(sample.observations, sample.actions) - sample.log_probabilities
    impossible = np.isneginf(steps)
    finite = np.where(impossible, 0.0, steps)
    sums, stops = np.cumsum(finite), np.cumsum(impossible)
    begin = np.arange(len(sample)) - sample.ages
    inside = sums - sums[begin] + finite[begin]
    stopped = stops - stops[begin] + impossible[begin]
    return np.where(stopped > 0, -np.inf, inside)


def _ratio(data: OfflineData, logs: FloatArray, fit: NDArray[np.bool_], at: NDArray[np.bool_]) -> FloatArray:
    """The ratio at the rows of one mask, Z_k and c from those of another; beyond their oldest row, Z is constant."""
    weights = data.weights[fit] / data.weights[fit].sum()
    totals = _log_totals(data.sample.ages[fit], data.sample.terminated[fit], logs[fit] + np.log(weights))
    if np.isneginf(totals).all():
        raise EstimateError("importance: the policy gives every episode of the data probability 0")
    totals = np.where(np.isneginf(totals), np.inf, totals)

    def unscaled(rows: NDArray[np.bool_]) -> FloatArray:
        ages = data.sample.ages[rows]
        return np.exp(ages * np.log(data.discount) + logs[rows] - totals[np.minimum(ages, totals.size - 1)])

    mass = np.zeros(len(data))
    mass[fit] = weights * unscaled(fit)
    return unscaled(at) / (float(mass.sum()) + data.absorbed_mass(mass))


def _log_totals(ages: NDArray[np.int32], ended: NDArray[np.bool_], logs: FloatArray) -> FloatArray:
    """log Z_k [ages up to the oldest row]: going-on rows of age k and the last rows of episodes that ended earlier."""
    count = int(ages.max()) + 1
    totals, last = np.full(count, -np.inf), np.full(count, -np.inf)
    np.logaddexp.at(totals, ages, logs)
    leaves = ended & (ages + 1 < count)
    np.logaddexp.at(last, ages[leaves] + 1, logs[leaves])
    return np.asarray(np.logaddexp(totals, np.logaddexp.accumulate(last)))
