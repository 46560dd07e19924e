"""How alike the tasks of a sequence are: D*^2, V_psi^2 and the path length of the comparators."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from scipy.special import entr, xlogy

from policies.exact.solver import OptimalPolicy
from policies.tabular.kernel_table import ContextTable
from tasks.contract.tabular_model import FloatArray

_PRIOR = 1e-12
"""Weight of the uniform policy in a comparator: next to none."""


@dataclass(frozen=True, slots=True)
class Similarity:
    """How alike the tasks of a sequence are. ``comparator`` [S, A] minimises the first.

    ``task_similarity``: D*^2. ``task_relatedness``: V_psi^2 with one comparator per segment; ``path_length``: sum over
    segment borders of the occupancy-weighted L1 distance of the comparators. ``conditional_similarity``: D*^2_Phi,
    where the comparator may depend on the context; None without contexts.
    """

    task_similarity: float
    comparator: FloatArray
    task_relatedness: float
    path_length: float
    conditional_similarity: float | None = None


@dataclass(frozen=True, slots=True)
class ContextMaps:
    """The class Phi of comparators: the maps of an empty ``table`` over the ``contexts`` [T, k] of all tasks.

    An infinite bandwidth, or an infinite ridge, is the constant comparator.
    """

    contexts: FloatArray
    table: ContextTable


def similarity(
    references: Iterable[OptimalPolicy], num_segments: int, num_tasks: int, maps: ContextMaps | None = None
) -> Similarity:
    """D*^2 and V_psi^2 of a sequence of ``num_tasks`` optimal policies, and with ``maps`` D*^2_Phi.

    min_phi (1/T) sum_t E_{nu*_t}[KL(pi*_t || phi)] is reached by the nu*-weighted average policy. One pass; memory of
    ``num_segments`` policies, with ``maps`` of all.
    """
    kept: list[FloatArray] = []
    sums: list[FloatArray] = []
    negative_entropy, count = 0.0, 0
    for index, reference in enumerate(references):
        segment = index * num_segments // num_tasks
        weighted = reference.occupancy[:, None] * reference.policy
        if segment == len(sums):
            sums.append(np.zeros_like(weighted))
        sums[segment] += weighted
        if maps is not None:
            kept.append(weighted)
        negative_entropy -= float(reference.occupancy @ entr(reference.policy).sum(axis=1))
        count += 1
    total = np.sum(sums, axis=0)
    comparators = [_average_policy(weighted) for weighted in sums]
    cross = sum(float(xlogy(weighted, policy).sum()) for weighted, policy in zip(sums, comparators, strict=True))
    overall = _average_policy(total)
    visits = total.sum(axis=1) / count
    path = sum(float(visits @ np.abs(b - a).sum(axis=1)) for a, b in itertools.pairwise(comparators))
    return Similarity(
        task_similarity=(negative_entropy - float(xlogy(total, overall).sum())) / count,
        comparator=overall,
        task_relatedness=(negative_entropy - cross) / count,
        path_length=path,
        conditional_similarity=None if maps is None else conditional_similarity(np.array(kept), maps),
    )


def conditional_similarity(weighted: FloatArray, maps: ContextMaps) -> float:
    """D*^2_Phi = min_h (1/T) sum_t E_{nu*_t}[KL(pi*_t || phi_h(.; c_t))] for ``weighted`` [T, S, A] nu*_t pi*_t.

    phi_h is the kernel average of all tasks, or the log-linear map that fits them best with a ridge (conditional
    meta-learning: Denevi, Pontil, Ciliberto 2020, arXiv 2008.10857). With the constant map among them it is at most
    D*^2.
    """
    occupancies = weighted.sum(axis=2)
    negative_entropy = float(xlogy(weighted, weighted).sum() - xlogy(occupancies, occupancies).sum())
    exact = dataclasses.replace(cast(Any, maps.table), shrinkage=0.0, prior_weight=_PRIOR)
    table: ContextTable = exact.with_tasks(maps.contexts, weighted, 1.0, maps.table.shares)
    cross = np.zeros(table.shares.size)
    for context, own in zip(maps.contexts, weighted, strict=True):
        cross += xlogy(own, table.tables(context)).sum(axis=(1, 2))
    return float((negative_entropy - cross).min() / len(weighted))


def _average_policy(weighted: FloatArray) -> FloatArray:
    mass = weighted.sum(axis=1, keepdims=True)
    return np.where(mass > 0.0, weighted / np.where(mass > 0.0, mass, 1.0), 1.0 / weighted.shape[1])
