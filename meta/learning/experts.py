"""A set of step sizes mixed by exponential weights, for comparators that drift at an unknown speed (THEORY 4).

Each expert takes online gradient steps of one size, and its losses decide its weight, as in Ader (Zhang, Lu,
Zhou 2018). The loss of a start is a KL divergence, so exp(-f / mass) is concave in phi: exponential weights of the
rate 1 / mass lose only mass * ln(N) to the best expert, and need no setting (Cesa-Bianchi, Lugosi 2006, theorem 3.2). A
fixed share of the weight moves evenly to all experts, so that another one can take over when the drift changes its
speed (Herbster, Warmuth 1998).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.contract.tabular_model import FloatArray


@dataclass(frozen=True, slots=True)
class Experts:
    """N experts: their ``points`` [N, ...] and ``weights`` [N], which sum to 1."""

    points: NDArray[Any]
    weights: FloatArray

    def to_arrays(self) -> dict[str, Any]:
        """Everything by name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @staticmethod
    def from_arrays(parts: Mapping[str, Any]) -> Experts:
        """The inverse of :meth:`to_arrays`."""
        return Experts(**parts)


def alike(point: NDArray[Any], count: int) -> Experts:
    """``count`` experts that all start at ``point``."""
    return Experts(np.repeat(point[None], count, axis=0), np.full(count, 1.0 / count))


def step_size_grid(middle: float, count: int) -> FloatArray:
    """middle * 2^k [N] for k from -(N-1)/2 to (N-1)/2, as Ader's grid: neighbours differ by the factor 2."""
    return np.asarray(middle * 2.0 ** (np.arange(count) - 0.5 * (count - 1)))


def next_weights(weights: FloatArray, losses: FloatArray, mass: float, switching: float) -> FloatArray:
    """Weights [N] after a round of ``losses`` [N] that count ``mass`` tasks; unchanged where none counts.

    v_i proportional to w_i exp(-l_i / mass); w'_i = (1 - switching) v_i + switching / N.
    """
    if mass <= 0.0:
        return weights
    raised = weights * np.exp(-(losses - losses.min()) / mass)
    return np.asarray((1.0 - switching) * raised / raised.sum() + switching / weights.size)


def average(experts: Experts) -> FloatArray:
    """The points' average by weight."""
    return np.asarray(np.tensordot(experts.weights, experts.points, axes=1))


def heaviest(experts: Experts) -> int:
    """The expert with the greatest weight; ties go to the one nearest to the middle of the grid."""
    away = np.abs(np.arange(experts.weights.size) - 0.5 * (experts.weights.size - 1))
    return int(np.lexsort((away, -experts.weights))[0])
