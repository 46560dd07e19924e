"""Held-out tasks: drawn from the test split or given by their parameters, and how they are solved."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, cast

from threadpoolctl import threadpool_limits

from meta.learning.settings import LearningRateSettings
from meta.training.evaluation_settings import EvaluationSettings, GivenTask
from meta.training.pool import Pool
from policies.common.results import Candidates, Starts
from policies.exact.own_task import OwnTaskError, own_task
from policies.neural.neural_settings import NeuralSettings
from policies.solving.algorithms import WithinTask
from tasks.contract.family_registry import FamilySpec
from tasks.contract.task import Task, TaskError


def held_out_tasks(pool: Pool, family: FamilySpec, evaluation: EvaluationSettings) -> list[Task]:
    """The held-out tasks of a run: those of ``evaluation.tasks``, or ``num_test_tasks`` drawn ones.

    Raises:
        TaskError: A task cannot be used; for a given one the message begins with its key in the run file.
    """
    if evaluation.tasks is None:
        return pool.draw("test", range(evaluation.num_test_tasks))
    return given_tasks(family, evaluation.tasks)


def given_tasks(family: FamilySpec, given: tuple[GivenTask, ...]) -> list[Task]:
    """The tasks of ``evaluation.tasks``, in their order.

    Raises:
        TaskError: One makes no task of the family; the message begins with its key.
    """
    made, tasks = family.make(), list[Task]()
    for index, one in enumerate(given):
        content = (made, family.name, one.parameters, one.limits)
        try:
            with threadpool_limits(1):
                tasks.append(own_task(*content, seed=family.seed, index=index, earlier=tasks))
        except OwnTaskError as error:
            raise TaskError(f"evaluation.tasks.{index}.{error}") from error
    return tasks


def held_out_settings(within: WithinTask, evaluation: EvaluationSettings) -> WithinTask:
    """How a held-out task is solved: ``within`` with what ``evaluation`` sets for held-out tasks."""
    names = ("num_iterations", "safety_margin", "steps_per_iteration")
    own: dict[str, Any] = {name: getattr(evaluation, name) for name in names}
    region = evaluation.trust_region.model_dump(exclude_none=True)
    if region:  # only networks have one, which :func:`require_held_out_settings` checks
        own["trust_region"] = cast("NeuralSettings", within).trust_region.model_copy(update=region)
    return within.model_copy(update={name: value for name, value in own.items() if value is not None})


def held_out_starts(learned: Starts, within: WithinTask, held_out: WithinTask, rates: LearningRateSettings) -> Starts:
    """``learned`` as new tasks take it: with the rates that ``meta.learning_rates.new_tasks`` asks for.

    The best rate of a task is sqrt(f_hat / (M b)), the minimiser of f_hat / (alpha M) + alpha b. Learned from tasks
    of M updates, it is sqrt(M / M') times as large where a new task takes M'.
    """
    if rates.new_tasks == "same" or within.num_iterations == held_out.num_iterations:
        return learned
    factor = math.sqrt(within.num_iterations / held_out.num_iterations)
    starts = tuple(replace(start, learning_rates=factor * start.learning_rates) for start in learned.starts)
    return replace(learned, starts=starts) if isinstance(learned, Candidates) else starts[0]


def require_held_out_settings(within: WithinTask, evaluation: EvaluationSettings) -> None:
    """Check that the settings for held-out tasks belong to the within-task algorithm.

    Raises:
        ValueError: One has no effect there, or does not go with the number of copies; the message names it.
    """
    steps = evaluation.steps_per_iteration
    region = bool(evaluation.trust_region.model_dump(exclude_none=True))
    for name, given in (("steps_per_iteration", steps is not None), ("trust_region", region)):
        if given and name not in type(within).model_fields:
            raise ValueError(
                f"evaluation.{name}: has no effect where within_task.algorithm is {within.algorithm}; leave it out "
                "(it is for neural_crpo)"
            )
    if steps is not None and steps % within.num_copies:
        raise ValueError(
            f"evaluation.steps_per_iteration: {steps} is no multiple of within_task.num_copies {within.num_copies}"
        )


def require_held_out_episodes(within: WithinTask, evaluation: EvaluationSettings, horizon: int) -> None:
    """Check that ``evaluation.steps_per_iteration`` has room for an episode of ``horizon`` steps in each copy.

    Raises:
        ValueError: It has not; the message says how many steps would do.
    """
    steps = evaluation.steps_per_iteration
    if steps is not None and steps // within.num_copies < horizon:
        raise ValueError(
            f"evaluation.steps_per_iteration: {steps} steps in {within.num_copies} copies do not hold an episode of "
            f"{horizon} steps in each; at least {within.num_copies * horizon} do"
        )
