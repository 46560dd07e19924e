"""Moments of transitions, from which :mod:`policies.common.context_regression` infers contexts."""

from __future__ import annotations

import numpy as np

from policies.common.context_regression import Moments
from policies.neural.policy_state import ObservationStatistics, PolicyState
from policies.neural.rollouts import NeuralTransitions
from tasks.contract.tabular_model import FloatArray

_MOST = 24
"""Longer observations are projected on as many random directions."""


def moment_sizes(policy: PolicyState, context_size: int) -> tuple[int, int]:
    """q and d of the moments under ``policy``, whose last ``context_size`` inputs are the context."""
    size = min(policy.statistics.mean.size - context_size, _MOST)
    return 1 + size + policy.actor.network.num_outputs, size


def moments_of_copies(data: NeuralTransitions, policy: PolicyState, context_size: int) -> Moments:
    """The moments of every copy of ``data``: [n, ...], from the steps after which the episode goes on.

    Observations are in the units of the policy's statistics, without their last ``context_size`` numbers; discrete
    actions count as indicators.
    """
    seen = _normalized(data.observations, policy.statistics, context_size)
    before, change = seen[:-1], np.diff(seen, axis=0)
    kept = (~data.ended[:-1]).astype(np.float64)
    psi = np.concatenate([np.ones_like(before[..., :1]), before, _vectors(data, policy)[:-1]], axis=2)
    weighted = psi * kept[..., None]
    return Moments(
        np.einsum("tni,tnj->nij", weighted, psi), np.einsum("tni,tnj->nij", weighted, change), kept.sum(axis=0)
    )


def _normalized(observations: np.ndarray, statistics: ObservationStatistics, context_size: int) -> FloatArray:
    size = statistics.mean.size - context_size
    values = (observations[..., :size].astype(np.float64) - statistics.mean[:size]) * statistics.scale[:size]
    if size <= _MOST:
        return np.asarray(values)
    directions = np.linalg.qr(np.random.default_rng(size).standard_normal((size, _MOST)))[0]
    return np.asarray(values @ directions)


def _vectors(data: NeuralTransitions, policy: PolicyState) -> FloatArray:
    """Actions as vectors, [T, n, A]."""
    if data.actions.ndim == 3:
        return np.asarray(data.actions, np.float64)
    return np.asarray(np.eye(policy.actor.network.num_outputs)[data.actions.astype(np.int64)])
