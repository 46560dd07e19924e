"""Policies that are a function of the task: networks whose inputs are [observation, context].

phi(. | s; c) is an ordinary :class:`PolicyState` on observations that carry the normalised context [k] behind them.
Batches append c to every observation (:mod:`tasks.stepping.context_batch`), so that CRPO, corrections, films and all
methods work as they do without contexts. Once a task is solved, :func:`condition` makes a policy on plain observations:
the context's part of the first layer becomes part of its bias.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from policies.networks.mlp import Network
from policies.neural.policy_state import CLIP, ObservationStatistics, Parameters, PolicyState
from tasks.contract.tabular_model import FloatArray


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
    if not isinstance(old, Network):
        raise TypeError("a context is built into an mlp only: other networks have no known first layer")
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
    return dataclasses.replace(policy, statistics=plain_contexts(policy.statistics, size))


def plain_contexts(statistics: ObservationStatistics, size: int) -> ObservationStatistics:
    """Mean 0 and variance 1 for the last ``size`` inputs."""
    mean, variance = statistics.mean.copy(), statistics.variance.copy()
    mean[mean.size - size :], variance[variance.size - size :] = 0.0, 1.0
    return ObservationStatistics(mean, variance, statistics.count)
