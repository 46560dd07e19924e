"""A bounded memory: who stays, how often, and that nothing but the task decides."""

from __future__ import annotations

import numpy as np
import pytest

from meta.learning.distillation import Reservoir, Targets, joined, offer
from meta.learning.neural import NeuralMetaState, initial_neural_state, neural_update
from meta.learning.settings import MetaSettings, NeuralInitializationSettings
from tasks.contract.tabular_model import FloatArray
from tests.meta.learning.test_neural_learner import contributions, fresh


def marked(task: int, weights: FloatArray) -> Targets:
    """Rows whose first observation tells the task and whose second tells the row."""
    rows = np.arange(len(weights), dtype=np.float32)
    observations = np.stack([np.full_like(rows, task), rows], axis=1)
    return Targets(observations, observations + 0.5, observations - 0.5, weights)


def filled(size: int, tasks: list[Targets], first: int = 0) -> Reservoir:
    reservoir = None
    for index, targets in enumerate(tasks):
        reservoir = offer(reservoir, targets, size, first + index)
    assert reservoir is not None
    return reservoir


def test_everything_stays_while_there_is_room_and_no_more_than_the_room_afterwards() -> None:
    tasks = [marked(task, np.ones(10)) for task in range(4)]
    assert len(filled(40, tasks).keys) == 40
    full = filled(25, tasks)
    assert len(full.keys) == 25
    assert len(np.unique(full.observations, axis=0)) == 25
    np.testing.assert_array_equal(full.outputs, full.observations + 0.5)
    np.testing.assert_array_equal(full.extras, full.observations - 0.5)


def test_every_task_keeps_its_share_whenever_it_came() -> None:
    """20 tasks of 50 rows and room for 100: 5 each; 40 repetitions, the mean within 4 standard errors (0.34)."""
    counts = np.zeros(20)
    for repetition in range(40):
        kept = filled(100, [marked(task, np.ones(50)) for task in range(20)], first=1000 * repetition)
        counts += np.bincount(kept.observations[:, 0].astype(int), minlength=20) / 40
    np.testing.assert_allclose(counts, 5.0, atol=4 * 0.34)
    assert np.ptp(counts) > 0.0


@pytest.mark.parametrize("factor", [0.25, 0.5])
def test_one_row_is_kept_in_proportion_to_its_weight(factor: float) -> None:
    """Room for one of two rows, weights 1 and ``factor``: Gumbel's maximum falls on them in that proportion."""
    kept = [filled(1, [marked(0, np.array([1.0, factor]))], first=index).observations[0, 1] for index in range(4000)]
    chance = factor / (1.0 + factor)
    assert np.mean(kept) == pytest.approx(chance, abs=4 * np.sqrt(chance * (1 - chance) / 4000))


def test_what_is_forgotten_makes_room_for_what_is_new() -> None:
    old = filled(50, [marked(0, np.ones(200))])
    shares = {
        factor: float(np.mean(offer(old.forget(factor), marked(1, np.ones(200)), 50, 1).observations[:, 0]))
        for factor in (1.0, 0.5, 0.01)
    }
    assert 0.25 < shares[1.0] < 0.75
    assert shares[1.0] < shares[0.5] < shares[0.01]
    assert shares[0.01] > 0.95


def test_rows_of_weight_zero_never_stay() -> None:
    weights = np.array([1.0, 0.0, 1.0, 0.0])
    assert set(filled(10, [marked(0, weights)]).observations[:, 1]) == {0.0, 2.0}


def test_joined_rows_weigh_one_in_the_mean() -> None:
    both = joined([marked(0, np.full(10, 0.1)), marked(1, np.full(5, 0.2))])
    assert both.weights.mean() == pytest.approx(1.0)
    assert both.weights[:10].sum() == pytest.approx(both.weights[10:].sum())


def test_a_state_with_a_reservoir_survives_its_arrays_bit_for_bit_and_stays_bounded() -> None:
    chosen = MetaSettings(neural=NeuralInitializationSettings(method="ftl", reservoir=60, steps=2, forgetting=0.9))
    state = initial_neural_state(chosen, fresh())
    for turn in range(4):
        state = neural_update(state, contributions(turn, 2, first=2 * turn), chosen, 5)
    assert state.reservoir is not None
    assert len(state.reservoir.keys) == 60
    again = NeuralMetaState.from_arrays(state.to_arrays())
    assert again.sha256() == state.sha256()
    following = [neural_update(s, contributions(9, 2, first=8), chosen, 5).sha256() for s in (state, again)]
    assert following[0] == following[1]


def test_the_order_in_which_contributions_arrive_changes_nothing() -> None:
    chosen = MetaSettings(neural=NeuralInitializationSettings(method="ftl", reservoir=30, steps=2))
    state, batch = initial_neural_state(chosen, fresh()), contributions(3, 3)
    assert neural_update(state, batch, chosen, 5).sha256() == neural_update(state, batch[::-1], chosen, 5).sha256()
