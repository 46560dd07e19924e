"""Baselines beyond the paper, tabular: Reptile on CRPO, first-order MAML with a cost penalty, one policy for all tasks.

They end with a start for new tasks, which every method then solves with the same CRPO. Their neural forms are in
:mod:`meta.methods.neural_gradient_baselines`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from policies.common.branches import REWARD_BRANCH, choose_branch, choose_output
from policies.exact.softmax import log_policy, natural_gradient_step
from policies.exact.solver import Evaluation, ExactModel, evaluate, occupancy
from policies.neural.adam import Adam
from policies.tabular.crpo import WithinTaskSettings
from tasks.contract.tabular_model import FloatArray
from tasks.contract.task import Task, TaskError, TaskFamily

_CHOICE_STREAM = 41


def reptile_step(logits: FloatArray, adapted: Sequence[FloatArray], step: float) -> FloatArray:
    """Log-probabilities of z + eps * mean_t (z_t - z): from ``logits`` towards those of the adapted policies, [S, A].

    Reptile (Nichol, Achiam, Schulman 2018, arXiv 1803.02999, algorithm 2), with CRPO's output where it has k steps of
    SGD. One task and eps = 1 give the adapted policy itself.
    """
    return log_policy(logits + step * (np.mean(adapted, axis=0) - logits))


def penalized_gradient(model: ExactModel, policy: FloatArray, penalties: FloatArray) -> FloatArray:
    """Gradient in the logits of J_0 - sum_i lambda_i J_i at ``policy``, [S, A]; ``penalties`` [p] are the lambda_i.

    dJ_i / dz(s,a) = nu(s) pi(a|s) A_i(s,a) / (1 - gamma) (Agarwal et al. 2021, lemma 10).
    """
    advantages = evaluate(model, policy).advantages()
    combined = advantages[0] - np.tensordot(penalties, advantages[1:], axes=1)
    weight = occupancy(model, policy)[:, None] * policy
    return np.asarray(weight * combined / (1.0 - model.tabular.discount))


@dataclass(slots=True)
class PenaltyLearner:
    """First-order MAML (Finn, Abbeel, Levine 2017, arXiv 1703.03400, section 5.2) on logits [S, A].

    Its outer objective is the mean over tasks of J_0 - sum_i lambda_i J_i at the adapted policy; first-order: the
    adapted parameters are differentiated as if they were the start's. Adam ascends it, a step a round.
    """

    logits: FloatArray
    penalties: FloatArray
    step: float
    _adam: Adam | None = None

    def update(self, models: Sequence[ExactModel], adapted: Sequence[FloatArray]) -> None:
        """One outer step from the tasks of a round and their adapted policies [S, A]."""
        gradients = [
            penalized_gradient(model, policy, self.penalties) for model, policy in zip(models, adapted, strict=True)
        ]
        if self._adam is None:
            self._adam = Adam(self.logits, self.step)
        moved = self._adam.step(self.logits, -np.mean(gradients, axis=0))
        self.logits = log_policy(np.asarray(moved, np.float64))


def exact_models(family: TaskFamily | None, tasks: Sequence[Task], method: str) -> list[ExactModel]:
    """The models of ``tasks``.

    Raises:
        TaskError: one has none; tabular ``method`` needs them.
    """
    found = []
    for task in tasks:
        model = None if family is None else family.model(task.parameters)
        if model is None:
            raise TaskError(f"task {task.label}: {method} needs an exact model where within_task.algorithm is crpo")
        found.append(ExactModel(model))
    return found


def mixture(models: Sequence[ExactModel], policy: FloatArray) -> Evaluation:
    """Values and advantages of ``policy`` in a task drawn evenly from ``models``: what one natural step needs.

    J_i is the mean of the J_{t,i}. The natural gradient of that mean for a softmax table is the nu-weighted mean of the
    advantages, A_i(s,a) = sum_t nu_t(s) A_{t,i}(s,a) / sum_t nu_t(s) (plain where no task visits s); it is returned as
    action values about state values of 0. One model gives its own advantages.
    """
    evaluations = [evaluate(model, policy) for model in models]
    weights = np.array([np.maximum(occupancy(model, policy), 0.0) for model in models])
    total = weights.sum(axis=0)
    shares = np.where(total > 0.0, weights / np.where(total > 0.0, total, 1.0), 1.0 / len(models))
    advantages = sum(
        share[None, :, None] * evaluation.advantages() for share, evaluation in zip(shares, evaluations, strict=True)
    )
    values = np.mean([evaluation.values for evaluation in evaluations], axis=0)
    return Evaluation(values, np.zeros(np.shape(advantages)[:2]), np.asarray(advantages))


def task_groups(count: int, size: int, updates: int) -> Iterator[list[int]]:
    """``updates`` groups of ``size`` positions below ``count``, in turn and around again."""
    for update in range(updates):
        yield [(update * size + position) % count for position in range(min(size, count))]


def multitask_policy(
    models: Sequence[ExactModel],
    limits: FloatArray,
    logits: FloatArray,
    rate: float,
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
        signed = rate if branch == REWARD_BRANCH else -rate
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
