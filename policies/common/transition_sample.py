"""Transitions of one task as estimators of stationary distributions take them, for any kind of state and action."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.neural.rollouts import NeuralTransitions
from policies.tabular.rollouts import Transitions
from tasks.contract.tabular_model import FloatArray
from tasks.stepping.batch import BoolArray, Float32Array


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


def concatenate_samples(parts: Sequence[TransitionSample]) -> TransitionSample:
    """Samples one after the other; episodes must be numbered through already."""
    names = TransitionSample.__slots__
    return TransitionSample(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def sample_of(data: NeuralTransitions, num_copies: int, iteration: int, first_episode: int) -> TransitionSample:
    """The whole paths of the first ``num_copies`` copies, copy by copy; an own copy of the arrays.

    A path ends with the batch: its last step is truncated where it ended no episode. ``log_probabilities`` are NaN
    until they are computed.
    """
    steps = len(data.observations)
    following = np.empty_like(data.observations[:, :num_copies])
    following[:-1] = data.observations[1:, :num_copies]
    kept = data.final_steps[:, 1] < num_copies
    time, copy = data.final_steps[kept].T
    following[time, copy] = data.final_observations[kept]
    terminated, truncated = (part[:, :num_copies].T.copy() for part in (data.terminated, data.truncated))
    truncated[:, -1] |= ~terminated[:, -1]
    starts = np.ones((num_copies, steps), dtype=np.bool_)
    starts[:, 1:] = (terminated | truncated)[:, :-1]
    moment = np.broadcast_to(np.arange(steps), starts.shape)
    begin = np.maximum.accumulate(np.where(starts, moment, 0), axis=1)

    def flat(array: NDArray[Any]) -> NDArray[Any]:
        return array.swapaxes(0, 1).reshape(num_copies * steps, *array.shape[2:]).copy()

    return TransitionSample(
        observations=flat(data.observations[:, :num_copies]),
        actions=flat(data.actions[:, :num_copies]),
        next_observations=flat(following),
        terminated=terminated.ravel(),
        truncated=truncated.ravel(),
        iterations=np.full(num_copies * steps, iteration, np.int32),
        episodes=(first_episode + np.cumsum(starts.ravel()) - 1).astype(np.int32),
        ages=(moment - begin).ravel().astype(np.int32),
        log_probabilities=np.full(num_copies * steps, np.nan),
    )
