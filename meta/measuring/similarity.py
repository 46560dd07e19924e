"""How alike the tasks of a sequence are: D*^2, V_psi^2 and the path length of the comparators."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.special import entr, xlogy

from policies.exact.solver import OptimalPolicy
from tasks.contract.tabular_model import FloatArray


@dataclass(frozen=True, slots=True)
class Similarity:
    """How alike the tasks of a sequence are. ``comparator`` [S, A] minimises the first.

    ``task_similarity``: D*^2. ``task_relatedness``: V_psi^2 with one comparator per segment; ``path_length``: sum over
    segment borders of the occupancy-weighted L1 distance of the comparators.
    """

    task_similarity: float
    comparator: FloatArray
    task_relatedness: float
    path_length: float


def similarity(references: Iterable[OptimalPolicy], num_segments: int, num_tasks: int) -> Similarity:
    """D*^2 and V_psi^2 of a sequence of ``num_tasks`` optimal policies; one pass, memory of ``num_segments`` policies.

    min_phi (1/T) sum_t E_{nu*_t}[KL(pi*_t || phi)] is reached by the nu*-weighted average policy.
    """
    sums: list[FloatArray] = []
    negative_entropy, count = 0.0, 0
    for index, reference in enumerate(references):
        segment = index * num_segments // num_tasks
        weighted = reference.occupancy[:, None] * reference.policy
        if segment == len(sums):
            sums.append(np.zeros_like(weighted))
        sums[segment] += weighted
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
    )


def _average_policy(weighted: FloatArray) -> FloatArray:
    mass = weighted.sum(axis=1, keepdims=True)
    return np.where(mass > 0.0, weighted / np.where(mass > 0.0, mass, 1.0), 1.0 / weighted.shape[1])
