"""A row of ``tasks.csv``: the measures of one training task, flat; docs/metrics.md explains each column."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

import numpy as np

from meta.learning.kinds import Item
from meta.learning.online import State
from meta.measuring.measures import Measures, gap_bound, inexactness, measure
from meta.offline.diagnostics import UNKNOWN
from policies.common.branches import REWARD_BRANCH
from policies.common.policy import policy_for
from policies.common.results import TaskResult

Value = float | int | str | bool
Row = dict[str, Value]


def task_row(result: TaskResult, item: Item, state: State) -> Row:
    """Flatten a solved task; ``state`` is the one it started from."""
    task, start = result.task, state.starts[result.start_index]
    measures = measure(result)
    row: Row = {
        "task_index": task.index,
        "round": state.num_rounds,
        "seed": task.seed,
        "parameters": json.dumps(dict(task.parameters)),
        "gap": measures.gap,
        "score": measures.score,
        "gap_bound": gap_bound(result),
        "reward_start": float(result.values[0, 0]),
        "reward": float(result.values[result.output, 0]),
        "reward_optimum": float("nan") if result.reference is None else float(result.reference.values[0]),
        "output_iteration": result.output,
        "feasible": result.feasible,
        "reward_steps": int((result.branches == REWARD_BRANCH).sum()),
        "f_hat": item.loss,
        "weight": item.weight,
        "failed_diagnostics": " ".join(item.failures),
        "estimate_problem": item.problem,
        "env_steps": result.env_steps,
        "seconds": result.seconds,
    }
    row |= _cost_columns(result, measures)
    for i, curvature in enumerate(item.curvature):
        row |= {f"curvature_{i}": float(curvature), f"learning_rate_{i}": float(start.learning_rates[i])}
    if state.assigned is not None:
        row |= {"start": result.start_index, "probe_steps": result.probe_steps}
    row |= result.facts
    if result.episodic is not None:
        ends = (("episodic_reward_start", 0), ("episodic_reward", result.output))
        row |= {name: float(result.episodic[m, 0]) for name, m in ends}
    found = UNKNOWN if item.diagnostics is None else item.diagnostics
    row |= {f"dice_{name}": value for name, value in dataclasses.asdict(found).items()}
    split = inexactness(result, item, policy_for(start.initialization, result.context))
    if split is not None:
        row |= {f"inexactness_{name}": value for name, value in dataclasses.asdict(split).items()}
    return row


def _cost_columns(result: TaskResult, measures: Measures) -> Row:
    row: Row = {}
    for i, limit in enumerate(result.task.limits):
        row |= {
            f"limit_{i + 1}": limit,
            f"cost_start_{i + 1}": float(result.values[0, 1 + i]),
            f"cost_{i + 1}": float(result.values[result.output, 1 + i]),
            f"violation_{i + 1}": float(measures.violation[i]),
            f"violation_during_{i + 1}": float(measures.violation_during[i]),
        }
    return row


def with_groups(rows: Sequence[Row], state: State) -> list[Row]:
    """The rows of a round with the group that each task was assigned to, where ``state`` after it has groups."""
    if state.assigned is None:
        return list(rows)
    return [{**row, "group": int(group)} for row, group in zip(rows, state.assigned, strict=True)]


def column(rows: list[Row], name: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """One numeric column of rows, [T]."""
    return np.array([row[name] for row in rows], dtype=np.float64)


def cost_columns(rows: list[Row], prefix: str) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Columns ``prefix_1`` to ``prefix_p`` of rows, [T, p]."""
    count = sum(name.startswith("limit_") for name in rows[0])
    return np.stack([column(rows, f"{prefix}_{i + 1}") for i in range(count)], axis=1)
