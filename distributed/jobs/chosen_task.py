"""The task that ``adapt`` and ``watch`` solve: a held-out one by its index, a new one by a seed, or the user's own."""

from __future__ import annotations

from threadpoolctl import threadpool_limits

from distributed.models.model_registry import FIRST_NEW_INDEX
from distributed.settings.errors import ConfigurationError
from meta.training.evaluation_settings import GivenTask
from meta.training.experiment import Experiment
from meta.training.held_out_tasks import given_tasks
from meta.training.pool import LocalPool
from policies.exact.own_task import OwnTaskError, own_task
from tasks.contract.task import Task, TaskError


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
