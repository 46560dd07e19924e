"""The CRPO worker: an actor around :func:`policies.solving.solve_task.solve_task`."""

from __future__ import annotations

import os
import platform

import ray
from threadpoolctl import threadpool_limits

from distributed.settings.errors import ConfigurationError
from distributed.settings.handed_over import take_over
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
from tasks.contract.task import Split, Task, TaskFamily


@ray.remote(num_cpus=1)
class CRPOWorker:
    """Solves one task at a time. Its state can be rebuilt from the arguments of any call, so it is replaceable."""

    def __init__(self, worker_id: int) -> None:
        threadpool_limits(1)
        take_over()
        self._worker_id = worker_id
        self._spec: FamilySpec | None = None
        self._family: TaskFamily | None = None
        self._at = ""

    def __repr__(self) -> str:
        """Name of the actor. Ray reads it at creation only; the names of the calls contain the current task."""
        return f"CRPOWorker(id={self._worker_id}{self._at})"

    def pid(self) -> int:
        """Process id."""
        return os.getpid()

    def require(self, device: str) -> None:
        """Answer, once this process has started, if it has the ``device``.

        Raises:
            ConfigurationError: It does not.
        """
        if device != "cpu":
            from policies.networks.torch_backend import require_device

            try:
                require_device(device)
            except ValueError as error:
                raise ConfigurationError(f"{error} (worker on {platform.node()})") from error

    def draw(self, spec: FamilySpec, split: Split, index: int) -> Task:
        """Draw one task."""
        return draw_task(self._made(spec), spec.name, spec.seed, split, index)

    def reference(self, spec: FamilySpec, task: Task) -> OptimalPolicy | None:
        """Solve the linear program of one task; None without an exact model."""
        return reference_solution(self._made(spec), task)

    def solve(
        self, spec: FamilySpec, task: Task, start: Starts, settings: WithinTask, collect: bool
    ) -> tuple[TaskResult, ray.ObjectRef[Dataset] | None]:
        """Solve one task; return its result and a reference to its dataset.

        The dataset stays in this node's object store; the reference is None if none was collected.

        Args:
            spec: Family of the task.
            task: The task.
            start: One start, or candidates of which the task takes one.
            settings: Settings of CRPO.
            collect: Also collect a dataset.
        """

        def at(iteration: int) -> None:
            self._at = f", task={task.label}, iteration={iteration}"

        at(0)
        result, dataset = solve_task(self._made(spec), task, start, settings, collect=collect, on_iteration=at)
        self._at = f", task={task.label}, done"
        reference = None if dataset is None else ray.put(dataset)
        del dataset
        return_freed_memory()
        return result, reference

    def team_step(self, spec: FamilySpec, team: Team, policy: PolicyState, settings: NeuralSettings) -> TeamStep:
        """Take one direct step of the start with a team of tasks."""
        self._at = f", {team.label}"
        step = team_step(self._made(spec), team, policy, settings)
        return_freed_memory()
        return step

    def _made(self, spec: FamilySpec) -> TaskFamily:
        if self._family is None or spec != self._spec:
            self._spec, self._family = spec, spec.make()
        return self._family
