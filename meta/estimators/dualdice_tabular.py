"""The closed form of :mod:`meta.estimators.closed_form` as one of the estimators."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from meta.estimators.closed_form import estimate
from meta.offline.diagnostics import EstimateError
from meta.offline.dice_settings import DICESettings
from meta.offline.offline_data import Fitted, OfflineData
from meta.offline.target_policy import states_of
from policies.tabular.transitions import Transitions
from tasks.contract.tabular_model import FloatArray


def dualdice_tabular(data: OfflineData, settings: DICESettings, seed: int) -> Fitted:
    """w(s,a) of every pair seen, in closed form; 0 at a pair that the other folds have not seen.

    Raises:
        EstimateError: the policy is not a table.
    """
    del seed
    table = data.target.state_table
    if table is None:
        raise EstimateError("dice.estimator: dualdice_tabular needs a table; neural policies have dualdice_linear")
    ratio, regularized = _ratio_of_pairs(data, table, settings)
    held_out = None
    if data.has_held_out:
        rest, _ = _ratio_of_pairs(data.part(~data.held_out), table, settings)
        held_out = rest[_pairs(data)][data.held_out]
    return Fitted(ratio[_pairs(data)], held_out, regularized)


def _pairs(data: OfflineData) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return states_of(data.sample.observations), data.sample.actions


def _ratio_of_pairs(data: OfflineData, table: FloatArray, settings: DICESettings) -> tuple[FloatArray, bool]:
    """d^pi / d^D [S, A] with the d^D of the live rows."""
    found = estimate(transitions_of(data), table, data.discount, data.horizon, settings)
    share = np.zeros(table.shape)
    np.add.at(share, _pairs(data), data.weights)
    seen = share > 0.0
    ratio = np.where(seen, found.pair_occupancy, 0.0) / np.where(seen, share, 1.0)
    return ratio, found.diagnostics.regularized


def transitions_of(data: OfflineData) -> Transitions:
    """The rows of a table's sample as transitions without reward and costs."""
    sample = data.sample
    return Transitions(
        states=states_of(sample.observations).astype(np.int32),
        actions=sample.actions.astype(np.int32),
        reward=np.zeros(len(sample)),
        costs=np.zeros((len(sample), 0)),
        next_states=states_of(sample.next_observations).astype(np.int32),
        terminated=sample.terminated,
        truncated=sample.truncated,
        episodes=sample.episodes,
        iterations=sample.iterations,
    )
