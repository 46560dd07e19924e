"""Exact values beside those of cut-off episodes."""

from __future__ import annotations

import numpy as np
import pytest

from policies.exact.horizon import horizon_warning, values_until
from policies.exact.solver import ExactModel, evaluate
from tasks.contract.tabular_model import TabularModel
from tasks.contract.task import Task
from tasks.lakes.frozen_lake import FrozenLake


def one_state(discount: float) -> ExactModel:
    """A state that earns 1 and costs 2 in every step."""
    one = np.ones((1, 1))
    place = np.zeros(1, np.int64)
    return ExactModel(
        TabularModel(place, place, np.ones(1), one, 2.0 * one[None], np.ones(1), np.zeros(1, np.bool_), discount)
    )


def test_the_values_of_a_cut_off_episode_are_a_geometric_sum() -> None:
    model, policy = one_state(0.9), np.ones((1, 1))
    for horizon in (1, 3, 20):
        wanted = (1.0 - 0.9**horizon) / 0.1
        np.testing.assert_allclose(values_until(model, policy, horizon), [wanted, 2.0 * wanted], rtol=1e-12)
    np.testing.assert_allclose(values_until(model, policy, 500), evaluate(model, policy).values, rtol=1e-12)


@pytest.mark.parametrize(("horizon", "warned"), [(8, True), (200, False)])
def test_a_short_horizon_is_warned_of_with_both_figures(horizon: int, warned: bool) -> None:
    family = FrozenLake(seed=0, map_size=4, horizon=horizon)
    task = Task("frozen_lake", "train", 0, 0, family.parameters("train", 0, 0), (1.0,))
    found = horizon_warning(family, task)
    assert (found is not None) == warned
    if found is not None:
        model = ExactModel(family.model(task.parameters))
        uniform = np.full((16, 4), 0.25)
        everything, part = evaluate(model, uniform).values[1], values_until(model, uniform, horizon)[1]
        assert f"holes_entered {everything:.3g}, but {part:.3g} in 8 steps" in found
        assert everything > 2.0 * part
