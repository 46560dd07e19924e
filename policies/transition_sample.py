"""Transitions of one task as estimators of stationary distributions take them, for any kind of state and action."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.rollouts import Transitions
from tasks.batch import BoolArray, Float32Array
from tasks.model import FloatArray


@dataclass(frozen=True, slots=True)
class TransitionSample:
    """N transitions that CRPO's iterates made in one task, whole episodes one after the other.

    ``observations``, ``next_observations`` [N, d] as the environment gave them; ``actions`` [N] or [N, A] as the policy
    chose them (before scaling and clipping to the bounds); ``terminated`` (the environment ended the episode) and
    ``truncated`` (the horizon, or the end of the batch, did) [N]; ``iterations`` [N] the iterate that acted;
    ``episodes`` [N] number of the episode within this sample, not decreasing; ``ages`` [N] steps since its start;
    ``log_probabilities`` [N] log pi_m(a|s) under the iterate that acted.
    """

    observations: Float32Array
    actions: NDArray[Any]
    next_observations: Float32Array
    terminated: BoolArray
    truncated: BoolArray
    iterations: NDArray[np.int32]
    episodes: NDArray[np.int32]
    ages: NDArray[np.int32]
    log_probabilities: FloatArray

    def __len__(self) -> int:
        return int(self.observations.shape[0])

    @property
    def initial_observations(self) -> Float32Array:
        """[E, d], where episodes began: samples of rho."""
        return self.observations[self.ages == 0]

    def rows(self, keep: NDArray[Any]) -> TransitionSample:
        """The rows that a mask [N] or indices pick."""
        return TransitionSample(*(getattr(self, name)[keep] for name in TransitionSample.__slots__))


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
