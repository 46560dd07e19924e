"""Several batches stepped as one: copies of different tasks, so that one policy call serves them all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.contract.contextual_family import ContextualFamily, plain_family
from tasks.contract.task import Task, TaskError, TaskFamily
from tasks.stepping.batch import BatchEnvironment, BoolArray, Float32Array, FloatArray, make_plain_batch
from tasks.stepping.context_batch import ContextBatch


class JoinedBatch:
    """A :class:`tasks.stepping.batch.BatchEnvironment` of all copies of ``batches``, one after the other."""

    def __init__(self, batches: Sequence[BatchEnvironment]) -> None:
        first = batches[0]
        for batch in batches[1:]:
            if (batch.observation_size, batch.num_costs, batch.num_actions, batch.horizon) != (
                first.observation_size,
                first.num_costs,
                first.num_actions,
                first.horizon,
            ):
                raise TaskError("batches of tasks with other observations, actions, costs or horizons cannot be joined")
        self._batches = batches
        ends = np.cumsum([batch.num_copies for batch in batches])
        self._places = [slice(int(end) - batch.num_copies, int(end)) for batch, end in zip(batches, ends, strict=True)]
        self.num_copies = int(ends[-1])
        self.observation_size, self.num_costs, self.horizon = first.observation_size, first.num_costs, first.horizon
        self.num_actions, self.action_low, self.action_high = first.num_actions, first.action_low, first.action_high
        self.observations: Float32Array = np.zeros((self.num_copies, self.observation_size), np.float32)
        self.reward: FloatArray = np.zeros(self.num_copies)
        self.costs: FloatArray = np.zeros((self.num_copies, self.num_costs))
        self.terminated: BoolArray = np.zeros(self.num_copies, np.bool_)
        self.truncated: BoolArray = np.zeros(self.num_copies, np.bool_)

    def reset(self, copies: NDArray[Any], seeds: NDArray[Any]) -> None:
        """See :class:`tasks.stepping.batch.BatchEnvironment`."""
        for batch, place in zip(self._batches, self._places, strict=True):
            own = (copies >= place.start) & (copies < place.stop)
            if own.any():
                batch.reset(copies[own] - place.start, seeds[own])
                self.observations[place] = batch.observations

    def step(self, actions: NDArray[Any]) -> None:
        """See :class:`tasks.stepping.batch.BatchEnvironment`."""
        for batch, place in zip(self._batches, self._places, strict=True):
            batch.step(actions[place])
            self.observations[place] = batch.observations
            self.reward[place], self.costs[place] = batch.reward, batch.costs
            self.terminated[place], self.truncated[place] = batch.terminated, batch.truncated

    def close(self) -> None:
        """Close every batch."""
        for batch in self._batches:
            batch.close()


def make_mixed_batch(
    family: TaskFamily, tasks: Sequence[Task], copies_of_each: int, contexts: FloatArray | None = None
) -> BatchEnvironment:
    """``copies_of_each`` copies of every task: the family's own ``mixed_batch`` where it has one, else joined batches.

    Copy j belongs to task j // copies_of_each. A family whose tasks share one simulator can step all of them at once:
    ``mixed_batch(parameters, copies_of_each, label=...)`` returns None where it cannot. ``contexts`` [G, k] of the
    tasks take the place of those that the family gives.
    """
    plain = plain_family(family)
    own = getattr(plain, "mixed_batch", None)
    label = f"{tasks[0].label} and {len(tasks) - 1} more"
    made: BatchEnvironment | None = None
    if own is not None:
        made = own([task.parameters for task in tasks], copies_of_each, label=label)
    batch = made or JoinedBatch([make_plain_batch(plain, task, copies_of_each) for task in tasks])
    if not isinstance(family, ContextualFamily):
        return batch
    if contexts is None:
        contexts = np.array([family.context_of(task) for task in tasks])
    return ContextBatch(batch, np.repeat(contexts, copies_of_each, axis=0))
