"""States and actions encoded as inputs of the estimators' networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meta.offline.offline_data import OfflineData
from meta.offline.target_policy import states_of
from tasks.contract.tabular_model import FloatArray
from tasks.stepping.batch import Float32Array

_LEAST_SPREAD = 1e-6


@dataclass(frozen=True)
class Encoder:
    """What networks see: one-hot states of a table, else observations (and continuous actions), normalised."""

    data: OfflineData
    num_states: int
    centre: FloatArray
    scale: FloatArray

    @staticmethod
    def of(data: OfflineData) -> Encoder:
        """Fitted on the data's rows."""
        sample = data.sample
        if data.is_tabular:
            states = max(int(part.max()) for part in (sample.observations, sample.next_observations))
            return Encoder(data, states + 1, np.zeros(0), np.zeros(0))
        rows = Encoder.joined(data, sample.observations, sample.actions)
        return Encoder(data, 0, rows.mean(axis=0), 1.0 / np.maximum(rows.std(axis=0), _LEAST_SPREAD))

    @staticmethod
    def joined(data: OfflineData, observations: Float32Array, actions: NDArray[Any]) -> FloatArray:
        """(s, a) where actions are continuous, else s."""
        parts = (observations,) if data.target.num_actions is not None else (observations, actions)
        return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1).astype(np.float64)

    @property
    def size(self) -> int:
        """Inputs of a network."""
        return self.num_states or self.centre.size

    @property
    def heads(self) -> int:
        """Outputs of a network."""
        return self.data.target.num_actions or 1

    def encode(self, observations: Float32Array, actions: NDArray[Any]) -> Float32Array:
        """Inputs [K, size]."""
        if self.num_states:
            result = np.zeros((len(observations), self.num_states), dtype=np.float32)
            result[np.arange(len(result)), states_of(observations)] = 1.0
            return result
        rows = self.joined(self.data, observations, actions)
        return ((rows - self.centre) * self.scale).astype(np.float32)

    def head_weights(self, observations: Float32Array, actions: NDArray[Any] | None) -> Float32Array:
        """Weights of the heads, [K, heads]: 1 for the head of each action; with None the policy's probabilities."""
        count = self.data.target.num_actions
        if count is None:
            return np.ones((len(observations), 1), dtype=np.float32)
        if actions is None:
            return self.data.target.probabilities(observations).astype(np.float32)
        return np.eye(count, dtype=np.float32)[actions]
