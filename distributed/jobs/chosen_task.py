"""The task that ``adapt`` and ``watch`` solve: a held-out one by its index, a new one by a seed, or the user's own."""

from __future__ import annotations

from threadpoolctl import threadpool_limits

from distributed.models.model_registry import FIRST_NEW_INDEX
from distributed.settings.errors import ConfigurationError
from meta.training.evaluation_settings import GivenTask
from meta.training.experiment import Experiment
from meta.training.held_out_tasks import given_tasks
from meta.training.pool import LocalPool
from policies.common.policy import Policy
from policies.exact.own_task import OwnTaskError, own_task
from policies.solving.algorithms import kind_of_policy
from tasks.contract.family_registry import FamilySpec
from tasks.contract.task import Task, TaskError, TaskFamily


def task_without_limits(family: TaskFamily, spec: FamilySpec) -> Task:
    """A task that shows the spaces of the family's tasks; to draw one with its limits may take long."""
    return Task(spec.name, "test", 0, 0, family.parameters("test", 0, 0), limits=())


def require_start_fits(start: Policy, family: TaskFamily, spec: FamilySpec, source: str) -> None:
    """Check that a start fits the tasks of ``family`` before any is drawn, which may need a large linear programme.

    Raises:
        ConfigurationError: The start is for other tasks; the message names ``source``.
    """
    kind, task = kind_of_policy(start), task_without_limits(family, spec)
    try:
        spaces = kind.spaces(family, task)
        if spaces.tabular:
            kind.from_arrays(kind.to_arrays(start), spaces)
    except (TaskError, ValueError) as error:
        raise ConfigurationError(
            f"{source}: its start does not fit the tasks of {spec.name}, as its settings make them: {error}"
        ) from error


def chosen_task(
    experiment: Experiment, pool: LocalPool, index: int | None, seed: int | None = None, given: GivenTask | None = None
) -> Task:
    """The task that the options choose.

    Args:
        experiment: Settings of the run or of the learned start.
        pool: Draws tasks of its family.
        index: Index of a held-out task; 0 if nothing is given.
        seed: Seed of a new task instead.
        given: Parameters (and limits) of an own task instead.

    Raises:
        ConfigurationError: There is no such task; the message names the option and what would be right.
    """
    family, tasks = experiment.family, experiment.evaluation.tasks
    if given is not None:
        try:
            with threadpool_limits(1):
                return own_task(family.make(), family.name, given.parameters, given.limits, seed=family.seed)
        except OwnTaskError as error:
            raise ConfigurationError(f"--{error}") from error
    if seed is not None or tasks is None:
        (task,) = pool.draw("test", [FIRST_NEW_INDEX + seed if seed is not None else index or 0])
        return task
    if (index or 0) >= len(tasks):
        raise ConfigurationError(
            f"--task-index: evaluation.tasks of this run holds {len(tasks)} tasks, 0 to {len(tasks) - 1}; got {index}"
        )
    try:
        return given_tasks(family, tasks)[index or 0]
    except TaskError as error:
        raise ConfigurationError(str(error)) from error
