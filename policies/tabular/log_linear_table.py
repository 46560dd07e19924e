"""A table that is a log-linear function of the task's context.

    phi_h(a|s; c) proportional to exp( theta_h(s, a) + sum_j w_h(s, a, j) c_j )

follows the regularised leader: (theta_h, w_h) minimise sum_t f_hat_t(phi(.; c_t)) + (lambda_h / 2) |w|^2, which is
convex; lambda = infinity is the plain leader. Where a start forgets, w_h is learned from all tasks alike, since what an
entry does stays, and theta_h follows the recent ones, whose policies are better. Weights w(s, a, j) may be one and the
same number: a hole on the left matters alike in all states. A task starts from the mixture sum_h p_h phi_h of several
lambda (linear conditioning of a start on side information: Denevi, Pontil, Ciliberto 2020, arXiv 2008.10857).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy  # scipy.optimize loads where it is first used
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.special import log_softmax, softmax

from policies.tabular.kernel_table import ContextTable, leader, shrink
from tasks.contract.context import ContextError
from tasks.contract.tabular_model import FloatArray

Effects = Int[NDArray[np.int64], "E 4"]
"""Rows (state, action, entry of the context, number of the weight), sorted by state and action."""
_STEPS, _GRADIENT = 1000, 1e-6


@dataclass(frozen=True, slots=True)
class LogLinear:
    """One fitted map: theta ``offsets`` [S, A] and ``weights`` [G]."""

    offsets: FloatArray
    weights: FloatArray


@dataclass(frozen=True, slots=True)
class LogLinearTable(ContextTable):
    """phi(.; c) after T tasks.

    ``contexts`` [T, k] and ``weighted`` [T, S, A], the w_i nu_i(s) pi_i(a|s), are what it was fitted to; ``recency``
    [T] is how much a task counts for the offsets. ``effects`` [E, 4] say which weight an entry of the context has on a
    logit, and ``units`` [k] multiply the entries. ``ridges`` [H] are the lambda_h, ``shares`` [H] the p_h, ``offsets``
    [H, S, A] and ``weights`` [H, G] the maps.
    """

    contexts: FloatArray
    weighted: FloatArray
    recency: FloatArray
    effects: Effects
    units: FloatArray
    ridges: FloatArray
    shares: FloatArray
    offsets: FloatArray
    weights: FloatArray
    shrinkage: float
    prior_weight: float

    @property
    def recent(self) -> Float[FloatArray, "T S A"]:
        """``weighted``, each task as much as it counts for the offsets."""
        return np.asarray(self.recency[:, None, None] * self.weighted)

    def tables(self, context: Float[FloatArray, " k"]) -> Float[FloatArray, "H S A"]:
        """phi_h(.; c) of every lambda."""
        entries = self.units * context
        return np.array(
            [
                shrink(table_at(LogLinear(offsets, weights), self.effects, entries), self.shrinkage)
                for offsets, weights in zip(self.offsets, self.weights, strict=True)
            ]
        )

    def with_tasks(
        self,
        contexts: Float[FloatArray, "N k"],
        weighted: Float[FloatArray, "N S A"],
        forgetting: float,
        shares: Float[FloatArray, " H"],
    ) -> LogLinearTable:
        """The table after N more tasks; earlier ones count ``forgetting`` times as much for the offsets."""
        table = dataclasses.replace(
            self,
            contexts=np.concatenate([self.contexts, contexts]),
            weighted=np.concatenate([self.weighted, weighted]),
            recency=np.concatenate([forgetting * self.recency, np.ones(len(contexts))]),
            shares=shares,
        )
        design = design_of(table.units * table.contexts, self.effects, weighted.shape[1:], self.weights.shape[1])
        maps = [table._fitted(number, design) for number in range(self.ridges.size)]
        return dataclasses.replace(
            table,
            offsets=np.array([one.offsets for one in maps]),
            weights=np.array([one.weights for one in maps]),
        )

    def _fitted(self, number: int, design: csr_array) -> LogLinear:
        """The map of one lambda, from where it was."""
        ridge, begin = float(self.ridges[number]), LogLinear(self.offsets[number], self.weights[number])
        if np.isinf(ridge):
            recent = leader(self.recent.sum(axis=0), self.prior_weight)
            return LogLinear(np.log(recent), np.zeros_like(begin.weights))
        fit = fitted(self.weighted, design, ridge, self.prior_weight, begin)
        if (self.recency == 1.0).all():
            return fit
        return with_offsets(self.recent, design, self.prior_weight, fit)


def table_at(fit: LogLinear, effects: Effects, entries: Float[FloatArray, " k"]) -> Float[FloatArray, "S A"]:
    """The probabilities [S, A] of a map at the ``entries`` of a context, in its units."""
    states, actions = fit.offsets.shape
    place = effects[:, 0] * actions + effects[:, 1]
    pushes = np.bincount(place, fit.weights[effects[:, 3]] * entries[effects[:, 2]], states * actions)
    return np.asarray(softmax(fit.offsets + pushes.reshape(states, actions), axis=1))


def fitted(
    weighted: Float[FloatArray, "T S A"], design: csr_array, ridge: float, prior_weight: float, begin: LogLinear
) -> LogLinear:
    """The minimiser of -sum_t,s,a weighted log phi(a|s; c_t) + (ridge / 2) |w|^2, by L-BFGS from ``begin``.

    The uniform policy counts ``prior_weight`` in every state, on the offsets alone.

    Args:
        weighted: w_t nu_t(s) pi_t(a|s) of every task.
        design: what each weight adds to each logit (:func:`design_of`).
        ridge: lambda.
        prior_weight: of the uniform policy.
        begin: where the search begins.
    """
    shape, size = begin.offsets.shape, begin.offsets.size

    def objective(free: FloatArray) -> tuple[float, FloatArray]:
        offsets, weights = free[:size].reshape(shape), free[size:]
        loss, slopes, of_offsets = _loss(weighted, (design @ weights).reshape(weighted.shape), offsets, prior_weight)
        of_weights = design.T @ slopes.ravel() + ridge * weights
        return loss + 0.5 * ridge * float(weights @ weights), np.concatenate([of_offsets.ravel(), of_weights])

    found = _minimum(objective, np.concatenate([begin.offsets.ravel(), begin.weights]))
    return LogLinear(found[:size].reshape(shape), found[size:])


def with_offsets(
    weighted: Float[FloatArray, "T S A"], design: csr_array, prior_weight: float, fit: LogLinear
) -> LogLinear:
    """``fit`` with the offsets that minimise the loss of other weights [T, S, A] of the tasks, as in :func:`fitted`."""
    pushes = (design @ fit.weights).reshape(weighted.shape)

    def objective(free: FloatArray) -> tuple[float, FloatArray]:
        loss, _, of_offsets = _loss(weighted, pushes, free.reshape(fit.offsets.shape), prior_weight)
        return loss, of_offsets.ravel()

    return LogLinear(_minimum(objective, fit.offsets.ravel()).reshape(fit.offsets.shape), fit.weights)


def _loss(
    weighted: FloatArray, pushes: FloatArray, offsets: FloatArray, prior_weight: float
) -> tuple[float, FloatArray, FloatArray]:
    """The loss, its slopes in every task's logits [T, S, A], and in the offsets [S, A]."""
    logs, prior = log_softmax(offsets + pushes, axis=2), log_softmax(offsets, axis=1)
    slopes = weighted.sum(axis=2, keepdims=True) * np.exp(logs) - weighted
    of_offsets = slopes.sum(axis=0) + prior_weight * (np.exp(prior) - 1.0 / offsets.shape[1])
    return -float((weighted * logs).sum()) - prior_weight * float(prior.mean(axis=1).sum()), slopes, of_offsets


def _minimum(objective: Callable[[FloatArray], tuple[float, FloatArray]], begin: FloatArray) -> FloatArray:
    options: Any = {"maxiter": _STEPS, "gtol": _GRADIENT, "ftol": 1e-12}
    return np.asarray(scipy.optimize.minimize(objective, begin, jac=True, method="L-BFGS-B", options=options).x)


def design_of(
    entries: Float[FloatArray, "T k"], effects: Effects, shape: tuple[int, ...], num_weights: int
) -> csr_array:
    """What each weight adds to each logit, [T S A, G]: row (t, s, a) holds the entries that act on it.

    Args:
        entries: the contexts, in the units of the weights.
        effects: which weight an entry has on which logit.
        shape: S and A.
        num_weights: G.
    """
    each, tasks, size = len(effects), len(entries), shape[0] * shape[1]
    counts = np.bincount(effects[:, 0] * shape[1] + effects[:, 1], minlength=size)
    starts = np.concatenate([[0], np.cumsum(counts)])
    pointers = np.concatenate([(np.arange(tasks)[:, None] * each + starts[:-1]).ravel(), [tasks * each]])
    values = entries[:, effects[:, 2]].ravel()
    return csr_array((values, np.tile(effects[:, 3], tasks), pointers), shape=(tasks * size, num_weights))


def all_effects(states: int, actions: int, num_entries: int, own: NDArray[np.int64] | None) -> Effects:
    """The effects of a family: its ``own`` rows, and a weight for each state and action of every entry that has none.

    Raises:
        ContextError: a row names a state, action, entry or weight that there is not.
    """
    given = np.zeros((0, 4), np.int64) if own is None else np.asarray(own)
    if given.ndim != 2 or given.shape[1] != 4 or given.dtype.kind != "i":
        raise ContextError(f"context_effects must be whole numbers [E, 4], got {given.dtype} {list(given.shape)}")
    limits = {"state": states, "action": actions, "entry": num_entries}
    for column, (name, count) in enumerate(limits.items()):
        wrong = (given[:, column] < 0) | (given[:, column] >= count)
        if wrong.any():
            raise ContextError(
                f"context_effects: row {int(np.flatnonzero(wrong)[0])} names {name} {given[wrong][0, column]}; "
                f"there are {count}, counted from 0"
            )
    if (given[:, 3] < 0).any():
        raise ContextError("context_effects: numbers of weights count from 0")
    missing = np.setdiff1d(np.arange(num_entries), given[:, 2])
    state, action, entry = (part.ravel() for part in np.meshgrid(np.arange(states), np.arange(actions), missing))
    first = int(given[:, 3].max(initial=-1)) + 1
    more = np.column_stack([state, action, entry, first + np.arange(entry.size)])
    rows = np.concatenate([given.astype(np.int64), more])
    return rows[np.lexsort((rows[:, 1], rows[:, 0]))]


def no_tasks(
    effects: Effects,
    units: Float[FloatArray, " k"],
    ridges: Float[FloatArray, " H"],
    shape: tuple[int, int],
    shrinkage: float,
    prior_weight: float,
) -> LogLinearTable:
    """The table before the first task: uniform for every context."""
    return LogLinearTable(
        contexts=np.zeros((0, units.size)),
        weighted=np.zeros((0, *shape)),
        recency=np.ones(0),
        effects=effects,
        units=units,
        ridges=ridges,
        shares=np.full(ridges.size, 1.0 / ridges.size),
        offsets=np.zeros((ridges.size, *shape)),
        weights=np.zeros((ridges.size, int(effects[:, 3].max(initial=-1)) + 1)),
        shrinkage=shrinkage,
        prior_weight=prior_weight,
    )


_PARTS = ("contexts", "weighted", "recency", "effects", "units", "ridges", "shares", "offsets", "weights")


def to_log_linear_arrays(table: LogLinearTable) -> dict[str, NDArray[Any]]:
    """Every part as an array, as safetensors stores it, with the table for an unknown context as ``probabilities``."""
    arrays = {name: getattr(table, name) for name in _PARTS}
    return {**arrays, "numbers": np.array([table.shrinkage, table.prior_weight]), "probabilities": table.plain}


def from_log_linear_arrays(arrays: Mapping[str, NDArray[Any]], shape: tuple[int, int]) -> LogLinearTable:
    """The inverse of :func:`to_log_linear_arrays` for tables of ``shape`` [S, A].

    Raises:
        ValueError: a part does not fit the others, or is not a number in its range.
    """
    parts, numbers = {name: arrays[name] for name in _PARTS}, arrays["numbers"]
    tasks, heads = len(parts["contexts"]), parts["ridges"].size
    kept = (parts["contexts"].ndim, parts["weighted"].shape, parts["recency"].shape)
    if kept != (2, (tasks, *shape), (tasks,)):
        raise ValueError(f"weighted must have the shape [{tasks}, {shape[0]}, {shape[1]}], one entry a context")
    if parts["offsets"].shape != (heads, *shape) or parts["weights"].ndim != 2 or len(parts["weights"]) != heads:
        raise ValueError(f"offsets must have the shape [{heads}, {shape[0]}, {shape[1]}], and weights {heads} rows")
    size = parts["contexts"].shape[1]
    effects = all_effects(*shape, size, parts["effects"])
    if len(effects) != len(parts["effects"]) or effects[:, 3].max(initial=-1) >= parts["weights"].shape[1]:
        raise ValueError("effects must name every entry of the context, and no weight that there is not")
    finite = all(np.isfinite(parts[name]).all() for name in _PARTS if name != "ridges")
    if parts["units"].shape != (size,) or not finite:
        raise ValueError(f"units must be {size} numbers, and every part finite")
    shares = parts["shares"]
    if shares.shape != (heads,) or not (parts["ridges"] > 0.0).all() or not np.isclose(shares.sum(), 1.0):
        raise ValueError("ridges must be positive, with a share each that sum to 1")
    if numbers.shape != (2,) or not (0.0 < numbers[0] < 1.0) or not numbers[1] > 0.0:
        raise ValueError("shrinkage must lie in (0, 1) and prior_weight above 0")
    return LogLinearTable(**parts, shrinkage=float(numbers[0]), prior_weight=float(numbers[1]))
