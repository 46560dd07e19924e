"""Policies as seen by code that does not depend on their kind."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

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


Policy = FloatArray | NetworkPolicy
"""A table of probabilities [S, A], or a network."""
PolicyT = TypeVar("PolicyT")


def table_of(policy: Policy) -> FloatArray:
    """The probabilities [S, A] of a tabular policy.

    Raises:
        TypeError: the policy is a network.
    """
    if not isinstance(policy, np.ndarray):
        raise TypeError("a neural policy is not a table of probabilities")
    return policy
