"""The meta-learner on Ray: an actor that updates the state, Ray tasks that estimate, and their common interface."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import ray
from ray.exceptions import ObjectLostError
from threadpoolctl import threadpool_limits

from distributed.cluster.calls import Lone, Reference, Rules, end_actor, put, wait_for
from distributed.cluster.health import asking
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
    """An estimate under way; a :class:`meta.training.pool.Pending`."""

    def __init__(self, label: str, send: Callable[[], Reference], rules: Rules, spent: list[float]) -> None:
        self._send, self._spent = send, spent
        self._label, self._rules = label, rules
        self._first: Reference | None = send()
        self._reference = self._first

    def ready(self) -> bool:
        """Whether the first try has ended, successfully or not."""
        return bool(wait_for([self._reference], 1, 0.0)[0])

    def result(self) -> Item:
        """Wait for the contribution.

        Raises:
            DatasetLostError: The dataset no longer exists.
            WorkerLostError: The processes of the estimate were lost too often.
        """
        try:
            item, seconds = Lone(f"estimate {self._label}", self._call, self._drop, self._rules).value()
        except ObjectLostError as error:
            raise DatasetLostError(str(error)) from error
        finally:
            del self._send  # it holds the dataset
        self._spent.append(seconds)
        found: Item = item
        return found

    def _call(self) -> Reference:
        """The first try, which is under way; later ones are made anew."""
        first, self._first = self._first, None
        return self._send() if first is None else first

    def _drop(self, reference: Reference) -> None:
        """Leave a process that died or does not answer; it takes no CPU from others."""
        with contextlib.suppress(Exception):
            ray.cancel(reference, force=True)


class RayLearner:
    """A :class:`meta.training.pool.Learner` on Ray. If its actor is lost, a new one continues from the last state.

    Every call to the actor goes through :meth:`_ask`.
    """

    def __init__(self, meta: MetaSettings, dice: DICESettings, num_iterations: int, rules: Rules) -> None:
        self._arguments, self._rules = (meta, dice, num_iterations), rules
        self._state: State | None = None
        self._restored = True
        self._settings = put(dice), put(meta)
        self._spent: list[float] = []
        self.actor: Any = self._make()

    def restore(self, state: State) -> None:
        """Continue from ``state``."""
        self._state, self._restored = state, True
        self._ask("restore", state)

    def estimate(self, dataset: ray.ObjectRef[Dataset], label: str) -> Pending:
        """Start an estimate on the dataset behind an object reference; the data do not pass through this process."""
        task: Any = _estimate
        named = task.options(name=f"estimate {label}", max_retries=0)
        return _Estimate(label, lambda: named.remote(dataset, *self._settings), self._rules, self._spent)

    def update(self, contributions: Sequence[Item]) -> State:
        """Take one online step and return the new state."""
        return self._next_state("update", list(contributions))

    def warm_up(self, steps: Sequence[TeamStep]) -> State:
        """Take one round of direct steps and return the new state."""
        return self._next_state("warm_up", list(steps))

    def busy_seconds(self) -> float:
        """Seconds spent on estimates and updates."""
        return sum(self.seconds())

    def seconds(self) -> tuple[float, float]:
        """Seconds spent on estimates, and on updates by the current actor."""
        return sum(self._spent), float(self._ask("busy_seconds"))

    def _next_state(self, method: str, given: list[Any]) -> State:
        self._state = cast("State", self._ask(method, given))
        return self._state

    def _ask(self, method: str, *arguments: Any) -> Any:
        """The answer of the actor; a new one first gets the last state."""

        def call() -> Reference:
            if not self._restored and self._state is not None:
                self.actor.restore.remote(self._state)
                self._restored = True
            named = getattr(self.actor, method).options(name=f"MetaLearner.{method}")
            return cast("Reference", named.remote(*arguments))

        return Lone(f"MetaLearner.{method}", call, self._replace, self._rules).value()

    def _replace(self, reference: Reference) -> None:
        del reference
        end_actor(self.actor)
        self.actor, self._restored = self._make(), False

    def _make(self) -> Any:
        with asking():
            return _Actor.remote(*self._arguments)
