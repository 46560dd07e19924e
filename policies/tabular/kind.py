"""Tabular policies as a kind: tables of probabilities [S, A] over discrete states and actions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from policies.common.policy import Policy, policy_for, table_of
from policies.common.policy_kind import PlayedStep, Settled, Spaces
from policies.common.results import Start, TaskResult
from policies.exact.solver import ExactModel, evaluate
from policies.tabular.crpo import WithinTaskSettings
from policies.tabular.empirical import TransitionCounts, evaluate_empirical
from policies.tabular.kernel_table import ContextTable, KernelTable, from_kernel_arrays, to_kernel_arrays
from policies.tabular.log_linear_table import LogLinearTable, from_log_linear_arrays, to_log_linear_arrays
from policies.tabular.rollouts import TabularRollouts, discrete_shape
from policies.tabular.solving import NO_MODEL, TaskDataset, solve_tabular_task
from tasks.contract import returned
from tasks.contract.contextual_family import ContextualFamily
from tasks.contract.tabular_model import FloatArray
from tasks.contract.task import Task, TaskError, TaskFamily
from tasks.contract.timeout import step_seconds, time_limit

PROBE = 2**20
"""The iteration number behind the random numbers of probing rollouts: equal for every start, none of CRPO's."""
ACTION_STREAM = 41
"""Key of the random actions of an episode that is played."""


class TabularKind:
    """See :class:`policies.common.policy_kind.PolicyKind`; a policy is an array of probabilities [S, A]."""

    name = "tabular"

    def owns(self, policy: Policy) -> bool:
        """Whether ``policy`` is an array, or makes one of a context."""
        return type(policy) in (np.ndarray, KernelTable, LogLinearTable)

    def fresh(self, family: TaskFamily, task: Task, settings: WithinTaskSettings, seed: int) -> FloatArray:
        """The uniform policy [S, A].

        Raises:
            TaskError: exact evaluation is asked for and the family has no model.
        """
        del seed
        if settings.evaluation == "exact" and family.model(task.parameters) is None:
            raise TaskError(f"task {task.label}: {NO_MODEL}")
        states, actions = discrete_shape(family, task)
        return np.full((states, actions), 1.0 / actions)

    def settle(self, family: TaskFamily, task: Task, start: Start, settings: WithinTaskSettings) -> Settled:
        """The table for the task's context, where the start is a function of it.

        Raises:
            TaskError: the start needs a context and the family gives none.
        """
        del settings
        if not isinstance(family, ContextualFamily):
            if isinstance(start.initialization, ContextTable):
                raise TaskError(f"task {task.label}: the start needs the task's context; the family has no contexts")
            return Settled(family, start)
        context = family.context_of(task)
        table = policy_for(start.initialization, context)
        return Settled(family, dataclasses.replace(start, initialization=table, context=context), context)

    def solve(
        self,
        family: TaskFamily,
        task: Task,
        start: Start,
        settings: WithinTaskSettings,
        *,
        collect: bool,
        on_iteration: Callable[[int], None],
    ) -> tuple[TaskResult, TaskDataset | None]:
        """CRPO on a table."""
        return solve_tabular_task(family, task, start, settings, collect=collect, on_iteration=on_iteration)

    def values(
        self,
        family: TaskFamily,
        task: Task,
        policies: Sequence[Policy],
        settings: WithinTaskSettings,
        episodes: int | None,
    ) -> tuple[FloatArray, int]:
        """J [K, 1+p]: exact, or in the maximum-likelihood model of the rollouts of all the policies together."""
        tables = [table_of(policy) for policy in policies]
        if settings.evaluation == "exact":
            model = family.model(task.parameters)
            if model is None:
                raise TaskError(f"task {task.label}: choosing a start by exact evaluation needs a model")
            exact = ExactModel(model)
            return np.array([evaluate(exact, table).values for table in tables]), 0
        count = episodes or settings.episodes_per_iteration
        rollouts = TabularRollouts(family, task, min(settings.num_copies, count))
        try:
            counts, steps = TransitionCounts(rollouts.num_states, rollouts.num_actions, len(task.limits)), 0
            for table in tables:
                seen = rollouts.collect(table, PROBE, count)
                counts.add(seen)
                steps += len(seen)
        finally:
            rollouts.close()
        model_hat = counts.model(family.discount)
        return np.array([evaluate_empirical(model_hat, table).values for table in tables]), steps

    def act(self, policy: FloatArray, observations: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        """Indices [n] of actions drawn at states [n]."""
        cumulative = np.cumsum(policy[observations], axis=1)[:, :-1]
        return np.asarray((rng.random(len(observations))[:, None] >= cumulative).sum(axis=1))

    def most_probable(self, policy: FloatArray, observations: NDArray[Any]) -> NDArray[Any]:
        """Indices [n] of the most probable actions at states [n]."""
        return np.asarray(policy[observations].argmax(axis=1))

    def play(
        self, env: gymnasium.Env[Any, Any], family: TaskFamily, task: Task, policy: FloatArray, seed: int
    ) -> Iterator[PlayedStep]:
        """One episode, stepped as the environment is, without a batch."""
        rng, num_costs, time, last = np.random.default_rng([seed, ACTION_STREAM]), len(family.cost_names), 0, False

        def where() -> str:
            return f"{task.label}, step {time}"

        with time_limit(step_seconds(family), where):
            state = returned.first_observation(env.reset(seed=seed), where)
        yield 0.0, np.zeros(num_costs), False
        while not last:
            time += 1
            action = int(self.act(policy, np.array([state]), rng)[0])
            with time_limit(step_seconds(family), where):
                result = env.step(action)
            state, reward, terminated, truncated, info = returned.step_values(result, where)
            last = bool(terminated or truncated) or time == family.horizon
            yield returned.number(reward, "the reward", where), np.array(returned.costs(info, num_costs, where)), last

    def spaces(self, family: TaskFamily, task: Task) -> Spaces:
        """Numbers of states and actions."""
        states, actions = discrete_shape(family, task)
        return Spaces(tabular=True, observation=states, actions=actions)

    def to_arrays(self, policy: FloatArray | KernelTable | LogLinearTable) -> dict[str, NDArray[Any]]:
        """One array, ``probabilities``; or the parts of a :class:`policies.tabular.kernel_table.ContextTable`."""
        if isinstance(policy, LogLinearTable):
            return to_log_linear_arrays(policy)
        return to_kernel_arrays(policy) if isinstance(policy, KernelTable) else {"probabilities": policy}

    def from_arrays(
        self, arrays: Mapping[str, NDArray[Any]], spaces: Spaces
    ) -> FloatArray | KernelTable | LogLinearTable:
        """The table, checked: its shape, and that its rows are distributions."""
        if "effects" in arrays:
            return from_log_linear_arrays(arrays, (spaces.observation, spaces.actions))
        if "weighted" in arrays:
            return from_kernel_arrays(arrays, (spaces.observation, spaces.actions))
        table = arrays["probabilities"]
        if table.shape != (spaces.observation, spaces.actions):
            raise ValueError(f"probabilities must have the shape [{spaces.observation}, {spaces.actions}]")
        if not (table >= 0.0).all() or not np.allclose(table.sum(axis=1), 1.0):
            raise ValueError("probabilities must be probabilities, one row per state")
        return table


TABULAR = TabularKind()
