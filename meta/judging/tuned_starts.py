"""The starts that a training run compares: each method's with a rate chosen on the run's own training tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from meta.judging.work_done import learning_stage
from meta.methods.registry import METHODS, OURS
from meta.methods.workbench import Method, Workbench, mean_score
from meta.training.evaluation_settings import GridPoint, MethodName
from meta.training.quarantine import MissingTasksError
from policies.common.results import Start, Starts


def starts_of(
    methods: Sequence[MethodName], bench: Workbench, meta_srl: Starts, begin: Callable[[str], None] = lambda stage: None
) -> dict[MethodName, Starts]:
    """The start of every method; ``meta_srl`` is the run's own. ``begin`` is told what is done.

    A method that needs an exact model is left out where there is none.
    """
    starts: dict[MethodName, Starts] = {}
    for name in methods:
        method = METHODS[name]
        if name == OURS:
            starts[name] = meta_srl
        elif not method.needs_model or bench.task_similarity is not None:
            begin(learning_stage(name))
            starts[name], bench = _start_without(method, bench)
    return starts


def _start_without(method: Method, bench: Workbench) -> tuple[Start, Workbench]:
    """The start that ``method`` learns from the tasks that are not set aside, anew where one is set aside meanwhile."""
    quarantine = bench.pool.quarantine
    while True:
        tasks, count = quarantine.without(bench.tasks), len(quarantine)
        if len(tasks) < len(bench.tasks):
            bench = replace(bench, tasks=tasks)
        try:
            return tuned_start(method, bench), bench
        except MissingTasksError:
            if len(quarantine) == count:
                raise


def tuned_start(method: Method, bench: Workbench) -> Start:
    """The start that ``method`` learns from all training tasks.

    It learns at the rate that is best for the fresh policy, and its start then gets the grid's best rate for new tasks.
    A method with an ``own_rate`` gets the rate of least mean score in the later half of its own run over the grid
    tasks.
    """
    grid = bench.experiment.evaluation.rate_grid
    if method.own_rate:
        half = len(bench.grid_tasks) // 2
        small, best = replace(bench, tasks=bench.grid_tasks), 0
        if len(grid) > 1:
            scores = [mean_score(method.learn(small, _point(method, rate)).results[half:]) for rate in grid]
            best = int(np.argmin(scores))
        (start,) = method.learn(bench, _point(method, grid[best])).start.starts
        return start
    point = _point(method, grid[0] if method.trains_on == "none" else bench.training_rate)
    (start,) = method.learn(bench, point).start.starts
    return bench.best_rate(start.initialization)


def _point(method: Method, rate: float) -> GridPoint:
    return GridPoint(rate=rate, **method.defaults)
