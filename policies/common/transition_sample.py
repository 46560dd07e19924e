"""Transitions of one task as estimators of stationary distributions take them, for any kind of state and action."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.contract.tabular_model import FloatArray
from tasks.stepping.batch import BoolArray, Float32Array


@dataclass(frozen=True, slots=True)
class TransitionSample:
    """N transitions that CRPO's iterates made in one task, complete episodes one after the other.

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


def concatenate_samples(parts: Sequence[TransitionSample]) -> TransitionSample:
    """Samples one after the other; episodes must be numbered through already."""
    names = TransitionSample.__slots__
    return TransitionSample(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))
