"""Bounds with a stated confidence, and the online quantile: what anytime-safe adaptation counts on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.special import stdtrit

from tasks.contract.tabular_model import FloatArray

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Estimate:
    """Costs of a policy from n episodes: ``mean`` [p], its standard ``error`` [p], and the ``half`` width [p] above it.

    J_i <= ``mean`` + ``half`` with the stated confidence; ``rise`` [p] bounds J_i less that of the policy that acted.
    """

    mean: Float[FloatArray, " p"]
    error: Float[FloatArray, " p"]
    half: Float[FloatArray, " p"]
    rise: Float[FloatArray, " p"]

    @property
    def bound(self) -> Float[FloatArray, " p"]:
        """The upper bound of every cost."""
        return self.mean + self.half


def exact_estimate(values: FloatArray, now: FloatArray) -> Estimate:
    """Costs [p] that are known, of a policy and of the one that acts: the bounds are the values."""
    nothing = np.zeros_like(values)
    return Estimate(values, nothing, nothing, values - now)


def estimate_of(episodes: Float[FloatArray, "n p"], now: Float[FloatArray, "n p"], confidence: float) -> Estimate:
    """From one number per episode and cost, for a policy and for the one that acted in the same episodes."""
    mean, error, half = upper_bound(episodes, confidence)
    change, _, above = upper_bound(episodes - now, confidence)
    return Estimate(mean, error, half, change + above)


def upper_bound(
    samples: Float[FloatArray, "n p"], confidence: float
) -> tuple[Float[FloatArray, " p"], Float[FloatArray, " p"], Float[FloatArray, " p"]]:
    """Mean, standard error s / sqrt(n), and the half width above the mean of a t-interval corrected for skew.

    half = error (t + g (2 t^2 + 1) / (6 sqrt(n))), t the quantile of Student's distribution with n - 1 degrees and g
    the sample's skewness, where it is positive: the correction of Hall (1992, "On the removal of skewness by
    transformation") to first order. Costs are skewed to the right, and the plain t-interval then covers too little.

    Raises:
        ValueError: there are fewer than two samples.
    """
    count = len(samples)
    if count < 2:
        raise ValueError(f"a bound needs at least 2 episodes, got {count}")
    mean, spread = samples.mean(axis=0), samples.std(axis=0, ddof=1)
    error = spread / np.sqrt(count)
    known = spread > _ROUNDING * np.maximum(np.abs(mean), 1.0)
    skewness = np.where(known, skew(np.where(known, samples, np.arange(count)[:, None])), 0.0)
    quantile = float(stdtrit(count - 1, confidence))
    corrected = quantile + np.maximum(skewness, 0.0) * (2.0 * quantile**2 + 1.0) / (6.0 * np.sqrt(count))
    return mean, error, error * corrected


def skew(samples: Float[FloatArray, "n p"]) -> Float[FloatArray, " p"]:
    """The third central moment over the second to the power of 1.5: SciPy's, which takes a second to load."""
    centred = samples - samples.mean(axis=0)
    return np.asarray((centred**2 * centred).mean(axis=0) / (centred**2).mean(axis=0) ** 1.5)


def longest_passing(shares: Sequence[float], passes: Callable[[float], bool]) -> float:
    """The last of increasing ``shares`` before the first that does not pass; 0 where the first does not.

    Hypotheses tested in a fixed order until one is not rejected need no correction for their number: a wrong one is
    accepted with at most the probability of one test (Maurer, Hothorn, Lehmacher 1995).
    """
    taken = 0.0
    for share in shares:
        if not passes(share):
            break
        taken = share
    return taken


def quantile_step(quantile: FloatArray, seen: FloatArray, rate: float, confidence: float) -> FloatArray:
    """q + eta (1{seen > q} - (1 - confidence)): an online gradient step on the pinball loss.

    Over T steps, sum_t 1{seen_t > q_t} = (1 - confidence) T + (q_T - q_0) / eta, whatever is seen (Gibbs, Candes 2021,
    arXiv 2106.00170, proposition 4.1).
    """
    return np.asarray(quantile + rate * ((seen > quantile) - (1.0 - confidence)))


def next_margins(margins: FloatArray, overshoots: FloatArray, rate: float, confidence: float) -> FloatArray:
    """:func:`quantile_step`, kept at least 0: the sum above is then at most its right side."""
    return np.maximum(quantile_step(margins, overshoots, rate, confidence), 0.0)


def fewest_tasks(confidence: float) -> int:
    """The fewest tasks n from which a start can be called safe on a new one: (n + 1) (1 - confidence) >= 1."""
    return max(1, math.ceil(1.0 / (1.0 - confidence) - 1.0 - _ROUNDING / (1.0 - confidence)))


def allowed_over(tasks: int, confidence: float) -> int:
    """On how many of ``tasks`` a start may be over a limit: (k + 1) / (n + 1) <= 1 - confidence; below 0 where none is.

    Conformal risk control (Angelopoulos, Bates, Fisch, Lei, Schuster 2022, arXiv 2208.02814, theorem 1): of starts that
    are ordered so that a safer one is over a limit on no task where a riskier one is not, the riskiest with at most k
    such tasks is over a limit on a new task, exchangeable with them, with probability at most 1 - confidence.
    """
    return math.floor((tasks + 1) * (1.0 - confidence) + _ROUNDING) - 1
