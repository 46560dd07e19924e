"""Actions of a policy of any kind."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.common.policy import Policy
from policies.common.policy_kind import Spaces
from policies.neural.rollouts import to_range
from policies.solving.algorithms import kind_of_policy


def act(policy: Policy, observations: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    """Actions drawn from ``policy``.

    ``observations`` are states [n] for a table; the actions are then indices [n]. For a network they are rows [n, d],
    and the actions are indices [n] or vectors [n, A] in units of half the action range (``rollouts.to_bounds``).
    """
    return kind_of_policy(policy).act(policy, observations, rng)


def within_bounds(actions: NDArray[Any], spaces: Spaces) -> NDArray[Any]:
    """``actions`` of :func:`act` as the environment takes them: vectors scaled to the bounds of ``spaces``."""
    if spaces.tabular or spaces.actions:
        return actions
    low = np.array([-np.inf if bound is None else bound for bound in spaces.low], np.float32)
    high = np.array([np.inf if bound is None else bound for bound in spaces.high], np.float32)
    return to_range(low, high)(actions)
