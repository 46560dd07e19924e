"""Solve a task by an RLlib algorithm: ``within_task.method.name: rllib:<class>``.

The process that solves the task, a Ray actor in a run, owns the Algorithm; its environment runners may be on any node.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.rllib.algorithms.algorithm import Algorithm

from distributed.cluster.health import ClusterLostError
from distributed.cluster.ray_cluster import cluster, resources_of_cluster
from distributed.rllib.episode_batches import CostError
from distributed.settings.errors import ConfigurationError, first_line
from distributed.settings.run_config import ClusterSettings
from distributed.solvers.rllib_method import algorithm_class, default_config, method_of, task_config
from distributed.solvers.rllib_training import Trained, Training
from distributed.solvers.task_environment import TaskSource
from policies.common.branches import choose_output
from policies.common.results import Start, TaskResult, require_rates
from policies.neural.crpo import require_whole_episodes
from policies.neural.neural_settings import NeuralSettings
from policies.neural.policy_state import PolicyState
from policies.neural.rollouts import NeuralTransitions
from policies.neural.solving import Collector, NeuralDataset, collector_for, require_same_networks, state_of
from policies.neural.update import Problem, estimate_returns
from policies.rules.rule_registry import MethodSettings
from tasks.contract.tabular_model import FloatArray
from tasks.contract.task import Task, TaskError, TaskFamily

_CHOICE_STREAM = 73


class RLlibSolver:
    """See :class:`policies.rules.outside.Outside`."""

    def num_cpus(self, method: MethodSettings) -> int:
        """CPUs of a worker and the environment runners that it starts."""
        return 1 + method_of(method).num_env_runners

    def require_usable(self, settings: NeuralSettings, family: TaskFamily, *, learns_rates: bool) -> None:
        """Import the class and check it against the settings; see :func:`distributed.solvers.rllib_method`."""
        del family
        default_config(settings, learns_rates=learns_rates)

    def solve(
        self,
        family: TaskFamily,
        task: Task,
        start: Start,
        settings: NeuralSettings,
        *,
        collect: bool,
        on_iteration: Callable[[int], None],
    ) -> tuple[TaskResult, NeuralDataset | None]:
        """Solve ``task`` from ``start``; as :func:`policies.neural.solving.solve_neural_task`.

        Raises:
            TaskError: the start or a setting does not fit, the environment breaks its contract, or training fails.
        """
        began = time.perf_counter()
        policy, problem = _fitting(family, task, start, settings), _problem(family, task, start, settings)
        collector = collector_for(task, settings, policy.statistics.mean.size, collect=collect)

        def see(iteration: int, data: NeuralTransitions) -> FloatArray:
            collector.see(iteration, data)
            return estimate_returns(data, problem, settings)

        with (
            _told(task.label, settings.method.name),
            _on_ray(self.num_cpus(settings.method)),
            _algorithm(TaskSource(family, task), start, settings) as algorithm,
        ):
            training = Training(algorithm, policy, len(task.limits), task.label, see)
            trained = training.run(settings.num_iterations, on_iteration, evaluate_last=settings.evaluate_last)
        result = _result(task, trained, problem, settings, np.array(collector.episodic))
        result = dataclasses.replace(result, seconds=time.perf_counter() - began)
        return result, _dataset(start, trained, result, collector, problem) if collect else None


def _fitting(family: TaskFamily, task: Task, start: Start, settings: NeuralSettings) -> PolicyState:
    """The start, which must fit the task and the settings.

    Raises:
        TaskError: it does not.
    """
    policy = state_of(start.initialization, task.label)
    require_same_networks(policy, settings, task.label)
    require_rates(task, start)
    require_whole_episodes(settings, family.horizon, task.label)
    if start.safety is not None:
        raise TaskError(
            f"task {task.label}: evaluation.safety: the steps of {settings.method.name} cannot be bounded; leave it "
            "out, or take a method that is a rule"
        )
    with closing(TaskSource(family, task).batch()) as batch:
        outputs = batch.num_actions or len(batch.action_low if batch.action_low is not None else ())
        needed = batch.observation_size, outputs, 1 + len(task.limits)
    network = policy.actor.network
    given = network.num_inputs, network.num_outputs, policy.num_objectives
    if given != needed:
        raise TaskError(
            f"task {task.label}: the policy has {given[0]} inputs, {given[1]} outputs and {given[2]} critic heads, the "
            f"task needs {needed[0]}, {needed[1]} and {needed[2]}"
        )
    return policy


def _problem(family: TaskFamily, task: Task, start: Start, settings: NeuralSettings) -> Problem:
    """What an iterate is measured by: as :func:`policies.neural.crpo.solve_neural`."""
    limits = (1.0 - settings.safety_margin) * np.array(task.limits)
    tolerance = settings.tolerances(limits.size)
    return Problem(start.learning_rates, limits, tolerance, family.discount, family.horizon)


@contextlib.contextmanager
def _told(label: str, name: str) -> Iterator[None]:
    """Whatever RLlib or the user's class raises is an error of the task."""
    try:
        yield
    except (ClusterLostError, ConfigurationError):
        raise
    except Exception as error:
        cause: BaseException = getattr(error, "cause", None) or error  # of what a runner in another process raised
        told = str(cause) if isinstance(cause, TaskError | CostError) else f"task {label}: {name}: {first_line(cause)}"
        raise TaskError(told) from error


@contextlib.contextmanager
def _on_ray(num_cpus: int) -> Iterator[None]:
    """Ray, which RLlib needs: the cluster that this process belongs to, or one of its own for as long as it takes.

    Raises:
        TaskError: the cluster has fewer CPUs than the runners ask for.
    """
    if not ray.is_initialized():
        with cluster(ClusterSettings(num_workers=num_cpus, dashboard=False, object_store_mb=100)):
            yield
        return
    found = resources_of_cluster().get("CPU", 0.0)
    if found < num_cpus:
        raise TaskError(
            f"within_task.method.num_env_runners: {num_cpus - 1} runners and their worker need {num_cpus} CPUs, and "
            f"the cluster has {found:g}"
        )
    yield


@contextlib.contextmanager
def _algorithm(source: TaskSource, start: Start, settings: NeuralSettings) -> Iterator[Algorithm]:
    """The algorithm for a task; the empty folder that RLlib makes for it does not stay."""
    chosen = algorithm_class(settings.method.name)  # a subclass may have its parent's configuration, which makes that
    algorithm: Any = chosen(config=task_config(settings, source, start.learning_rates))
    try:
        yield algorithm
    finally:
        algorithm.stop()
        with contextlib.suppress(OSError):
            Path(algorithm.logdir).rmdir()


def _result(
    task: Task, trained: Trained, problem: Problem, settings: NeuralSettings, episodic: FloatArray
) -> TaskResult:
    """The task's result, but for the time it took."""
    values, branches = np.array(trained.values), np.array(trained.branches, np.int64)
    rng = np.random.default_rng([task.seed, _CHOICE_STREAM])
    output, feasible = choose_output(values, branches, problem.limits, problem.tolerance, settings.output, rng)
    return TaskResult(
        task=task,
        policy=trained.iterates[output],
        values=values,
        branches=branches,
        output=output,
        feasible=feasible,
        env_steps=trained.env_steps,
        seconds=0.0,
        episodic=episodic,
        facts={"mean_kl": float(np.mean(trained.kl))},
    )


def _dataset(
    start: Start, trained: Trained, result: TaskResult, collector: Collector, problem: Problem
) -> NeuralDataset:
    """As of a task that is solved by a rule; there is no b_t where divergences are NaN."""
    assert isinstance(result.policy, PolicyState)
    return NeuralDataset(
        task_index=result.task.index,
        observations=np.concatenate(collector.observations),
        statistics=collector.statistics,
        policy=result.policy,
        start=start,
        branches=result.branches,
        divergences=np.array(trained.divergences),
        sample=collector.sample(trained.iterates),
        discount=problem.discount,
        horizon=problem.horizon,
    )


RLLIB = RLlibSolver()
