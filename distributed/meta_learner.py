"""The meta-learner: one thin actor around :mod:`meta.learner`, and the loop's view of it."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import ObjectLostError, RayTaskError

from distributed.pool import LOST
from meta.dice_settings import DICESettings
from meta.learner import MetaSettings
from meta.learning import Item, State
from meta.pool import DatasetLostError, LocalLearner
from policies.solving import Dataset
from tasks.memory import return_freed_memory


@ray.remote(num_cpus=0)
class MetaLearner:
    """Reads datasets from the object store, runs DualDICE on them and takes the online steps.

    Declared with no CPU: it works in the pauses of the workers (its busy share is in ``make bench``).
    """

    def __init__(self, meta: MetaSettings, dice: DICESettings, num_iterations: int) -> None:
        self._learner = LocalLearner(meta, dice, num_iterations)
        self._estimated, self._rounds, self._busy = 0, 0, 0.0

    def __repr__(self) -> str:
        """Name of the actor. Ray reads it once, at creation."""
        return f"MetaLearner(round={self._rounds}, tasks={self._estimated})" if self._estimated else "MetaLearner"

    def pid(self) -> int:
        """Process id."""
        return os.getpid()

    def busy_seconds(self) -> float:
        """Seconds spent estimating and updating."""
        return self._busy

    def restore(self, state: State) -> None:
        """Go on from ``state``."""
        self._learner.restore(state)
        self._rounds = state.num_rounds

    def estimate(self, dataset: Dataset) -> Item:
        """Run DICE on one dataset."""
        began = time.perf_counter()
        item = self._learner.estimate(dataset)
        self._estimated += 1
        self._busy += time.perf_counter() - began
        return item

    def update(self, contributions: list[Item]) -> State:
        """One online step."""
        began = time.perf_counter()
        state = self._learner.update(contributions)
        self._rounds = state.num_rounds
        return_freed_memory()
        self._busy += time.perf_counter() - began
        return state


_Actor: Any = MetaLearner


class RayLearner:
    """The loop's meta-learner on Ray. If its actor dies, a new one goes on from the last state."""

    def __init__(self, meta: MetaSettings, dice: DICESettings, num_iterations: int, retries: int) -> None:
        self._arguments = (meta, dice, num_iterations)
        self._retries = retries
        self._state: State | None = None
        self.actor: Any = self._make()

    def restore(self, state: State) -> None:
        """Go on from ``state``."""
        self._state = state
        ray.get(self.actor.restore.remote(state))

    def estimate(self, dataset: Any) -> Item:
        """Run DICE on the dataset behind an object reference; the dataset does not pass through this process."""
        try:
            return self._call("estimate", dataset)
        except ObjectLostError as error:
            raise DatasetLostError(str(error)) from error

    def update(self, contributions: Sequence[Item]) -> State:
        """One online step."""
        self._state = self._call("update", list(contributions))
        return self._state

    def busy_seconds(self) -> float:
        """Seconds that the actor spent estimating and updating."""
        return float(ray.get(self.actor.busy_seconds.remote()))

    def _make(self) -> Any:
        return _Actor.remote(*self._arguments)

    def _call(self, method: str, argument: Any) -> Any:
        for attempt in range(self._retries + 1):
            try:
                return ray.get(getattr(self.actor, method).options(name=f"MetaLearner.{method}").remote(argument))
            except RayTaskError as error:
                raise error.cause from error
            except LOST:
                if attempt == self._retries:
                    raise
                self.actor = self._make()
                if self._state is not None:
                    ray.get(self.actor.restore.remote(self._state))
        raise AssertionError("unreachable")
