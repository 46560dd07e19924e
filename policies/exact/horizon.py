"""Exact values of the unlimited horizon beside those of episodes that are cut off at the horizon."""

from __future__ import annotations

import numpy as np

from policies.exact.solver import ExactModel, evaluate, policy_transitions
from tasks.contract.tabular_model import FloatArray
from tasks.contract.task import Task, TaskFamily

_CLOSE = 0.1
"""Values that differ by at most this share of the larger one are taken as equal."""


def values_until(model: ExactModel, policy: FloatArray, horizon: int) -> FloatArray:
    """sum_{t < horizon} gamma^t E[c_i] of every objective, [1+p]: what episodes of ``horizon`` steps give."""
    expected = np.einsum("sa,isa->si", policy, model.objectives)
    forward = policy_transitions(model, policy).T.tocsr()
    state, total, weight = model.tabular.initial, np.zeros(expected.shape[1]), 1.0
    for _ in range(horizon):
        total += weight * (state @ expected)
        state, weight = forward @ state, weight * model.tabular.discount
    return total


def horizon_warning(family: TaskFamily, task: Task) -> str | None:
    """A warning with both figures where the horizon changes exact values by more than a tenth; None where it does not,
    or where there is no exact model. The policy is the uniform one.
    """
    tabular = family.model(task.parameters)
    if tabular is None:
        return None
    model = ExactModel(tabular)
    uniform = np.full(model.shape, 1.0 / model.shape[1])
    unlimited, cut = evaluate(model, uniform).values, values_until(model, uniform, family.horizon)
    largest = np.maximum(np.abs(unlimited), np.abs(cut))
    names = ("reward", *family.cost_names)
    told = [
        f"{name} {everything:.3g}, but {part:.3g} in {family.horizon} steps"
        for name, everything, part, most in zip(names, unlimited, cut, largest, strict=True)
        if abs(everything - part) > _CLOSE * most
    ]
    if not told:
        return None
    return (
        "exact values, and limits given as a fraction, are of an unlimited horizon, and episodes are cut off after "
        f"{family.horizon} steps: on {task.label} random actions have {'; '.join(told)}. Lengthen the horizon or lower "
        "the discount, so that discount^horizon is small"
    )
