"""How a neural start learns from policies: what it imitates, what it remembers of all tasks, and the steps it takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from meta.learning.settings import NeuralInitializationSettings
from meta.learning.updates import scheduled_step
from policies.networks.adam import Adam
from policies.networks.distributions import distribution_of, extra_of
from policies.networks.mlp import Array
from policies.neural.policy_state import ObservationStatistics, Parameters, PolicyState
from tasks.contract.tabular_model import FloatArray
from tasks.stepping.batch import Float32Array

_STREAM, _RESERVOIR_STREAM = 31, 32


@dataclass(frozen=True, slots=True)
class Targets:
    """What to imitate: the ``outputs`` [N, k] and ``extras`` [N, e] of a policy at ``observations`` [N, d]. The
    ``weights`` [N] of the rows have mean 1.
    """

    observations: Float32Array
    outputs: Array
    extras: Array
    weights: FloatArray


def targets_of(policy: PolicyState, observations: Float32Array, weights: FloatArray) -> Targets:
    """``policy`` at ``observations`` [N, d]."""
    outputs, extra = policy.act(observations)
    return Targets(observations, outputs, np.tile(extra, (len(outputs), 1)), weights)


def joined(parts: Sequence[Targets]) -> Targets:
    """All rows, with weights of mean 1."""
    observations, outputs, extras, weights = (
        np.concatenate([getattr(part, field.name) for part in parts]) for field in dataclasses.fields(Targets)
    )
    return Targets(observations, outputs, extras, weights / weights.mean())


@dataclass(frozen=True, slots=True)
class Reservoir:
    """A sample of all rows offered, of limited size R; the greater a row's weight, the likelier it stays.

    A row's key is log(weight) plus Gumbel noise, and the greatest keys stay: a weighted sample without replacement
    (Efraimidis, Spirakis 2006, in logarithms), one row at a time, in one pass. Kept rows have equal weights.
    """

    observations: Float32Array
    outputs: Array
    extras: Array
    keys: FloatArray

    def targets(self) -> Targets:
        """The rows kept, all of weight 1."""
        return Targets(self.observations, self.outputs, self.extras, np.ones(len(self.keys)))

    def forget(self, factor: float) -> Reservoir:
        """Every weight times ``factor`` in (0, 1], so that later rows weigh more."""
        return dataclasses.replace(self, keys=self.keys + np.log(factor))

    def to_arrays(self) -> dict[str, Any]:
        """Everything by name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @staticmethod
    def from_arrays(parts: Mapping[str, Any]) -> Reservoir:
        """The inverse of :meth:`to_arrays`."""
        return Reservoir(**parts)


def offer(reservoir: Reservoir | None, targets: Targets, size: int, task_index: int) -> Reservoir:
    """The reservoir with the rows of one task offered; the chance depends on the task's index, not on the order."""
    rng = np.random.default_rng([_RESERVOIR_STREAM, task_index])
    with np.errstate(divide="ignore"):
        keys = np.log(targets.weights) + rng.gumbel(size=len(targets.weights))
    offered = Reservoir(targets.observations, targets.outputs, targets.extras, keys)
    old = [] if reservoir is None else [reservoir]
    columns = {
        field.name: np.concatenate([getattr(part, field.name) for part in (*old, offered)])
        for field in dataclasses.fields(Reservoir)
    }
    kept = np.flatnonzero(columns["keys"] > -np.inf)
    if len(kept) > size:
        kept = np.sort(kept[np.argsort(-columns["keys"][kept], kind="stable")[:size]])
    return Reservoir(**{name: column[kept] for name, column in columns.items()})


def distill(
    policy: PolicyState, targets: Targets, settings: NeuralInitializationSettings, num_rounds: int
) -> Parameters:
    """The actor of phi after Adam steps on the weighted mean of KL(pi_hat_t(.|s) || phi(.|s)) over ``targets``."""
    network, vector = policy.actor.network, policy.actor.vector
    distribution = distribution_of(network)
    inputs, weights = policy.statistics.normalize(targets.observations), targets.weights.astype(vector.dtype)
    rng = np.random.default_rng([_STREAM, num_rounds])
    adam = Adam(vector, scheduled_step(settings.step_size, settings.schedule, num_rounds + 1))
    size = min(settings.minibatch, len(inputs))
    for _ in range(settings.steps):
        rows = rng.choice(len(inputs), size, replace=False)
        linear = network.linearize(vector, inputs[rows])
        outputs, extra = distribution.kl_gradient(
            targets.outputs[rows], targets.extras[rows], linear.outputs, extra_of(network, vector), weights[rows] / size
        )
        gradient = linear.pullback(outputs)
        extra_of(network, gradient)[:] = extra
        vector = adam.step(vector, gradient)
    return Parameters(network, vector)


def towards_mean(
    critic: Parameters,
    policies: Sequence[PolicyState],
    weights: Sequence[float],
    statistics: ObservationStatistics,
    share: float,
) -> Parameters:
    """The critic moved by a share towards the weighted mean of the policies' critics, all under the same statistics."""
    critics = [policy.with_statistics(statistics).critic.vector for policy in policies]
    mean_critic = np.tensordot(np.array(weights) / sum(weights), np.array(critics, np.float64), axes=1)
    moved = critic.vector + share * (mean_critic - critic.vector)
    return Parameters(critic.network, moved.astype(critic.vector.dtype))


def hardly_any(size: int) -> ObservationStatistics:
    """Mean 0 and variance 1, with the weight of one observation: a task's own statistics replace them at once.

    The count is one and not zero, since a policy that has seen something keeps its function when its statistics change.
    """
    return ObservationStatistics(np.zeros(size), np.ones(size), 1.0)
