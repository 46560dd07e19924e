"""Find the hidden context of a new task: the copies of its first batch run the start under different contexts.

A Gaussian process over the context is fitted to each objective's estimates, and the known context of best predicted
reward among those that keep every limit is chosen; where none does, the one of least predicted violation.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from policies.common.branches import relative_violations
from policies.common.results import Start
from policies.neural.neural_settings import NeuralSettings
from policies.neural.rollouts import NeuralRollouts, NeuralTransitions
from policies.neural.solving import state_of
from policies.neural.transition_moments import moments_of_copies
from policies.neural.update import Problem, estimate_returns
from tasks.contract.contextual_family import ContextualFamily
from tasks.contract.tabular_model import FloatArray
from tasks.contract.task import Task
from tasks.stepping.batch import make_plain_batch
from tasks.stepping.context_batch import ContextBatch

PROBE = 2**20 + 1
"""The iteration that probing rollouts have in their random numbers; none of CRPO's."""
LENGTHS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Length scales that the surrogate chooses from, in units of the spread of the training contexts."""
NOISES = (0.01, 0.1, 0.3, 1.0)
"""Standard deviations of the noise that it chooses from, in units of the spread of the estimates."""


@dataclass(frozen=True, slots=True)
class Probe:
    """``context`` [k] that was chosen, and the environment ``steps`` that the choice took."""

    context: FloatArray
    steps: int


def probe_context(family: ContextualFamily, task: Task, start: Start, settings: NeuralSettings) -> Probe:
    """The context of ``task``, from one batch of ``settings.num_copies`` copies under different contexts.

    A start with a trusted regression infers it from the transitions; otherwise the returns choose it.

    Raises:
        TaskError: the environment breaks its contract, or the start does not fit the task.
    """
    known, policy = family.contexts.known, state_of(start.initialization, task.label)
    tried = spread_contexts(known, settings.num_copies)
    batch = ContextBatch(make_plain_batch(family.plain, task, settings.num_copies), tried)
    try:
        steps = settings.steps_per_iteration // settings.num_copies
        rollouts = NeuralRollouts(batch, steps, task.seed, task.label)
        data = rollouts.collect(policy, PROBE)
        limits = (1.0 - settings.safety_margin) * np.array(task.limits)
        problem = Problem(np.ones(1 + limits.size), limits, np.zeros(limits.size), family.discount, batch.horizon)
        if start.regression is not None and start.regression.trusted:
            moments = moments_of_copies(data, policy, known.shape[1])
            return Probe(start.regression.context(moments), settings.num_copies * steps)
        values = np.array([estimate_returns(_copy_of(data, copy), problem, settings) for copy in range(len(tried))])
    finally:
        batch.close()
    chosen = best_context(tried, values, known, limits)
    return Probe(known[chosen], settings.num_copies * steps)


def spread_contexts(known: FloatArray, count: int) -> FloatArray:
    """``count`` of the contexts ``known`` [T, k], spread over them: each next one is farthest from all before.

    The first is the nearest to the mean (Gonzalez 1985). Contexts are used again once all are taken.
    """
    chosen = [int(np.argmin(((known - known.mean(axis=0)) ** 2).sum(axis=1)))]
    distances = ((known - known[chosen[0]]) ** 2).sum(axis=1)
    while len(chosen) < min(count, len(known)):
        chosen.append(int(np.argmax(distances)))
        distances = np.minimum(distances, ((known - known[chosen[-1]]) ** 2).sum(axis=1))
        distances[chosen] = -1.0
    return np.asarray(known[np.resize(chosen, count)])


def best_context(tried: FloatArray, values: FloatArray, candidates: FloatArray, limits: FloatArray) -> int:
    """The position among ``candidates`` [C, k] of the best context, from ``values`` [n, 1+p] at ``tried`` [n, k]."""
    predicted = np.stack([surrogate(tried, column, candidates) for column in values.T], axis=1)
    excess = np.maximum(relative_violations(predicted, limits), 0.0).sum(axis=1)
    if (excess == 0.0).any():
        return int(np.argmax(np.where(excess == 0.0, predicted[:, 0], -np.inf)))
    return int(np.argmin(excess))


def surrogate(tried: FloatArray, values: FloatArray, candidates: FloatArray) -> FloatArray:
    """Mean [C] at ``candidates`` of a Gaussian process fitted to ``values`` [n] at ``tried``.

    Its squared-exponential kernel and its noise are those of greatest marginal likelihood on a grid (Rasmussen and
    Williams 2006, equations 2.25 and 2.30).
    """
    mean, spread = float(values.mean()), float(values.std())
    if spread <= 1e-9 * max(1.0, abs(mean)):
        return np.full(len(candidates), mean)
    targets = (values - mean) / spread
    squares, cross = _squares(tried, tried), _squares(candidates, tried)
    best, found = -np.inf, np.zeros(len(candidates))
    for length in LENGTHS:
        kernel = np.exp(-0.5 * squares / length**2)
        for noise in NOISES:
            lower = np.linalg.cholesky(kernel + noise**2 * np.eye(len(tried)))
            weights = np.linalg.solve(lower.T, np.linalg.solve(lower, targets))
            likelihood = float(-0.5 * targets @ weights - np.log(np.diag(lower)).sum())
            if likelihood > best:
                best, found = likelihood, np.exp(-0.5 * cross / length**2) @ weights
    return np.asarray(mean + spread * found)


def _squares(first: FloatArray, second: FloatArray) -> FloatArray:
    return np.asarray(((first[:, None, :] - second[None, :, :]) ** 2).sum(axis=2))


def _copy_of(data: NeuralTransitions, copy: int) -> NeuralTransitions:
    """What the estimates of returns read of one copy."""
    own = slice(copy, copy + 1)
    return dataclasses.replace(
        data, signals=data.signals[:, own], terminated=data.terminated[:, own], truncated=data.truncated[:, own]
    )
