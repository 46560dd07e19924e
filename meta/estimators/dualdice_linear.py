"""DualDICE on fixed features in closed form (THEORY section 3, "linear features")."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from meta.estimators.features import Features, make_features, next_features
from meta.offline.diagnostics import EstimateError
from meta.offline.dice_settings import DICESettings
from meta.offline.offline_data import FOLDS, Fitted, OfflineData
from policies.networks.mlp import Array
from tasks.contract.tabular_model import FloatArray

_NEXT_STREAM, _FIRST_STREAM = 33, 34
_JITTER = {np.dtype(np.float64): 1e-10, np.dtype(np.float32): 1e-2}
"""Added to C: C is I over all episodes; a subset of them may lack a direction. It changes the metric of the ridge."""
_DIAGNOSTIC_RIDGES = (1e-9, 1e-7, 1e-5, 1e-3, 1e-1)
"""Where four fifths of the episodes alone make the system singular, the fit behind the held-out residual takes one of
these, so that a diagnostic never loses an estimate."""
_ROUNDINGS = 64.0
"""Directions of psi are dropped if their variance is at most this many roundings of the largest variance."""


@dataclass(frozen=True, slots=True)
class Moments:
    """Moments of psi in data: sums over episodes, so that the moments of separate parts add up.

    ``covariance`` [J, J] sums d^D(n) psi psi', ``flow`` [J, J] d^D(n) psi (psi - gamma psi_next)' with psi_next =
    E_{a'~pi} psi(s', a'), 0 after a terminal step; ``weight`` sums d^D(n). ``start`` [J] sums psi(s0, a0) over
    ``starts`` episodes.
    """

    covariance: FloatArray
    flow: FloatArray
    weight: float
    start: FloatArray
    starts: float

    def plus(self, other: Moments, sign: float = 1.0) -> Moments:
        """The sums of both; with ``sign`` -1 what remains without the other."""
        return Moments(
            self.covariance + sign * other.covariance,
            self.flow + sign * other.flow,
            self.weight + sign * other.weight,
            self.start + sign * other.start,
            self.starts + sign * other.starts,
        )

    def missed(self, solution: FloatArray, discount: float) -> FloatArray:
        """(1 - gamma) E[psi0] - A' v [J]: what the flow equation of w = psi' v lacks."""
        return (1.0 - discount) * self.start / self.starts - self.flow.T @ solution / self.weight


def dualdice_linear(data: OfflineData, settings: DICESettings, seed: int) -> Fitted:
    """w = psi' v with A' v = (1 - gamma) E[psi0], A = E_D[psi (psi - gamma E_{a'~pi} psi(s', a'))']; THEORY section 3.

    With a ridge lambda on the multiplier nu, the equation need not hold exactly: v then minimises
    E_D[(w - 1)^2] + |A' v - (1 - gamma) E[psi0]|^2 / lambda, and a large lambda gives w = 1. Five-fold cross-validation
    over the episodes chooses lambda among the candidates, by the error of the flow equation on the fifth left out
    (:func:`_choose_ridge`).

    Raises:
        EstimateError: the system is singular under every candidate.
    """
    own = settings.linear
    return fit_on(make_features(data, own, seed), data, own.ridges, own.samples_per_state, seed)


def fit_on(features: Features, data: OfflineData, ridges: tuple[float, ...], samples: int, seed: int) -> Fitted:
    """:func:`dualdice_linear` on any ``features``; ``samples`` actions are drawn per state if actions are continuous.

    Raises:
        EstimateError: the system is singular under every candidate.
    """
    rows = features.of(data.sample.observations, data.sample.actions)
    parts = _parts(data, rows, features, seed, samples)
    solver = _Solver.of(_total(parts), features.one, data.discount, rows.dtype)
    ridge = _choose_ridge(solver, parts, ridges)
    enough = [candidate for candidate in sorted(ridges) if candidate >= ridge]
    ratio = rows @ solver.solve_with_first(_total(parts), enough).astype(rows.dtype)
    held_out = None
    if data.has_held_out and len(parts) > 1:
        of_rest = [*enough, *(ridge for ridge in _DIAGNOSTIC_RIDGES if ridge > enough[-1])]
        without = solver.solve_with_first(_total(parts[:-1]), of_rest).astype(rows.dtype)
        held_out = np.asarray(rows[data.held_out] @ without, np.float64)
    return Fitted(np.asarray(ratio, np.float64), held_out, regularized=ridge > 0.0)


def _parts(data: OfflineData, rows: Array, features: Features, seed: int, samples: int) -> list[Moments]:
    """The moments of each fold of episodes; of all episodes together if there are fewer episodes than folds."""
    sample = data.sample
    following = next_features(features, data, sample.next_observations, (seed, _NEXT_STREAM), samples)
    following[sample.terminated] = 0.0
    first = next_features(features, data, data.initial_observations, (seed, _FIRST_STREAM), samples)
    change = rows - rows.dtype.type(data.discount) * following
    enough = np.unique(data.folds).size == FOLDS and len(first) >= FOLDS
    folds = data.folds if enough else np.zeros(len(data), dtype=np.int64)
    starts = np.arange(len(first)) % FOLDS if enough else np.zeros(len(first), dtype=np.int64)
    return [
        _moments(rows[folds == fold], change[folds == fold], data.weights[folds == fold], first[starts == fold])
        for fold in range(FOLDS if enough else 1)
    ]


def _moments(rows: Array, change: Array, weights: FloatArray, first: Array) -> Moments:
    weighted = rows * weights[:, None].astype(rows.dtype)
    return Moments(
        covariance=(weighted.T @ rows).astype(np.float64),
        flow=(weighted.T @ change).astype(np.float64),
        weight=float(weights.sum()),
        start=first.sum(axis=0, dtype=np.float64),
        starts=float(len(first)),
    )


def _total(parts: list[Moments]) -> Moments:
    total = parts[0]
    for part in parts[1:]:
        total = total.plus(part)
    return total


@dataclass(frozen=True, slots=True)
class _Solver:
    """Solves for v [J] in a ``basis`` [J, K] in which E[psi psi'] = I, without the directions lost to rounding.

    ``one`` [K] is w = 1 in the basis; ``jitter`` is added to C.
    """

    basis: FloatArray
    one: FloatArray
    discount: float
    jitter: float

    @staticmethod
    def of(moments: Moments, one: FloatArray, discount: float, dtype: np.dtype[np.floating[Any]]) -> _Solver:
        """For moments summed in a floating-point type; the basis has the constant and centred directions."""
        covariance = moments.covariance / moments.weight
        mean = covariance @ one
        variances, directions = np.linalg.eigh(covariance - np.outer(mean, mean))
        kept = variances > _ROUNDINGS * np.finfo(dtype).eps * max(variances[-1], 0.0)
        directions = directions[:, kept]
        centred = (directions - np.outer(one, mean @ directions)) / np.sqrt(variances[kept])
        basis = np.concatenate([one[:, None], centred], axis=1)
        return _Solver(basis, np.eye(1, basis.shape[1])[0], discount, _JITTER[np.dtype(dtype)])

    def solve(self, moments: Moments, ridge: float) -> FloatArray:
        """v for one ridge, in units of the mean eigenvalue of A' C^{-1} A.

        With r = (1 - gamma) E[psi0] - A' one: (A' C^{-1} A + lambda (I - one one')) u = r and v = one + C^{-1} A u.
        A constant nu has no ridge, so its equation, E_D[w] = 1, holds exactly.

        Raises:
            EstimateError: the system is singular.
        """
        covariance = self.basis.T @ moments.covariance @ self.basis / moments.weight
        flow = self.basis.T @ moments.flow @ self.basis / moments.weight
        start = self.basis.T @ moments.start / moments.starts
        try:
            projected = cho_solve(cho_factor(covariance + self.jitter * np.eye(len(covariance))), flow)
            normal = flow.T @ projected
            normal += ridge * np.trace(normal) / len(normal) * (np.eye(len(normal)) - np.outer(self.one, self.one))
            missed = (1.0 - self.discount) * start - flow.T @ self.one
            multiplier = cho_solve(cho_factor(normal), missed)
        except LinAlgError as error:
            raise EstimateError(
                "dualdice_linear: the system is singular; dice.linear.ridges needs a larger candidate"
            ) from error
        return np.asarray(self.basis @ (self.one + projected @ multiplier))

    def solve_with_first(self, moments: Moments, ridges: list[float]) -> FloatArray:
        """v for the first ridge that makes the system regular.

        Raises:
            EstimateError: the system is singular with every ridge.
        """
        for ridge in ridges[:-1]:
            with contextlib.suppress(EstimateError):
                return self.solve(moments, ridge)
        return self.solve(moments, ridges[-1])


def _choose_ridge(solver: _Solver, parts: list[Moments], candidates: tuple[float, ...]) -> float:
    """The smallest candidate whose error in the flow equation, on the fifth held out from v, is close to the least.

    The score of a fifth is |(1 - gamma) E[psi0] - A' v|^2; "close" is within one standard error, over the fifths, of
    the best candidate's score (Breiman et al. 1984): most of a score is the noise of the fifth itself, whatever v is.
    """
    if len(candidates) == 1 or len(parts) == 1:
        return max(candidates)
    scores, total = np.full((len(candidates), len(parts)), np.inf), _total(parts)
    for fold, part in enumerate(parts):
        rest = total.plus(part, -1.0)
        for place, ridge in enumerate(candidates):
            with contextlib.suppress(EstimateError):
                missed = part.missed(solver.solve(rest, ridge), solver.discount)
                scores[place, fold] = missed @ missed
    means = scores.mean(axis=1)
    best = int(np.argmin(means))
    if not np.isfinite(means[best]):
        return max(candidates)
    allowed = means[best] + scores[best].std(ddof=1) / np.sqrt(len(parts))
    return min(ridge for ridge, mean in zip(candidates, means, strict=True) if mean <= allowed)
