"""Rollouts of a neural policy in many copies of one task: one policy call per time step, arrays allocated once."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.common.transition_sample import TransitionSample
from policies.networks.distributions import distribution_of, extra_of
from policies.neural.policy_state import PolicyState
from tasks.contract.task import TaskError
from tasks.stepping.batch import BatchEnvironment, Float32Array

_NOISE_STREAM, _RESET_STREAM = 21, 22


@dataclass(frozen=True, slots=True)
class NeuralTransitions:
    """T steps of n copies, all begun at time 0 by a reset.

    ``observations`` [T, n, d] before each step; ``actions`` [T, n] or [T, n, A] as the policy chose them (before
    scaling and clipping to the bounds); ``signals`` [T, n, 1+p], reward, costs; ``terminated``, ``truncated`` [T, n].
    ``final_observations`` [K, d] follow the K steps in ``final_steps`` [K, 2] (time, copy): all that ended an episode
    and those of time T - 1; after any other step comes the next row of ``observations``.
    """

    observations: Float32Array
    actions: NDArray[Any]
    signals: Float32Array
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    final_steps: NDArray[np.int64]
    final_observations: Float32Array

    @property
    def ended(self) -> NDArray[np.bool_]:
        """[T, n], the last step of an episode."""
        return self.terminated | self.truncated

    @property
    def reward(self) -> Float32Array:
        """[T, n]."""
        return self.signals[..., 0]

    @property
    def costs(self) -> Float32Array:
        """[T, n, p]."""
        return self.signals[..., 1:]

    def flat(self, array: NDArray[Any]) -> NDArray[Any]:
        """[T, n, ...] as [T * n, ...]."""
        return array.reshape(-1, *array.shape[2:])

    def copy(self) -> NeuralTransitions:
        """A separate copy: the arrays of :meth:`NeuralRollouts.collect` are overwritten by its next call."""
        arrays = (getattr(self, name).copy() for name in self.__dataclass_fields__)
        return NeuralTransitions(*arrays)


class NeuralRollouts:
    """Collects rollouts of one task.

    The noise of an action depends on (task seed, iteration, copy, step) alone and a reset on (task seed, iteration,
    copy, episode of the copy). The same seed gives the same bits for the same number of copies and steps on the same
    processor and libraries: matrix products of another size may round otherwise.
    """

    def __init__(self, batch: BatchEnvironment, num_steps: int, seed: int, label: str) -> None:
        copies, self._size = batch.num_copies, batch.observation_size
        self._batch, self._steps, self._seed, self._label = batch, num_steps, seed, label
        outputs = self.num_outputs
        shape = (num_steps, copies)
        discrete = batch.num_actions is not None
        self._observations = np.empty((*shape, self._size), dtype=np.float32)
        self._actions: NDArray[Any] = np.empty(shape, np.int64) if discrete else np.empty((*shape, outputs), np.float32)
        self._signals = np.empty((*shape, 1 + batch.num_costs), dtype=np.float32)
        self._terminated, self._truncated = np.empty(shape, dtype=np.bool_), np.empty(shape, dtype=np.bool_)

    @property
    def num_outputs(self) -> int:
        """Discrete actions, or dimensions of a continuous one."""
        if self._batch.num_actions is not None:
            return self._batch.num_actions
        assert self._batch.action_low is not None
        return self._batch.action_low.size

    def collect(self, policy: PolicyState, iteration: int) -> NeuralTransitions:
        """Reset every copy and run ``policy`` for T steps; the arrays are valid until the next call.

        Raises:
            TaskError: the policy does not fit, or an observation, action, reward or cost is not finite.
        """
        batch, act = self._batch, self._actor(policy, iteration)
        bounded = to_bounds(batch)
        episodes = np.zeros(batch.num_copies, dtype=np.int64)
        self._reset(np.arange(batch.num_copies), iteration, episodes)
        final_steps, final_observations = [], []
        for time in range(self._steps):
            observations = self._observations[time]
            observations[:] = batch.observations
            actions = act(observations, time)
            self._actions[time] = actions
            self._require_finite(iteration, f"step {time}", actions=actions)
            batch.step(bounded(actions))
            self._signals[time, :, 0] = batch.reward
            self._signals[time, :, 1:] = batch.costs
            self._terminated[time], self._truncated[time] = batch.terminated, batch.truncated
            self._require_finite(
                iteration, f"step {time}", observations=batch.observations, reward=batch.reward, costs=batch.costs
            )
            ended = self._terminated[time] | self._truncated[time]
            last = np.arange(batch.num_copies) if time == self._steps - 1 else np.flatnonzero(ended)
            if last.size:
                final_steps.append(np.stack([np.full(last.size, time), last], axis=1))
                final_observations.append(batch.observations[last])
                if time < self._steps - 1:
                    self._reset(last, iteration, episodes)
        return NeuralTransitions(
            self._observations,
            self._actions,
            self._signals,
            self._terminated,
            self._truncated,
            np.concatenate(final_steps),
            np.concatenate(final_observations),
        )

    def _actor(self, policy: PolicyState, iteration: int) -> Callable[[Float32Array, int], NDArray[Any]]:
        network, vector = policy.actor.network, policy.actor.vector
        needed = self._size, self.num_outputs, 1 + self._batch.num_costs
        given = network.num_inputs, network.num_outputs, policy.num_objectives
        if given != needed:
            raise TaskError(
                f"task {self._label}: the policy has {given[0]} inputs, {given[1]} outputs and {given[2]} critic heads"
                f", the task needs {needed[0]}, {needed[1]} and {needed[2]}"
            )
        distribution, extra = distribution_of(network), extra_of(network, vector)
        noise = np.stack(
            [
                distribution.noise(
                    np.random.default_rng([self._seed, _NOISE_STREAM, iteration, copy]), self._steps, self.num_outputs
                )
                for copy in range(self._batch.num_copies)
            ],
            axis=1,
        )
        normalize = policy.statistics.normalizer()

        def act(observations: Float32Array, time: int) -> NDArray[Any]:
            return distribution.sample(network.apply(vector, normalize(observations)), extra, noise[time])

        return act

    def _reset(self, copies: NDArray[np.int64], iteration: int, episodes: NDArray[np.int64]) -> None:
        keys = ([self._seed, _RESET_STREAM, iteration, copy, episodes[copy]] for copy in copies.tolist())
        seeds = np.array([np.random.SeedSequence(key).generate_state(1)[0] for key in keys], dtype=np.uint32)
        self._batch.reset(copies, seeds)
        self._require_finite(iteration, "reset", observations=self._batch.observations)
        episodes[copies] += 1

    def _require_finite(self, iteration: int, moment: str, **tensors: NDArray[Any]) -> None:
        for name, tensor in tensors.items():
            if not math.isfinite(tensor.sum()) and not np.isfinite(tensor).all():
                copy = int(np.argwhere(~np.isfinite(tensor))[0][0])
                raise TaskError(f"task {self._label}, iteration {iteration}, {moment}, copy {copy}: {name} not finite")


def to_bounds(batch: BatchEnvironment) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """Actions in units of half the range about its centre, clipped; unbounded and discrete ones unchanged."""
    if batch.action_low is None or batch.action_high is None:
        return lambda actions: actions
    return to_range(batch.action_low, batch.action_high)


def to_range(low: NDArray[Any], high: NDArray[Any]) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """Actions [n, k] in units of half the range from ``low`` to ``high`` [k], clipped; unbounded ones unchanged."""
    finite = np.isfinite(low) & np.isfinite(high)
    below, above = np.where(finite, low, -1.0), np.where(finite, high, 1.0)
    half = (0.5 * above - 0.5 * below).astype(np.float32)  # halved first: a difference may overflow
    centre = (0.5 * above + 0.5 * below).astype(np.float32)
    if (half == 1.0).all() and (centre == 0.0).all():
        return lambda actions: np.clip(actions, low, high)
    return lambda actions: np.clip(centre + half * actions, low, high)


def sample_of(data: NeuralTransitions, num_copies: int, iteration: int, first_episode: int) -> TransitionSample:
    """The complete paths of the first ``num_copies`` copies, copy by copy; a separate copy of the arrays.

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
