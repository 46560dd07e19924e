"""The protocol of a comparison: how each method learns a start, how its hyper-parameters are tuned, how it is judged.

Every method sees the same training tasks in the same order and spends the same CRPO iterations on them; what it learns
is a start, from which the same CRPO solves the same held-out tasks. Results are plain values, for JSON.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import time
from collections.abc import Callable, Sequence

import numpy as np
from threadpoolctl import threadpool_limits

from meta.judging.safe_starts import safe_starts
from meta.judging.task_numbers import Numbers, bound_checks, curves, resident_megabytes, task_measures, training_record
from meta.judging.task_records import task_record
from meta.judging.work_done import (
    CountedPool,
    Report,
    WorkDone,
    learning_stage,
    solving_stage,
    work_of,
    work_to_learn,
)
from meta.methods.registry import OURS, grid_of, learn
from meta.methods.workbench import Learned, averaging_bench
from meta.training.disturbance import Disturbance
from meta.training.evaluation_settings import GridPoint, MethodName
from meta.training.experiment import Drawn, Experiment, draw, measure_similarity
from meta.training.pool import LocalPool, solve_in_order
from policies.common.score import relative_loss, score
from tasks.contract.family_registry import FamilySpec


@functools.lru_cache(maxsize=2)
def _kept(family: str) -> tuple[LocalPool, dict[str, Drawn]]:
    return LocalPool(FamilySpec(**json.loads(family))), {}


def drawn_tasks(experiment: Experiment, num_training: int | None = None) -> tuple[LocalPool, Drawn]:
    """A pool and the tasks of ``experiment``, kept for the next cell of the same family and seed.

    ``num_training`` overrides how many training tasks are drawn.
    """
    pool, kept = _kept(json.dumps(dataclasses.asdict(experiment.family), sort_keys=True))
    evaluation, within = experiment.evaluation, experiment.within
    test = evaluation.model_dump(mode="json", include={"num_test_tasks", "tasks"})
    meta = experiment.meta.model_dump(mode="json", include={"context", "contexts", "warm_up"})
    key = json.dumps([test, num_training, within.model_dump(mode="json"), meta], sort_keys=True)
    if key not in kept:
        drawn = draw(pool, experiment)
        if num_training is not None:
            drawn = dataclasses.replace(drawn, train=pool.draw("train", range(num_training)))
        kept[key] = drawn
    pool.use(kept[key].family)
    return pool, kept[key]


def _silent(what: str, share: float) -> None:
    """Report to nobody."""


def tune(experiment: Experiment, method: MethodName, *, report: Report = _silent) -> Numbers:
    """Try every point of the method's grid on the training tasks of one (tuning) seed.

    A point learns from the first ``grid_tasks`` of them, and the learned start is judged on the next
    ``tuning_tasks``. Held-out tasks play no part in the choice.
    """
    evaluation = experiment.evaluation
    first, count = evaluation.grid_tasks, evaluation.grid_tasks + evaluation.tuning_tasks
    with threadpool_limits(1):
        pool, drawn = drawn_tasks(experiment, count)
        bench = averaging_bench(pool, experiment, drawn, drawn.train[:first])
        points, within = grid_of(evaluation, method), experiment.held_out_within
        names = [f"point {number} of {len(points)}" for number in range(1, len(points) + 1)]
        each = work_to_learn(method, bench) + len(drawn.train[first:]) * work_of(within)
        work = WorkDone(report, [(name, each) for name in names])
        counted = CountedPool(pool, work)
        bench = dataclasses.replace(bench, pool=counted)
        tried, spent = [], 0
        for name, point in zip(names, points, strict=True):
            work.begin(name)
            learned = learn(method, point, bench)
            spent += learned.updates
            found = task_measures(solve_in_order(counted, drawn.train[first:], learned.start, within))
            keys = ("relative_gap", "reward", "reward_start", "relative_violation_during")
            means = {key: None if found[key] is None else float(np.mean(found[key])) for key in keys}
            tried.append({"point": point.model_dump(exclude_none=True), **means})
    return {"method": method, "seed": experiment.family.seed, "tried": tried, "updates": spent}


def point_scores(tuned: Sequence[Numbers], random: Sequence[Numbers]) -> list[float]:
    """Score of every grid point, less is better: means over the tuning seeds of gap plus violation, both relative.

    max(gap, 0) / |J_0*| where the optimum is known, else (J_0^fresh - J_0) / |J_0^fresh| with the reward of the policy
    that has learned nothing, from the cells of ``random``; plus the violation during adaptation over the limit.
    """
    scores = []
    for cell, other in zip(tuned, random, strict=True):
        fresh = other["tried"][0]["reward_start"]
        scores.append([_point_score(item, fresh) for item in cell["tried"]])
    return [float(mean) for mean in np.mean(scores, axis=0)]


def _point_score(item: Numbers, fresh: float) -> float:
    violation = float(item["relative_violation_during"])
    if item["relative_gap"] is None:
        return float(relative_loss(item["reward"], fresh)) + violation
    return score(item["relative_gap"], violation)


def choose(tuned: Sequence[Numbers], random: Sequence[Numbers]) -> GridPoint:
    """The grid point with the least score; ties go to the earlier one."""
    best = int(np.argmin(point_scores(tuned, random)))
    return GridPoint(**tuned[0]["tried"][best]["point"])


def judge(
    experiment: Experiment,
    method: MethodName,
    point: GridPoint,
    disturbance: Disturbance | None = None,
    *,
    report: Report = _silent,
) -> Numbers:
    """Learn a start from all training tasks of a seed and judge it on the seed's held-out tasks."""
    with threadpool_limits(1):
        pool, drawn = drawn_tasks(experiment)
        began = time.perf_counter()
        tasks = drawn.train if method == OURS else drawn.for_baselines
        bench = averaging_bench(pool, experiment, drawn, tasks, disturbance)
        within = experiment.held_out_within
        stages = [(learning_stage(method), work_to_learn(method, bench))]
        work = WorkDone(report, [*stages, (solving_stage(method), len(drawn.test) * work_of(within))])
        counted = CountedPool(pool, work)
        work.begin(learning_stage(method))
        learned = learn(method, point, dataclasses.replace(bench, pool=counted))
        trained = time.perf_counter()
        start = safe_starts(pool, experiment, learned.start, drawn.family)
        work.begin(solving_stage(method))
        results = solve_in_order(counted, drawn.test, start, within)
        judged = time.perf_counter()
    return {
        "method": method,
        "seed": experiment.family.seed,
        "point": point.model_dump(exclude_none=True),
        "learning_rates": learned.start.learning_rates.tolist(),
        "updates": learned.updates,
        "env_steps": learned.env_steps,
        "meta_state_sha256": None if learned.state is None else learned.state.sha256(),
        "test": task_measures(results),
        "curves": curves(results),
        "tasks": [task_record(result) for result in results],
        "limits_mean": np.mean([task.limits for task in drawn.test], axis=0).tolist(),
        "bounds": merged_bounds(
            [bound_checks(learned.results, bench.under(point).experiment.within), bound_checks(results, within)]
        ),
        "training": training_record(learned.results, learned.rows, experiment.tasks_per_round),
        "cost": {
            "train_seconds": trained - began,
            "test_seconds": judged - trained,
            "solve_seconds": float(np.mean([result.seconds for result in results])),
            "test_env_steps": sum(result.env_steps for result in results),
            "resident_mb": resident_megabytes(),
            **learned.facts,
        },
    }


def merged_bounds(parts: Sequence[Numbers]) -> Numbers:
    """The checks of several sets of tasks together."""
    excess = [part["excess"] for part in parts if part["excess"] is not None]
    return {
        "checked": sum(part["checked"] for part in parts),
        "held": sum(part["held"] for part in parts),
        "excess": max(excess) if excess else None,
        **{name: [v for part in parts for v in part[name]] for name in ("tightness", "gap_bound", "mean_gap")},
    }


def describe(experiment: Experiment, *, report: Report = _silent) -> Numbers:
    """Facts about a seed's tasks that depend on no method: how alike they are, and their limits."""
    del report  # it is short
    with threadpool_limits(1):
        pool, drawn = drawn_tasks(experiment)
        similar = measure_similarity(pool, experiment, drawn)
    names = ("task_similarity", "task_relatedness", "path_length")
    return {
        "seed": experiment.family.seed,
        "similarity": None if similar is None else {name: getattr(similar, name) for name in names},
        "limits_mean": np.mean([task.limits for task in drawn.test], axis=0).tolist(),
        "num_train": len(drawn.train),
        "num_test": len(drawn.test),
    }


CELLS: dict[str, Callable[..., Numbers]] = {"describe": describe, "tune": tune, "judge": judge}
"""What a cell of a comparison can compute, by its kind."""

__all__ = ["CELLS", "Learned", "choose", "describe", "judge", "point_scores", "tune"]
