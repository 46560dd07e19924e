"""Solve one task from a given start and measure it: what a worker does, without knowing of workers."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from policies.crpo import ExactEvaluator, Solution, WithinTaskSettings, solve
from policies.empirical import TransitionCounts, evaluate_empirical
from policies.exact import Evaluation, ExactModel, OptimalPolicy, evaluate, occupancy, optimal_policy
from policies.rollouts import TabularRollouts, Transitions, concatenate
from policies.softmax import logits_of
from tasks.base import Task, TaskError, TaskFamily
from tasks.model import FloatArray

_CHOICE_STREAM = 7
NO_MODEL = "the family has no exact model; set within_task.evaluation to sampled"


@dataclass(frozen=True, slots=True)
class Start:
    """What is broadcast: ``initialization`` [S, A] (phi, probabilities) and ``learning_rates`` [1+p] (alpha)."""

    initialization: FloatArray
    learning_rates: FloatArray


def reference_solution(family: TaskFamily, task: Task) -> OptimalPolicy | None:
    """The linear programme's optimum of ``task`` (pi*, nu*, J*), or None without an exact model."""
    model = family.model(task.parameters)
    return None if model is None else optimal_policy(ExactModel(model), np.array(task.limits))


@dataclass(frozen=True, slots=True)
class TaskDataset:
    """All that the meta-learner gets of a solved task: D_t, the start, pi_hat and what b_t is measured from."""

    task_index: int
    transitions: Transitions
    policy: FloatArray
    start: Start
    solution: Solution
    discount: float
    horizon: int


@dataclass(frozen=True, slots=True)
class TaskResult:
    """A solved task, small enough to travel through the driver.

    ``values`` [M+1, 1+p] are the true J_i of every iterate where an exact model exists, else the estimates that CRPO
    itself used. ``reference`` is the linear programme's optimum, or None without an exact model.
    """

    task: Task
    solution: Solution
    values: FloatArray
    reference: OptimalPolicy | None
    occupancy: FloatArray | None
    env_steps: int
    seconds: float

    @property
    def policy(self) -> FloatArray:
        """pi_hat as probabilities, [S, A]."""
        return np.exp(self.solution.logits)


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


def solve_task(
    family: TaskFamily,
    task: Task,
    start: Start,
    settings: WithinTaskSettings,
    *,
    collect: bool,
    on_iteration: Callable[[int], None] = lambda iteration: None,
) -> tuple[TaskResult, TaskDataset | None]:
    """Solve ``task`` from ``start``; with ``collect`` also return the dataset for the meta-learner.

    Raises:
        TaskError: the environment breaks its contract, or exact evaluation is asked of a family without a model.
    """
    began = time.perf_counter()
    tabular = family.model(task.parameters)
    exact = None if tabular is None else ExactModel(tabular)
    if settings.evaluation == "exact" and exact is None:
        raise TaskError(f"task {task.label}: {NO_MODEL}")
    rng = np.random.default_rng([task.seed, 0, 0, _CHOICE_STREAM])
    if exact is not None:
        _require_shape(task, exact.shape, start)
    limits, logits = np.array(task.limits), logits_of(start.initialization)
    if start.learning_rates.shape != (1 + limits.size,):
        raise TaskError(
            f"task {task.label}: {start.learning_rates.size} learning rates for 1 + {limits.size} objectives"
        )
    batches: list[Transitions] = []
    if settings.evaluation == "exact" and not collect:
        assert exact is not None
        solution = solve(ExactEvaluator(exact), logits, start.learning_rates, limits, settings, family.discount, rng)
    else:
        rollouts = TabularRollouts(family, task, min(settings.num_copies, settings.episodes_per_iteration))
        try:
            _require_shape(task, (rollouts.num_states, rollouts.num_actions), start)
            known = exact if settings.evaluation == "exact" else None
            counts = TransitionCounts(rollouts.num_states, rollouts.num_actions, limits.size)
            collector = _Collector(rollouts, settings, known, family.discount, on_iteration, counts, batches)
            solution = solve(collector, logits, start.learning_rates, limits, settings, family.discount, rng)
        finally:
            rollouts.close()
    result = _measure(task, exact, solution, settings, sum(map(len, batches)), time.perf_counter() - began)
    if not collect:
        return result, None
    return result, TaskDataset(
        task.index, concatenate(batches), result.policy, start, solution, family.discount, family.horizon
    )


def _measure(
    task: Task,
    exact: ExactModel | None,
    solution: Solution,
    settings: WithinTaskSettings,
    env_steps: int,
    seconds: float,
) -> TaskResult:
    if exact is None:
        return TaskResult(task, solution, solution.values, None, None, env_steps, seconds)
    values = solution.values
    if settings.evaluation == "sampled":
        values = np.array([evaluate(exact, np.exp(logits)).values for logits in solution.iterates])
    return TaskResult(
        task=task,
        solution=solution,
        values=values,
        reference=optimal_policy(exact, np.array(task.limits)),
        occupancy=occupancy(exact, np.exp(solution.logits)),
        env_steps=env_steps,
        seconds=seconds,
    )


def _require_shape(task: Task, shape: tuple[int, int], start: Start) -> None:
    if start.initialization.shape != shape:
        raise TaskError(
            f"task {task.label}: the environment has {shape[0]} states and {shape[1]} actions, "
            f"the policy start was learned for {start.initialization.shape}"
        )
