"""Which of several starts a new task is solved from: the best one after a short rollout of each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from policies.common.results import Candidates, Policy, table_of
from policies.exact.solver import ExactModel, evaluate
from policies.neural.policy_state import PolicyState
from policies.neural.rollouts import NeuralRollouts
from policies.neural.update import NeuralSettings, Problem, estimate_returns
from policies.tabular.crpo import WithinTaskSettings, relative_violations
from policies.tabular.empirical import TransitionCounts, evaluate_empirical
from policies.tabular.rollouts import TabularRollouts
from tasks.contract.tabular_model import FloatArray
from tasks.contract.task import Task, TaskError, TaskFamily
from tasks.stepping.batch import make_batch

_PROBE = 2**20
"""The iteration that probing rollouts have in their random numbers: the same for every start, none of CRPO's."""


def choose_start(
    family: TaskFamily, task: Task, candidates: Candidates, settings: WithinTaskSettings | NeuralSettings
) -> tuple[int, int]:
    """The index of the start to solve ``task`` from, and the environment steps that the choice took.

    With exact evaluation the values of the starts are read off the model and cost no steps. Ties go to the first.

    Raises:
        TaskError: the environment breaks its contract, or a start does not fit the task.
    """
    if candidates.selection == "round_robin":
        return task.index % len(candidates.starts), 0
    policies = [start.initialization for start in candidates.starts]
    limits = (1.0 - settings.safety_margin) * np.array(task.limits)
    if isinstance(settings, NeuralSettings):
        values, steps = _neural_values(family, task, policies, settings, candidates.probe_episodes)
    else:
        values, steps = _tabular_values(family, task, policies, settings, candidates.probe_episodes)
    return int(np.argmax(start_scores(values, limits, settings.tolerances(limits.size)))), steps


def start_scores(values: FloatArray, limits: FloatArray, tolerance: FloatArray) -> FloatArray:
    """How well starts of values J [K, 1+p] do beside each other, [K]; the greatest is the best.

    -(J_0max - J_0) / |J_0max| - mean_i max(0, J_i - d_i - eta_i) / d_i: the score by which rates are chosen, with the
    best reward among the starts in the place of the optimum's.
    """
    best = float(values[:, 0].max())
    behind = (best - values[:, 0]) / max(abs(best), 1e-12)
    excess = np.maximum(relative_violations(values, limits + tolerance), 0.0)
    return np.asarray(-behind - excess.mean(axis=1))


def _tabular_values(
    family: TaskFamily, task: Task, policies: Sequence[Policy], settings: WithinTaskSettings, episodes: int | None
) -> tuple[FloatArray, int]:
    """J [K, 1+p]: exact, or in the maximum-likelihood model of the rollouts of all the policies together."""
    tables = [table_of(policy) for policy in policies]
    if settings.evaluation == "exact":
        model = family.model(task.parameters)
        if model is None:
            raise TaskError(f"task {task.label}: exact evaluation needs a model to choose a start by")
        exact = ExactModel(model)
        return np.array([evaluate(exact, table).values for table in tables]), 0
    count = episodes or settings.episodes_per_iteration
    rollouts = TabularRollouts(family, task, min(settings.num_copies, count))
    try:
        counts, steps = TransitionCounts(rollouts.num_states, rollouts.num_actions, len(task.limits)), 0
        for table in tables:
            seen = rollouts.collect(table, _PROBE, count)
            counts.add(seen)
            steps += len(seen)
    finally:
        rollouts.close()
    model_hat = counts.model(family.discount)
    return np.array([evaluate_empirical(model_hat, table).values for table in tables]), steps


def _neural_values(
    family: TaskFamily, task: Task, policies: Sequence[Policy], settings: NeuralSettings, episodes: int | None
) -> tuple[FloatArray, int]:
    """J [K, 1+p] from ``episodes`` episodes of each policy (of a batch as CRPO's where None)."""
    copies = episodes or settings.num_copies
    batch = make_batch(family, task, copies)
    try:
        steps = batch.horizon if episodes else settings.steps_per_iteration // copies
        rollouts = NeuralRollouts(batch, steps, task.seed, task.label)
        limits = np.array(task.limits)
        problem = Problem(np.ones(1 + limits.size), limits, np.zeros(limits.size), family.discount, batch.horizon)
        values = []
        for policy in policies:
            if not isinstance(policy, PolicyState):
                raise TaskError(f"task {task.label}: neural_crpo needs neural starts, got a table of probabilities")
            values.append(estimate_returns(rollouts.collect(policy, _PROBE), problem, settings))
    finally:
        batch.close()
    return np.array(values, np.float64), len(policies) * copies * steps
