"""Does neural CRPO learn? The tasks and settings of docs/results/learning_curves.md, with thresholds on both sides."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.curve_tasks import TASKS, solver_limits
from policies.neural_crpo import fresh_policy, iterate_neural
from policies.neural_update import Problem
from tasks.model import FloatArray


def _curve(name: str, steps: int, seed: int) -> FloatArray:
    """J_0 and J_i of every iterate of a run from a fresh policy, [iterations, 1+p]."""
    task = TASKS[name]
    settings = task.settings_for(steps)
    batch, limits = task.batch(settings.num_copies), solver_limits(task)
    problem = Problem(np.array(task.learning_rates), limits, np.zeros(limits.size), task.discount, batch.horizon)
    start, rng = fresh_policy(batch, settings, seed), np.random.default_rng(seed)
    iterations = iterate_neural(batch, start, problem, settings, seed, rng, label=f"{name}/{seed}")
    return np.array([iteration.values for iteration in iterations])


def _last(curve: FloatArray, share: float) -> FloatArray:
    """Mean over the last iterations, [1+p]."""
    return np.asarray(curve[-int(share * len(curve)) :].mean(axis=0))


def test_half_cheetah_learns_to_run_under_its_speed_limit() -> None:
    """Ten seconds. Five seeds measured: reward 1,234 to 1,639 at cost 16 to 22; a fresh policy earns -110."""
    curve = _curve("half_cheetah", 200_000, seed=100)
    assert curve[0, 0] < 0.0
    reward, cost = _last(curve, 0.2)
    assert reward > 900.0
    assert cost <= 25.0
    assert curve[:, 1].max() > 25.0, "the limit was never felt"


def test_acrobot_learns_to_swing_up_under_both_limits() -> None:
    """Four seconds. Five seeds measured: reward -194 to -151, costs 7.5 to 9.2; at first about -483, 143 and 125."""
    curve = _curve("acrobot", 200_000, seed=100)
    assert curve[0, 0] < -400.0
    assert curve[0, 1:].min() > 50.0
    reward, *costs = _last(curve, 0.2)
    assert reward > -250.0
    assert (np.array(costs) <= 10.0).all()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "seed", "least"), [("half_cheetah", 101, 2300.0), ("hopper", 101, 1100.0)])
def test_a_million_steps(name: str, seed: int, least: float) -> None:
    """A minute each. Three seeds measured: half_cheetah 2,709 to 2,753, hopper (0.8 million) 1,403 to 1,589."""
    reward, cost = _last(_curve(name, 1_000_000, seed), 0.1)
    assert reward > least
    assert cost <= 25.0
