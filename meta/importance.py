"""Per-decision importance sampling, self-normalised (Precup, Sutton, Singh 2000): our behaviour policies are known."""

from __future__ import annotations

import numpy as np

from meta.dice_settings import DICESettings
from meta.offline_data import OfflineData, Ratio
from policies.transition_sample import TransitionSample
from tasks.model import FloatArray


def importance(data: OfflineData, settings: DICESettings, seed: int) -> Ratio:
    """w_n = c gamma^k rho_n / Z_k for a row of age k.

    rho_n = prod_{j<=k} pi(a_j|s_j) / pi_m(a_j|s_j) and Z_k its weighted sum over the episodes that go on at age k or
    have ended before (in the absorbing state the last rho stays); an episode that was cut off by the horizon leaves
    the sum. c makes the mass of all ages, the absorbing state's included, 1.
    """
    del settings, seed
    discount = data.discount
    log_ratio = cumulative_log_ratio(data.sample, data)
    with np.errstate(divide="ignore"):
        log_total = _log_totals(data, log_ratio + np.log(data.weights))
    ages = log_total.size
    scale = (1.0 - discount) / (1.0 - discount**ages)

    def ratio(sample: TransitionSample) -> FloatArray:
        logs = log_ratio if sample is data.sample else cumulative_log_ratio(sample, data)
        age = np.minimum(sample.ages, ages - 1)
        finite = np.where(np.isneginf(log_total), 0.0, log_total)[age]
        return np.exp(np.log(scale) + sample.ages * np.log(discount) + logs - finite)

    return ratio


def cumulative_log_ratio(sample: TransitionSample, data: OfflineData) -> FloatArray:
    """sum_{j<=k} log pi(a_j|s_j) - log pi_m(a_j|s_j) along each episode, [K]; minus infinity where pi never goes."""
    steps = data.target.log_probabilities(sample.observations, sample.actions) - sample.log_probabilities
    impossible = np.isneginf(steps)
    finite = np.where(impossible, 0.0, steps)
    sums, stops = np.cumsum(finite), np.cumsum(impossible)
    begin = np.arange(len(sample)) - sample.ages
    inside = sums - sums[begin] + finite[begin]
    stopped = stops - stops[begin] + impossible[begin]
    return np.where(stopped > 0, -np.inf, inside)


def _log_totals(data: OfflineData, logs: FloatArray) -> FloatArray:
    """log Z_k [ages up to the oldest row]: going-on rows of age k and the last rows of episodes that ended earlier."""
    ages, ended = data.sample.ages, data.sample.terminated
    count = int(ages.max()) + 1
    totals = np.full(count, -np.inf)
    np.logaddexp.at(totals, ages, logs)
    last = np.full(count, -np.inf)
    leaves = ended & (ages + 1 < count)
    np.logaddexp.at(last, ages[leaves] + 1, logs[leaves])
    return np.logaddexp(totals, np.logaddexp.accumulate(last))
