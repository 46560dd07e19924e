"""The pool of Ray workers: assigns tasks, replaces workers that die, and reruns their tasks."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import ray
from ray.actor import ActorHandle
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayActorError, RayTaskError, WorkerCrashedError

from distributed.cluster.worker import CRPOWorker
from meta.training.pool import Solved
from policies.common.results import Starts
from policies.exact.solver import OptimalPolicy
from policies.mixtures.team import Team, TeamStep
from policies.neural.neural_settings import NeuralSettings
from policies.neural.policy_state import PolicyState
from policies.solving.algorithms import WithinTask
from tasks.contract.family_registry import FamilySpec
from tasks.contract.task import Split, Task

_Worker: Any = CRPOWorker
Reference = ray.ObjectRef[Any]
_WATCH_SECONDS = 0.1


LOST = (RayActorError, OutOfMemoryError, WorkerCrashedError, NodeDiedError)
"""Errors for a dead process; one killed by Ray's memory monitor raises no RayActorError."""


def wait_for(references: list[Reference], count: int, seconds: float | None) -> tuple[list[Reference], list[Reference]]:
    """``ray.wait`` that re-raises the exception of a signal handler, which Ray may wrap in a SystemError."""
    try:
        return ray.wait(references, num_returns=count, timeout=seconds)
    except SystemError as error:
        if error.__cause__ is None:
            raise
        raise error.__cause__ from None


class WorkerLostError(RuntimeError):
    """The workers of a task kept dying, or workers did not start."""


@dataclass(frozen=True)
class _Call:
    """A call of a worker's method, without the family, which every method takes first."""

    name: str
    method: Literal["draw", "reference", "solve", "team_step"]
    arguments: tuple[Any, ...]

    def send(self, worker: ActorHandle[Any], family: FamilySpec) -> Reference:
        """Make the call on ``worker``; return the reference to its result."""
        methods: dict[str, Any] = {
            "draw": worker.draw,
            "reference": worker.reference,
            "solve": worker.solve,
            "team_step": worker.team_step,
        }
        reference: Reference = methods[self.method].options(name=self.name).remote(family, *self.arguments)
        return reference


class RayPool:
    """CRPO workers as actors; a :class:`meta.training.pool.Pool`.

    Each worker holds one task at a time, so a crash costs one task, which is rerun up to ``retries`` times.
    ``retried`` counts reruns.
    """

    def __init__(
        self,
        family: FamilySpec,
        num_workers: int,
        retries: int,
        start_timeout_seconds: float,
        say: Callable[[str], None] = lambda message: None,
    ) -> None:
        self._spec, self._retries, self._say = family, retries, say
        self._made, self.retried = 0, 0
        self._workers = [self._make_worker() for _ in range(num_workers)]
        started: list[Reference] = [worker.pid.remote() for worker in self._workers]
        ready, waiting = wait_for(started, num_workers, start_timeout_seconds)
        if waiting:
            resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
            have = resources.get("CPU", 0.0)
            raise WorkerLostError(
                f"only {len(ready)} of {num_workers} workers started in {start_timeout_seconds:g} s; the cluster has "
                f"{have:g} CPUs and each worker needs one: lower cluster.num_workers or add nodes"
            )

    @property
    def num_workers(self) -> int:
        """Number of tasks solved at the same time."""
        return len(self._workers)

    @property
    def workers(self) -> list[ActorHandle[Any]]:
        """The actors' handles."""
        return list(self._workers)

    def use(self, family: FamilySpec) -> None:
        """Switch to another family."""
        self._spec = family

    def draw(self, split: Split, indices: Sequence[int]) -> list[Task]:
        """Draw tasks on the workers."""
        return self._in_order([_Call(f"draw {split} {i}", "draw", (split, i)) for i in indices])

    def references(self, tasks: Sequence[Task]) -> Iterator[OptimalPolicy | None]:
        """Exact solutions in the order of ``tasks``, a few at a time."""
        width = 8 * self.num_workers
        for begin in range(0, len(tasks), width):
            part = tasks[begin : begin + width]
            yield from self._in_order([_Call(f"reference {task.label}", "reference", (task,)) for task in part])

    def solve(self, tasks: Sequence[Task], start: Starts, settings: WithinTask, *, collect: bool) -> Iterator[Solved]:
        """Solve tasks, yielding each as it finishes. The start is stored in the object store once.

        Args:
            tasks: The tasks.
            start: The start of all of them.
            settings: Settings of CRPO.
            collect: Also collect datasets.

        Raises:
            WorkerLostError: The worker of a task died too often.
            TaskError: An environment violates the contract.
        """
        for _, (result, dataset) in self._run(self._tasks(tasks, start, settings, collect=collect)):
            yield Solved(result, dataset)

    def solve_and_watch(
        self, tasks: Sequence[Task], start: Starts, settings: WithinTask, watch: Callable[[], bool]
    ) -> Iterator[Solved | None]:
        """As :meth:`solve` with datasets, yielding None between results on request.

        Args:
            tasks: The tasks.
            start: The start of all of them.
            settings: Settings of CRPO.
            watch: Polled while the pool waits; None is yielded whenever it returns True.
        """
        for found in self._watched(self._tasks(tasks, start, settings, collect=True), watch):
            yield None if found is None else Solved(*found[1])

    def step_teams(self, teams: Sequence[Team], policy: PolicyState, settings: NeuralSettings) -> list[TeamStep]:
        """One direct step of ``policy`` by each team, in the order of ``teams``."""
        broadcast = ray.put(policy)
        return self._in_order([_Call(team.label, "team_step", (team, broadcast, settings)) for team in teams])

    def _tasks(self, tasks: Sequence[Task], start: Starts, settings: WithinTask, *, collect: bool) -> list[_Call]:
        broadcast = ray.put(start)
        return [_Call(f"task {task.label}", "solve", (task, broadcast, settings, collect)) for task in tasks]

    def _make_worker(self) -> ActorHandle[Any]:
        self._made += 1
        return _Worker.remote(self._made - 1)

    def _in_order(self, calls: Sequence[_Call]) -> list[Any]:
        return [value for _, value in sorted(self._run(calls), key=lambda item: item[0])]

    def _run(self, calls: Sequence[_Call]) -> Iterator[tuple[int, Any]]:
        """Run calls, one at a time on each worker; yield (position, value) as they finish."""
        for found in self._watched(calls, None):
            assert found is not None
            yield found

    def _watched(self, calls: Sequence[_Call], watch: Callable[[], bool] | None) -> Iterator[tuple[int, Any] | None]:
        """As :meth:`_run`; yields None whenever ``watch``, polled while waiting, returns True."""
        waiting, failures = deque(range(len(calls))), [0] * len(calls)
        running: dict[Reference, tuple[int, int]] = {}
        idle = deque(range(len(self._workers)))
        while waiting or running:
            while waiting and idle:
                slot, position = idle.popleft(), waiting.popleft()
                running[calls[position].send(self._workers[slot], self._spec)] = (slot, position)
            finished, _ = wait_for(list(running), 1, None if watch is None else _WATCH_SECONDS)
            if not finished:
                if watch is not None and watch():
                    yield None
                continue
            slot, position = running.pop(finished[0])
            try:
                value = ray.get(finished[0])
            except RayTaskError as error:
                raise error.cause from error
            except LOST as error:
                failures[position] += 1
                self._replace(slot, calls[position].name, failures[position], error)
                idle.append(slot)
                waiting.appendleft(position)
                continue
            idle.append(slot)
            yield position, value

    def _replace(self, slot: int, name: str, failures: int, error: Exception) -> None:
        """Make a new worker for a call whose worker died.

        Raises:
            WorkerLostError: The call has failed too often.
        """
        self.retried += 1
        self._workers[slot] = self._make_worker()
        if failures > self._retries:
            raise WorkerLostError(f"{name}: its worker died {failures} times; giving up") from error
        self._say(f"the worker of {name} died; a new one reruns it")
