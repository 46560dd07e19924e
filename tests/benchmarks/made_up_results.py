"""Small made-up results, as the benchmarks' pages and the reports read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.paper.paper_studies import Point, Studies
from distributed.jobs.comparison_cells import Comparison
from meta.training.evaluation_settings import GridPoint
from tests.distributed.helpers import parsed, tiny

Array = np.ndarray[Any, Any]
SEEDS, TASKS, UPDATES = 3, 4, 5
PARTS = ("total", "occupancy_shift", "estimation", "suboptimality")


def numbers(seed: int, *shape: int, scale: float = 1.0) -> list[Any]:
    """Numbers between 0.1 and 1 times ``scale`` as nested lists."""
    found: list[Any] = (scale * np.random.default_rng(seed).uniform(0.1, 1.0, shape)).tolist()
    return found


def paper_cell(seed: int, *, trained: bool = True) -> dict[str, Any]:
    """One method on one seed, with two costs."""
    training = {key: numbers(seed, TASKS) for key in ("gap", "violation_during", "gap_bound")}
    training |= {f"inexactness_{part}": numbers(seed + place, TASKS) for place, part in enumerate(PARTS)}
    return {
        "curves": {"values": numbers(seed, UPDATES, 3), "relative_costs": numbers(seed, UPDATES, 2)},
        "test": {key: numbers(seed, TASKS) for key in ("gap", "relative_gap", "reward", "relative_violation_during")},
        "training": training if trained else None,
        "bounds": {"gap_bound": numbers(seed, TASKS, scale=100.0), "mean_gap": numbers(seed + 1, TASKS)},
    }


def comparison(methods: Sequence[str], run: str = "lakes") -> Comparison:
    """Several seeds of ``methods`` on a run file."""
    described = [{"similarity": {"task_similarity": 0.1}, "limits_mean": [0.5, 0.4]} for _ in range(SEEDS)]
    judged = {
        name: [paper_cell(10 * place + seed, trained=name != "random") for seed in range(SEEDS)]
        for place, name in enumerate(methods)
    }
    points = {name: GridPoint(rate=1.0) for name in methods}
    config = parsed(tiny(name=f"paper_{run}"))
    return Comparison(config, tuple(range(SEEDS)), described, {}, points, judged, [])


def studies() -> Studies:
    """Three points of every study."""

    def points(first: int) -> list[Point]:
        return [
            Point(
                float(place),
                [
                    {"similarity": {"task_similarity": 0.1 * place + 0.01 * seed, "task_relatedness": 0.2 * place}}
                    for seed in range(SEEDS)
                ],
                {
                    name: [paper_cell(first + 10 * place + seed) for seed in range(SEEDS)]
                    for name in ("random", "meta_srl")
                },
            )
            for place in range(3)
        ]

    sensitivity = {("high", "noise"): points(100), ("low", "noise"): points(200), ("low", "bias"): points(300)}
    return Studies(None, points(0), points(50), sensitivity, {}, [])  # type: ignore[arg-type]


def held_out_record(seed: int, costs: int = 1, iterates: int = UPDATES) -> dict[str, Any]:
    """A method's held-out tasks, as the pages of contexts and of groups read them."""
    return {
        "values": numbers(seed, TASKS, iterates, 1 + costs),
        "episodic": numbers(seed, TASKS, iterates, 1 + costs, scale=100.0),
        "limits": numbers(seed + 1, TASKS, costs),
    }


def meta_cell(seed: int) -> dict[str, Any]:
    """One seed of the meta-learning benchmark with two costs and a target speed."""
    updates = 11
    return {
        "meta_srl": {
            "episodic": numbers(seed, TASKS, updates, 3, scale=-50.0),
            "values": numbers(0, TASKS, updates, 3),
        },
        "random": {"episodic": numbers(seed, TASKS, updates, 3, scale=-300.0), "values": numbers(1, TASKS, updates, 3)},
        "level": {"episodic": numbers(seed, TASKS, 20, 3, scale=-20.0)},
        "idle": [-200.0 - 20.0 * task for task in range(TASKS)],
        "limits": numbers(2, TASKS, 2),
        "parameters": [{"target_speed": 1.0 + 0.1 * task} for task in range(TASKS)],
    }
