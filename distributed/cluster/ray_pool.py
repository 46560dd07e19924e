"""The pool of Ray workers: assigns tasks, replaces workers that die, and reruns their tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from ray.actor import ActorHandle

from distributed.cluster.calls import Calls, Reference, Rules, WorkerLostError, end_actor, put, value_of, wait_for
from distributed.cluster.health import asking
from distributed.cluster.ray_cluster import as_options, resources_of_cluster
from distributed.cluster.worker import CRPOWorker
from meta.judging.work_done import work_of
from meta.training.pool import Solved
from meta.training.quarantine import Quarantine
from policies.common.results import Starts
from policies.exact.solver import OptimalPolicy
from policies.mixtures.team import Team, TeamStep
from policies.neural.neural_settings import NeuralSettings
from policies.neural.policy_state import PolicyState
from policies.solving.algorithms import WithinTask
from tasks.contract.family_registry import FamilySpec
from tasks.contract.task import Split, Task

_Worker: Any = CRPOWorker


@dataclass(frozen=True)
class _Call:
    """A call of a worker's method, without the family, which every method takes first; a :class:`Job` of ``pool``.

    ``task`` is the task that is set aside where the call fails for good; a team has none. Drawing is tried once.
    """

    pool: RayPool
    name: str
    method: Literal["draw", "reference", "solve", "team_step"]
    arguments: tuple[Any, ...]
    work: float = 1.0
    task: Task | None = None

    @property
    def kind(self) -> str:
        """Calls of a method take similar times."""
        return self.method

    def lost(self, slot: int, reference: Reference, times: int, error: Exception) -> bool:
        """Make the call again on a new worker, or set its task aside."""
        del reference
        lost = self.pool.replace(slot, self.name, times, error)
        if lost is None:
            return True
        if self.task is None:
            raise lost from error
        self.pool.quarantine.set_aside(self.task, lost, times)
        return False

    def failed(self, error: Exception, times: int) -> bool:
        """Make the call of an environment again, or set its task aside."""
        if self.method not in ("solve", "team_step"):
            raise error
        quarantine = self.pool.quarantine
        if quarantine.again(self.name, error, times):
            return True
        if self.task is None:
            raise error
        quarantine.set_aside(self.task, error, times)
        return False

    def send(self, slot: int) -> Reference:
        """Make the call on the worker in ``slot``; return the reference to its result."""
        worker, family = self.pool.workers[slot], self.pool.family
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

    Each worker holds one task at a time, so a crash costs one task, which is rerun as ``rules`` say. ``retried`` counts
    reruns.
    """

    def __init__(
        self,
        family: FamilySpec,
        num_workers: int,
        rules: Rules,
        start_timeout_seconds: float,
        quarantine: Quarantine | None = None,
        resources: Mapping[str, float] | None = None,
        device: str = "cpu",
    ) -> None:
        """Start the workers, each with the ``resources`` of its node, by Ray's names, and with the ``device``.

        Raises:
            WorkerLostError: the workers did not start in time.
            ConfigurationError: a worker has no such device.
        """
        self.family, self._rules = family, rules
        self._resources = {"CPU": 1.0, **(resources or {})}
        self.quarantine = Quarantine() if quarantine is None else quarantine
        self._made, self.retried = 0, 0
        self._workers = [self._make_worker() for _ in range(num_workers)]
        with asking():
            started: list[Reference] = [worker.require.remote(device) for worker in self._workers]
        ready, waiting = wait_for(started, num_workers, start_timeout_seconds)
        if waiting:
            with asking():
                have = resources_of_cluster()
            each = [f"{amount:g} of {have.get(name, 0.0):g} {name}" for name, amount in self._resources.items()]
            raise WorkerLostError(
                f"only {len(ready)} of {num_workers} workers started in {start_timeout_seconds:g} s; each needs "
                f"{', '.join(each)} of the cluster: lower cluster.num_workers or cluster.worker_resources, or add nodes"
            )
        for reference in ready:
            value_of(reference)

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
        self.family = family

    def draw(self, split: Split, indices: Sequence[int]) -> list[Task]:
        """Draw tasks on the workers."""
        return self._in_order([_Call(self, f"draw {split} {i}", "draw", (split, i)) for i in indices])

    def references(self, tasks: Sequence[Task]) -> Iterator[OptimalPolicy | None]:
        """Exact solutions in the order of ``tasks``, a few at a time."""
        width = 8 * self.num_workers
        for begin in range(0, len(tasks), width):
            part = tasks[begin : begin + width]
            yield from self._in_order([_Call(self, f"reference {task.label}", "reference", (task,)) for task in part])

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
        broadcast = put(policy)
        return self._in_order([_Call(self, team.label, "team_step", (team, broadcast, settings)) for team in teams])

    def _tasks(self, tasks: Sequence[Task], start: Starts, settings: WithinTask, *, collect: bool) -> list[_Call]:
        broadcast, work = put(start), work_of(settings)
        return [
            _Call(self, f"task {task.label}", "solve", (task, broadcast, settings, collect), work, task)
            for task in self.quarantine.without(tasks)
        ]

    def _make_worker(self) -> ActorHandle[Any]:
        self._made += 1
        with asking():
            return cast("ActorHandle[Any]", _Worker.options(**as_options(self._resources)).remote(self._made - 1))

    def _in_order(self, calls: Sequence[_Call]) -> list[Any]:
        return [value for _, value in sorted(self._run(calls), key=lambda item: item[0])]

    def _run(self, calls: Sequence[_Call]) -> Iterator[tuple[int, Any]]:
        """Run calls, one at a time on each worker; yield (position, value) as they finish."""
        for found in self._watched(calls, None):
            assert found is not None
            yield found

    def _watched(self, calls: Sequence[_Call], watch: Callable[[], bool] | None) -> Iterator[tuple[int, Any] | None]:
        """As :meth:`_run`; yields None whenever ``watch``, polled while waiting, returns True."""
        for found in Calls(calls, len(self._workers), self._rules).results(watch):
            task = None if found is None else calls[found[0]].task
            if task is not None:
                self.quarantine.solved(task)
            yield found

    def replace(self, slot: int, name: str, times: int, error: Exception) -> WorkerLostError | None:
        """Make a new worker for a call whose worker was lost; the error of a call that has lost too many."""
        self.retried += 1
        end_actor(self._workers[slot])
        self._workers[slot] = self._make_worker()
        return self._rules.given_up(name, "worker", times, error, "a new one reruns it")
