"""Draw a task and set its limits with the linear programme, so that every constraint is feasible and binds."""

from __future__ import annotations

import dataclasses
import json

import numpy as np

from policies.exact.solver import CostRange, ExactModel, InfeasibleError, SolverError, cost_range, optimal_policy
from tasks.contract.tabular_model import ModelError, TabularModel
from tasks.contract.task import (
    NEEDS_MODEL,
    Split,
    Task,
    TaskError,
    TaskFamily,
    fraction_fault,
    limits_fault,
    numbers_fault,
)
from tasks.contract.timeout import code_of_others

_ATTEMPTS = 200
_LEAST_WIDTH = 1e-3
"""A cost interval narrower than this share of its upper end does not bind in any useful sense: draw again."""
_SPLIT_STREAM = {"train": 11, "test": 12}


def draw_task(family: TaskFamily, name: str, seed: int, split: Split, index: int) -> Task:
    """Draw task ``index`` of ``split`` (:func:`_drawn`)."""
    with code_of_others(lambda: f"{name}/{split}/{index}"):
        return _drawn(family, name, seed, split, index)


def _drawn(family: TaskFamily, name: str, seed: int, split: Split, index: int) -> Task:
    """Draw task ``index`` of ``split``; pure in its arguments.

    Where the family gives a limit fraction, limits are placed between the least reachable cost and the unconstrained
    optimum's cost, and draws whose constraint cannot bind or be kept jointly are drawn again.

    Raises:
        TaskError: the family's numbers are invalid, given limits are of the wrong length, negative or infeasible (with
            the least reachable cost), or no draw has a binding constraint.
    """
    fault = numbers_fault(family)
    if fault is not None:
        raise TaskError(f"{name}: {fault}")
    task_seed = int(np.random.SeedSequence([seed, _SPLIT_STREAM[split], index]).generate_state(1)[0])
    for attempt in range(_ATTEMPTS):
        parameters = family.parameters(split, index, attempt)
        task = Task(name, split, index, task_seed, parameters, limits=())
        _require_plain(task)
        limits = family.limits(parameters)
        if np.ndim(limits) == 1:
            return with_given_limits(family, task, tuple(limits))  # type: ignore[arg-type]
        fraction = float(limits)  # type: ignore[arg-type]
        fault = fraction_fault(fraction)
        if fault is not None:
            raise TaskError(f"{task.label}: {fault}")
        calibrated = with_fraction(family, task, fraction)
        if calibrated is not None:
            return calibrated
    raise TaskError(
        f"{task.label}: in {_ATTEMPTS} draws no limits were found that restrict the reward: for at least one of the "
        f"costs ({', '.join(family.cost_names)}) the reward's optimum costs no more than the least, or the limits "
        "cannot be kept together; change the family or give the limits themselves"
    )


def _require_plain(task: Task) -> None:
    try:
        json.dumps(task.parameters)
    except (TypeError, ValueError) as error:
        raise TaskError(f"{task.label}: its parameters must be plain (text, numbers, lists): {error}") from error


def with_given_limits(family: TaskFamily, task: Task, limits: tuple[float, ...]) -> Task:
    """``task`` with these limits.

    Raises:
        TaskError: they are of the wrong length, negative or, by the exact model, infeasible.
    """
    names = family.cost_names
    fault = limits_fault(limits, names)
    if fault is not None:
        raise TaskError(f"{task.label}: {fault}")
    task = dataclasses.replace(task, limits=tuple(float(limit) for limit in limits))
    model = _model_of(family, task)
    if model is not None:
        require_feasible(task, ExactModel(model), names)
    return task


def require_feasible(task: Task, model: ExactModel, names: tuple[str, ...]) -> None:
    """Check the limits with the linear programme.

    Raises:
        TaskError: no policy keeps them; the message gives the least reachable cost of each.
    """
    try:
        optimal_policy(model, np.array(task.limits))
    except InfeasibleError:
        reachable = cost_range(model).least
        limits_and_costs = "; ".join(
            f"{name}: limit {limit:.{_digits_apart(limit, least)}g}, least reachable cost "
            f"{least:.{_digits_apart(limit, least)}g}"
            for name, limit, least in zip(names, task.limits, reachable, strict=True)
        )
        raise TaskError(f"{task.label}: no policy keeps its limits ({limits_and_costs}); raise the limits") from None
    except SolverError as error:
        raise TaskError(f"{task.label}: {error}") from error


def _digits_apart(one: float, other: float) -> int:
    """The fewest significant digits, at least 6, that show two numbers as different; 17 show everything."""
    return next((digits for digits in range(6, 17) if f"{one:.{digits}g}" != f"{other:.{digits}g}"), 17)


def _model_of(family: TaskFamily, task: Task) -> TabularModel | None:
    try:
        return family.model(task.parameters)
    except ModelError as error:
        raise TaskError(f"{task.label}: its exact model is invalid: {error}") from error


def with_fraction(family: TaskFamily, task: Task, fraction: float) -> Task | None:
    """``task`` with limits at this fraction of its cost intervals; None where they would not bind.

    Raises:
        TaskError: there is no exact model to compute the intervals with.
    """
    tabular = _model_of(family, task)
    if tabular is None:
        raise TaskError(f"{task.label}: {NEEDS_MODEL}")
    try:
        return _within_intervals(task, ExactModel(tabular), fraction)
    except SolverError as error:
        raise TaskError(f"{task.label}: {error}") from error


def _within_intervals(task: Task, model: ExactModel, fraction: float) -> Task | None:
    interval: CostRange = cost_range(model)
    width = interval.unconstrained - interval.least
    floor = _LEAST_WIDTH * model.tabular.costs.max(axis=(1, 2))  # of the costs' own unit: above rounding errors
    if (width <= _LEAST_WIDTH * np.maximum(interval.unconstrained, floor)).any():
        return None
    limits = interval.least + fraction * width
    try:
        optimum = optimal_policy(model, limits)
    except InfeasibleError:
        return None
    if optimum.values[0] <= 0.0 and (model.tabular.reward >= 0.0).all():
        return None
    return dataclasses.replace(task, limits=tuple(float(limit) for limit in limits))
