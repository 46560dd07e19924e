from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from tasks.contract.tabular_model import ModelError, TabularModel, model_from_gymnasium
from tests.support.problems import dense_transitions, two_states

MODEL = two_states().model


def _changed(**changes: Any) -> TabularModel:
    return dataclasses.replace(MODEL, **{name: np.asarray(value) for name, value in changes.items()})


def test_sizes_and_objectives() -> None:
    assert (MODEL.num_states, MODEL.num_actions, MODEL.num_costs) == (2, 2, 1)
    np.testing.assert_array_equal(MODEL.objectives[0], MODEL.reward)
    np.testing.assert_array_equal(MODEL.objectives[1:], MODEL.costs)


@pytest.mark.parametrize("discount", [0.0, 1.0, -0.5, float("nan")])
def test_a_discount_outside_zero_and_one_is_refused(discount: float) -> None:
    with pytest.raises(ModelError, match="discount must lie strictly between 0 and 1"):
        dataclasses.replace(MODEL, discount=discount)


@pytest.mark.parametrize("costs", [np.zeros((2, 2)), np.zeros((1, 2, 3)), np.zeros((1, 3, 2))])
def test_costs_of_another_shape_are_refused(costs: Any) -> None:
    with pytest.raises(ModelError, match=r"costs must have shape \[p, 2, 2\]"):
        _changed(costs=costs)


@pytest.mark.parametrize(
    "initial", [[0.5, 0.4], [1.0], [0.5, 0.5, 0.0], [float("nan"), 1.0], [2.0, -1.0]], ids=lambda value: str(value)
)
def test_an_initial_vector_that_is_not_a_distribution_is_refused(initial: list[float]) -> None:
    with pytest.raises(ModelError, match="initial must be a distribution over 2 states"):
        _changed(initial=initial)


def test_probabilities_that_do_not_sum_to_one_name_the_pair() -> None:
    with pytest.raises(ModelError, match=r"state 1, action 0 sum to 0\.5, not 1"):
        _changed(probabilities=[1.0, 1.0, 0.5, 1.0])
    with pytest.raises(ModelError, match=r"state 1, action 1 sum to 0\.0, not 1"):
        _changed(pairs=[0, 1, 2], next_states=[0, 1, 1], probabilities=[1.0, 1.0, 1.0])


def test_a_negative_probability_is_refused() -> None:
    with pytest.raises(ModelError, match="probabilit"):
        _changed(pairs=[0, 0, 1, 2, 3], next_states=[0, 1, 1, 1, 1], probabilities=[1.5, -0.5, 1.0, 1.0, 1.0])


@pytest.mark.parametrize("changes", [{"pairs": [0, 1, 2, 3, 4]}, {"next_states": [0, 1, 1, 1, 2]}])
def test_a_pair_or_state_out_of_range_is_refused(changes: dict[str, list[int]]) -> None:
    triples = {"pairs": [0, 1, 2, 3, 3], "next_states": [0, 1, 1, 1, 1], "probabilities": [1.0, 1.0, 1.0, 0.5, 0.5]}
    if "pairs" in changes:
        triples["probabilities"] = [1.0] * 5
    with pytest.raises(ModelError):
        _changed(**triples | changes)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("reward", [[np.nan, 0.0], [0.0, 0.0]]),
        ("costs", [[[np.inf, 0.0], [0.0, 0.0]]]),
        ("probabilities", [np.nan] * 4),
    ],
)
def test_numbers_that_are_not_finite_are_refused(field: str, value: Any) -> None:
    with pytest.raises(ModelError, match=f"{field} holds a value that is not finite"):
        _changed(**{field: value})


def test_a_table_of_gymnasium_is_read_with_its_terminal_states() -> None:
    """State 0 slips: twice to itself (summed), once to the terminal state 1, whose own row is never read."""
    table = {
        0: {0: [(0.25, 0, 0.0, False), (0.25, 0, 0.0, False), (0.5, 1, 3.0, True)], 1: [(1.0, 0, 1.0, False)]},
        1: {0: [(1.0, 0, 99.0, False)], 1: [(1.0, 1, 99.0, True)]},
    }
    model = model_from_gymnasium(
        table, np.array([1.0, 0.0]), lambda state, following: np.array([following, 2.0]), 0.9, num_costs=2
    )
    np.testing.assert_allclose(dense_transitions(model), [[[0.5, 0.5], [1.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]]])
    np.testing.assert_allclose(model.reward, [[1.5, 1.0], [0.0, 0.0]])
    np.testing.assert_allclose(model.costs, [[[0.5, 0.0], [0.0, 0.0]], [[2.0, 2.0], [0.0, 0.0]]])
    np.testing.assert_array_equal(model.absorbing, [False, True])


def test_an_outcome_of_probability_zero_ends_nothing() -> None:
    table = {state: {0: [(1.0, state, 0.0, False), (0.0, 1 - state, 0.0, True)]} for state in (0, 1)}
    model = model_from_gymnasium(table, np.array([0.5, 0.5]), lambda state, following: 0.0, 0.9, num_costs=1)
    assert not model.absorbing.any()


def _ending(reward: list[float], cost: list[float], stays: float = 1.0) -> TabularModel:
    """State 1 is absorbing; state 0 leads to it. ``reward`` and ``cost`` [A] are those of state 1."""
    last = 1.0 - stays
    return TabularModel(
        pairs=np.array([0, 1, 2, 2, 3]),
        next_states=np.array([1, 1, 1, 0, 1]),
        probabilities=np.array([1.0, 1.0, stays, last, 1.0]),
        reward=np.array([[1.0, 0.0], reward]),
        costs=np.array([[[0.0, 0.0], cost]]),
        initial=np.array([1.0, 0.0]),
        absorbing=np.array([False, True]),
        discount=0.9,
    )


def test_absorbing_states_must_not_depend_on_the_action() -> None:
    assert _ending([0.5, 0.5], [2.0, 2.0]).absorbing[1]
    with pytest.raises(ModelError, match="state 1 is absorbing, but its rewards or costs differ by action, by 2"):
        _ending([0.5, 0.5], [2.0, 0.0])
    with pytest.raises(ModelError, match="state 1 is absorbing, but its rewards or costs differ by action"):
        _ending([0.5, 0.0], [2.0, 2.0])
    with pytest.raises(ModelError, match="state 1 is absorbing, but leads to state 0; it must stay where it is"):
        _ending([0.5, 0.5], [2.0, 2.0], stays=0.5)
