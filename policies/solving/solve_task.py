"""Solve one task from a given start, or from the best of several, with whatever algorithm the settings name."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import numpy as np

from policies.common.results import Starts, TaskResult
from policies.exact.solver import ExactModel, InfeasibleError, OptimalPolicy, SolverError, optimal_policy
from policies.solving.algorithms import Dataset, WithinTask, kind_of
from policies.solving.probing import choose_start
from tasks.contract.task import Task, TaskError, TaskFamily
from tasks.contract.timeout import code_of_others


def reference_solution(family: TaskFamily, task: Task) -> OptimalPolicy | None:
    """The linear programme's optimum of ``task`` (pi*, nu*, J*), or None without an exact model.

    Raises:
        TaskError: the programme has no solution; the message names the task.
    """
    with code_of_others(lambda: task.label):
        model = family.model(task.parameters)
    if model is None:
        return None
    try:
        return optimal_policy(ExactModel(model), np.array(task.limits))
    except (InfeasibleError, SolverError) as error:
        raise TaskError(f"{task.label}: {error}") from error


def solve_task(
    family: TaskFamily,
    task: Task,
    start: Starts,
    settings: WithinTask,
    *,
    collect: bool,
    on_iteration: Callable[[int], None] = lambda iteration: None,
) -> tuple[TaskResult, Dataset | None]:
    """Solve ``task`` from ``start`` with the algorithm of ``settings``.

    Args:
        family: makes the environment.
        task: what is solved.
        start: one start, or several of which the task takes the best (:func:`policies.solving.probing.choose_start`).
        settings: the ``within_task`` section.
        collect: also return the dataset for the meta-learner.
        on_iteration: called with the number of each iteration before it begins.

    Raises:
        TaskError: the environment breaks its contract, or the start or a setting does not fit the task.
        ValueError: no kind of policy has the algorithm of ``settings``.
    """
    kind = kind_of(settings)
    began, cpu = time.perf_counter(), time.process_time()
    with code_of_others(lambda: task.label):
        index, steps = choose_start(family, task, start, settings)
        settled = kind.settle(family, task, start.starts[index], settings)
        steps += settled.steps
        spent = time.perf_counter() - began
        given = (settled.family, task, settled.start, settings)
        result, dataset = kind.solve(*given, collect=collect, on_iteration=on_iteration)
    result = dataclasses.replace(
        result,
        start_index=index,
        probe_steps=steps,
        context=settled.context,
        env_steps=result.env_steps + steps,
        seconds=result.seconds + spent,
        facts={**result.facts, "cpu_seconds": time.process_time() - cpu},
    )
    return result, dataset
