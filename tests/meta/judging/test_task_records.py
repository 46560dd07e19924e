"""The rows of held_out.csv against closed results, and their means against the summary's curves."""

from __future__ import annotations

import json
import math

import numpy as np

from meta.judging.task_records import held_out_rows, task_record
from policies.common.results import TaskResult
from tasks.contract.task import Task

TASK = Task("points", "test", 4, 7, {"push": 0.5, "places": [1, 2]}, (2.0, 0.5))


def result(**changes: object) -> TaskResult:
    values = np.array([[1.0, 3.0, 0.25], [2.0, 2.5, 0.75], [1.5, 1.0, 0.5]])
    given = {"task": TASK, "policy": np.ones((1, 1)), "values": values, "branches": np.array([1, 0]), "output": 2}
    more = {"feasible": True, "env_steps": 90, "seconds": 0.5, "start_index": 1, "probe_steps": 30}
    return TaskResult(**{**given, **more, **changes})  # type: ignore[arg-type]


def test_every_iterate_has_a_row_with_all_that_is_known() -> None:
    record = json.loads(json.dumps(task_record(result()), allow_nan=False))
    rows = held_out_rows({"meta_srl": [record]}, {"seed": 3})
    assert rows[1] == {
        **{"seed": 3, "method": "meta_srl", "task_index": 4, "label": "points/test/4"},
        **{"parameters": '{"push": 0.5, "places": [1, 2]}', "limit_1": 2.0, "limit_2": 0.5},
        **{"iteration": 1, "reward": 2.0, "cost_1": 2.5, "cost_2": 0.75, "branch": "reward", "output": False},
        **{"start": 1, "env_steps": 90, "probe_steps": 30},
    }
    assert [row["branch"] for row in rows] == ["cost 1", "reward", "end"]
    assert [row["output"] for row in rows] == [False, False, True]


def test_without_an_evaluation_of_the_last_iterate_no_row_is_an_end() -> None:
    rows = held_out_rows({"random": [task_record(result(values=result().values[:2], output=1))]})
    assert [row["branch"] for row in rows] == ["cost 1", "reward"]


def test_undiscounted_means_have_columns_where_they_are_measured() -> None:
    episodic = np.array([[10.0, 3.0, 1.0], [math.nan] * 3, [20.0, 2.0, 0.0]])
    record = json.loads(json.dumps(task_record(result(episodic=episodic)), allow_nan=False))
    rows = held_out_rows({"random": [record]})
    names = ("episodic_reward", "episodic_cost_1", "episodic_cost_2")
    np.testing.assert_array_equal([[row[name] for name in names] for row in rows], episodic)
    assert not any(name in held_out_rows({"random": [task_record(result())]})[0] for name in names)


def test_methods_and_tasks_keep_their_order() -> None:
    records = [task_record(result()), task_record(result())]
    rows = held_out_rows({"random": records, "meta_srl": records[:1]})
    assert [row["method"] for row in rows] == ["random"] * 6 + ["meta_srl"] * 3
    assert [row["iteration"] for row in rows] == [0, 1, 2] * 3
