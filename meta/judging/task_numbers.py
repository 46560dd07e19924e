"""What a comparison keeps of solved tasks: plain numbers per task, and the checks of the computed bounds."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from meta.learning.bounds import per_run_inequality
from meta.measuring.intervals import failure_signature
from meta.measuring.measures import gap_bound, measure
from meta.training.records import Row, column, cost_columns
from policies.common.branches import REWARD_BRANCH
from policies.common.results import TaskResult
from policies.common.score import limit_scale, relative_loss
from policies.solving.algorithms import WithinTask
from tasks.contract.tabular_model import FloatArray

Numbers = dict[str, Any]
ROUNDING = 1e-9


def task_measures(results: Sequence[TaskResult]) -> Numbers:
    """One number per task, in task order: means over costs; ``relative`` ones divide each cost by its limit first."""
    found = [measure(result) for result in results]
    scales = [_scale(result) for result in results]
    return {
        "gap": known([item.gap for item in found]),
        "relative_gap": known([_relative_gap(result) for result in results]),
        "reward": [float(result.values[result.output, 0]) for result in results],
        "reward_start": [float(result.values[0, 0]) for result in results],
        "violation": [float(item.violation.mean()) for item in found],
        "violation_during": [float(item.violation_during.mean()) for item in found],
        "relative_violation": [float((f.violation / s).mean()) for f, s in zip(found, scales, strict=True)],
        "relative_violation_during": [
            float((f.violation_during / s).mean()) for f, s in zip(found, scales, strict=True)
        ],
        "feasible": [bool(result.feasible) for result in results],
    }


def _scale(result: TaskResult) -> FloatArray:
    return limit_scale(np.array(result.task.limits))


def _relative_gap(result: TaskResult) -> float:
    if result.reference is None:
        return math.nan
    return float(relative_loss(float(result.values[result.output, 0]), float(result.reference.values[0])))


def known(values: Sequence[float]) -> list[float] | None:
    """Plain numbers, or None where one is not known (JSON has no NaN)."""
    return None if any(math.isnan(value) for value in values) else [float(value) for value in values]


def curves(results: Sequence[TaskResult]) -> Numbers:
    """Means over tasks after m = 0..M updates: ``values`` [M+1, 1+p], ``relative_costs`` J_i / d_i [M+1, p], and
    ``episodic`` [M+1, 1+p] plain sums where they are measured.
    """
    episodic = [result.episodic for result in results if result.episodic is not None]
    relative = [result.values[:, 1:] / _scale(result) for result in results]
    return {
        "values": np.mean([result.values for result in results], axis=0).tolist(),
        "relative_costs": np.mean(relative, axis=0).tolist(),
        "over_a_limit": np.mean([(part > 1.0).any(axis=1) for part in relative], axis=0).tolist(),
        "episodic": np.mean(episodic, axis=0).tolist() if len(episodic) == len(results) else None,
    }


def bound_checks(results: Sequence[TaskResult], within: WithinTask) -> Numbers:
    """The per-run inequality (THEORY section 4) in every exact task: how many were checked, how many held.

    ``excess`` is the largest left minus right side; ``tightness`` holds left / right of each task. ``gap_bound`` and
    ``mean_gap`` [tasks with a step on the reward] are the bound on the mean gap over N_0 and that gap.
    """
    left, right, bounds, gaps = [], [], list[float](), list[float]()
    for result in results:
        if result.reference is None or result.solution is None or within.evaluation != "exact":
            continue
        if result.solution.mixed is not None:  # the inequality is CRPO's
            continue
        reference, limits = result.reference, np.array(result.task.limits)
        tolerance = within.tolerances(limits.size) - within.safety_margin * limits
        sides = per_run_inequality(
            result.solution, result.values, reference.values, tolerance, reference.policy, reference.occupancy
        )
        left.append(sides[0])
        right.append(sides[1])
        on_reward = np.flatnonzero(result.branches == REWARD_BRANCH)
        if on_reward.size:
            bounds.append(gap_bound(result))
            gaps.append(float(reference.values[0] - result.values[on_reward, 0].mean()))
    excess = np.array(left) - np.array(right)
    over = np.array(gaps) - np.array(bounds)
    held = int((excess <= ROUNDING).sum() + (over <= ROUNDING).sum())
    return {
        "checked": len(left) + len(bounds),
        "held": held,
        "excess": float(max(excess.max(), over.max(initial=-np.inf))) if left else None,
        "tightness": [float(a / b) for a, b in zip(left, right, strict=True) if b > 0.0],
        "gap_bound": bounds,
        "mean_gap": gaps,
    }


def training_record(results: Sequence[TaskResult], rows: Sequence[Row], tasks_per_round: int) -> Numbers:
    """Measures of the training tasks, one number per task, and the failure signatures at the end."""
    if not results:
        return {}
    found = task_measures(results)
    names = ("gap", "reward", "violation", "violation_during", "relative_violation_during")
    record: Numbers = {name: found[name] for name in names}
    watched = {"violation_during": np.array(found["violation_during"])}
    watched |= {"gap": np.array(found["gap"])} if found["gap"] is not None else {"reward": -np.array(found["reward"])}
    record["signature"] = {name: _signature(values, tasks_per_round) for name, values in watched.items()}
    if rows:
        ordered = list(rows)
        more = [name for name in ordered[0] if name.startswith("inexactness_")]
        for name in ("f_hat", "weight", "gap_bound", *more):
            record[name] = [None if math.isnan(value) else value for value in column(ordered, name).tolist()]
        record["limits"] = cost_columns(ordered, "limit").tolist()
    return record


def _signature(values: FloatArray, first_round: int) -> Numbers | None:
    found = failure_signature(values, first_round)
    if found is None:
        return None
    return {"improved": found.improved, "rising": found.rising, "improvement_p": found.improvement_p}


def resident_megabytes() -> float | None:
    """Memory of this process that is in use now, in MB; None where the system does not report it (only Linux does)."""
    status = Path("/proc/self/statm")
    if not status.is_file():
        return None
    return int(status.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
