"""Policies that are a function of the task: networks whose inputs are [observation, context].

phi(. | s; c) is an ordinary :class:`PolicyState` on observations that carry the normalised context [k] behind them.
Once c is known, :func:`condition` makes an ordinary policy on plain observations of it: the context's part of the first
layer becomes part of its bias. Everything within a task (CRPO, corrections, films) then works as without a context.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.networks.mlp import Network
from policies.neural.policy_state import CLIP, ObservationStatistics, Parameters, PolicyState
from tasks.contract.tabular_model import FloatArray
from tasks.stepping.batch import BatchEnvironment, BoolArray, Float32Array


class ContextBatch:
    """A batch whose observations carry a context: row j of ``contexts`` [n, k] behind those of copy j."""

    def __init__(self, batch: BatchEnvironment, contexts: FloatArray) -> None:
        self._batch = batch
        self.num_copies, self.num_costs, self.horizon = batch.num_copies, batch.num_costs, batch.horizon
        self.num_actions, self.action_low, self.action_high = batch.num_actions, batch.action_low, batch.action_high
        self._size = batch.observation_size
        self.observation_size = self._size + contexts.shape[1]
        self.observations: Float32Array = np.zeros((batch.num_copies, self.observation_size), np.float32)
        self.observations[:, self._size :] = contexts
        self.reward: FloatArray = batch.reward
        self.costs: FloatArray = batch.costs
        self.terminated: BoolArray = batch.terminated
        self.truncated: BoolArray = batch.truncated

    def reset(self, copies: NDArray[Any], seeds: NDArray[Any]) -> None:
        """See :class:`tasks.stepping.batch.BatchEnvironment`."""
        self._batch.reset(copies, seeds)
        self.observations[:, : self._size] = self._batch.observations

    def step(self, actions: NDArray[Any]) -> None:
        """See :class:`tasks.stepping.batch.BatchEnvironment`."""
        self._batch.step(actions)
        self.observations[:, : self._size] = self._batch.observations

    def close(self) -> None:
        """Close the batch."""
        self._batch.close()


def condition(policy: PolicyState, context: FloatArray) -> PolicyState:
    """phi(. | s; c) as a policy on plain observations [d]; ``context`` is the normalised c [k].

    With W = [W_s; W_c] the first layer's weights, the bias becomes b + clip(c) W_c (up to rounding the same outputs).
    """
    size = policy.statistics.mean.size - context.size
    shift = np.clip((context - policy.statistics.mean[size:]) * policy.statistics.scale[size:], -CLIP, CLIP)
    statistics = ObservationStatistics(
        policy.statistics.mean[:size], policy.statistics.variance[:size], policy.statistics.count
    )
    return PolicyState(_without_rows(policy.actor, size, shift), _without_rows(policy.critic, size, shift), statistics)


def _without_rows(parameters: Parameters, size: int, shift: FloatArray) -> Parameters:
    """The network without the inputs from ``size`` on, which are held at ``shift``."""
    old, vector = parameters.network, parameters.vector
    network = Network((size, *old.sizes[1:]), old.extras)
    result = np.empty(network.num_parameters, vector.dtype)
    for name, _ in network.layout:
        part = old.part(vector, name)
        if name == "weights_0":
            part = part[:size]
        elif name == "bias_0":
            part = part + (shift @ old.part(vector, "weights_0")[size:].astype(np.float64)).astype(vector.dtype)
        network.part(result, name)[:] = part
    return Parameters(network, result)


def with_plain_contexts(policy: PolicyState, size: int) -> PolicyState:
    """The policy with mean 0 and variance 1 for its last ``size`` inputs, which are normalised already."""
    mean, variance = policy.statistics.mean.copy(), policy.statistics.variance.copy()
    mean[mean.size - size :], variance[variance.size - size :] = 0.0, 1.0
    return dataclasses.replace(policy, statistics=ObservationStatistics(mean, variance, policy.statistics.count))
