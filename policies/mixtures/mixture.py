"""One CRPO step on a mixture of tasks: a policy that sees the context, and every task has its own branch.

With N_t samples of task t at the same phi, the step is alpha F^{-1} sum_t (N_t / N) (+g_{t,0} or -g_{t,i_t}), F the
Fisher matrix over all samples; each task chooses its own branch i_t by its own J. For one task it is CRPO's step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from policies.common.branches import REWARD_BRANCH, choose_branch
from policies.mixtures.contextual import with_plain_contexts
from policies.mixtures.latent import Latents, latent_steps
from policies.networks.distributions import extra_of
from policies.networks.mlp import Array
from policies.neural.advantages import life_table_returns
from policies.neural.neural_settings import NeuralSettings
from policies.neural.policy_state import PolicyState
from policies.neural.rollouts import NeuralTransitions
from policies.neural.update import learned_from, prepare, require_finite
from policies.steps.natural_gradient import Samples, StepReport, equal_weights, natural_gradient_step
from tasks.contract.tabular_model import FloatArray

Centring = Literal["task", "batch"]


@dataclass(frozen=True, slots=True)
class Mixture:
    """G tasks that share a batch: copy j belongs to task j // ``copies_of_each``.

    ``limits`` [G, p] with the safety margin taken off, ``tolerance`` [p]; ``context_size`` is k, ``least_log_std`` and
    ``most_log_std`` bound the actor's log standard deviations: a floor keeps the noise that learning needs, a ceiling
    takes away what a start no longer needs. ``latents`` are contexts that take a step too. ``centring`` says whose mean
    is taken off the advantages.
    """

    limits: FloatArray
    tolerance: FloatArray
    copies_of_each: int
    discount: float
    horizon: int
    context_size: int
    least_log_std: float = -np.inf
    most_log_std: float = np.inf
    latents: Latents | None = None
    centring: Centring = "task"


@dataclass(frozen=True, slots=True)
class MixtureReport:
    """``values`` [G, 1+p] are the J_i of every task, ``branches`` [G] what each stepped on.

    ``moves`` [G, k] are the steps of latent contexts, None where there are none.
    """

    values: FloatArray
    branches: NDArray[np.int64]
    step: StepReport
    moves: FloatArray | None = None


def improve_mixture(
    policy: PolicyState,
    data: NeuralTransitions,
    mixture: Mixture,
    rate: float,
    settings: NeuralSettings,
    rng: np.random.Generator,
) -> tuple[PolicyState, MixtureReport]:
    """The next phi, and what was done.

    Args:
        policy: phi on [observation, context].
        data: one batch of all tasks, its observations with contexts.
        mixture: which copies belong to which task, and the tasks' limits.
        rate: alpha, for the reward and every cost.
        settings: trust region, traces and critic.
        rng: of random branches and of the critic's minibatches.

    Raises:
        NonFiniteError: a value on the way is not finite.
    """
    values = task_returns(data, mixture)
    branches = _task_branches(values, mixture, settings, rng)
    fresh = policy.statistics.count == 0.0
    policy, estimates = prepare(policy, data, mixture.discount, settings, rng)
    combined = combined_advantages(estimates.advantages.reshape(data.signals.shape), branches, mixture)
    samples = Samples(
        estimates.inputs, data.flat(data.actions), combined.reshape(-1, 1), equal_weights(estimates.inputs)
    )
    vector, step = natural_gradient_step(
        policy.actor.network, policy.actor.vector, samples, 0, rate, mixture.discount, settings.trust_region
    )
    require_finite(values=values, kl=np.array([step.requested_kl, step.kl]))
    extra = extra_of(policy.actor.network, vector)
    np.clip(extra, mixture.least_log_std, mixture.most_log_std, out=extra)
    improved = learned_from(policy, vector, estimates, settings, rng)
    moves = None if mixture.latents is None else latent_steps(policy.actor, samples, combined, mixture.latents)
    if moves is not None and fresh:
        moves = np.zeros_like(moves)  # the first network's inputs are in units of its own batch
    return with_plain_contexts(improved, mixture.context_size), MixtureReport(values, branches, step, moves)


def _task_branches(
    values: FloatArray, mixture: Mixture, settings: NeuralSettings, rng: np.random.Generator
) -> NDArray[np.int64]:
    """The branch of every task, [G], each by its own values and limits."""
    branches = [
        choose_branch(own, limits, mixture.tolerance, settings.constraint_choice, rng)
        for own, limits in zip(values, mixture.limits, strict=True)
    ]
    return np.array(branches, np.int64)


def task_returns(data: NeuralTransitions, mixture: Mixture) -> FloatArray:
    """J_i of every task from its own copies, [G, 1+p]."""
    size = mixture.copies_of_each
    return np.array(
        [
            life_table_returns(
                data.signals[:, begin : begin + size],
                data.ended[:, begin : begin + size],
                mixture.discount,
                mixture.horizon,
            )
            for begin in range(0, data.signals.shape[1], size)
        ]
    )


def combined_advantages(advantages: Array, branches: NDArray[np.int64], mixture: Mixture) -> Array:
    """What each sample ascends on, [T, n]: +A_0, or -A_i of the cost that its task descends on.

    ``advantages`` [T, n, 1+p] are centred and put in units of their spread over the batch, head by head, so that
    rewards and costs count alike. Centred for each task, differences between tasks are no noise of the step; but with
    one copy of a task its mean is also what its own actions have earned, which the mean over the batch leaves in.
    """
    steps, copies, heads = advantages.shape
    of_tasks = advantages.reshape(steps, -1, mixture.copies_of_each, heads)
    scale = advantages.reshape(-1, heads).std(axis=0)
    axes = (0, 2) if mixture.centring == "task" else (0, 1, 2)
    centred = (of_tasks - of_tasks.mean(axis=axes, keepdims=True)).reshape(steps, copies, heads)
    standard = centred / np.where(scale > 0.0, scale, 1.0)
    of_copy = np.repeat(branches, mixture.copies_of_each)
    chosen = np.take_along_axis(standard, of_copy[None, :, None], axis=2)[..., 0]
    signs = np.where(of_copy == REWARD_BRANCH, 1.0, -1.0).astype(advantages.dtype)
    return np.asarray(chosen * signs)
