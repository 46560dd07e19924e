"""The pool of Ray workers: hands out tasks, replaces workers that die, runs their tasks again."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayActorError, RayTaskError, WorkerCrashedError

from distributed.cluster.worker import CRPOWorker
from meta.training.pool import Solved
from policies.common.results import Starts
from policies.exact.solver import OptimalPolicy
from policies.solving.algorithms import WithinTask
from tasks.contract.family_registry import FamilySpec
from tasks.contract.task import Split, Task

_Worker: Any = CRPOWorker
_WATCH_SECONDS = 0.1


LOST = (RayActorError, OutOfMemoryError, WorkerCrashedError, NodeDiedError)
"""What Ray raises when a process is gone; one killed by its memory monitor is no RayActorError."""


def wait_for(references: list[Any], count: int, seconds: float | None) -> tuple[list[Any], list[Any]]:
    """``ray.wait``, out of which comes what a signal's handler raises: Ray may wrap it in a SystemError."""
    try:
        return ray.wait(references, num_returns=count, timeout=seconds)
    except SystemError as error:
        if error.__cause__ is None:
            raise
        raise error.__cause__ from None


class WorkerLostError(RuntimeError):
    """A task whose workers kept dying."""


class RayPool:
    """CRPO workers as actors. Each holds one task at a time, so a death costs one task, which is run again."""

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
        started = [worker.pid.remote() for worker in self._workers]
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
        """Tasks solved at the same time."""
        return len(self._workers)

    @property
    def workers(self) -> list[Any]:
        """The actors' handles."""
        return list(self._workers)

    def use(self, family: FamilySpec) -> None:
        """Turn to another family."""
        self._spec = family

    def draw(self, split: Split, indices: Sequence[int]) -> list[Task]:
        """Draw tasks on the workers."""
        calls = [(f"draw {split} {i}", lambda worker, i=i: worker.draw, (split, i)) for i in indices]
        return self._in_order(calls)

    def references(self, tasks: Sequence[Task]) -> Iterator[OptimalPolicy | None]:
        """Exact solutions in the order of ``tasks``, a few at a time."""
        width = 8 * self.num_workers
        for begin in range(0, len(tasks), width):
            part = tasks[begin : begin + width]
            calls = [(f"reference {task.label}", lambda worker: worker.reference, (task,)) for task in part]
            yield from self._in_order(calls)

    def solve(self, tasks: Sequence[Task], start: Starts, settings: WithinTask, *, collect: bool) -> Iterator[Solved]:
        """Solve tasks, yielding each as it finishes. The start is put into the object store once."""
        for _, (result, dataset) in self._run(self._tasks(tasks, start, settings, collect=collect)):
            yield Solved(result, dataset)

    def solve_and_watch(
        self, tasks: Sequence[Task], start: Starts, settings: WithinTask, watch: Callable[[], bool]
    ) -> Iterator[Solved | None]:
        """As :meth:`solve` with datasets; None whenever ``watch``, asked a few times a second, says so."""
        for found in self._watched(self._tasks(tasks, start, settings, collect=True), watch):
            yield None if found is None else Solved(*found[1])

    def _tasks(self, tasks: Sequence[Task], start: Starts, settings: WithinTask, *, collect: bool) -> list[Any]:
        broadcast = ray.put(start)
        return [
            (f"task {task.label}", lambda worker: worker.solve, (task, broadcast, settings, collect)) for task in tasks
        ]

    def _make_worker(self) -> Any:
        self._made += 1
        return _Worker.remote(self._made - 1)

    def _in_order(self, calls: list[Any]) -> list[Any]:
        return [value for _, value in sorted(self._run(calls), key=lambda item: item[0])]

    def _run(self, calls: list[Any]) -> Iterator[tuple[int, Any]]:
        """Run (name, method of a worker, arguments) calls, one at a time on each worker; yield (position, value)."""
        for found in self._watched(calls, None):
            assert found is not None
            yield found

    def _watched(self, calls: list[Any], watch: Callable[[], bool] | None) -> Iterator[tuple[int, Any] | None]:
        waiting = deque(enumerate(calls))
        failures = [0] * len(calls)
        running: dict[Any, tuple[int, int]] = {}
        idle = deque(range(len(self._workers)))
        while waiting or running:
            while waiting and idle:
                slot, (position, call) = idle.popleft(), waiting.popleft()
                name, method, arguments = call
                reference = method(self._workers[slot]).options(name=name).remote(self._spec, *arguments)
                running[reference] = (slot, position)
            finished, _ = wait_for(list(running), 1, None if watch is None else _WATCH_SECONDS)
            if not finished:
                if watch is not None and watch():
                    yield None
                continue
            done = finished[0]
            slot, position = running.pop(done)
            try:
                value = ray.get(done)
            except RayTaskError as error:
                raise error.cause from error
            except LOST as error:
                failures[position] += 1
                self.retried += 1
                name = calls[position][0]
                self._workers[slot] = self._make_worker()
                idle.append(slot)
                if failures[position] > self._retries:
                    raise WorkerLostError(f"{name}: its worker died {failures[position]} times; giving up") from error
                self._say(f"the worker of {name} died; a new one runs it again")
                waiting.appendleft((position, calls[position]))
                continue
            idle.append(slot)
            yield position, value
