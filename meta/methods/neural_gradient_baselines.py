"""Baselines beyond the paper for neural policies: Reptile on CRPO, MAML with a cost penalty, one policy for all tasks.

The tabular forms and their sources are in :mod:`meta.methods.gradient_baselines`. Parameters of policies with different
observation statistics are compared after all were put under the same ones (``PolicyState.with_statistics``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from meta.learning.neural import NeuralContribution
from meta.methods.gradient_baselines import last_kept, task_groups
from policies.common.branches import tolerance_of_each
from policies.common.results import Start
from policies.neural.adam import Adam
from policies.neural.crpo import solve_neural
from policies.neural.natural_gradient import Samples, equal_weights, policy_gradient
from policies.neural.networks import Array, linearize
from policies.neural.policy_state import ObservationStatistics, Parameters, PolicyState, merge, no_observations
from policies.neural.rollouts import NeuralRollouts, NeuralTransitions
from policies.neural.update import NeuralSettings, Problem, estimate_advantages, improve
from tasks.contract.tabular_model import FloatArray
from tasks.contract.task import Task, TaskFamily
from tasks.stepping.batch import make_batch

_CHOICE_STREAM = 42


def moved(parameters: Parameters, targets: Sequence[Array], step: float) -> Parameters:
    """theta + eps * mean_t (theta_t - theta)."""
    mean = np.mean(np.array(targets, np.float64), axis=0)
    vector = parameters.vector + step * (mean - parameters.vector)
    return Parameters(parameters.network, vector.astype(parameters.vector.dtype))


def reptile_policy(policy: PolicyState, items: Sequence[NeuralContribution], step: float) -> PolicyState:
    """Reptile's step on actor and critic, under the statistics of all observations so far.

    One task and eps = 1 give its output's own actions and values (up to rounding).
    """
    ordered = sorted(items, key=lambda item: item.task_index)
    statistics = policy.statistics
    for item in ordered:
        statistics = merge(statistics, item.statistics)
    policy = policy.with_statistics(statistics)
    adapted = [item.policy.with_statistics(statistics) for item in ordered]
    actor = moved(policy.actor, [one.actor.vector for one in adapted], step)
    return PolicyState(actor, moved(policy.critic, [one.critic.vector for one in adapted], step), statistics)


@dataclass(frozen=True, slots=True)
class Adapted:
    """The last iterate of a task, the batch that evaluated it, and the statistics of all that the task saw."""

    policy: PolicyState
    data: NeuralTransitions
    statistics: ObservationStatistics


def adapt(family: TaskFamily, task: Task, start: Start, within: NeuralSettings) -> Adapted:
    """Solve ``task`` with CRPO and keep what the outer gradient needs.

    Raises:
        ValueError: ``within_task.evaluate_last`` is off, so that nothing was collected with the adapted policy.
    """
    if not within.evaluate_last:
        raise ValueError("within_task.evaluate_last: maml_penalty needs the batch of the last iterate; set it to true")
    assert isinstance(start.initialization, PolicyState)
    batch = make_batch(family, task, within.num_copies)
    seen, last = [no_observations(batch.observation_size)], list[NeuralTransitions]()

    def look(iteration: int, data: NeuralTransitions) -> None:
        seen[0] = seen[0].merged(data.flat(data.observations))
        if iteration == within.num_iterations:
            last.append(data.copy())

    try:
        limits, rates = np.array(task.limits), start.learning_rates
        solution = solve_neural(
            batch,
            start.initialization,
            rates,
            limits,
            within,
            task.seed,
            discount=family.discount,
            label=task.label,
            on_batch=look,
        )
    finally:
        batch.close()
    return Adapted(solution.iterates[-1], last[0], seen[0])


def penalized_policy_gradient(
    policy: PolicyState, data: NeuralTransitions, penalties: FloatArray, discount: float, trace: FloatArray
) -> Array:
    """Estimate of the gradient of J_0 - sum_i lambda_i J_i in the actor's parameters from ``policy``'s own batch.

    E[(A_0 - sum_i lambda_i A_i) grad log pi] with generalised advantages (``trace`` [1+p]), centred; the factor
    1 / (1 - gamma) is left out, since Adam does not see it.
    """
    estimates = estimate_advantages(policy, data, discount, trace)
    combined = estimates.advantages[:, :1] - estimates.advantages[:, 1:] @ penalties[:, None]
    combined = (combined - combined.mean(axis=0)).astype(estimates.inputs.dtype)
    samples = Samples(estimates.inputs, data.flat(data.actions), combined, equal_weights(estimates.inputs))
    linear = linearize(policy.actor.network, policy.actor.vector, estimates.inputs)
    return policy_gradient(policy.actor.network, linear, samples, 0)


@dataclass(slots=True)
class NeuralPenaltyLearner:
    """First-order MAML with a cost penalty on the actor's parameters; the critic moves to the mean of the tasks'."""

    policy: PolicyState
    penalties: FloatArray
    step: float
    discount: float
    within: NeuralSettings
    _adam: list[Adam] = field(default_factory=list)

    def update(self, adapted: Sequence[Adapted]) -> None:
        """One outer step from the tasks of a round."""
        statistics = self.policy.statistics
        for item in adapted:
            statistics = merge(statistics, item.statistics)
        policy = self.policy.with_statistics(statistics)
        trace = np.full(1 + self.penalties.size, self.within.cost_trace)
        trace[0] = self.within.reward_trace
        ends = [item.policy.with_statistics(statistics) for item in adapted]
        gradients = [
            penalized_policy_gradient(end, item.data, self.penalties, self.discount, trace)
            for end, item in zip(ends, adapted, strict=True)
        ]
        if not self._adam:
            self._adam.append(Adam(policy.actor.vector, self.step))
        vector = self._adam[0].step(policy.actor.vector, np.asarray(-np.mean(gradients, axis=0)))
        actor = Parameters(policy.actor.network, vector.astype(policy.actor.vector.dtype))
        self.policy = PolicyState(actor, moved(policy.critic, [end.critic.vector for end in ends], 1.0), statistics)


def side_by_side(parts: Sequence[NeuralTransitions]) -> NeuralTransitions:
    """Batches of equally many steps as one batch of all their copies."""
    offsets = np.cumsum([0, *(part.signals.shape[1] for part in parts[:-1])])
    joined = {
        name: np.concatenate([getattr(part, name) for part in parts], axis=1)
        for name in ("observations", "actions", "signals", "terminated", "truncated")
    }
    steps = [part.final_steps + np.array([0, offset]) for part, offset in zip(parts, offsets, strict=True)]
    observations = np.concatenate([part.final_observations for part in parts])
    return NeuralTransitions(**joined, final_steps=np.concatenate(steps), final_observations=observations)


def multitask_network(
    family: TaskFamily,
    tasks: Sequence[Task],
    fresh: PolicyState,
    rate: float,
    within: NeuralSettings,
    group_size: int,
    seed: int,
) -> PolicyState:
    """One policy for all tasks by CRPO: the copies of an iteration are shared out evenly over a group of tasks.

    T (M + ``evaluate_last``) iterations of ``steps_per_iteration`` steps, as many environment steps as the other
    methods take; mean values of the group against its mean limits choose the branch. The result is the last iterate
    that kept them. A group of one task gives CRPO.
    """
    size = math.gcd(within.num_copies, min(group_size, len(tasks)))
    copies, steps = within.num_copies // size, within.steps_per_iteration // within.num_copies
    updates = len(tasks) * (within.num_iterations + within.evaluate_last)
    longer, rng = within.model_copy(update={"num_iterations": updates}), np.random.default_rng([seed, _CHOICE_STREAM])
    policy, iterates, values, limits, branches = fresh, [], [], [], []
    for update, group in enumerate(task_groups(len(tasks), size, updates)):
        chosen = [tasks[position] for position in group]
        data, horizon = _collect(family, chosen, policy, copies, steps, update)
        allowed = (1.0 - within.safety_margin) * np.mean([task.limits for task in chosen], axis=0)
        tolerance = tolerance_of_each(within.tolerance, allowed.size)
        problem = Problem(np.full(1 + allowed.size, rate), allowed, tolerance, family.discount, horizon)
        improved, report = improve(policy, data, problem, longer.at(update), rng)
        iterates.append(policy)
        values.append(report.values)
        limits.append(allowed)
        branches.append(report.branch)
        policy = improved
    return iterates[last_kept(np.array(values), np.array(limits), np.array(branches), problem.tolerance)]


def _collect(
    family: TaskFamily, tasks: Sequence[Task], policy: PolicyState, copies: int, steps: int, iteration: int
) -> tuple[NeuralTransitions, int]:
    parts, horizon = [], 0
    for task in tasks:
        batch = make_batch(family, task, copies)
        try:
            rollouts = NeuralRollouts(batch, steps, task.seed, task.label)
            parts.append(rollouts.collect(policy, iteration))
            horizon = batch.horizon
        finally:
            batch.close()
    return side_by_side(parts), horizon


def as_start(policy: PolicyState, rate: float) -> Start:
    """A start with one rate for every objective."""
    return Start(policy, np.full(policy.num_objectives, rate))
