"""How much of a comparison's work is done: a pool that counts what it solves, and what each method is going to need."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from meta.methods.registry import METHODS, OURS
from meta.methods.workbench import Workbench
from meta.training.evaluation_settings import MethodName
from meta.training.pool import Pool, Solved
from meta.training.quarantine import Quarantine
from policies.common.results import Starts
from policies.exact.solver import OptimalPolicy
from policies.mixtures.team import Team, TeamStep
from policies.neural.neural_settings import NeuralSettings
from policies.neural.policy_state import PolicyState
from policies.solving.algorithms import WithinTask
from tasks.contract.family_registry import FamilySpec
from tasks.contract.task import Split, Task

Report = Callable[[str, float], None]
"""Receives what is being done and the share of all work that is done, between 0 and 1."""


def work_of(settings: WithinTask) -> float:
    """How much there is to do in a task: steps, or iterations where they are exact."""
    return float(settings.num_iterations * max(1, settings.steps_of_batch))


@dataclass
class WorkDone:
    """Counts work through ``stages``, pairs of a name and how much work it is expected to be.

    An expectation may be wrong: a stage never counts for more than it, and the next stage begins where it ends.
    """

    report: Report
    stages: Sequence[tuple[str, float]]
    _at: int = field(default=-1, init=False)
    _done: float = field(default=0.0, init=False)

    def begin(self, name: str) -> None:
        """The next stage called ``name`` begins; stages in between are left out."""
        for place in range(self._at + 1, len(self.stages)):
            if self.stages[place][0] == name:
                self._at, self._done = place, 0.0
                self._tell()
                return
        raise ValueError(f"no stage {name!r} after {self._at} of {[stage for stage, _ in self.stages]}")

    def did(self, work: float) -> None:
        """Some work of this stage is done."""
        self._done += work
        self._tell()

    @property
    def share(self) -> float:
        """The share of all work that is done."""
        if self._at < 0:
            return 0.0
        before = sum(work for _, work in self.stages[: self._at])
        total = sum(work for _, work in self.stages)
        return (before + min(self._done, self.stages[self._at][1])) / total if total else 1.0

    def _tell(self) -> None:
        self.report(self.stages[self._at][0], self.share)


class Counter(Protocol):
    """What a pool tells of its work."""

    def did(self, work: float) -> None:
        """Some work is done."""


class CountedPool:
    """A :class:`meta.training.pool.Pool` that tells ``done`` of every task that ``pool`` has solved."""

    def __init__(self, pool: Pool, done: Counter) -> None:
        self._pool, self._counter = pool, done
        self.quarantine: Quarantine = pool.quarantine

    @property
    def num_workers(self) -> int:
        """Tasks solved at the same time."""
        return self._pool.num_workers

    def use(self, family: FamilySpec) -> None:
        """Switch to another family."""
        self._pool.use(family)

    def draw(self, split: Split, indices: Sequence[int]) -> list[Task]:
        """Draw tasks."""
        return self._pool.draw(split, indices)

    def references(self, tasks: Sequence[Task]) -> Iterator[OptimalPolicy | None]:
        """Exact solutions, which are quick."""
        return self._pool.references(tasks)

    def solve(self, tasks: Sequence[Task], start: Starts, settings: WithinTask, *, collect: bool) -> Iterator[Solved]:
        """Solve tasks and count them."""
        for solved in self._pool.solve(tasks, start, settings, collect=collect):
            self._counter.did(work_of(settings))
            yield solved
            del solved  # it may hold the last handle on a dataset

    def solve_and_watch(
        self, tasks: Sequence[Task], start: Starts, settings: WithinTask, watch: Callable[[], bool]
    ) -> Iterator[Solved | None]:
        """Solve tasks with datasets and count them."""
        for solved in self._pool.solve_and_watch(tasks, start, settings, watch):
            if solved is not None:
                self._counter.did(work_of(settings))
            yield solved
            del solved

    def step_teams(self, teams: Sequence[Team], policy: PolicyState, settings: NeuralSettings) -> list[TeamStep]:
        """One direct step by each team, counted."""
        steps = self._pool.step_teams(teams, policy, settings)
        self._counter.did(float(sum(step.env_steps for step in steps)))
        return steps


def learning_stage(name: MethodName) -> str:
    """The stage in which the start of a method is learned."""
    return f"learning the start of {name}"


def solving_stage(name: MethodName) -> str:
    """The stage in which held-out tasks are solved from the start of a method."""
    return f"new tasks from {name}"


def work_to_learn(name: MethodName, bench: Workbench) -> float:
    """Work of learning from the training tasks of ``bench`` once; a method that trains on one task does so for long."""
    method, each = METHODS[name], work_of(bench.within)
    if name == OURS:
        return each * len(bench.tasks) + bench.experiment.warm_up_steps
    if method.trains_on == "none":
        return 0.0
    longer = bench.experiment.evaluation.pretrain_iterations
    if method.trains_on == "one" and longer:
        return each * longer / bench.within.num_iterations
    return each * len(bench.tasks)


def stages_of(methods: Sequence[MethodName], bench: Workbench) -> list[tuple[str, float]]:
    """The stages of comparing the starts of ``methods`` after training, which has learned that of meta_srl."""
    rates = len(bench.experiment.evaluation.rate_grid)
    trials = (rates if rates > 1 else 0) * len(bench.grid_tasks)
    test = len(bench.drawn.test) * work_of(bench.experiment.held_out_within)
    learning, tried = list[tuple[str, float]](), list[WithinTask]()

    def from_fresh(within: WithinTask) -> float:
        """Work of trying the rates from the fresh policy, once for each kind of task."""
        if within in tried:
            return 0.0
        tried.append(within)
        return trials * work_of(within)

    for name in methods:
        if name == OURS:
            continue
        method = METHODS[name]
        if method.own_rate:
            tuning = trials * work_of(bench.within)
        elif method.trains_on == "none":
            tuning = from_fresh(bench.held_out_within)
        else:
            tuning = from_fresh(bench.within) + trials * work_of(bench.held_out_within)
        learning.append((learning_stage(name), work_to_learn(name, bench) + tuning))
    return [*learning, *((solving_stage(name), test) for name in methods)]
