"""Solve one task with a neural policy and keep what the meta-learner needs of it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from policies.common.policy import Policy
from policies.common.results import Start, TaskResult, require_rates
from policies.common.safety import Guard
from policies.common.transition_sample import TransitionSample, concatenate_samples
from policies.networks.distributions import distribution_of
from policies.networks.module_network import told
from policies.neural.advantages import complete_returns
from policies.neural.crpo import NeuralSolution, solve_neural
from policies.neural.neural_settings import NeuralSettings
from policies.neural.policy_state import ObservationStatistics, PolicyState, merge, no_observations, on_device
from policies.neural.rollouts import NeuralTransitions, sample_of
from tasks.contract.tabular_model import FloatArray
from tasks.contract.task import Task, TaskError, TaskFamily
from tasks.stepping.batch import Float32Array, make_batch

_SAMPLE_STREAM = 24


@dataclass(frozen=True, slots=True)
class NeuralDataset:
    """What the meta-learner gets from a task solved with a neural policy.

    ``observations`` [K, d], as the environment gave them, are drawn evenly from the batches of all iterates;
    ``statistics`` are those of every observation seen. ``divergences`` [M] are the mean KL(pi_m || pi_{m+1}) that each
    step asked for (before caps), and ``branches`` [M] its objective. ``sample`` are complete paths of some copies under
    every iterate, for estimators of the stationary distribution; None where ``dataset_transitions`` is 0.
    """

    task_index: int
    observations: Float32Array
    statistics: ObservationStatistics
    policy: PolicyState
    start: Start
    branches: NDArray[np.int64]
    divergences: FloatArray
    sample: TransitionSample | None
    discount: float
    horizon: int


@dataclass(slots=True)
class Collector:
    """Observes a solver: measures complete episodes, and draws ``shares`` [M or M+1] of the observations.

    ``paths`` [M or M+1] is the number of copies whose complete paths are kept under each iterate.
    """

    seed: int
    shares: NDArray[np.int64] | None
    statistics: ObservationStatistics
    paths: NDArray[np.int64] | None = None
    observations: list[Float32Array] = field(default_factory=list)
    samples: list[TransitionSample] = field(default_factory=list)
    episodic: list[FloatArray] = field(default_factory=list)

    def see(self, iteration: int, data: NeuralTransitions) -> None:
        """The batch of an iterate."""
        returns = complete_returns(data.signals, data.ended, 1.0)
        absent = np.full(data.signals.shape[2], np.nan)
        self.episodic.append(np.asarray(returns.mean(axis=0), np.float64) if len(returns) else absent)
        if self.shares is None:
            return
        rows = data.flat(data.observations)
        rng = np.random.default_rng([self.seed, _SAMPLE_STREAM, iteration])
        share = min(int(self.shares[iteration]), len(rows))
        self.observations.append(rows[np.sort(rng.choice(len(rows), share, replace=False))])
        self.statistics = merge(self.statistics, no_observations(rows.shape[1]).merged(rows))
        if self.paths is not None and self.paths[iteration]:
            episodes = int(self.samples[-1].episodes[-1]) + 1 if self.samples else 0
            self.samples.append(sample_of(data, int(self.paths[iteration]), iteration, episodes))

    def sample(self, iterates: Sequence[PolicyState]) -> TransitionSample | None:
        """The paths of all iterates, with the log-probabilities of the actions under the iterate that chose them."""
        if not self.samples:
            return None
        return concatenate_samples(
            [
                dataclasses.replace(part, log_probabilities=_log_probabilities(iterates[int(part.iterations[0])], part))
                for part in self.samples
            ]
        )


def solve_neural_task(
    family: TaskFamily,
    task: Task,
    start: Start,
    settings: NeuralSettings,
    *,
    collect: bool,
    on_iteration: Callable[[int], None] = lambda iteration: None,
) -> tuple[TaskResult, NeuralDataset | None]:
    """Solve ``task`` from ``start`` with neural CRPO; with ``collect`` also return the dataset for the meta-learner.

    Raises:
        TaskError: the environment breaks its contract, or the start or a setting does not fit the task.
    """
    began = time.perf_counter()
    limits, policy = np.array(task.limits), on_device(state_of(start.initialization, task.label), settings.device)
    require_same_networks(policy, settings, task.label)
    require_rates(task, start)
    batch = make_batch(family, task, settings.num_copies)
    horizon, guard = batch.horizon, None if start.safety is None else Guard(start.safety, limits)
    collector = collector_for(task, settings, batch.observation_size, collect=collect)

    def on_batch(iteration: int, data: NeuralTransitions) -> None:
        on_iteration(iteration)
        collector.see(iteration, data)

    with closing(batch):
        solution = solve_neural(
            batch,
            policy,
            start.learning_rates,
            limits,
            settings,
            task.seed,
            discount=family.discount,
            label=task.label,
            on_batch=on_batch,
            guard=guard,
        )
    solution = dataclasses.replace(solution, iterates=tuple(on_device(one, "cpu") for one in solution.iterates))
    result = _result(task, solution, np.array(collector.episodic), time.perf_counter() - began)
    result = dataclasses.replace(result, safety=None if guard is None else guard.report())
    return result, _dataset(task, start, solution, collector, family.discount, horizon) if collect else None


def collector_for(task: Task, settings: NeuralSettings, observation_size: int, *, collect: bool) -> Collector:
    """What observes the iterates of a task; with ``collect`` it keeps observations and paths for the dataset."""
    shares = _even_shares(settings.dataset_size, settings.num_iterations + settings.evaluate_last) if collect else None
    paths = _paths(settings) if collect and settings.dataset_transitions else None
    return Collector(task.seed, shares, no_observations(observation_size), paths)


def _dataset(
    task: Task, start: Start, solution: NeuralSolution, collector: Collector, discount: float, horizon: int
) -> NeuralDataset:
    return NeuralDataset(
        task_index=task.index,
        observations=np.concatenate(collector.observations),
        statistics=collector.statistics,
        policy=solution.policy,
        start=start,
        branches=solution.branches,
        divergences=np.array([update.step.requested_kl for update in solution.updates], np.float64),
        sample=collector.sample(solution.iterates),
        discount=discount,
        horizon=horizon,
    )


def state_of(policy: Policy, label: str) -> PolicyState:
    """``policy``, which must be a network; ``label`` names the task in the error.

    Raises:
        TaskError: it is a table.
    """
    if not isinstance(policy, PolicyState):
        raise TaskError(f"task {label}: neural_crpo needs a neural start, got a table of probabilities")
    return policy


def require_same_networks(policy: PolicyState, settings: NeuralSettings, label: str) -> None:
    """Check that ``policy`` is of the modules that the settings name; ``label`` names the task in the error.

    Raises:
        TaskError: it is not.
    """
    for role, parameters, spec in (
        ("network", policy.actor, settings.modules.actor),
        ("critic_network", policy.critic, settings.modules.critic),
    ):
        found = getattr(parameters.network, "spec", None)
        if found != spec:
            raise TaskError(
                f"task {label}: within_task.{role} is {told(spec)}, and the start has {told(found)}: start from a "
                "policy of the same network"
            )


def _paths(settings: NeuralSettings) -> NDArray[np.int64]:
    """Copies whose paths are kept under each iterate: about ``dataset_transitions`` steps in all, one copy at least."""
    count = settings.num_iterations + settings.evaluate_last
    steps = settings.steps_per_iteration // settings.num_copies
    wanted = _even_shares(max(settings.dataset_transitions // steps, count), count)
    return np.minimum(wanted, settings.num_copies)


def _log_probabilities(policy: PolicyState, part: TransitionSample) -> FloatArray:
    outputs, extra = policy.act(part.observations)
    logs = distribution_of(policy.actor.network).log_probability(outputs, extra, part.actions)
    return np.asarray(logs, np.float64)


def _even_shares(total: int, parts: int) -> NDArray[np.int64]:
    """``total`` split into ``parts`` integers [parts] that differ by at most one."""
    return np.diff(np.arange(parts + 1) * total // parts)


def _result(task: Task, solution: NeuralSolution, episodic: FloatArray, seconds: float) -> TaskResult:
    steps = [update.step for update in solution.updates]
    return TaskResult(
        task=task,
        policy=solution.policy,
        values=solution.values,
        branches=solution.branches,
        output=solution.output,
        feasible=solution.feasible,
        env_steps=solution.env_steps,
        seconds=seconds,
        episodic=episodic,
        facts={
            "capped_steps": sum(step.cap != "none" for step in steps),
            "refused_steps": sum(step.cap == "refused" for step in steps),
            "mean_kl": float(np.mean([step.kl for step in steps])),
            "critic_explained_variance": float(np.mean([update.predicted_variance[0] for update in solution.updates])),
            **{f"{name}_seconds": spent for name, spent in solution.seconds.items()},
        },
    )
