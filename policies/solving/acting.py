"""One interface to a policy's actions, whether it is a table or a network."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.common.results import Policy
from policies.neural.distributions import distribution_of
from policies.neural.policy_state import PolicyState


def act(policy: Policy, observations: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    """Actions drawn from ``policy``.

    ``observations`` are states [n] for a table; the actions are then indices [n]. For a network they are rows [n, d],
    and the actions are indices [n] or vectors [n, A] in units of half the action range (``neural_rollouts.to_bounds``).
    """
    if isinstance(policy, PolicyState):
        distribution = distribution_of(policy.actor.network)
        outputs, extra = policy.act(observations)
        return distribution.sample(outputs, extra, distribution.noise(rng, len(outputs), outputs.shape[1]))
    cumulative = np.cumsum(policy[observations], axis=1)[:, :-1]
    return np.asarray((rng.random(len(observations))[:, None] >= cumulative).sum(axis=1))
