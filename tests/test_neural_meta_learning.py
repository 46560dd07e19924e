"""Does a network learn to learn? Points on a line whose pushes differ, with thresholds on reward and on cost.

Measured over the seeds 0 to 4, means of eight held-out tasks: the learned start earns 7.3 to 8.0 and a fresh one -0.8
to 0.6; over the first three iterates the difference is 5.7 to 6.2. The learned start's costs stay at or below 0.71 of a
limit of 1 in each of the six iterates. A fresh start has earned 4.7 to 5.4 after five updates.
"""

from __future__ import annotations

import numpy as np
import pytest

from distributed.settings.run_config import RunConfig
from distributed.settings.run_file import parse_config
from meta.judging.protocol import judge
from meta.judging.task_numbers import Numbers
from meta.training.evaluation_settings import GridPoint


def config(seed: int) -> RunConfig:
    """32 tasks of 2,400 steps each, five updates a task."""
    return parse_config(
        {
            "name": "points",
            "seed": seed,
            "family": {"name": "tests.support.point_batch:PointFamily", "num_tasks": 32, "limit": 1.0},
            "within_task": {
                "algorithm": "neural_crpo",
                "num_iterations": 5,
                "steps_per_iteration": 400,
                "num_copies": 10,
                "hidden": [16],
                "critic_hidden": [16],
                "safety_margin": 0.4,
                "dataset_size": 300,
                "trust_region": {"delta_max": 0.02},
            },
            "meta": {"neural": {"step_size": 3.0e-3}, "learning_rates": {"initial": 0.1, "units": "absolute"}},
            "cluster": {"pool": "local"},
            "tracking": {"enabled": False},
            "evaluation": {"num_test_tasks": 8, "rate_grid": [0.1], "grid_tasks": 1},
        },
        "points",
    )


def compared(chosen: RunConfig) -> dict[str, Numbers]:
    """Both starts on the same held-out tasks."""
    experiment = chosen.experiment
    return {
        "meta_srl": judge(experiment, "meta_srl", GridPoint()),
        "random": judge(experiment, "random", GridPoint(rate=0.1)),
    }


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_a_learned_start_earns_more_at_once_and_keeps_the_limit(seed: int) -> None:
    judged = compared(config(seed))
    curves = {name: np.array(cell["curves"]["values"]) for name, cell in judged.items()}
    learned, fresh, costs = curves["meta_srl"][:, 0], curves["random"][:, 0], curves["meta_srl"][:, 1]
    assert learned[0] > 6.0
    assert learned[:3].mean() > fresh[:3].mean() + 4.0
    assert learned[0] > fresh[-1] + 1.0, "five updates do not bring a fresh start there"
    assert costs.max() < 0.9
    assert np.mean(judged["meta_srl"]["test"]["violation_during"]) < 0.05


def test_without_learning_the_start_stays_as_poor_as_a_fresh_one() -> None:
    """The rewards above come from phi, not from the rates: with a fixed phi both starts are the same policy."""
    chosen = config(0)
    neural = chosen.meta.neural.model_copy(update={"method": "fixed"})
    family = chosen.family.model_copy(update={"num_tasks": 4})
    chosen = chosen.model_copy(update={"family": family, "meta": chosen.meta.model_copy(update={"neural": neural})})
    judged = compared(chosen)
    starts = [judged[name]["curves"]["values"][0][0] for name in ("meta_srl", "random")]
    assert starts[0] == starts[1] < 1.0
