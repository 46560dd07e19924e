"""A table that is a function of the task's context: averages of solved tasks, weighted by how near their contexts are.

    phi_h(a|s; c) = sum_i K_h(c, c_i) w_i nu_i(s) pi_i(a|s) / sum_i K_h(c, c_i) w_i nu_i(s)

with K_h(c, c') = exp(-dist(c, c') / h) minimises sum_i K_h(c, c_i) f_hat_i state by state; h = infinity is the plain
leader. A task starts from the mixture sum_h p_h phi_h of several bandwidths (conditional meta-learning: Denevi, Pontil,
Ciliberto 2020, arXiv 2008.10857).
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from policies.common.codec import Record
from tasks.contract.context import Distance
from tasks.contract.tabular_model import FloatArray

DIFFERING: Distance = "differing"


def shrink(policy: Float[FloatArray, "*any A"], shrinkage: float) -> Float[FloatArray, "*any A"]:
    """(1 - rho_min) policy + rho_min uniform: into the shrunk simplex, keeping the order of the actions."""
    return (1.0 - shrinkage) * policy + shrinkage / policy.shape[-1]


def leader(policy_sum: Float[FloatArray, "S A"], prior_weight: float) -> Float[FloatArray, "S A"]:
    """Follow the leader: phi(a|s) = sum_t nu_t(s) pi_t(a|s) / sum_t nu_t(s), with a uniform prior. [S, A] -> [S, A].

    ``policy_sum`` is sum_t nu_t(s) pi_t(a|s); a state that no task weighs keeps the uniform policy. Without the prior
    this is the exact minimiser of sum_t f_hat_t.
    """
    actions = policy_sum.shape[1]
    return (policy_sum + prior_weight / actions) / (policy_sum.sum(axis=1, keepdims=True) + prior_weight)


class ContextTable(Record):
    """A table for every context: the mixture sum_h p_h phi_h(.; c) of several maps.

    ``weighted`` [T, S, A] are the w_i nu_i(s) pi_i(a|s) of the tasks behind it, ``contexts`` [T, k] theirs, ``shares``
    [H] the p_h; ``shrinkage`` and ``prior_weight`` as of the plain leader.
    """

    __slots__ = ()
    contexts: FloatArray
    weighted: FloatArray
    shares: FloatArray
    shrinkage: float
    prior_weight: float

    @property
    def plain(self) -> Float[FloatArray, "S A"]:
        """The table for an unknown context: the plain leader of all tasks."""
        return shrink(leader(self.recent.sum(axis=0), self.prior_weight), self.shrinkage)

    @property
    def recent(self) -> Float[FloatArray, "T S A"]:
        """``weighted``, earlier tasks counting less where the start forgets."""
        return self.weighted

    def at(self, context: Float[FloatArray, " k"]) -> Float[FloatArray, "S A"]:
        """The mixture sum_h p_h phi_h(.; c)."""
        return np.asarray(np.tensordot(self.shares, self.tables(context), axes=1))

    @abstractmethod
    def tables(self, context: Float[FloatArray, " k"]) -> Float[FloatArray, "H S A"]:
        """phi_h(.; c) of every map."""

    @abstractmethod
    def with_tasks(
        self,
        contexts: Float[FloatArray, "N k"],
        weighted: Float[FloatArray, "N S A"],
        forgetting: float,
        shares: Float[FloatArray, " H"],
    ) -> Self:
        """The table after N more tasks; earlier ones count ``forgetting`` times as much."""


@dataclass(frozen=True, slots=True)
class KernelTable(ContextTable):
    """phi(.; c) after T tasks.

    ``contexts`` [T, k]; ``weighted`` [T, S, A] the w_i nu_i(s) pi_i(a|s); ``bandwidths`` [H] and their ``shares`` [H];
    ``shrinkage`` and ``prior_weight`` as of the plain leader; ``distance`` compares contexts.
    """

    contexts: FloatArray
    weighted: FloatArray
    bandwidths: FloatArray
    shares: FloatArray
    shrinkage: float
    prior_weight: float
    distance: Distance

    def tables(self, context: Float[FloatArray, " k"]) -> Float[FloatArray, "H S A"]:
        """phi_h(.; c) of every bandwidth."""
        kernels = kernel(self.contexts, context, self.bandwidths, self.distance)
        sums = np.tensordot(kernels, self.weighted, axes=1)
        return np.array([shrink(leader(one, self.prior_weight), self.shrinkage) for one in sums])

    def with_tasks(
        self,
        contexts: Float[FloatArray, "N k"],
        weighted: Float[FloatArray, "N S A"],
        forgetting: float,
        shares: Float[FloatArray, " H"],
    ) -> KernelTable:
        """The table after N more tasks; earlier ones count ``forgetting`` times as much."""
        return dataclasses.replace(
            self,
            contexts=np.concatenate([self.contexts, contexts]),
            weighted=np.concatenate([forgetting * self.weighted, weighted]),
            shares=shares,
        )


def kernel(
    contexts: Float[FloatArray, "T k"], context: Float[FloatArray, " k"], bandwidths: FloatArray, distance: Distance
) -> Float[FloatArray, "H T"]:
    """K_h(c, c_i) = exp(-dist(c, c_i) / h), which is 1 for an infinite h.

    The distance is the number of entries that differ, or the Euclidean one of normalised contexts.
    """
    apart = contexts - context
    far = (apart != 0.0).sum(axis=1) if distance == DIFFERING else np.sqrt((apart**2).sum(axis=1))
    return np.exp(-far[None, :] / bandwidths[:, None])


def to_kernel_arrays(table: KernelTable) -> dict[str, NDArray[Any]]:
    """Every part as an array, as safetensors stores it, with the table for an unknown context as ``probabilities``."""
    numbers = np.array([table.shrinkage, table.prior_weight, float(table.distance == DIFFERING)])
    arrays = {name: getattr(table, name) for name in ("contexts", "weighted", "bandwidths", "shares")}
    return {**arrays, "numbers": numbers, "probabilities": table.plain}


def from_kernel_arrays(arrays: Mapping[str, NDArray[Any]], shape: tuple[int, int]) -> KernelTable:
    """The inverse of :func:`to_kernel_arrays` for tables of ``shape`` [S, A].

    Raises:
        ValueError: a part does not fit the others, or is not a number in its range.
    """
    contexts, weighted = arrays["contexts"], arrays["weighted"]
    bandwidths, shares, numbers = arrays["bandwidths"], arrays["shares"], arrays["numbers"]
    if weighted.shape != (len(contexts), *shape) or contexts.ndim != 2:
        raise ValueError(f"weighted must have the shape [{len(contexts)}, {shape[0]}, {shape[1]}], one entry a context")
    if not (weighted >= 0.0).all() or not np.isfinite(weighted).all() or not np.isfinite(contexts).all():
        raise ValueError("weighted and contexts must be finite, and weighted at least 0")
    if shares.shape != bandwidths.shape or not (bandwidths > 0.0).all() or not np.isclose(shares.sum(), 1.0):
        raise ValueError("bandwidths must be positive, with a share each that sum to 1")
    if numbers.shape != (3,) or not (0.0 < numbers[0] < 1.0) or not numbers[1] > 0.0:
        raise ValueError("shrinkage must lie in (0, 1) and prior_weight above 0")
    distance: Distance = DIFFERING if numbers[2] else "euclidean"
    return KernelTable(contexts, weighted, bandwidths, shares, float(numbers[0]), float(numbers[1]), distance)
