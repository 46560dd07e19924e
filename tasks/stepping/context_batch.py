"""Batches whose observations carry the context of their task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tasks.contract.contextual_family import ContextualFamily
from tasks.contract.task import Task, TaskFamily

if TYPE_CHECKING:
    from tasks.stepping.batch import BatchEnvironment


class ContextBatch:
    """A :class:`tasks.stepping.batch.BatchEnvironment` with contexts: row j of ``contexts`` [n, k] follows the
    observation of copy j.
    """

    def __init__(self, batch: BatchEnvironment, contexts: NDArray[np.float64]) -> None:
        self._batch = batch
        self.num_copies, self.num_costs, self.horizon = batch.num_copies, batch.num_costs, batch.horizon
        self.num_actions, self.action_low, self.action_high = batch.num_actions, batch.action_low, batch.action_high
        self._size, self.context_size = batch.observation_size, contexts.shape[1]
        self.observation_size = self._size + contexts.shape[1]
        self.observations = np.zeros((batch.num_copies, self.observation_size), np.float32)
        self.observations[:, self._size :] = contexts
        self.reward, self.costs = batch.reward, batch.costs
        self.terminated, self.truncated = batch.terminated, batch.truncated

    def reset(self, copies: NDArray[Any], seeds: NDArray[Any]) -> None:
        """See :class:`tasks.stepping.batch.BatchEnvironment`."""
        self._batch.reset(copies, seeds)
        self.observations[:, : self._size] = self._batch.observations

    def step(self, actions: NDArray[Any]) -> None:
        """See :class:`tasks.stepping.batch.BatchEnvironment`."""
        batch = self._batch
        batch.step(actions)
        self.observations[:, : self._size] = batch.observations
        self.reward, self.costs = batch.reward, batch.costs
        self.terminated, self.truncated = batch.terminated, batch.truncated

    def close(self) -> None:
        """Close the batch."""
        self._batch.close()


def with_context(family: TaskFamily, task: Task, batch: BatchEnvironment) -> BatchEnvironment:
    """``batch`` of ``task`` with the task's context in its observations, where the family has contexts."""
    if not isinstance(family, ContextualFamily):
        return batch
    return ContextBatch(batch, np.tile(family.context_of(task), (batch.num_copies, 1)))
