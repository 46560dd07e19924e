from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from meta.estimators.estimation import estimate_corrections
from meta.offline.diagnostics import EstimateError
from meta.offline.dice_settings import DICESettings
from meta.offline.target_policy import TableTarget
from policies.common.transition_sample import TransitionSample
from policies.exact.solver import ExactModel, occupancy
from policies.tabular.transitions import Transitions, tabular_sample
from tasks.contract.tabular_model import FloatArray
from tests.support.meta_helpers import ending_cmdp, random_rows, sample
from tests.support.problems import random_cmdp

HORIZON = 40
IMPORTANCE, NONE = DICESettings(estimator="importance"), DICESettings(estimator="none")


def on_table(data: Transitions, behaviour: FloatArray) -> TransitionSample:
    return tabular_sample(data, np.log(behaviour[data.states, data.actions]))


def table_of_mass(rows: TransitionSample, mass: FloatArray, shape: tuple[int, int]) -> FloatArray:
    table = np.zeros(shape)
    np.add.at(table, (rows.observations[:, 0].astype(int), rows.actions), mass)
    return table


@pytest.mark.parametrize("ends", [False, True])
def test_importance_finds_the_occupancy_of_another_policy(ends: bool) -> None:
    model = ending_cmdp(3, 5, 2, 0.7) if ends else random_cmdp(3, 5, 2, 1, 0.7)
    rng = np.random.default_rng(1)
    behaviour, target = (0.5 * random_rows(rng, 5, 2) + 0.25 for _ in range(2))
    rows = on_table(sample(model, behaviour, 6000, HORIZON, rng), behaviour)
    exact = occupancy(ExactModel(model), target)[:, None] * target
    found = estimate_corrections(rows, TableTarget(target), 0.7, HORIZON, IMPORTANCE, seed=0)
    plain = estimate_corrections(rows, TableTarget(target), 0.7, HORIZON, NONE, seed=0)
    live = ~model.absorbing
    error = np.abs(table_of_mass(rows, found.mass, exact.shape) - exact)[live].sum()
    without = np.abs(table_of_mass(rows, plain.mass, exact.shape) - exact)[live].sum()
    assert error < 0.06 < 0.15 < without
    assert found.diagnostics.mean_correction == pytest.approx(1.0, abs=5e-3 if ends else 1e-9)


def test_on_its_own_data_importance_weighs_by_age_alone() -> None:
    model = random_cmdp(0, 4, 2, 1, 0.9)
    rng = np.random.default_rng(0)
    policy = random_rows(rng, 4, 2)
    rows = on_table(sample(model, policy, 50, 20, rng), policy)
    found = estimate_corrections(rows, TableTarget(policy), 0.9, 20, IMPORTANCE, seed=0)
    expected = 0.9**rows.ages * 0.1 / (1 - 0.9**20) * 20
    np.testing.assert_allclose(found.correction, expected, rtol=1e-9)


def test_dropped_iterations_weigh_nothing_and_fading_ones_less() -> None:
    model = random_cmdp(0, 4, 2, 1, 0.9)
    rng = np.random.default_rng(0)
    policy = random_rows(rng, 4, 2)
    rows = on_table(sample(model, policy, 30, 20, rng), policy)
    rows = dataclasses.replace(rows, iterations=(rows.episodes // 10).astype(np.int32))
    dropped = NONE.model_copy(update={"drop_iterations": 1})
    found = estimate_corrections(rows, TableTarget(policy), 0.9, 20, dropped, seed=0)
    assert (found.mass[rows.iterations == 0] == 0.0).all()
    assert found.iteration_sizes.tolist() == pytest.approx([0.0, 200.0, 200.0])
    fading = NONE.model_copy(update={"iteration_weight": 0.5})
    found = estimate_corrections(rows, TableTarget(policy), 0.9, 20, fading, seed=0)
    shares = np.bincount(rows.iterations, weights=found.mass)
    np.testing.assert_allclose(shares, np.array([1.0, 2.0, 4.0]) / 7.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows.rows(np.zeros(len(rows), dtype=bool)), "empty"),
        (lambda rows: rows.rows(np.arange(len(rows)) != 3), "episode 0 is incomplete: transition 3 has age 4"),
        (lambda rows: dataclasses.replace(rows, observations=np.full_like(rows.observations, np.nan)), "observations"),
        (lambda rows: dataclasses.replace(rows, log_probabilities=rows.log_probabilities - np.inf), "log_prob"),
    ],
)
def test_data_that_no_estimate_can_be_made_from(change: object, message: str) -> None:
    model = random_cmdp(0, 4, 2, 1, 0.9)
    rng = np.random.default_rng(0)
    policy = random_rows(rng, 4, 2)
    rows = on_table(sample(model, policy, 10, 20, rng), policy)
    with pytest.raises(EstimateError, match=message):
        estimate_corrections(change(rows), TableTarget(policy), 0.9, 20, NONE, seed=0)  # type: ignore[operator]


def test_importance_counts_the_absorbing_state_once() -> None:
    """Every episode ends at step 3, gamma is 0.99: (1 - gamma) gamma^k at age k, and gamma^3 in the absorbing state."""
    ages = np.tile(np.arange(3, dtype=np.int32), 50)
    observations = ages.astype(np.float32)[:, None]
    policy = np.full((4, 2), 0.5)
    rows = TransitionSample(
        observations=observations,
        actions=np.tile([0, 1, 0], 50),
        next_observations=observations + 1.0,
        terminated=ages == 2,
        truncated=np.zeros(150, np.bool_),
        iterations=np.zeros(150, np.int32),
        episodes=np.repeat(np.arange(50, dtype=np.int32), 3),
        ages=ages,
        log_probabilities=np.full(150, np.log(0.5)),
    )
    found = estimate_corrections(rows, TableTarget(policy), 0.99, HORIZON, IMPORTANCE, seed=0)
    for age in range(3):
        assert found.mass[ages == age].sum() == pytest.approx(0.01 * 0.99**age, rel=1e-9)
    assert found.diagnostics.mean_correction == pytest.approx(1.0, rel=1e-9)
