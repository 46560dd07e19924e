"""Contexts that show in the dynamics: a regression from the transitions of a task to its context.

Each task has a linear model of how the observation changes, B_t, which minimises the mean of |dx - psi(x, a) B|^2 about
the model of all tasks; psi are 1, the observation and the action. The context is a ridge regression on the entries of
B_t, with the penalty of least leave-one-task-out error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from policies.common.codec import Record
from tasks.contract.tabular_model import FloatArray

FEWEST_TASKS = 3
"""Tasks with transitions that a regression needs."""
_PENALTIES = tuple(10.0 ** np.arange(-4.0, 2.5, 0.5))
_RIDGE = 0.3
"""Pulls B_t towards the model of all tasks, in units of the mean squares of psi."""


@dataclass(frozen=True, slots=True)
class Moments(Record):
    """Sums over the transitions of T tasks: ``second`` [T, q, q] of psi psi', ``cross`` [T, q, d] of psi dx'.

    ``count`` [T] is the number of transitions.
    """

    second: FloatArray
    cross: FloatArray
    count: FloatArray

    def added(self, places: Sequence[int], other: Moments) -> Moments:
        """With the sums of ``other``, whose row i belongs to the task ``places[i]``."""
        second, cross, count = self.second.copy(), self.cross.copy(), self.count.copy()
        rows = np.array(places)
        np.add.at(second, rows, other.second)
        np.add.at(cross, rows, other.cross)
        np.add.at(count, rows, other.count)
        return Moments(second, cross, count)

    def total(self) -> Moments:
        """All tasks as one."""
        return Moments(self.second.sum(axis=0)[None], self.cross.sum(axis=0)[None], self.count.sum(keepdims=True))


def no_moments(num_tasks: int, features: int, size: int) -> Moments:
    """Nothing seen of ``num_tasks`` tasks with q ``features`` and d = ``size``."""
    zeros = np.zeros
    return Moments(zeros((num_tasks, features, features)), zeros((num_tasks, features, size)), zeros(num_tasks))


@dataclass(frozen=True, slots=True)
class ContextRegression(Record):
    """From the moments of a task to its normalised context [k].

    ``common`` [q, d] is the linear model of all training tasks and ``ridge`` [q] what pulls that of a task towards it;
    ``centre`` [q d], ``weights`` [q d, k] and ``intercept`` [k] are the regression. ``errors`` [k] are the root mean
    squared leave-one-task-out errors in units of the spread of the contexts: 0 is exact, 1 no better than the mean.
    ``low`` and ``high`` [k] are the range of the training contexts, into which an estimate is put.
    ``largest_error`` [1] is the error up to which the regression is to be trusted.
    """

    common: FloatArray
    ridge: FloatArray
    centre: FloatArray
    weights: FloatArray
    intercept: FloatArray
    errors: FloatArray
    low: FloatArray
    high: FloatArray
    largest_error: FloatArray

    @property
    def trusted(self) -> bool:
        """Whether new tasks take their context from the regression; otherwise they probe."""
        return self.error <= float(self.largest_error[0])

    @property
    def error(self) -> float:
        """The root mean square of the errors of all entries."""
        return float(np.sqrt((self.errors**2).mean()))

    def require_shapes(self, features: int, size: int, entries: int) -> None:
        """Check the arrays of a regression from a file: for q ``features``, d = ``size`` and k = ``entries``.

        Raises:
            ValueError: One has another shape, or a number that is not finite.
        """
        flat, k = features * size, entries
        shapes = {"common": (features, size), "ridge": (features,), "centre": (flat,), "weights": (flat, k)}
        shapes |= dict.fromkeys(("intercept", "errors", "low", "high"), (k,))
        for name, shape in shapes.items():
            found = getattr(self, name)
            if found.shape != shape or not np.isfinite(found).all():
                raise ValueError(f"regression.{name} must hold finite numbers of shape {list(shape)}")
        if self.largest_error.shape != (1,) or not self.largest_error[0] > 0.0:
            raise ValueError("regression.largest_error must be one positive number")

    def context(self, moments: Moments) -> FloatArray:
        """The context [k] of the task that all ``moments`` belong to."""
        (features,) = _deviations(moments.total(), self.common, self.ridge)
        return np.clip(self.intercept + (features - self.centre) @ self.weights, self.low, self.high)


def fit_regression(moments: Moments, contexts: FloatArray, largest_error: float = np.inf) -> ContextRegression:
    """The regression from training tasks with ``contexts`` [T, k]; tasks without transitions are left out.

    It is to be trusted up to the error ``largest_error``.

    Raises:
        ValueError: fewer than :data:`FEWEST_TASKS` tasks have transitions.
    """
    seen = np.flatnonzero(moments.count > 0)
    if len(seen) < FEWEST_TASKS:
        raise ValueError(
            f"a regression to contexts needs transitions of at least {FEWEST_TASKS} tasks, got {len(seen)}"
        )
    own = Moments(moments.second[seen], moments.cross[seen], moments.count[seen])
    known, total = contexts[seen], own.total()
    squares = np.diag(total.second[0]) / total.count[0]
    ridge = _RIDGE * squares + np.finfo(np.float64).tiny
    (common,) = np.linalg.solve(total.second + 1e-6 * total.count[0] * np.diag(ridge), total.cross)
    features = _deviations(own, common, ridge)
    centre, spread = features.mean(axis=0), features.std(axis=0)
    scale = np.where(spread > 0.0, 1.0 / np.where(spread > 0.0, spread, 1.0), 0.0) / np.sqrt(features.shape[1])
    dual, errors = _least_left_out(((features - centre) * scale), known)
    weights = scale[:, None] * (((features - centre) * scale).T @ dual)
    return ContextRegression(
        common,
        ridge,
        centre,
        weights,
        known.mean(axis=0),
        errors,
        known.min(axis=0),
        known.max(axis=0),
        np.array([largest_error]),
    )


def _deviations(moments: Moments, common: FloatArray, ridge: FloatArray) -> FloatArray:
    """The linear models of tasks less that of all, [T, q d]."""
    count = moments.count[:, None, None]
    second = moments.second / count
    residual = moments.cross / count - second @ common
    return np.asarray(np.linalg.solve(second + np.diag(ridge), residual).reshape(len(second), -1))


def _least_left_out(features: FloatArray, known: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Dual weights [T, k] of the ridge regression with the penalty of least error, and its errors [k].

    For centred features and an intercept, the error of leaving out task t is (c_t - c_hat_t) / (1 - H_tt) with
    H = 1/T + K (K + penalty)^-1 (Allen 1974).
    """
    count, kernel, centred = len(known), features @ features.T, known - known.mean(axis=0)
    spread = np.where(centred.std(axis=0) > 0.0, centred.std(axis=0), 1.0)
    best: tuple[float, FloatArray, FloatArray] | None = None
    for penalty in _PENALTIES:
        inverse = np.linalg.inv(kernel + penalty * np.eye(count))
        hat = kernel @ inverse
        left_out = (centred - hat @ centred) / (1.0 - 1.0 / count - np.diag(hat))[:, None] / spread
        error = float((left_out**2).mean())
        if best is None or error < best[0]:
            best = error, inverse @ centred, np.sqrt((left_out**2).mean(axis=0))
    assert best is not None
    return best[1], best[2]
