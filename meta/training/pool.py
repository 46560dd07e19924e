"""The pool of workers that the loop sees, and the pool that runs in this process."""

from __future__ import annotations

import contextlib
import functools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from threadpoolctl import threadpool_limits

from meta.learning.kinds import Item
from meta.learning.online import State, contribute, step, warm_up
from meta.learning.settings import MetaSettings
from meta.offline.dice_settings import DICESettings
from meta.training.quarantine import Quarantine
from policies.common.results import Starts, TaskResult
from policies.exact.drawing import draw_task
from policies.exact.solver import OptimalPolicy
from policies.mixtures.team import Team, TeamStep, team_step
from policies.neural.neural_settings import NeuralSettings
from policies.neural.policy_state import PolicyState
from policies.solving.algorithms import Dataset, WithinTask
from policies.solving.solve_task import reference_solution, solve_task
from tasks.contract.family_registry import FamilySpec
from tasks.contract.memory import return_freed_memory
from tasks.contract.task import Split, Task


@dataclass(frozen=True, slots=True)
class Solved:
    """A finished task: its small result, and an opaque handle on its dataset (None where none was collected).

    Dropping the last handle on a dataset releases it, so no code may keep a handle after the estimate.
    """

    result: TaskResult
    dataset: Any


class DatasetLostError(RuntimeError):
    """A dataset vanished before the meta-learner read it; its task must be solved again."""


class ProcessLostError(RuntimeError):
    """The processes that should do something for the run kept dying, or did not answer."""


class Pool(Protocol):
    """Workers that draw and solve tasks of one family at a time.

    A task that fails is tried again as ``quarantine`` says, and yields no result where it is set aside.
    """

    quarantine: Quarantine

    @property
    def num_workers(self) -> int:
        """Tasks solved at the same time."""

    def use(self, family: FamilySpec) -> None:
        """Switch to another family (or another seed of the same)."""

    def draw(self, split: Split, indices: Sequence[int]) -> list[Task]:
        """Draw tasks, in the order of ``indices``."""

    def references(self, tasks: Sequence[Task]) -> Iterator[OptimalPolicy | None]:
        """The exact solutions, in the order of ``tasks``."""

    def solve(self, tasks: Sequence[Task], start: Starts, settings: WithinTask, *, collect: bool) -> Iterator[Solved]:
        """Solve tasks from one start, yielding them in the order they finish."""

    def solve_and_watch(
        self, tasks: Sequence[Task], start: Starts, settings: WithinTask, watch: Callable[[], bool]
    ) -> Iterator[Solved | None]:
        """As :meth:`solve`, with datasets; also yields None whenever ``watch``, polled while waiting, returns True."""

    def step_teams(self, teams: Sequence[Team], policy: PolicyState, settings: NeuralSettings) -> list[TeamStep]:
        """One direct step of ``policy`` by each team, in the order of ``teams``."""


class Pending(Protocol):
    """An estimate that may still be under way."""

    def ready(self) -> bool:
        """Whether :meth:`result` would return at once."""

    def result(self) -> Item:
        """Wait for it.

        Raises:
            DatasetLostError: the dataset is gone.
        """


@dataclass(frozen=True, slots=True)
class Done:
    """An estimate that was made at once; a :class:`Pending`."""

    item: Item

    def ready(self) -> bool:
        """Always."""
        return True

    def result(self) -> Item:
        """The estimate."""
        return self.item


class Learner(Protocol):
    """The meta-learner as the loop sees it."""

    def restore(self, state: State) -> None:
        """Continue from ``state``."""

    def estimate(self, dataset: Any, label: str) -> Pending:
        """Begin to estimate from the dataset behind the handle; ``label`` is its task's.

        Raises:
            DatasetLostError: it is gone.
        """

    def update(self, contributions: Sequence[Item]) -> State:
        """One online step on the losses of a round; the new state."""

    def warm_up(self, steps: Sequence[TeamStep]) -> State:
        """One round of direct steps; the new state."""


def solve_in_order(pool: Pool, tasks: Sequence[Task], start: Starts, within: WithinTask) -> list[TaskResult]:
    """Solve tasks without collecting datasets: results in task order, none for a task that is set aside."""
    found = (item.result for item in pool.solve(tasks, start, within, collect=False))
    return sorted(found, key=lambda result: result.task.index)


def solve_and_estimate(
    pool: Pool, learner: Learner, tasks: Sequence[Task], start: Starts, settings: WithinTask
) -> Iterator[tuple[TaskResult, Item]]:
    """Solve tasks and estimate each as it finishes; a task whose dataset is lost is solved again.

    An estimate under way delays no worker: the next task is assigned first.
    """
    missing = {task.index: task for task in tasks}
    while missing := {task.index: task for task in pool.quarantine.without(list(missing.values()))}:
        under_way = deque[tuple[TaskResult, Pending]]()

        def ready(under_way: deque[tuple[TaskResult, Pending]] = under_way) -> bool:
            return bool(under_way) and under_way[0][1].ready()

        for solved in pool.solve_and_watch(list(missing.values()), start, settings, ready):
            with contextlib.suppress(DatasetLostError):
                if solved is not None:
                    under_way.append((solved.result, learner.estimate(solved.dataset, solved.result.task.label)))
            del solved
            yield from _estimated(under_way, missing, wait=False)
        yield from _estimated(under_way, missing, wait=True)


def _estimated(
    under_way: deque[tuple[TaskResult, Pending]], missing: dict[int, Task], *, wait: bool
) -> Iterator[tuple[TaskResult, Item]]:
    """The oldest estimates as far as they are ready, or with ``wait`` all; their tasks are no longer ``missing``."""
    while under_way and (wait or under_way[0][1].ready()):
        result, pending = under_way.popleft()
        with contextlib.suppress(DatasetLostError):
            item = pending.result()
            del missing[result.task.index]
            yield result, item


class LocalPool:
    """Everything in this process, one task after the other; convenient for debugging."""

    def __init__(self, family: FamilySpec, quarantine: Quarantine | None = None) -> None:
        self.quarantine = Quarantine() if quarantine is None else quarantine
        self.use(family)

    @property
    def num_workers(self) -> int:
        """One."""
        return 1

    def use(self, family: FamilySpec) -> None:
        """Switch to another family."""
        self._spec = family
        self._family = family.make()

    def draw(self, split: Split, indices: Sequence[int]) -> list[Task]:
        """Draw tasks in order."""
        with threadpool_limits(1):
            return [draw_task(self._family, self._spec.name, self._spec.seed, split, index) for index in indices]

    def references(self, tasks: Sequence[Task]) -> Iterator[OptimalPolicy | None]:
        """Exact solutions in order."""
        for task in tasks:
            with threadpool_limits(1):
                solution = reference_solution(self._family, task)
            yield solution

    def solve(self, tasks: Sequence[Task], start: Starts, settings: WithinTask, *, collect: bool) -> Iterator[Solved]:
        """Solve tasks in order; the handle is the dataset itself."""
        for task in self.quarantine.without(tasks):
            solve = functools.partial(self._solve, task, start, settings, collect=collect)
            solved = self.quarantine.attempted(task, solve)
            if solved is not None:
                yield solved
                del solved

    def _solve(self, task: Task, start: Starts, settings: WithinTask, *, collect: bool) -> Solved:
        with threadpool_limits(1):
            result, dataset = solve_task(self._family, task, start, settings, collect=collect)
        return_freed_memory()
        return Solved(result, dataset)

    def solve_and_watch(
        self, tasks: Sequence[Task], start: Starts, settings: WithinTask, watch: Callable[[], bool]
    ) -> Iterator[Solved | None]:
        """This pool waits for nothing."""
        del watch
        yield from self.solve(tasks, start, settings, collect=True)

    def step_teams(self, teams: Sequence[Team], policy: PolicyState, settings: NeuralSettings) -> list[TeamStep]:
        """The teams one after the other."""
        with threadpool_limits(1):
            return [team_step(self._family, team, policy, settings) for team in teams]


class LocalLearner:
    """The meta-learner in this process."""

    def __init__(self, meta: MetaSettings, dice: DICESettings, num_iterations: int) -> None:
        self._meta, self._dice, self._num_iterations = meta, dice, num_iterations
        self._state: State | None = None

    def restore(self, state: State) -> None:
        """Continue from ``state``."""
        self._state = state

    def estimate(self, dataset: Dataset, label: str) -> Pending:
        """Estimate at once."""
        del label
        with threadpool_limits(1):
            return Done(contribute(dataset, self._dice, self._meta))

    def update(self, contributions: Sequence[Item]) -> State:
        """One online step."""
        if self._state is None:
            raise RuntimeError("restore a state before the first update")
        with threadpool_limits(1):
            self._state = step(self._state, contributions, self._meta, self._num_iterations)
        return self._state

    def warm_up(self, steps: Sequence[TeamStep]) -> State:
        """One round of direct steps."""
        if self._state is None:
            raise RuntimeError("restore a state before the first direct steps")
        self._state = warm_up(self._state, steps)
        return self._state
