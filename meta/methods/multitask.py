"""multitask: one policy for all training tasks, by CRPO on their mean."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import cast

import numpy as np

from meta.methods.workbench import Learned, Method, Workbench
from meta.training.evaluation_settings import GridPoint
from policies.common.branches import REWARD_BRANCH, choose_branch, choose_output, tolerance_of_each
from policies.common.policy import table_of
from policies.exact.softmax import log_policy, natural_gradient_step
from policies.exact.solver import Evaluation, ExactModel, evaluate, occupancy
from policies.neural.neural_settings import NeuralSettings
from policies.neural.policy_state import PolicyState
from policies.neural.rollouts import NeuralRollouts, NeuralTransitions
from policies.neural.update import Problem, improve
from policies.tabular.crpo import WithinTaskSettings
from tasks.contract.contextual_family import context_size
from tasks.contract.tabular_model import FloatArray
from tasks.contract.task import Task, TaskFamily
from tasks.stepping.batch import make_batch

_CHOICE_STREAM, _NETWORK_CHOICE_STREAM = 41, 42


def learn_table(bench: Workbench, point: GridPoint) -> Learned:
    """CRPO on the mean of exact models."""
    assert point.rate is not None
    experiment = bench.experiment
    models = bench.exact_models(bench.tasks, "multitask")
    limits, fresh = np.array([task.limits for task in bench.tasks]), np.log(table_of(bench.drawn.fresh))
    within, seed = cast("WithinTaskSettings", experiment.within), experiment.family.seed
    table = multitask_policy(models, limits, fresh, bench.rates(point.rate), within, experiment.tasks_per_round, seed)
    return bench.learned(bench.supported(np.exp(table)), point)


def learn_network(bench: Workbench, point: GridPoint) -> Learned:
    """CRPO on batches whose copies are shared out over a group of tasks."""
    assert point.rate is not None
    experiment, fresh = bench.experiment, cast("PolicyState", bench.drawn.fresh)
    within, size, seed = cast("NeuralSettings", experiment.within), experiment.tasks_per_round, experiment.family.seed
    network = multitask_network(bench.family, bench.tasks, fresh, bench.rates(point.rate), within, size, seed)
    return bench.learned(network, point, len(bench.tasks) * (within.num_iterations + within.final_batches))


def mixture(models: Sequence[ExactModel], policy: FloatArray) -> Evaluation:
    """Values and advantages of ``policy`` in a task drawn evenly from ``models``: what one natural step needs.

    J_i is the mean of the J_{t,i}. The natural gradient of that mean for a softmax table is the nu-weighted mean of the
    advantages, A_i(s,a) = sum_t nu_t(s) A_{t,i}(s,a) / sum_t nu_t(s) (plain where no task visits s); it is returned as
    action values about state values of 0. A single model gives its own advantages.
    """
    evaluations, shares = [evaluate(model, policy) for model in models], shares_of_visits(models, policy)
    advantages = sum(
        share[None, :, None] * evaluation.advantages() for share, evaluation in zip(shares, evaluations, strict=True)
    )
    values = np.mean([evaluation.values for evaluation in evaluations], axis=0)
    return Evaluation(values, np.zeros(np.shape(advantages)[:2]), np.asarray(advantages))


def shares_of_visits(models: Sequence[ExactModel], policy: FloatArray) -> FloatArray:
    """nu_t(s) / sum_t nu_t(s), [T, S]: the weights of the tasks' advantages; even where no task visits s."""
    visits = np.array([np.maximum(occupancy(model, policy), 0.0) for model in models])
    total = visits.sum(axis=0)
    return np.where(total > 0.0, visits / np.where(total > 0.0, total, 1.0), 1.0 / len(models))


def task_groups(count: int, size: int, updates: int) -> Iterator[list[int]]:
    """``updates`` groups of ``size`` positions below ``count``, cycling through them in order."""
    for update in range(updates):
        yield [(update * size + position) % count for position in range(min(size, count))]


def multitask_policy(
    models: Sequence[ExactModel],
    limits: FloatArray,
    logits: FloatArray,
    rates: FloatArray,
    settings: WithinTaskSettings,
    group_size: int,
    seed: int,
) -> FloatArray:
    """One policy for all tasks by CRPO on the mean task: log-probabilities [S, A].

    Each update takes the next ``group_size`` tasks: their mean values against their mean ``limits`` [T, p] choose the
    branch, and the step is the natural gradient of the group's mean objective (:func:`mixture`). There are T M /
    ``group_size`` updates, so that every task is used M times, as by the other methods. The result is the last iterate
    that kept the mean limits of its group. One task gives CRPO, its ``safety_margin`` included.
    """
    rng = np.random.default_rng([seed, _CHOICE_STREAM])
    tolerance, limits = settings.tolerances(limits.shape[1]), (1.0 - settings.safety_margin) * limits
    discount = models[0].tabular.discount
    updates = max(1, round(len(models) * settings.num_iterations / min(group_size, len(models))))
    iterates, values, margins, branches = [log_policy(logits)], [], [], []
    for group in task_groups(len(models), group_size, updates):
        found, allowed = mixture([models[t] for t in group], np.exp(iterates[-1])), limits[group].mean(axis=0)
        branch = choose_branch(found.values, allowed, tolerance, settings.constraint_choice, rng)
        signed = float(rates[branch]) * (1.0 if branch == REWARD_BRANCH else -1.0)
        values.append(found.values)
        margins.append(allowed)
        branches.append(branch)
        iterates.append(natural_gradient_step(iterates[-1], found.advantages()[branch], signed, discount))
    return np.asarray(iterates[last_kept(np.array(values), np.array(margins), np.array(branches), tolerance)])


def last_kept(values: FloatArray, limits: FloatArray, branches: FloatArray, tolerance: FloatArray) -> int:
    """The last of K iterates with ``values`` [K, 1+p] under its own ``limits`` [K, p]; else the least violation."""
    relative = np.concatenate([values[:, :1], values[:, 1:] - limits], axis=1)
    rng = np.random.default_rng(0)
    return choose_output(relative, branches.astype(np.int64), np.zeros(limits.shape[1]), tolerance, "last", rng)[0]


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
    rates: FloatArray,
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
    longer = within.model_copy(update={"num_iterations": updates})
    rng = np.random.default_rng([seed, _NETWORK_CHOICE_STREAM])
    policy, memory, iterates, values, limits, branches = fresh, None, [], [], [], []
    for update, group in enumerate(task_groups(len(tasks), size, updates)):
        chosen = [tasks[position] for position in group]
        data, horizon = _collect(family, chosen, policy, copies, steps, update)
        allowed = (1.0 - within.safety_margin) * np.mean([task.limits for task in chosen], axis=0)
        tolerance = tolerance_of_each(within.tolerance, allowed.size)
        problem = Problem(rates, allowed, tolerance, family.discount, horizon, context_size(family))
        improved, report = improve(policy, data, problem, longer.at(update), rng, memory)
        iterates.append(policy)
        values.append(report.values)
        limits.append(allowed)
        branches.append(report.branch)
        policy, memory = improved, report.memory
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


METHOD = Method(
    name="multitask",
    label="one policy for all tasks",
    place=8,
    colour="#6633bb",
    marker="x",
    forms={"tabular": learn_table, "neural": learn_network},
    steps_by_rule=frozenset({"neural"}),
    exact_forms=frozenset({"tabular"}),
)
