"""Tables by context: the kernel-weighted leader."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize

from policies.common.policy import policy_for, table_of
from policies.common.policy_kind import Spaces
from policies.tabular.kernel_table import KernelTable, kernel, leader, shrink
from policies.tabular.kind import TABULAR
from tasks.contract.tabular_model import FloatArray

STATES, ACTIONS = 3, 2
SPACES = Spaces(tabular=True, observation=STATES, actions=ACTIONS)


def random_table(tasks: int = 5, bandwidths: tuple[float, ...] = (0.5, np.inf), **more: Any) -> KernelTable:
    rng = np.random.default_rng(0)
    occupancies, policies = rng.dirichlet(np.ones(STATES), tasks), rng.dirichlet(np.ones(ACTIONS), (tasks, STATES))
    made = KernelTable(
        contexts=rng.normal(0.0, 1.0, (tasks, 2)),
        weighted=occupancies[:, :, None] * policies,
        bandwidths=np.array(bandwidths),
        shares=np.full(len(bandwidths), 1.0 / len(bandwidths)),
        shrinkage=0.01,
        prior_weight=1e-3,
        distance="euclidean",
    )
    return dataclasses.replace(made, **more)


def test_an_infinite_bandwidth_gives_the_plain_leader_for_every_context() -> None:
    table = random_table(bandwidths=(np.inf,))
    plain = shrink(leader(table.weighted.sum(axis=0), 1e-3), 0.01)
    for context in (np.zeros(2), np.array([5.0, -3.0])):
        np.testing.assert_allclose(table.at(context), plain, rtol=1e-12)


def test_each_kernel_leader_minimises_the_kernel_weighted_losses() -> None:
    table, context = random_table(bandwidths=(0.7,), prior_weight=1e-12, shrinkage=1e-12), np.array([0.3, -0.4])
    weights = kernel(table.contexts, context, table.bandwidths, "euclidean")[0]

    def loss(free: FloatArray) -> float:
        phi = 1.0 / (1.0 + np.exp(-free))
        probabilities = np.stack([phi, 1.0 - phi], axis=1)
        return float(-(weights[:, None, None] * table.weighted * np.log(probabilities)).sum())

    found = minimize(loss, np.zeros(STATES), tol=1e-12)
    np.testing.assert_allclose(table.at(context)[:, 0], 1.0 / (1.0 + np.exp(-found.x)), atol=1e-5)


def test_a_start_is_the_mixture_of_its_bandwidths() -> None:
    table, context = random_table(shares=np.array([0.25, 0.75])), np.array([0.1, 0.2])
    narrow, wide = table.tables(context)
    np.testing.assert_allclose(table.at(context), 0.25 * narrow + 0.75 * wide)
    assert np.abs(narrow - wide).max() > 0.01
    np.testing.assert_array_equal(table_of(policy_for(table, context)), table.at(context))
    assert policy_for(table, None) is table


def test_kernels_count_differing_entries_or_measure_lengths() -> None:
    contexts = np.array([[0.0, 0.0], [3.0, 0.0], [3.0, 4.0]])
    bandwidths = np.array([2.0, np.inf])
    differing = kernel(contexts, np.zeros(2), bandwidths, "differing")
    np.testing.assert_allclose(differing, [np.exp([0.0, -0.5, -1.0]), np.ones(3)])
    euclidean = kernel(contexts, np.zeros(2), bandwidths, "euclidean")
    np.testing.assert_allclose(euclidean, [np.exp([0.0, -1.5, -2.5]), np.ones(3)])


def test_before_the_first_task_the_start_is_uniform() -> None:
    table = random_table(contexts=np.zeros((0, 2)), weighted=np.zeros((0, STATES, ACTIONS)))
    np.testing.assert_allclose(table.at(np.ones(2)), np.full((STATES, ACTIONS), 0.5))


def test_it_survives_its_arrays() -> None:
    table = random_table(distance="differing")
    again = TABULAR.from_arrays(TABULAR.to_arrays(table), SPACES)
    assert isinstance(again, KernelTable)
    assert (again.shrinkage, again.prior_weight, again.distance) == (0.01, 1e-3, "differing")
    np.testing.assert_array_equal(again.at(np.zeros(2)), table.at(np.zeros(2)))
    assert TABULAR.owns(table)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("weighted", np.ones((4, STATES, ACTIONS)), r"weighted must have the shape \[5, 3, 2\]"),
        ("weighted", np.full((5, STATES, ACTIONS), -1.0), "weighted at least 0"),
        ("contexts", np.full((5, 2), np.nan), "contexts must be finite"),
        ("shares", np.array([0.9, 0.9]), "a share each that sum to 1"),
        ("bandwidths", np.array([0.0, 1.0]), "bandwidths must be positive"),
        ("numbers", np.array([0.0, 1e-3, 0.0]), r"shrinkage must lie in \(0, 1\)"),
    ],
)
def test_damaged_parts_are_an_error(name: str, value: Any, message: str) -> None:
    arrays = TABULAR.to_arrays(random_table())
    with pytest.raises(ValueError, match=message):
        TABULAR.from_arrays({**arrays, name: value}, SPACES)
