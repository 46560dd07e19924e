"""The meta-learner on Ray: an actor that updates the state, Ray tasks that estimate, and their common interface."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.exceptions import ObjectLostError, RayTaskError
from threadpoolctl import threadpool_limits

from distributed.cluster.ray_pool import LOST, wait_for
from meta.learning.kinds import Item
from meta.learning.online import State, contribute
from meta.learning.settings import MetaSettings
from meta.offline.dice_settings import DICESettings
from meta.training.pool import DatasetLostError, LocalLearner, Pending
from policies.mixtures.team import TeamStep
from policies.solving.algorithms import Dataset
from tasks.contract.memory import return_freed_memory


@ray.remote(num_cpus=0)
def _estimate(dataset: Dataset, dice: DICESettings, meta: MetaSettings) -> tuple[Item, float]:
    """Estimate on one dataset, on the node that holds it; return the contribution and the seconds it took."""
    began = time.perf_counter()
    with threadpool_limits(1):
        item = contribute(dataset, dice, meta)
    del dataset
    return_freed_memory()
    return item, time.perf_counter() - began


@ray.remote(num_cpus=0)
class MetaLearner:
    """Updates the state. Estimates are separate Ray tasks, which run on the nodes of the datasets.

    The actor and the estimates request no CPU: they run while workers wait (``make bench`` measures their share).
    """

    def __init__(self, meta: MetaSettings, dice: DICESettings, num_iterations: int) -> None:
        self._learner = LocalLearner(meta, dice, num_iterations)
        self._tasks, self._rounds, self._busy = 0, 0, 0.0

    def __repr__(self) -> str:
        """Name of the actor. Ray reads it at creation only."""
        return f"MetaLearner(round={self._rounds}, tasks={self._tasks})" if self._tasks else "MetaLearner"

    def pid(self) -> int:
        """Process id."""
        return os.getpid()

    def busy_seconds(self) -> float:
        """Seconds spent on updates."""
        return self._busy

    def restore(self, state: State) -> None:
        """Continue from ``state``."""
        self._learner.restore(state)
        self._rounds, self._tasks = state.num_rounds, state.num_tasks

    def update(self, contributions: list[Item]) -> State:
        """Take one online step and return the new state."""
        began = time.perf_counter()
        state = self._learner.update(contributions)
        self._rounds, self._tasks = state.num_rounds, state.num_tasks
        return_freed_memory()
        self._busy += time.perf_counter() - began
        return state

    def warm_up(self, steps: list[TeamStep]) -> State:
        """Take one round of direct steps and return the new state."""
        began = time.perf_counter()
        state = self._learner.warm_up(steps)
        self._busy += time.perf_counter() - began
        return state


_Actor: Any = MetaLearner


class _Estimate:
    """A running estimate; a :class:`meta.training.pool.Pending`."""

    def __init__(self, reference: ray.ObjectRef[tuple[Item, float]], spent: list[float]) -> None:
        self._reference, self._spent = reference, spent

    def ready(self) -> bool:
        """Whether the task has ended, successfully or not."""
        return bool(wait_for([self._reference], 1, 0.0)[0])

    def result(self) -> Item:
        """Wait for the contribution. Ray reruns the task if its process died.

        Raises:
            DatasetLostError: The dataset no longer exists.
        """
        try:
            item, seconds = ray.get(self._reference)
        except ObjectLostError as error:
            raise DatasetLostError(str(error)) from error
        except RayTaskError as error:
            if isinstance(error.cause, ObjectLostError):
                raise DatasetLostError(str(error.cause)) from error
            raise error.cause from error
        self._spent.append(seconds)
        found: Item = item
        return found


class RayLearner:
    """A :class:`meta.training.pool.Learner` on Ray. If its actor dies, a new one continues from the last state."""

    def __init__(self, meta: MetaSettings, dice: DICESettings, num_iterations: int, retries: int) -> None:
        self._arguments = (meta, dice, num_iterations)
        self._retries = retries
        self._state: State | None = None
        self._settings = ray.put(dice), ray.put(meta)
        self._spent: list[float] = []
        self.actor: Any = self._make()

    def restore(self, state: State) -> None:
        """Continue from ``state``."""
        self._state = state
        ray.get(self.actor.restore.remote(state))

    def estimate(self, dataset: ray.ObjectRef[Dataset], label: str) -> Pending:
        """Start an estimate on the dataset behind an object reference; the data do not pass through this process."""
        task: Any = _estimate
        reference = task.options(name=f"estimate {label}", max_retries=self._retries).remote(dataset, *self._settings)
        return _Estimate(reference, self._spent)

    def update(self, contributions: Sequence[Item]) -> State:
        """Take one online step and return the new state, on a new actor if the current one died."""
        given = list(contributions)
        return self._next_state(lambda: self.actor.update.options(name="MetaLearner.update").remote(given))

    def warm_up(self, steps: Sequence[TeamStep]) -> State:
        """Take one round of direct steps and return the new state, on a new actor if the current one died."""
        given = list(steps)
        return self._next_state(lambda: self.actor.warm_up.options(name="MetaLearner.warm_up").remote(given))

    def _next_state(self, call: Callable[[], Any]) -> State:
        for attempt in range(self._retries + 1):
            try:
                state: State = ray.get(call())
            except RayTaskError as error:
                raise error.cause from error
            except LOST:
                if attempt == self._retries:
                    raise
                self.actor = self._make()
                if self._state is not None:
                    ray.get(self.actor.restore.remote(self._state))
            else:
                self._state = state
                return state
        raise AssertionError("unreachable")

    def busy_seconds(self) -> float:
        """Seconds spent on estimates and updates."""
        return sum(self.seconds())

    def seconds(self) -> tuple[float, float]:
        """Seconds spent on estimates, and on updates by the current actor."""
        return sum(self._spent), float(ray.get(self.actor.busy_seconds.remote()))

    def _make(self) -> Any:
        return _Actor.remote(*self._arguments)
