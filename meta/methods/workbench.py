"""What a method needs to learn its start: a pool, a learner that estimates, the training tasks and the settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np

from meta.learning.kinds import AnyLearning, Item, learning_of
from meta.learning.online import State
from meta.measuring.measures import measure
from meta.measuring.similarity import Similarity
from meta.offline.dice_settings import DICESettings
from meta.training.disturbance import Disturbance
from meta.training.evaluation_settings import GridPoint
from meta.training.experiment import Drawn, Experiment, measure_similarity
from meta.training.held_out_tasks import held_out_settings
from meta.training.pool import Learner, LocalLearner, Pool, solve_and_estimate, solve_in_order
from meta.training.quarantine import require_all
from meta.training.records import Row
from policies.common.policy import Policy
from policies.common.results import Start, Starts, TaskResult
from policies.exact.solver import ExactModel
from policies.solving.algorithms import WithinTask
from tasks.contract.tabular_model import FloatArray
from tasks.contract.task import Task, TaskError, TaskFamily


@dataclass(frozen=True)
class Learned:
    """A learned start and the work spent on it.

    ``updates`` counts CRPO iterations, each on one task's data. ``results`` are the training tasks of methods that
    solve them from what they have learned so far; ``rows`` and ``state`` are those of meta_srl.
    """

    start: Starts
    updates: int
    env_steps: int
    results: Sequence[TaskResult] = ()
    rows: Sequence[Row] = ()
    state: State | None = None
    facts: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Workbench:
    """What a method may use.

    ``dice`` is how ``learner`` estimates; ``tasks`` are the training tasks, or the first of them; ``disturbance``
    makes meta_srl's corrections wrong by a known amount, for studies; ``similar`` is D*^2 where it is known already.
    """

    pool: Pool
    learner: Learner
    dice: DICESettings
    experiment: Experiment
    drawn: Drawn
    tasks: Sequence[Task]
    disturbance: Disturbance | None = None
    similar: Similarity | None = None

    @property
    def kind(self) -> AnyLearning:
        """The meta-learner of the kind of policy that is learned."""
        return learning_of(self.experiment.within)

    @cached_property
    def family(self) -> TaskFamily:
        """The family of the tasks."""
        return self.drawn.family.make()

    @cached_property
    def within(self) -> WithinTask:
        """How a training task is solved."""
        return replace(self.experiment, dice=self.dice).training_within

    @cached_property
    def task_similarity(self) -> Similarity | None:
        """D*^2 of the tasks with its comparator; None without an exact model."""
        if self.similar is not None:
            return self.similar
        return measure_similarity(self.pool, self.experiment, replace(self.drawn, train=self.tasks))

    @cached_property
    def held_out_within(self) -> WithinTask:
        """How a training task is solved where a start is tried on it: as a held-out one."""
        return held_out_settings(self.within, self.experiment.evaluation)

    @cached_property
    def random(self) -> Start:
        """The policy that has learned nothing, with the grid's best rate for new tasks."""
        return self.fixed(self.drawn.fresh, self._rate_of_random)

    @cached_property
    def training_rate(self) -> float:
        """The grid's best rate for training tasks, from the policy that has learned nothing."""
        same = self.held_out_within == self.within
        return self._rate_of_random if same else self._best_of_grid(self.drawn.fresh, self.within)

    @cached_property
    def _rate_of_random(self) -> float:
        return self._best_of_grid(self.drawn.fresh, self.held_out_within)

    @property
    def grid_tasks(self) -> Sequence[Task]:
        """The training tasks on which rates are chosen."""
        return self.tasks[: self.experiment.evaluation.grid_tasks]

    @property
    def rounds(self) -> list[Sequence[Task]]:
        """The training tasks in rounds of B."""
        size = self.experiment.tasks_per_round
        return [self.tasks[begin : begin + size] for begin in range(0, len(self.tasks), size)]

    def under(self, point: GridPoint) -> Workbench:
        """The same with the training tasks solved under the point's safety margin."""
        if point.margin is None:
            return self
        within = self.experiment.within.model_copy(update={"safety_margin": point.margin})
        return replace(self, experiment=replace(self.experiment, within=within))

    def supported(self, policy: Policy) -> Policy:
        """``policy`` as a start: every action keeps a positive probability."""
        kept: Policy = self.kind.with_support(policy, self.experiment.meta)
        return kept

    def rates(self, rate: float) -> FloatArray:
        """One rate for every objective, [1+p], in the units of ``meta.learning_rates.units``."""
        rates = np.full(1 + self.drawn.num_costs, rate)
        return rates if self.drawn.units is None else rates / self.drawn.units

    def fixed(self, policy: Policy, rate: float) -> Start:
        """``policy`` with one rate for every objective."""
        return Start(policy, self.rates(rate))

    def start(self, policy: Policy, point: GridPoint) -> Start:
        """``policy`` with the point's rate for every objective."""
        assert point.rate is not None
        return self.fixed(policy, point.rate)

    def best_rate(self, policy: Policy) -> Start:
        """``policy`` with the grid's rate with the least mean score on the grid tasks (ties go to the smaller rate).

        They are solved as held-out tasks are: a rate that is right for many updates is too small for few.
        """
        if policy is self.drawn.fresh:
            return self.random
        return self.fixed(policy, self._best_of_grid(policy, self.held_out_within))

    def _best_of_grid(self, policy: Policy, within: WithinTask) -> float:
        grid = self.experiment.evaluation.rate_grid
        if len(grid) == 1:
            return grid[0]  # there is nothing to choose
        scores = [mean_score(self.solve(self.grid_tasks, self.fixed(policy, rate), within)) for rate in grid]
        return grid[int(np.argmin(scores))]

    def solve(self, tasks: Sequence[Task], start: Start, within: WithinTask | None = None) -> list[TaskResult]:
        """Solve tasks without collecting datasets; results in task order."""
        results = solve_in_order(self.pool, tasks, start, within or self.within)
        require_all(results, tasks)
        return results

    def estimate(self, tasks: Sequence[Task], start: Start) -> tuple[list[TaskResult], list[Item]]:
        """Solve tasks and estimate each; results and contributions in task order."""
        found = solve_and_estimate(self.pool, self.learner, tasks, start, self.within)
        pairs = sorted(found, key=lambda pair: pair[0].task.index)
        require_all(pairs, tasks)
        return [result for result, _ in pairs], [item for _, item in pairs]

    def learned(self, policy: Policy, point: GridPoint, updates: int | None = None, **more: Any) -> Learned:
        """``policy`` as a start; by default all training tasks were solved for it once."""
        within = self.experiment.within
        steps = 0
        if updates != 0:
            steps = len(self.tasks) * (within.num_iterations + within.final_batches) * within.steps_of_batch
        if updates is None:
            updates = len(self.tasks) * within.num_iterations
        return Learned(self.start(policy, point), updates, steps, **more)

    def exact_models(self, tasks: Sequence[Task], method: str) -> list[ExactModel]:
        """The models of ``tasks``.

        Raises:
            TaskError: one has none; tabular ``method`` needs them.
        """
        found = []
        for task in tasks:
            model = self.family.model(task.parameters)
            if model is None:
                raise TaskError(f"task {task.label}: {method} needs an exact model where within_task.algorithm is crpo")
            found.append(ExactModel(model))
        return found


def averaging_bench(
    pool: Pool,
    experiment: Experiment,
    drawn: Drawn,
    tasks: Sequence[Task],
    disturbance: Disturbance | None = None,
) -> Workbench:
    """A bench on which the methods that average policies weigh all samples alike.

    Args:
        pool: solves tasks.
        experiment: the settings; its own estimator is meta_srl's.
        drawn: all tasks and the fresh policy.
        tasks: the training tasks to learn from.
        disturbance: of meta_srl's corrections.
    """
    dice = learning_of(experiment.within).averaging_dice(experiment.dice)
    learner = LocalLearner(experiment.meta, dice, experiment.within.num_iterations)
    return Workbench(pool, learner, dice, experiment, drawn, tasks, disturbance)


def mean_score(results: Sequence[TaskResult]) -> float:
    """Mean score of solved tasks: the one number by which rates are chosen (:mod:`policies.common.score`).

    Raises:
        ValueError: there are no tasks to judge by.
    """
    if not results:
        raise ValueError("evaluation.grid_tasks: no task is left to judge a rate by; set it to at least 1 (fal: 1 too)")
    return float(np.mean([measure(result).score for result in results]))


Learn = Callable[[Workbench, GridPoint], Learned]
Marker = Literal[
    "circle",
    "square",
    "diamond",
    "triangle-up",
    "triangle-down",
    "triangle-left",
    "triangle-right",
    "cross",
    "x",
    "star",
    "pentagon",
    "hexagram",
]
"""Shapes of points in plots, by Plotly's names."""


@dataclass(frozen=True)
class Method:
    """A method that learns a start: everything that any part of the library asks about it.

    ``forms``: how it learns, by kind of policy; for the kinds ``steps_by_rule`` it takes single steps by the rule of
    ``within_task.method``. ``uses``: the fields of :class:`GridPoint` that have an effect on it, with ``defaults`` for
    those that a grid omits. ``place``: its place in tables. ``colour`` (``#rrggbb``) and ``marker``: in all plots,
    unlike those of the other methods. ``exact_forms``: kinds for which it needs exact evaluation. ``in_training``:
    whether ``train`` can evaluate it, and ``default_for``: the kinds for which it does where ``evaluation.methods`` is
    empty. ``own_rate``: the rate is chosen by the method's own run over the grid tasks instead of by solving them from
    its start. ``trains_on``: the training tasks that it solves, for estimates of the time that is left.
    """

    name: str
    label: str
    place: int
    colour: str
    marker: Marker
    forms: Mapping[str, Learn]
    steps_by_rule: frozenset[str] = frozenset()
    uses: tuple[str, ...] = ("rate", "margin")
    defaults: Mapping[str, float] = field(default_factory=dict)
    needs_model: bool = False
    exact_forms: frozenset[str] = frozenset()
    in_training: bool = False
    default_for: frozenset[str] = frozenset()
    own_rate: bool = False
    trains_on: Literal["all", "one", "none"] = "all"

    def learn(self, bench: Workbench, point: GridPoint) -> Learned:
        """The start that the method learns with the hyper-parameters of ``point``.

        Raises:
            ValueError: the method has no form for this kind of policy.
        """
        form = self.forms.get(bench.kind.name)
        if form is None:
            raise ValueError(f"{self.name} has no form for policies of the kind {bench.kind.name}")
        return form(bench.under(point), point)
