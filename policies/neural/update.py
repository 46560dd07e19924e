"""One CRPO update of a neural policy from one batch of its rollouts: estimates, branch, step, critic, statistics."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.common.branches import REWARD_BRANCH, choose_branch
from policies.networks.mlp import Array
from policies.neural.advantages import complete_returns, explained_variance, generalized_advantages, life_table_returns
from policies.neural.critic import fit_critic
from policies.neural.neural_settings import NeuralSettings
from policies.neural.policy_state import TARGET_MEAN, TARGET_SCALE, Parameters, PolicyState, critic_values
from policies.neural.rollouts import NeuralTransitions
from policies.rules.rule_registry import CRPO_METHOD
from policies.steps.combined import NaturalGradients
from policies.steps.natural_gradient import Constraints, Samples, StepReport, equal_weights, natural_gradient_step
from policies.steps.ruled import Seen, ruled_step
from tasks.contract.tabular_model import FloatArray


class NonFiniteError(FloatingPointError):
    """A tensor of an update that is not finite; the message names it."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What CRPO needs of a task in addition to its rollouts: alpha [1+p], d [p], eta [p], gamma, the horizon and k."""

    learning_rates: FloatArray
    limits: FloatArray
    tolerance: FloatArray
    discount: float
    horizon: int
    context_size: int = 0


@dataclass(frozen=True, slots=True)
class UpdateReport:
    """What one update saw and did.

    ``values`` [1+p] are the estimates of J_i that chose the branch, ``num_episodes`` the complete ones among the data.
    ``predicted_variance`` [1+p] is the critic's explained variance on this batch before it was fitted to it (held-out
    data of the newest policy). ``memory`` is what the rule keeps for the next update.
    """

    branch: int
    values: FloatArray
    num_episodes: int
    step: StepReport
    predicted_variance: FloatArray
    update_seconds: float
    critic_seconds: float
    memory: Any = None


def estimate_returns(data: NeuralTransitions, problem: Problem, settings: NeuralSettings) -> FloatArray:
    """J_i of the policy that made ``data``, [1+p], from this batch alone (see ``return_estimate``).

    Raises:
        ValueError: no episode was completed, or the copies are too short for an episode.
    """
    discount = problem.discount if settings.returns == "discounted" else 1.0
    if settings.return_estimate == "life_table":
        return life_table_returns(data.signals, data.ended, discount, problem.horizon)
    returns = complete_returns(data.signals, data.ended, discount)
    if not len(returns):
        raise ValueError(f"no episode was completed in {len(data.signals)} steps per copy")
    return np.asarray(returns.mean(axis=0))


@dataclass(frozen=True, slots=True)
class Estimates:
    """``inputs`` [N, d] of the batch; ``advantages``, ``targets`` (lambda-returns) and ``predicted`` [N, 1+p]."""

    inputs: Array
    advantages: Array
    targets: Array
    predicted: Array


def estimate_advantages(policy: PolicyState, data: NeuralTransitions, discount: float, trace: FloatArray) -> Estimates:
    """Advantages of every head with the policy's own critic; the critic sees each observation once."""
    inputs = policy.statistics.normalize(data.flat(data.observations))
    predicted = critic_values(policy.critic, inputs)
    values = predicted.reshape(data.signals.shape)
    final_values = np.zeros_like(values)
    final_values[data.final_steps[:, 0], data.final_steps[:, 1]] = policy.values(data.final_observations)
    advantages = generalized_advantages(
        data.signals, values, final_values, data.terminated, data.truncated, discount, trace
    )
    flat = data.flat(advantages)
    return Estimates(inputs, flat, flat + predicted, predicted)


def improve(
    policy: PolicyState,
    data: NeuralTransitions,
    problem: Problem,
    settings: NeuralSettings,
    rng: np.random.Generator,
    memory: Any = None,
) -> tuple[PolicyState, UpdateReport]:
    """The next iterate, and what was done.

    A fresh policy (no observation seen) first takes its statistics from the batch; a policy with a fresh critic first
    gets a critic of Monte Carlo returns. ``memory`` is that of the last update's report; None begins a task.

    Raises:
        NonFiniteError: a value on the way is not finite.
    """
    began = time.perf_counter()
    values = estimate_returns(data, problem, settings)
    switching = settings.method == CRPO_METHOD
    choice = (values, problem.limits, problem.tolerance, settings.constraint_choice, rng)
    branch = choose_branch(*choice) if switching else REWARD_BRANCH
    fresh = policy.statistics.count == 0.0
    policy, estimates = prepare(policy, data, problem.discount, settings, rng, problem.context_size)
    require_finite(values=values)
    if switching:
        vector, step = _step(policy, data, estimates, values, branch, problem, settings)
    else:
        seen = Seen(values, _factor(data, problem, settings))
        samples = _samples(data, estimates)
        vector, step, memory = _ruled_step(policy.actor, samples, seen, problem, settings, rng, memory)
    middle = time.perf_counter()
    improved = learned_from(policy, vector, estimates, settings, rng)
    if settings.update_statistics and not fresh:
        improved = _with_batch(improved, data, problem.context_size, settings.keep_function)
    report = UpdateReport(
        branch=step.branch,
        values=values,
        num_episodes=int(data.ended.sum()),
        step=step,
        predicted_variance=explained_variance(estimates.predicted, estimates.targets),
        update_seconds=middle - began,
        critic_seconds=time.perf_counter() - middle,
        memory=memory,
    )
    return improved, report


def prepare(
    policy: PolicyState,
    data: NeuralTransitions,
    discount: float,
    settings: NeuralSettings,
    rng: np.random.Generator,
    context_size: int = 0,
) -> tuple[PolicyState, Estimates]:
    """The policy, with statistics and a critic of its own if it had none, and the advantages of every head.

    Raises:
        NonFiniteError: an advantage is not finite.
    """
    if policy.statistics.count == 0.0:
        statistics = policy.statistics.merged(data.flat(data.observations), context_size)
        policy = dataclasses.replace(policy, statistics=statistics)
    if is_fresh(policy.critic):
        policy = with_first_critic(policy, data, discount, settings, rng)
    trace = np.full(policy.num_objectives, settings.cost_trace)
    trace[0] = settings.reward_trace
    estimates = estimate_advantages(policy, data, discount, trace)
    require_finite(advantages=estimates.advantages)
    return policy, estimates


def learned_from(
    policy: PolicyState,
    vector: Array,
    estimates: Estimates,
    settings: NeuralSettings,
    rng: np.random.Generator,
) -> PolicyState:
    """The policy after an update: the actor ``vector``, the critic fitted to the batch's ``estimates``.

    Raises:
        NonFiniteError: a parameter is not finite.
    """
    critic = fit_critic(policy.critic, estimates.inputs, estimates.targets, settings.critic, rng)
    require_finite(actor=vector, critic=critic.vector)
    return PolicyState(Parameters(policy.actor.network, vector), critic, policy.statistics)


def _with_batch(policy: PolicyState, data: NeuralTransitions, context_size: int, keep_function: bool) -> PolicyState:
    """The policy under statistics with those of the batch merged.

    A start with contexts stays the same function: it is good already, and has little noise to correct a change with.
    So does every policy under ``keep_function``.
    """
    statistics = policy.statistics.merged(data.flat(data.observations), context_size)
    if context_size or keep_function:
        return policy.with_statistics(statistics)
    return dataclasses.replace(policy, statistics=statistics)


def is_fresh(critic: Parameters) -> bool:
    """Whether a critic was never fitted: its heads are still in units of 1 about 0."""
    mean, scale = critic.network.part(critic.vector, TARGET_MEAN), critic.network.part(critic.vector, TARGET_SCALE)
    return bool((mean == 0.0).all() and (scale == 1.0).all())


def with_first_critic(
    policy: PolicyState, data: NeuralTransitions, discount: float, settings: NeuralSettings, rng: np.random.Generator
) -> PolicyState:
    """The policy with a critic of Monte Carlo returns."""
    estimates = estimate_advantages(policy, data, discount, np.ones(policy.num_objectives))
    critic = fit_critic(policy.critic, estimates.inputs, estimates.targets, settings.critic, rng)
    return dataclasses.replace(policy, critic=critic)


def _step(
    policy: PolicyState,
    data: NeuralTransitions,
    estimates: Estimates,
    values: FloatArray,
    branch: int,
    problem: Problem,
    settings: NeuralSettings,
) -> tuple[Array, StepReport]:
    samples = _samples(data, estimates)
    rate = float(problem.learning_rates[branch]) * (1.0 if branch == REWARD_BRANCH else -1.0)
    vector, step = natural_gradient_step(
        policy.actor.network,
        policy.actor.vector,
        samples,
        branch,
        rate,
        problem.discount,
        settings.trust_region,
        room_of_satisfied(data, values, problem, settings),
    )
    require_finite(kl=np.array([step.requested_kl, step.kl]))
    return vector, step


def _ruled_step(
    actor: Parameters,
    samples: Samples,
    seen: Seen,
    problem: Problem,
    settings: NeuralSettings,
    rng: np.random.Generator,
    memory: Any,
) -> tuple[Array, StepReport, Any]:
    rule, count = settings.method.make(), problem.limits.size
    vector, step, kept = ruled_step(
        rule,
        rule.first(count) if memory is None else memory,
        NaturalGradients(actor.network, actor.vector, samples, problem.discount, settings.trust_region),
        seen,
        (problem.limits, problem.tolerance, problem.learning_rates),
        settings.constraint_choice,
        rng,
    )
    require_finite(kl=np.array([step.requested_kl, step.kl]), actor=vector)
    return vector, step, kept


def _samples(data: NeuralTransitions, estimates: Estimates) -> Samples:
    """The batch with centred advantages, every row alike."""
    advantages = estimates.advantages - estimates.advantages.mean(axis=0)
    actions: NDArray[np.generic] = data.flat(data.actions)
    return Samples(estimates.inputs, actions, advantages, equal_weights(estimates.inputs))


def _factor(data: NeuralTransitions, problem: Problem, settings: NeuralSettings) -> float:
    """1 / (1 - gamma) for discounted returns, the mean length of an episode for episodic ones."""
    if settings.returns == "discounted":
        return 1.0 / (1.0 - problem.discount)
    ended = data.ended
    return float(ended.size / (ended.shape[1] + int(ended[:-1].sum())))


def room_of_satisfied(
    data: NeuralTransitions, values: FloatArray, problem: Problem, settings: NeuralSettings
) -> Constraints:
    """How far each satisfied cost's surrogate may rise: J_i(pi') - J_i(pi) is about factor * E[(pi'/pi - 1) A_i].

    The factor is 1 / (1 - gamma) for discounted returns and the mean length of an episode for episodic ones.
    """
    room = (problem.limits + problem.tolerance - values[1:]) / _factor(data, problem, settings)
    columns = np.flatnonzero(room >= 0.0)
    return Constraints(tuple((1 + columns).tolist()), tuple(room[columns].tolist()))


def require_finite(**tensors: Array) -> None:
    """Check tensors by name.

    Raises:
        NonFiniteError: one of them holds a NaN or an infinity.
    """
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise NonFiniteError(f"{name} not finite ({int((~np.isfinite(tensor)).sum())} of {tensor.size} numbers)")
