"""How each method of a comparison learns its start from the training tasks, with given hyper-parameters."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from meta.learning.kinds import Item
from meta.learning.online import State
from meta.learning.settings import MetaSettings
from meta.methods.baselines import (
    Bench,
    follow_average_leader,
    pretrained_policy,
    simple_average_policy,
    steps_in_iterations,
)
from meta.methods.gradient_baselines import PenaltyLearner, exact_models, multitask_policy, reptile_step
from meta.methods.neural_baselines import neural_items
from meta.methods.neural_gradient_baselines import NeuralPenaltyLearner, adapt, multitask_network, reptile_policy
from meta.offline.dice_settings import DICESettings
from meta.training.disturbance import Disturbance, DisturbedLearner
from meta.training.evaluation_settings import GridPoint, Method
from meta.training.experiment import Drawn, Experiment, measure_similarity
from meta.training.loop import Finished, Position, TrainingPlan, train
from meta.training.pool import Done, Learner, LocalLearner, LocalPool, Pending
from meta.training.records import Row
from policies.common.policy import Policy, table_of
from policies.common.results import Start, TaskResult
from policies.exact.softmax import log_policy
from policies.neural.policy_state import PolicyState
from policies.neural.update import NeuralSettings
from tasks.contract.task import Task, TaskFamily


@dataclass(frozen=True)
class Learned:
    """A start (as :meth:`meta.training.pool.Pool.solve` takes it) and what it took.

    ``updates`` counts CRPO iterations, each on one task's data. ``results`` are the training tasks of methods that
    solve them from what they have learned so far; ``rows`` and ``state`` are those of meta_srl.
    """

    start: Any
    updates: int
    env_steps: int
    results: Sequence[TaskResult] = ()
    rows: Sequence[Row] = ()
    state: State | None = None
    facts: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Workbench:
    """What a method may use: the pool, the settings, the training tasks, and for studies a disturbance of DICE."""

    pool: LocalPool
    experiment: Experiment
    drawn: Drawn
    tasks: Sequence[Task]
    disturbance: Disturbance | None = None

    @cached_property
    def family(self) -> TaskFamily:
        """The family of the tasks."""
        return self.experiment.family.make()

    @cached_property
    def bench(self) -> Bench:
        """What plain averages are made with: no corrections, every task alike."""
        plain = DICESettings(estimator="none") if self.neural else self.experiment.dice
        within = replace(self.experiment, dice=plain).training_within
        return Bench(
            pool=self.pool,
            learner=LocalLearner(self.experiment.meta, plain, self.experiment.within.num_iterations),
            tasks=self.tasks,
            within=within,
            evaluation=self.experiment.evaluation,
            meta=self.experiment.meta,
            fresh=self.drawn.fresh,
            num_costs=self.drawn.num_costs,
        )

    def under(self, point: GridPoint) -> Workbench:
        """The same with the training tasks solved under the point's safety margin."""
        if point.margin is None:
            return self
        within = self.experiment.within.model_copy(update={"safety_margin": point.margin})
        return replace(self, experiment=replace(self.experiment, within=within))

    @property
    def neural(self) -> bool:
        """Whether policies are networks."""
        return isinstance(self.experiment.within, NeuralSettings)

    @property
    def rounds(self) -> list[Sequence[Task]]:
        """The training tasks in rounds of B."""
        size = self.experiment.tasks_per_round
        return [self.tasks[begin : begin + size] for begin in range(0, len(self.tasks), size)]

    def start(self, policy: Policy, point: GridPoint) -> Start:
        """``policy`` with the point's rate for every objective."""
        assert point.rate is not None
        return self.bench.fixed(policy, point.rate)

    def learned(self, policy: Policy, point: GridPoint, updates: int | None = None, **more: Any) -> Learned:
        """``policy`` as a start; by default all training tasks were solved for it once."""
        within = self.experiment.within
        if updates is None:
            updates = len(self.tasks) * within.num_iterations
        steps = 0
        if isinstance(within, NeuralSettings) and updates:
            per_task = within.num_iterations + within.evaluate_last
            steps = len(self.tasks) * per_task * within.steps_per_iteration
        return Learned(self.start(policy, point), updates, steps, **more)


def random(bench: Workbench, point: GridPoint) -> Learned:
    """The policy that has learned nothing."""
    return bench.learned(bench.drawn.fresh, point, 0)


def pretrained(bench: Workbench, point: GridPoint) -> Learned:
    """CRPO on the first training task for as many iterations as the others spend on all (``pretrain_iterations``)."""
    policy = pretrained_policy(bench.bench, bench.tasks, bench.start(bench.drawn.fresh, point))
    within = bench.experiment.within
    iterations = bench.experiment.evaluation.pretrain_iterations or steps_in_iterations(within, len(bench.tasks))
    found = bench.learned(policy, point, iterations)
    if isinstance(within, NeuralSettings):
        return Learned(found.start, iterations, (iterations + within.evaluate_last) * within.steps_per_iteration)
    return found


def simple_average(bench: Workbench, point: GridPoint) -> Learned:
    """Plain average of all training tasks' policies, each solved from scratch."""
    start = bench.start(bench.drawn.fresh, point)
    return bench.learned(
        simple_average_policy(bench.bench, bench.tasks, start, bench.experiment.tasks_per_round), point
    )


def fal(bench: Workbench, point: GridPoint) -> Learned:
    """Follow the average leader."""
    assert point.rate is not None
    start, results = follow_average_leader(bench.bench, bench.tasks, point.rate, bench.experiment.tasks_per_round)
    return bench.learned(start.initialization, point, results=results)


def oracle(bench: Workbench, point: GridPoint) -> Learned:
    """The minimiser of D*^2 over the true optima of the training tasks."""
    similar = measure_similarity(bench.pool, bench.experiment, replace(bench.drawn, train=bench.tasks))
    if similar is None:
        raise ValueError("oracle needs an exact model")
    return bench.learned(bench.bench.shrunk(similar.comparator), point, 0)


def reptile(bench: Workbench, point: GridPoint) -> Learned:
    """Reptile's step after every round, on logits or parameters."""
    assert point.step is not None
    policy, results = bench.drawn.fresh, list[TaskResult]()
    for tasks in bench.rounds:
        start = bench.start(policy, point)
        if isinstance(policy, PolicyState):
            solved, items = bench.bench.estimate(tasks, start)
            policy = reptile_policy(policy, neural_items(items), point.step)
        else:
            solved = bench.bench.solve(tasks, start)
            logits = [one.solution.logits for one in solved if one.solution is not None]
            policy = bench.bench.shrunk(np.exp(reptile_step(np.log(policy), logits, point.step)))
        results += solved
    return bench.learned(policy, point, results=results)


def maml_penalty(bench: Workbench, point: GridPoint) -> Learned:
    """First-order MAML with a cost penalty; the inner loop is CRPO, as at test time."""
    assert point.step is not None
    assert point.penalty is not None
    penalties, within = np.full(bench.drawn.num_costs, point.penalty), bench.experiment.within
    fresh = bench.drawn.fresh
    if isinstance(within, NeuralSettings):
        assert isinstance(fresh, PolicyState)
        networks = NeuralPenaltyLearner(fresh, penalties, point.step, bench.family.discount, within)
        for tasks in bench.rounds:
            start = bench.start(networks.policy, point)
            networks.update([adapt(bench.family, task, start, within) for task in tasks])
        return bench.learned(networks.policy, point)
    table, results = PenaltyLearner(log_policy(np.log(table_of(fresh))), penalties, point.step), list[TaskResult]()
    for tasks in bench.rounds:
        solved = bench.bench.solve(tasks, bench.start(bench.bench.shrunk(np.exp(table.logits)), point))
        last = [np.exp(one.solution.iterates[-1]) for one in solved if one.solution is not None]
        table.update(exact_models(bench.family, tasks, "maml_penalty"), last)
        results += solved
    return bench.learned(bench.bench.shrunk(np.exp(table.logits)), point, results=results)


def multitask(bench: Workbench, point: GridPoint) -> Learned:
    """One policy for all training tasks, by CRPO on their mean."""
    assert point.rate is not None
    within, size, seed = bench.experiment.within, bench.experiment.tasks_per_round, bench.experiment.family.seed
    fresh = bench.drawn.fresh
    if isinstance(within, NeuralSettings):
        assert isinstance(fresh, PolicyState)
        network = multitask_network(bench.family, bench.tasks, fresh, point.rate, within, size, seed)
        return bench.learned(network, point, len(bench.tasks) * (within.num_iterations + within.evaluate_last))
    models = exact_models(bench.family, bench.tasks, "multitask")
    limits = np.array([task.limits for task in bench.tasks])
    table = multitask_policy(models, limits, np.log(table_of(fresh)), point.rate, within, size, seed)
    return bench.learned(bench.bench.shrunk(np.exp(table)), point)


def with_point(meta: MetaSettings, point: GridPoint, *, neural: bool) -> MetaSettings:
    """The meta-learner's settings with a grid point's values in place."""
    section = "neural" if neural else "initialization"
    given = {"step_size": point.step, "forgetting": point.forgetting}
    part = getattr(meta, section).model_copy(update={name: value for name, value in given.items() if value is not None})
    rates = meta.learning_rates
    if point.rate is not None:
        rates = rates.model_copy(update={"initial": point.rate})
    return meta.model_copy(update={section: part, "learning_rates": rates})


class _Timed:
    """A learner that measures itself."""

    def __init__(self, learner: Learner) -> None:
        self._learner, self.estimate_seconds, self.update_seconds = learner, 0.0, 0.0

    def restore(self, state: State) -> None:
        self._learner.restore(state)

    def estimate(self, dataset: Any, label: str) -> Pending:
        began = time.perf_counter()
        item = self._learner.estimate(dataset, label).result()
        self.estimate_seconds += time.perf_counter() - began
        return Done(item)

    def update(self, contributions: Sequence[Item]) -> State:
        began = time.perf_counter()
        state = self._learner.update(contributions)
        self.update_seconds += time.perf_counter() - began
        return state


@dataclass(slots=True)
class _Recorder:
    """Keeps rows and results as they come; a :class:`meta.training.loop.Tracker`."""

    rows: list[Row] = field(default_factory=list)
    results: dict[int, TaskResult] = field(default_factory=dict)

    def task_finished(self, finished: Finished, result: TaskResult) -> None:
        del finished
        self.results[result.task.index] = result

    def round_finished(self, state: State, rows: Sequence[Row]) -> None:
        del state
        self.rows += rows


def meta_srl(bench: Workbench, point: GridPoint) -> Learned:
    """The method itself: its own training loop, its learned start and rates."""
    experiment = bench.experiment
    meta = with_point(experiment.meta, point, neural=bench.neural)
    local: Learner = LocalLearner(meta, experiment.dice, experiment.within.num_iterations)
    if bench.disturbance is not None:
        local = DisturbedLearner(local, bench.disturbance, meta)
    learner, seen = _Timed(local), _Recorder()
    plan = TrainingPlan(bench.tasks, experiment.tasks_per_round, experiment.training_within)
    state = train(plan, bench.pool, learner, [seen], Position(bench.drawn.initial_state(meta)))
    results = [seen.results[task.index] for task in bench.tasks]
    solving, updates = sum(result.seconds for result in results), len(bench.tasks) * experiment.within.num_iterations
    return Learned(
        state.start,
        updates,
        sum(result.env_steps for result in results),
        results=results,
        rows=seen.rows,
        state=state,
        facts={
            "training_solve_seconds": solving / len(results),
            "estimate_seconds": learner.estimate_seconds / len(results),
            "update_seconds": learner.update_seconds / state.num_rounds,
        },
    )


LEARN: dict[Method, Callable[[Workbench, GridPoint], Learned]] = {
    "random": random,
    "pretrained": pretrained,
    "simple_average": simple_average,
    "fal": fal,
    "meta_srl": meta_srl,
    "oracle": oracle,
    "reptile": reptile,
    "maml_penalty": maml_penalty,
    "multitask": multitask,
}


def learn(method: Method, point: GridPoint, bench: Workbench) -> Learned:
    """The start that ``method`` learns with the hyper-parameters of ``point``."""
    return LEARN[method](bench.under(point), point)
