"""Robots with a learned start under each within-task algorithm: cells and their table."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks.learning import robot_starts, within_task

TINY = (
    ("meta.warm_up.rounds", "1"),
    ("meta.warm_up.tasks", "2"),
    ("meta.warm_up.distinct_tasks", "2"),
    ("family.horizon", "20"),
    ("family.num_tasks", "2"),
    ("cluster.tasks_per_round", "2"),
    ("within_task.num_iterations", "1"),
    ("within_task.num_copies", "2"),
    ("within_task.steps_per_iteration", "40"),
    ("evaluation.num_test_tasks", "3"),
    ("evaluation.num_iterations", "2"),
    ("tracking.enabled", "false"),
)


def held_out(reward: float, cost: float) -> dict[str, Any]:
    """Two tasks, one update that earns 1 more; the second task costs ``cost`` under a limit of 10."""
    values = [[[reward / 2, own], [reward / 2, own]] for own in (1.0, cost)]
    episodic = [[[reward, own], [reward + 1.0, own]] for own in (1.0, cost)]
    over = [0.0, max(0.0, cost - 10.0)]
    return {"values": values, "episodic": episodic, "limits": [[10.0], [10.0]], "violation": over, "during": over}


def test_measures_are_means_over_tasks_and_the_largest_cost() -> None:
    assert robot_starts.measures(held_out(-20.0, 12.0)) == [-20.0, -19.0, 1.0, 1.0, 1.2]


def test_the_difference_is_signed_so_that_above_zero_the_learned_start_is_better() -> None:
    def cell(better: float) -> dict[str, Any]:
        ours, random = {**held_out(-20.0 + better, 5.0), "env_steps": 1200}, held_out(-30.0, 12.0)
        return {"meta_srl": ours, "random": random, "f_hat": [0.1, 0.3], "learning_rates": [0.5, 0.25]}

    lines = robot_starts.starts_section("half_cheetah_velocity", {"crpo": {300: cell(0.0), 301: cell(2.0)}})
    assert "after 1,200 steps of training" in "\n".join(lines)
    (row,) = [line for line in lines if "meta_srl better by" in line]
    cells = [part.strip().split(" ")[0] for part in row.strip("|").split("|")]
    assert cells[2:] == ["2", "11.0", "11.0", "1.000", "1.000", "0.70"]
    assert "| crpo | 0.2000 [0.2000, 0.2000] | 0.500 [0.500, 0.500] | 0.250 [0.250, 0.250] |" in lines


def test_a_cell_has_both_starts_with_the_algorithm_on_the_same_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(robot_starts, "SHORTER", TINY)
    (algorithm,) = [one for one in within_task.ALGORITHMS if one.name == "npg_primal_dual"]
    method = algorithm.method(table=False)
    config = robot_starts.configuration("half_cheetah_velocity", method, 7)
    assert config.within_task.method == method
    cell = robot_starts.starts_cell("half_cheetah_velocity", method, 7)
    assert cell["meta_srl"]["limits"] == cell["random"]["limits"]
    assert np.shape(cell["random"]["values"]) == (3, 3, 2)
    assert len(cell["f_hat"]) == 2
    assert len(cell["learning_rates"]) == 2
    assert cell["random"]["env_steps"] == 0
    assert cell["meta_srl"]["env_steps"] > 0


def test_settings_of_a_cell_tell_algorithms_apart() -> None:
    found = [
        str(robot_starts.starts_settings(part, algorithm.method(table=False)))
        for part in robot_starts.RUN_FILES
        for algorithm in within_task.ALGORITHMS
    ]
    assert len(set(found)) == len(found)
