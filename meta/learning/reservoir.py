"""A bounded sample of what all tasks so far would have the start do: follow-the-leader's memory for neural policies."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from policies.neural.networks import Array
from policies.neural.policy_state import PolicyState
from tasks.contract.tabular_model import FloatArray
from tasks.stepping.batch import Float32Array

_STREAM = 32


@dataclass(frozen=True, slots=True)
class Targets:
    """Where and what: ``observations`` [N, d], the ``outputs`` [N, k] and ``extras`` [N, e] of the policy to imitate
    there, and the ``weights`` [N] of the rows, 1 in the mean.
    """

    observations: Float32Array
    outputs: Array
    extras: Array
    weights: FloatArray


def targets_of(policy: PolicyState, observations: Float32Array, weights: FloatArray) -> Targets:
    """``policy`` at ``observations`` [N, d]."""
    outputs, extra = policy.act(observations)
    return Targets(observations, outputs, np.tile(extra, (len(outputs), 1)), weights)


def joined(parts: Sequence[Targets]) -> Targets:
    """All rows, with weights of mean 1."""
    observations, outputs, extras, weights = (
        np.concatenate([getattr(part, field.name) for part in parts]) for field in dataclasses.fields(Targets)
    )
    return Targets(observations, outputs, extras, weights / weights.mean())


@dataclass(frozen=True, slots=True)
class Reservoir:
    """At most a set number of rows [R] of all that were offered, each kept with a chance that grows with its weight.

    A row's key is log(weight) plus Gumbel noise, and the greatest keys stay: a weighted sample without replacement
    (Efraimidis, Spirakis 2006, in logarithms), one row at a time, in one pass. Kept rows count alike.
    """

    observations: Float32Array
    outputs: Array
    extras: Array
    keys: FloatArray

    def targets(self) -> Targets:
        """The rows kept, all of weight 1."""
        return Targets(self.observations, self.outputs, self.extras, np.ones(len(self.keys)))

    def forget(self, factor: float) -> Reservoir:
        """Every weight times ``factor`` in (0, 1], so that what comes later weighs more."""
        return dataclasses.replace(self, keys=self.keys + np.log(factor))

    def to_arrays(self) -> dict[str, Any]:
        """Everything by name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @staticmethod
    def from_arrays(parts: Mapping[str, Any]) -> Reservoir:
        """The inverse of :meth:`to_arrays`."""
        return Reservoir(**parts)


def offer(reservoir: Reservoir | None, targets: Targets, size: int, task_index: int) -> Reservoir:
    """The reservoir with the rows of one task offered; the chance depends on the task's index, not on the order."""
    rng = np.random.default_rng([_STREAM, task_index])
    with np.errstate(divide="ignore"):
        keys = np.log(targets.weights) + rng.gumbel(size=len(targets.weights))
    offered = Reservoir(targets.observations, targets.outputs, targets.extras, keys)
    old = [] if reservoir is None else [reservoir]
    columns = {
        field.name: np.concatenate([getattr(part, field.name) for part in (*old, offered)])
        for field in dataclasses.fields(Reservoir)
    }
    kept = np.flatnonzero(columns["keys"] > -np.inf)
    if len(kept) > size:
        kept = np.sort(kept[np.argsort(-columns["keys"][kept], kind="stable")[:size]])
    return Reservoir(**{name: column[kept] for name, column in columns.items()})
