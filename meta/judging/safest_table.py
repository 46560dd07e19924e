"""The safest table for many tasks: natural gradients down the largest of their costs, in shares of the limits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy.special import logsumexp, softmax

from meta.methods.multitask import shares_of_visits
from policies.common.score import limit_scale
from policies.exact.softmax import log_policy, natural_gradient_step
from policies.exact.solver import ExactModel, evaluate
from tasks.contract.tabular_model import FloatArray

SHARPNESS = 10.0
"""kappa of the soft maximum: it is above the maximum by at most log(T p) / kappa limits."""
_LONGEST, _SHORTEST = 2.0**10, 2.0**-10


def safest_table(
    models: Sequence[ExactModel], limits: Float[FloatArray, "T p"], logits: Float[FloatArray, "S A"], updates: int
) -> Float[FloatArray, "S A"]:
    """Log-probabilities that lower the soft maximum of all costs in shares of their limits.

        (1 / kappa) log sum_{t,i} exp(kappa (J_{t,i} - d_{t,i}) / d_{t,i})

    The mean of the tasks' costs, which other descents lower, leaves a rare task over its limit where that helps the
    others. Every update is a natural gradient step: the derivative of the soft maximum is a weighted mean of the costs'
    derivatives, so the direction is their advantages, weighted by the tasks' occupancies. Its length doubles after a
    step that lowers the soft maximum and halves after one that does not and is not taken, so the maximum never rises.
    At most ``updates`` steps.

    Args:
        models: exact models of T tasks with p costs.
        limits: their limits [T, p]; a limit of 0 is measured in its own scale (:func:`limit_scale`).
        logits: where to begin.
        updates: the number of updates.
    """
    scales = limit_scale(limits)

    def worst(logarithms: FloatArray) -> tuple[float, FloatArray]:
        costs = np.array([evaluate(model, np.exp(logarithms)).values[1:] for model in models])
        shares = SHARPNESS * (costs - limits) / scales
        return float(logsumexp(shares)), softmax(shares)

    now, discount, length = log_policy(logits), models[0].tabular.discount, 1.0
    value, weights = worst(now)
    for _ in range(updates):
        direction = _ascent(models, np.exp(now), weights / scales)
        while length >= _SHORTEST:
            candidate = natural_gradient_step(now, direction, -length, discount)
            found, next_weights = worst(candidate)
            if found < value:
                break
            length /= 2.0
        else:
            break
        now, value, weights, length = candidate, found, next_weights, min(2.0 * length, _LONGEST)
    return now


def _ascent(models: Sequence[ExactModel], policy: FloatArray, weights: FloatArray) -> FloatArray:
    """The natural gradient [S, A] of sum_{t,i} w_{t,i} J_{t,i}."""
    parts = [evaluate(model, policy).advantages()[1:] for model in models]
    return np.einsum("ts,ti,tisa->sa", shares_of_visits(models, policy), len(models) * weights, np.array(parts))
