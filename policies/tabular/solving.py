"""Solve one task with a tabular policy, and keep what the meta-learner needs of it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from policies.common.policy import table_of
from policies.common.results import Solution, Start, TaskResult, require_rates
from policies.common.safety import LONGER, Guard
from policies.exact.softmax import logits_of
from policies.exact.solver import Evaluation, ExactModel, evaluate, occupancy, optimal_policy
from policies.tabular.crpo import ExactEvaluator, WithinTaskSettings, solve
from policies.tabular.empirical import TransitionCounts, empirical_visits, evaluate_empirical
from policies.tabular.rollouts import TabularRollouts
from policies.tabular.safe_steps import TEST_EPISODES, SafeSteps
from policies.tabular.transitions import Transitions, concatenate
from tasks.contract.tabular_model import FloatArray
from tasks.contract.task import Task, TaskError, TaskFamily

_CHOICE_STREAM = 7
NO_MODEL = "the family has no exact model; set within_task.evaluation to sampled"


@dataclass(frozen=True, slots=True)
class TaskDataset:
    """Everything the meta-learner gets from a solved task: D_t, the start, pi_hat and what b_t is measured from."""

    task_index: int
    transitions: Transitions
    policy: FloatArray
    start: Start
    solution: Solution
    discount: float
    horizon: int


@dataclass(slots=True)
class _Collector:
    """Evaluates iterates for CRPO while keeping every transition seen."""

    rollouts: TabularRollouts
    settings: WithinTaskSettings
    exact: ExactModel | None
    discount: float
    on_iteration: Callable[[int], None]
    counts: TransitionCounts
    batches: list[Transitions]

    def evaluate(self, policy: FloatArray, iteration: int) -> Evaluation:
        self.on_iteration(iteration)
        self.batches.append(self.rollouts.collect(policy, iteration, self.settings.episodes_per_iteration))
        if self.exact is None:
            self.counts.add(self.batches[-1])
        return self.evaluate_last(policy)

    def evaluate_last(self, policy: FloatArray) -> Evaluation:
        if self.exact is not None:
            return evaluate(self.exact, policy)
        return evaluate_empirical(self.counts.model(self.discount), policy)

    def visits(self, policy: FloatArray) -> FloatArray:
        if self.exact is not None:
            return occupancy(self.exact, policy)
        return empirical_visits(self.counts.model(self.discount), policy)


def solve_tabular_task(
    family: TaskFamily,
    task: Task,
    start: Start,
    settings: WithinTaskSettings,
    *,
    collect: bool,
    on_iteration: Callable[[int], None] = lambda iteration: None,
) -> tuple[TaskResult, TaskDataset | None]:
    """Solve ``task`` from ``start`` with a tabular policy; with ``collect`` also return the meta-learner's dataset.

    Raises:
        TaskError: the environment breaks its contract, or exact evaluation is asked of a family without a model.
    """
    began = time.perf_counter()
    exact = _exact_model(family, task, settings)
    known = exact if settings.evaluation == "exact" else None
    rng = np.random.default_rng([task.seed, 0, 0, _CHOICE_STREAM])
    initialization = _table(task, start)
    if exact is not None:
        _require_shape(task, exact.shape, initialization)
    limits, logits = np.array(task.limits), logits_of(initialization)
    require_rates(task, start)
    given = (logits, start.learning_rates, limits, settings, family.discount, rng)
    guard = None if start.safety is None else Guard(start.safety, limits, LONGER)
    batches: list[Transitions] = []
    if known is not None and not collect:
        solution = solve(ExactEvaluator(known), *given, _safe_steps(guard, family.discount, known, None))
    else:
        num_copies = min(settings.num_copies, settings.episodes_per_iteration)
        with closing(TabularRollouts(family, task, num_copies)) as rollouts:
            _require_shape(task, (rollouts.num_states, rollouts.num_actions), initialization)
            counts = TransitionCounts(rollouts.num_states, rollouts.num_actions, limits.size)
            collector = _Collector(rollouts, settings, known, family.discount, on_iteration, counts, batches)
            solution = solve(collector, *given, _safe_steps(guard, family.discount, known, rollouts))
    result = _measure(task, exact, solution, settings, sum(map(len, batches)), time.perf_counter() - began)
    if guard is not None:
        report = guard.report()
        result = dataclasses.replace(result, safety=report, env_steps=result.env_steps + report.test_steps)
    if not collect:
        return result, None
    return result, TaskDataset(
        task.index, concatenate(batches), np.exp(solution.logits), start, solution, family.discount, family.horizon
    )


def _safe_steps(
    guard: Guard | None, discount: float, known: ExactModel | None, rollouts: TabularRollouts | None
) -> SafeSteps | None:
    """What shortens the steps; None where nothing does. Without ``known`` values, ``rollouts`` give test episodes."""
    if guard is None:
        return None
    episodes = guard.safety.settings.test_episodes or TEST_EPISODES

    def collect(policy: FloatArray, iteration: int) -> Transitions:
        assert rollouts is not None
        return rollouts.collect(policy, iteration, episodes)

    return SafeSteps(guard, discount, known, collect)


def _exact_model(family: TaskFamily, task: Task, settings: WithinTaskSettings) -> ExactModel | None:
    tabular = family.model(task.parameters)
    if tabular is None and settings.evaluation == "exact":
        raise TaskError(f"task {task.label}: {NO_MODEL}")
    return None if tabular is None else ExactModel(tabular)


def _measure(
    task: Task,
    exact: ExactModel | None,
    solution: Solution,
    settings: WithinTaskSettings,
    env_steps: int,
    seconds: float,
) -> TaskResult:
    values = solution.values
    if exact is not None and settings.evaluation == "sampled":
        values = np.array([evaluate(exact, np.exp(logits)).values for logits in solution.iterates])
    policy = np.exp(solution.logits)
    return TaskResult(
        task=task,
        policy=policy,
        values=values,
        branches=solution.branches,
        output=solution.output,
        feasible=solution.feasible,
        env_steps=env_steps,
        seconds=seconds,
        reference=None if exact is None else optimal_policy(exact, np.array(task.limits)),
        occupancy=None if exact is None else occupancy(exact, policy),
        solution=solution,
    )


def _table(task: Task, start: Start) -> FloatArray:
    try:
        return table_of(start.initialization)
    except TypeError:
        raise TaskError(
            f"task {task.label}: crpo needs a table of probabilities as its start, got a neural policy"
        ) from None


def _require_shape(task: Task, shape: tuple[int, int], initialization: FloatArray) -> None:
    if initialization.shape != shape:
        raise TaskError(
            f"task {task.label}: the environment has {shape[0]} states and {shape[1]} actions, "
            f"the policy start was learned for {initialization.shape}"
        )
