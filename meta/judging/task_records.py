"""Held-out tasks one by one: what is kept of each, and the rows of ``held_out.csv`` (columns: docs/metrics.md)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from meta.training.records import Row
from policies.common.branches import branch_name
from policies.common.results import TaskResult

Record = dict[str, Any]
"""One solved task as plain values, for JSON."""


def task_record(result: TaskResult) -> Record:
    """What ``held_out.csv`` tells of one solved task; a mean that was not measured is None (JSON has no NaN)."""
    task, episodic = result.task, result.episodic
    return {
        "index": task.index,
        "label": task.label,
        "parameters": dict(task.parameters),
        "limits": list(task.limits),
        "values": result.values.tolist(),
        "episodic": None
        if episodic is None
        else [[None if math.isnan(value) else value for value in values] for values in episodic.tolist()],
        "branches": result.branches.tolist(),
        "output": result.output,
        "start": result.start_index,
        "env_steps": result.env_steps,
        "probe_steps": result.probe_steps,
    }


def held_out_rows(records: Mapping[str, Sequence[Record]], first: Row | None = None) -> list[Row]:
    """One row for each method, task and iterate.

    Args:
        records: Records by method, in task order.
        first: Columns before all others, such as the seed.
    """
    return [
        {**(first or {}), "method": method, **row}
        for method, solved in records.items()
        for record in solved
        for row in _rows_of(record)
    ]


def _rows_of(record: Record) -> list[Row]:
    task: Row = {
        "task_index": record["index"],
        "label": record["label"],
        "parameters": json.dumps(record["parameters"]),
    }
    task |= {f"limit_{i + 1}": limit for i, limit in enumerate(record["limits"])}
    spent: Row = {name: record[name] for name in ("start", "env_steps", "probe_steps")}
    rows = []
    for iteration, (reward, *costs) in enumerate(record["values"]):
        row: Row = {**task, "iteration": iteration, "reward": reward}
        row |= {f"cost_{i + 1}": cost for i, cost in enumerate(costs)}
        if record["episodic"] is not None:
            names = ("episodic_reward", *(f"episodic_cost_{i + 1}" for i in range(len(costs))))
            sums = np.array(record["episodic"][iteration], np.float64).tolist()
            row |= dict(zip(names, sums, strict=True))
        row["branch"] = branch_name(record["branches"], iteration)
        row["output"] = iteration == record["output"]
        rows.append({**row, **spent})
    return rows
