"""Neural CRPO on the built-in continuous families, through the batch that each family offers."""

from __future__ import annotations

import numpy as np
import pytest

from policies.exact.drawing import draw_task
from policies.neural.crpo import NeuralSolution, fresh_policy, solve_neural
from policies.neural.neural_settings import NeuralSettings
from tasks.contract.family_registry import make_family
from tasks.stepping.batch import make_batch


def _solve(name: str, settings: NeuralSettings) -> tuple[NeuralSolution, tuple[float, ...]]:
    family = make_family(name, seed=0, num_tasks=4, parameters={})
    task = draw_task(family, name, 0, "train", 0)
    batch = make_batch(family, task, settings.num_copies)
    limits = np.array(task.limits)
    start = fresh_policy(batch, settings, seed=0)
    rates = np.ones(1 + limits.size)
    solution = solve_neural(
        batch, start, rates, limits, settings, task.seed, discount=family.discount, label=task.label
    )
    return solution, task.limits


@pytest.mark.slow
def test_half_cheetah_comes_under_its_limit_and_moves_towards_its_target_speed() -> None:
    solution, (limit,) = _solve("half_cheetah", NeuralSettings(num_iterations=15))
    assert solution.values[0, 1] > 1.3 * limit, "a fresh policy spends too much effort"
    assert solution.values[-1, 1] < 1.1 * limit
    assert solution.values[-1, 0] > solution.values[0, 0] + 15.0


@pytest.mark.parametrize("name", ["acrobot", "hopper"])
def test_the_same_seed_gives_the_same_bits(name: str) -> None:
    settings = NeuralSettings(num_iterations=2, steps_per_iteration=2000, num_copies=4)
    (first, limits), (second, _) = (_solve(name, settings) for _ in range(2))
    assert first.values.shape == (3, 1 + len(limits))
    np.testing.assert_array_equal(first.values, second.values)
    np.testing.assert_array_equal(first.policy.actor.vector, second.policy.actor.vector)
