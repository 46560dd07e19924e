"""Transitions of a table as flat arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policies.common.transition_sample import TransitionSample
from tasks.contract.tabular_model import FloatArray

IndexArray = NDArray[np.int32]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Transitions:
    """N transitions in the order (iteration, episode, step).

    ``states``, ``actions``, ``next_states``, ``episodes``, ``iterations`` [N]; ``reward`` [N]; ``costs`` [N, p];
    ``terminated`` (the environment ended the episode) and ``truncated`` (the horizon did) [N].
    """

    states: IndexArray
    actions: IndexArray
    reward: FloatArray
    costs: FloatArray
    next_states: IndexArray
    terminated: BoolArray
    truncated: BoolArray
    episodes: IndexArray
    iterations: IndexArray

    def __len__(self) -> int:
        return int(self.states.shape[0])

    @property
    def episode_starts(self) -> BoolArray:
        """[N], true on the first transition of each episode."""
        starts = np.ones(len(self), dtype=np.bool_)
        starts[1:] = (np.diff(self.episodes) != 0) | (np.diff(self.iterations) != 0)
        return starts


def concatenate(parts: list[Transitions]) -> Transitions:
    """Join batches in the given order."""
    names = Transitions.__slots__
    return Transitions(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def tabular_sample(data: Transitions, log_probabilities: FloatArray) -> TransitionSample:
    """Transitions of a table as a sample: observations [N, 1] hold the number of the state.

    ``log_probabilities`` [N] are those of the iterates that acted.
    """
    starts = data.episode_starts
    begin = np.maximum.accumulate(np.where(starts, np.arange(len(data)), 0))
    return TransitionSample(
        observations=data.states[:, None].astype(np.float32),
        actions=data.actions.astype(np.int64),
        next_observations=data.next_states[:, None].astype(np.float32),
        terminated=data.terminated,
        truncated=data.truncated,
        iterations=data.iterations,
        episodes=(np.cumsum(starts) - 1).astype(np.int32),
        ages=(np.arange(len(data)) - begin).astype(np.int32),
        log_probabilities=log_probabilities,
    )
