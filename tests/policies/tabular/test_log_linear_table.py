"""Tables by context: log-linear maps."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from scipy.optimize import approx_fprime
from scipy.special import log_softmax, softmax

from policies.common.policy import policy_for, table_of
from policies.common.policy_kind import Spaces
from policies.tabular.kernel_table import leader, shrink
from policies.tabular.kind import TABULAR
from policies.tabular.log_linear_table import (
    LogLinear,
    LogLinearTable,
    all_effects,
    design_of,
    fitted,
    no_tasks,
    table_at,
)
from tasks.contract.tabular_model import FloatArray

STATES, ACTIONS, ENTRIES, TASKS = 3, 2, 2, 40
SPACES = Spaces(tabular=True, observation=STATES, actions=ACTIONS)
SHARED = np.array([(s, 0, 0, 0) for s in range(STATES)])
"""The first entry acts on action 0 alike in all states."""


def empty(own: Any = None, ridges: tuple[float, ...] = (1e-3, np.inf), **more: Any) -> LogLinearTable:
    effects = all_effects(STATES, ACTIONS, ENTRIES, own)
    table = no_tasks(effects, np.ones(ENTRIES), np.array(ridges), (STATES, ACTIONS), 0.01, 1e-3)
    return dataclasses.replace(table, **more)


def tasks_of(fit: LogLinear, effects: Any, seed: int = 0) -> tuple[FloatArray, FloatArray]:
    """Contexts [T, k] and nu pi [T, S, A] of tasks whose policies are a log-linear map of the context."""
    rng = np.random.default_rng(seed)
    contexts, occupancies = rng.normal(0.0, 1.0, (TASKS, ENTRIES)), rng.dirichlet(np.ones(STATES), TASKS)
    policies = np.array([table_at(fit, effects, context) for context in contexts])
    return contexts, occupancies[:, :, None] * policies


def truth(effects: Any, seed: int = 1) -> LogLinear:
    rng = np.random.default_rng(seed)
    return LogLinear(rng.normal(0.0, 1.0, (STATES, ACTIONS)), rng.normal(0.0, 1.0, int(effects[:, 3].max()) + 1))


@pytest.mark.parametrize("own", [None, SHARED])
def test_it_finds_the_map_that_made_the_tasks_and_knows_new_contexts(own: Any) -> None:
    effects = all_effects(STATES, ACTIONS, ENTRIES, own)
    made = truth(effects)
    contexts, weighted = tasks_of(made, effects)
    begin = LogLinear(np.zeros((STATES, ACTIONS)), np.zeros_like(made.weights))
    design = design_of(contexts, effects, (STATES, ACTIONS), len(begin.weights))
    found = fitted(weighted, design, 1e-10, 1e-12, begin)
    for context in np.random.default_rng(2).normal(0.0, 2.0, (5, ENTRIES)):
        np.testing.assert_allclose(table_at(found, effects, context), table_at(made, effects, context), atol=2e-3)


def test_the_fit_is_the_minimum_of_the_summed_losses_and_the_penalty() -> None:
    effects = all_effects(STATES, ACTIONS, ENTRIES, SHARED)
    contexts, weighted = tasks_of(truth(effects), effects)
    ridge, prior, shape = 0.3, 0.05, (STATES, ACTIONS)

    def objective(free: FloatArray) -> float:
        fit = LogLinear(free[: STATES * ACTIONS].reshape(shape), free[STATES * ACTIONS :])
        tables = np.array([table_at(fit, effects, context) for context in contexts])
        uniform = -prior * float(log_softmax(fit.offsets, axis=1).mean(axis=1).sum())
        return -float((weighted * np.log(tables)).sum()) + uniform + 0.5 * ridge * float(fit.weights @ fit.weights)

    begin = LogLinear(np.zeros(shape), np.zeros(int(effects[:, 3].max()) + 1))
    found = fitted(weighted, design_of(contexts, effects, shape, len(begin.weights)), ridge, prior, begin)
    at = np.concatenate([found.offsets.ravel(), found.weights])
    np.testing.assert_allclose(approx_fprime(at, objective, 1e-6), 0.0, atol=2e-4)
    assert objective(at) < objective(np.zeros_like(at)) - 1e-3


def test_an_infinite_ridge_gives_the_plain_leader_for_every_context() -> None:
    effects = all_effects(STATES, ACTIONS, ENTRIES, None)
    contexts, weighted = tasks_of(truth(effects), effects)
    table = empty(ridges=(np.inf,)).with_tasks(contexts, weighted, 1.0, np.ones(1))
    plain = shrink(leader(weighted.sum(axis=0), 1e-3), 0.01)
    np.testing.assert_allclose(table.plain, plain, rtol=1e-12)
    for context in (np.zeros(2), np.array([5.0, -3.0])):
        np.testing.assert_allclose(table.at(context), plain, rtol=1e-12)


def test_a_start_is_the_mixture_of_its_ridges_and_uniform_before_the_first_task() -> None:
    table, context = empty(shares=np.array([0.25, 0.75])), np.array([0.1, 2.0])
    np.testing.assert_allclose(table.at(context), np.full((STATES, ACTIONS), 0.5))
    table = table.with_tasks(*tasks_of(truth(table.effects), table.effects), 1.0, table.shares)
    loose, constant = table.tables(context)
    np.testing.assert_allclose(table.at(context), 0.25 * loose + 0.75 * constant)
    assert np.abs(loose - constant).max() > 0.05
    np.testing.assert_array_equal(table_of(policy_for(table, context)), table.at(context))


def test_offsets_forget_and_weights_do_not() -> None:
    made = truth(empty().effects)
    later = LogLinear(made.offsets + np.array([1.0, -1.0]), made.weights)  # other tasks of which entries do the same
    first, second = tasks_of(made, empty().effects, 1), tasks_of(later, empty().effects, 2)
    table, shares = empty(ridges=(1e-6, np.inf)), np.full(2, 0.5)
    kept = table.with_tasks(*first, 0.01, shares).with_tasks(*second, 0.01, shares)
    np.testing.assert_array_equal(kept.recency, np.repeat([0.01, 1.0], TASKS))
    np.testing.assert_array_equal(kept.weighted, np.concatenate([first[1], second[1]]))
    recent = 0.01 * first[1].sum(axis=0) + second[1].sum(axis=0)
    np.testing.assert_allclose(kept.plain, shrink(leader(recent, 1e-3), 0.01), rtol=1e-12)
    np.testing.assert_allclose(kept.tables(np.zeros(2))[1], kept.plain, rtol=1e-12)
    alike = table.with_tasks(*first, 1.0, shares).with_tasks(*second, 1.0, shares)
    np.testing.assert_allclose(kept.weights, alike.weights, atol=1e-3)
    context = np.array([0.5, -0.5])
    wanted = table_at(later, empty().effects, context)
    assert np.abs(kept.tables(context)[0] - wanted).max() < 0.5 * np.abs(alike.tables(context)[0] - wanted).max()


def test_entries_without_effects_of_the_family_have_a_weight_for_each_state_and_action() -> None:
    effects = all_effects(STATES, ACTIONS, ENTRIES, SHARED)
    assert len(effects) == STATES + STATES * ACTIONS
    own = effects[effects[:, 2] == 1]
    assert sorted(own[:, 3]) == list(range(1, 1 + STATES * ACTIONS))
    fit = LogLinear(np.zeros((STATES, ACTIONS)), np.concatenate([[2.0], np.zeros(STATES * ACTIONS)]))
    np.testing.assert_allclose(table_at(fit, effects, np.array([1.5, 9.0])), np.tile(softmax([3.0, 0.0]), (STATES, 1)))


@pytest.mark.parametrize(
    ("own", "message"),
    [
        (np.array([[0, 0, 0]]), r"whole numbers \[E, 4\], got int64 \[1, 3\]"),
        (np.array([[0.0, 0.0, 0.0, 0.0]]), r"whole numbers \[E, 4\], got float64"),
        (np.array([[0, 0, 0, 0], [3, 0, 0, 0]]), "row 1 names state 3; there are 3"),
        (np.array([[0, -1, 0, 0]]), "row 0 names action -1; there are 2"),
        (np.array([[0, 0, 2, 0]]), "row 0 names entry 2; there are 2"),
        (np.array([[0, 0, 0, -1]]), "numbers of weights count from 0"),
    ],
)
def test_effects_that_do_not_fit_are_an_error(own: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        all_effects(STATES, ACTIONS, ENTRIES, own)


def test_it_survives_its_arrays() -> None:
    fresh = empty(SHARED)
    table = fresh.with_tasks(*tasks_of(truth(fresh.effects), fresh.effects), 1.0, fresh.shares)
    again = TABULAR.from_arrays(TABULAR.to_arrays(table), SPACES)
    assert isinstance(again, LogLinearTable)
    np.testing.assert_array_equal(again.at(np.ones(2)), table.at(np.ones(2)))
    assert TABULAR.owns(table)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("weighted", np.ones((4, STATES, ACTIONS)), r"weighted must have the shape \[0, 3, 2\]"),
        ("offsets", np.ones((1, STATES, ACTIONS)), r"offsets must have the shape \[2, 3, 2\]"),
        ("effects", np.array([[0, 0, 9, 0]]), "names entry 9"),
        ("effects", np.array([[0, 0, 0, 0]]), "effects must name every entry"),
        ("units", np.full(2, np.nan), "every part finite"),
        ("shares", np.array([0.9, 0.9]), "a share each that sum to 1"),
        ("ridges", np.array([0.0, 1.0]), "ridges must be positive"),
        ("numbers", np.array([0.0, 1e-3]), r"shrinkage must lie in \(0, 1\)"),
    ],
)
def test_damaged_parts_are_an_error(name: str, value: Any, message: str) -> None:
    arrays = TABULAR.to_arrays(empty())
    with pytest.raises(ValueError, match=message):
        TABULAR.from_arrays({**arrays, name: value}, SPACES)
