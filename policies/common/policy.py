"""Policies as seen by code that does not depend on their kind."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from tasks.contract.tabular_model import FloatArray


class NetworkPolicy(Protocol):
    """A policy computed by a network, with the critic and the observation statistics that belong to it."""

    @property
    def num_objectives(self) -> int:
        """1 + p, the heads of the critic."""

    def act(self, observations: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Outputs [N, k] for ``observations`` [N, d], and further parameters of the action distribution."""

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Every parameter by name; names and shapes hold the architecture."""


@runtime_checkable
class ContextPolicy(Protocol):
    """Tables of probabilities by context."""

    def at(self, context: FloatArray) -> FloatArray:
        """The table [S, A] for a normalised ``context`` [k]."""


Policy = FloatArray | NetworkPolicy | ContextPolicy
"""A table of probabilities [S, A], a network, or tables by context."""
PolicyT = TypeVar("PolicyT")


def table_of(policy: Policy) -> FloatArray:
    """The probabilities [S, A] of a tabular policy.

    Raises:
        TypeError: the policy is a network.
    """
    if not isinstance(policy, np.ndarray):
        raise TypeError("a neural policy is not a table of probabilities")
    return policy


def policy_for(policy: Policy, context: FloatArray | None) -> Policy:
    """The policy of a task with ``context``: the table for it, where there is one for every context."""
    return policy.at(context) if context is not None and isinstance(policy, ContextPolicy) else policy
