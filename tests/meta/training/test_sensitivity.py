"""Disturbed corrections: none is none, the size is as asked for, and what follows from nu_hat follows."""

from __future__ import annotations

import numpy as np
import pytest

from meta.learning.bounds import initialization_loss
from meta.learning.settings import MetaSettings
from meta.learning.tabular import Contribution
from meta.offline.dice_settings import DICESettings
from meta.training.disturbance import Disturbance, DisturbedLearner, disturbed
from meta.training.pool import LocalLearner, LocalPool
from policies.common.results import Start
from policies.tabular.crpo import WithinTaskSettings
from policies.tabular.solving import TaskDataset
from tasks.contract.family_registry import FamilySpec


@pytest.fixture(scope="module")
def solved() -> tuple[Contribution, TaskDataset]:
    pool = LocalPool(FamilySpec("frozen_lake", 0, 4, {"map_size": 4}))
    (task,) = pool.draw("train", [2])
    start = Start(np.full((16, 4), 0.25), np.ones(2))
    (found,) = pool.solve([task], start, WithinTaskSettings(), collect=True)
    item = LocalLearner(MetaSettings(), DICESettings(), 5).estimate(found.dataset, "task").result()
    assert isinstance(item, Contribution)
    return item, found.dataset


def test_no_error_changes_nothing(solved: tuple[Contribution, TaskDataset]) -> None:
    item, dataset = solved
    same = disturbed(item, dataset, Disturbance(), MetaSettings())
    np.testing.assert_allclose(same.occupancy, np.maximum(item.occupancy, 0.0), atol=1e-12)
    assert same.loss == pytest.approx(item.loss, rel=1e-6)
    np.testing.assert_allclose(same.curvature, item.curvature, rtol=1e-6)


def test_loss_and_curvature_follow_from_the_wrong_occupancy(solved: tuple[Contribution, TaskDataset]) -> None:
    item, dataset = solved
    wrong = disturbed(item, dataset, Disturbance(noise=1.0, seed=3), MetaSettings())
    assert np.abs(wrong.occupancy - item.occupancy).sum() > 0.1
    assert wrong.occupancy.sum() == pytest.approx(item.occupancy.sum())
    assert (wrong.occupancy >= 0.0).all()
    start = dataset.start.initialization
    assert wrong.loss == pytest.approx(initialization_loss(wrong.occupancy, item.policy, start))  # type: ignore[arg-type]
    assert not np.allclose(wrong.curvature, item.curvature, equal_nan=True)
    np.testing.assert_array_equal(wrong.policy, item.policy)


def test_noise_averages_out_over_tasks_and_bias_does_not() -> None:
    noise = np.array([Disturbance(noise=0.2, seed=1).factor(200, t) for t in range(400)])
    bias = np.array([Disturbance(bias=0.2, seed=1).factor(200, t) for t in range(3)])
    assert noise.std() == pytest.approx(0.2, rel=0.02)
    assert np.abs(noise.mean(axis=0) - 1.0).max() < 0.05
    np.testing.assert_array_equal(bias[0], bias[2])
    assert 0.15 < np.abs(bias[0] - 1.0).max() <= 0.2
    assert (Disturbance(noise=3.0).factor(1000, 0) >= 0.0).all()


def test_the_learner_returns_disturbed_contributions(solved: tuple[Contribution, TaskDataset]) -> None:
    item, dataset = solved
    inner = LocalLearner(MetaSettings(), DICESettings(), 5)
    found = DisturbedLearner(inner, Disturbance(bias=2.0, seed=1), MetaSettings()).estimate(dataset, "task").result()
    expected = disturbed(item, dataset, Disturbance(bias=2.0, seed=1), MetaSettings())
    assert isinstance(found, Contribution)
    np.testing.assert_array_equal(found.occupancy, expected.occupancy)
