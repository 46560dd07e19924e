"""The parts of a neural start after a round: the actor distilled, the critic averaged, the statistics let go."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from meta.learning.reservoir import Targets
from meta.learning.settings import NeuralInitializationSettings
from meta.learning.updates import scheduled_step
from policies.neural.adam import Adam
from policies.neural.distributions import distribution_of, extra_of
from policies.neural.networks import linearize
from policies.neural.policy_state import ObservationStatistics, Parameters, PolicyState

_STREAM = 31


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
        linear = linearize(network, vector, inputs[rows])
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
    """Mean 0 and variance 1 with the say of one observation: a task's own statistics replace them at once.

    One and not none: a policy that has seen something keeps its function when its statistics change.
    """
    return ObservationStatistics(np.zeros(size), np.ones(size), 1.0)
