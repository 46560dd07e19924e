"""One direct CRPO step of a start on a team of tasks: every task has its own copy, context and branch."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from policies.common.branches import relative_violations
from policies.common.context_regression import Moments
from policies.mixtures.contextual import plain_contexts
from policies.mixtures.latent import Latents
from policies.mixtures.mixture import Centring, Mixture, improve_mixture, task_returns
from policies.neural.neural_settings import NeuralSettings
from policies.neural.policy_state import ObservationStatistics, Parameters, PolicyState, merge, no_observations
from policies.neural.rollouts import NeuralRollouts, NeuralTransitions
from policies.neural.transition_moments import moments_of_copies
from policies.neural.update import NonFiniteError
from tasks.contract.contextual_family import context_size
from tasks.contract.tabular_model import FloatArray
from tasks.contract.task import Task, TaskError, TaskFamily
from tasks.contract.timeout import code_of_others
from tasks.stepping.joined import make_mixed_batch

_STREAM = 61
_CHOICE_STREAM = 62


@dataclass(frozen=True, slots=True)
class Team:
    """Tasks that take one direct step together: number ``team`` of round ``round``.

    ``rate`` is alpha, ``delta_max`` the largest KL divergence of the step; ``least_log_std`` and ``most_log_std`` bound
    the actor's log standard deviations after it, and ``begin_log_std`` are those before it where they are not the
    policy's own. ``centring`` says whose mean is taken off the advantages. ``latents`` are the tasks' contexts where
    these are learned. With ``others`` [G, k] the tasks run under these contexts and are observed only: phi takes no
    step.
    """

    tasks: tuple[Task, ...]
    round: int
    team: int
    rate: float
    delta_max: float
    least_log_std: float
    most_log_std: float = np.inf
    begin_log_std: float | None = None
    centring: Centring = "task"
    latents: Latents | None = None
    others: FloatArray | None = None

    @property
    def label(self) -> str:
        """The team's name in messages and dashboards."""
        return f"warm-up {self.round}.{self.team}"


@dataclass(frozen=True, slots=True)
class TeamStep:
    """What a team's step gave.

    ``policy`` after the step, under the statistics of the start; ``seen`` those of the team's own observations.
    ``tasks`` [G] are the indices of the tasks, ``values`` [G, 1+p] their J_i before the step, ``excess`` [G] the
    largest (J_i - d_i) / d_i of each, and ``context_size`` is k. ``moves`` [G, k] are
    the steps of latent contexts, and ``moments`` those of the tasks' transitions where they are observed.
    """

    policy: PolicyState
    seen: ObservationStatistics
    values: FloatArray
    excess: FloatArray
    kl: float
    context_size: int
    env_steps: int
    seconds: float
    tasks: tuple[int, ...] = ()
    moves: FloatArray | None = None
    moments: Moments | None = None


def team_step(family: TaskFamily, team: Team, policy: PolicyState, settings: NeuralSettings) -> TeamStep:
    """Run ``policy`` on the team's tasks and take one step of it (:func:`policies.mixtures.mixture.improve_mixture`).

    Raises:
        TaskError: an environment breaks its contract, or a value is not finite.
    """
    began = time.perf_counter()
    if team.begin_log_std is not None:
        policy = policy.with_noise(team.begin_log_std)
    limits = np.array([task.limits for task in team.tasks])
    seed = int(np.random.SeedSequence([team.tasks[0].seed, _STREAM, team.round, team.team]).generate_state(1)[0])
    with code_of_others(lambda: team.label):
        data, horizon = _collected(family, team, policy, settings, seed)
    mixture = _mixture(family, team, limits, horizon, settings)
    moments, moves, kl = None, None, 0.0
    if team.others is not None:
        values, improved = task_returns(data, mixture), policy
        moments = moments_of_copies(data, policy, mixture.context_size)
    else:
        rng = np.random.default_rng([seed, _CHOICE_STREAM])
        try:
            improved, report = improve_mixture(policy, data, mixture, team.rate, _direct(settings, team), rng)
        except NonFiniteError as error:
            raise TaskError(f"{team.label}: {error}") from error
        values, moves, kl = report.values, report.moves, report.step.kl
    return TeamStep(
        policy=improved,  # with the statistics that it had: mean_policy merges those of all teams
        seen=no_observations(data.observations.shape[2]).merged(data.flat(data.observations)),
        values=values,
        excess=relative_violations(values, limits).max(axis=1),
        kl=kl,
        context_size=mixture.context_size,
        env_steps=len(data.signals) * len(team.tasks),
        seconds=time.perf_counter() - began,
        tasks=tuple(task.index for task in team.tasks),
        moves=moves,
        moments=moments,
    )


def _collected(
    family: TaskFamily, team: Team, policy: PolicyState, settings: NeuralSettings, seed: int
) -> tuple[NeuralTransitions, int]:
    """One copy of every task, run under the team's contexts or the tasks' own; and the horizon."""
    contexts = team.others if team.latents is None else team.latents.contexts
    batch = make_mixed_batch(family, team.tasks, 1, contexts)
    label, steps = f"{team.label} ({team.tasks[0].label}, ...)", settings.steps_per_iteration // settings.num_copies
    try:
        return NeuralRollouts(batch, steps, seed, label).collect(policy, 0), batch.horizon
    finally:
        batch.close()


def _mixture(family: TaskFamily, team: Team, limits: FloatArray, horizon: int, settings: NeuralSettings) -> Mixture:
    return Mixture(
        limits=(1.0 - settings.safety_margin) * limits,
        tolerance=settings.tolerances(limits.shape[1]),
        copies_of_each=1,
        discount=family.discount,
        horizon=horizon,
        context_size=context_size(family),
        least_log_std=team.least_log_std,
        most_log_std=team.most_log_std,
        latents=team.latents,
        centring=team.centring,
    )


def _direct(settings: NeuralSettings, team: Team) -> NeuralSettings:
    """The settings of a direct step."""
    trust_region = settings.trust_region.model_copy(update={"delta_max": team.delta_max})
    return settings.model_copy(update={"trust_region": trust_region})


def round_numbers(steps: Sequence[TeamStep]) -> dict[str, float]:
    """What a round of direct steps shows of phi before it: means over tasks, and the share of tasks over a limit."""
    values = np.concatenate([step.values for step in steps]).mean(axis=0)
    numbers = {"warm_up_reward": float(values[0])}
    numbers |= {f"warm_up_cost_{i}": float(value) for i, value in enumerate(values[1:], start=1)}
    return numbers | {"warm_up_over": float((np.concatenate([step.excess for step in steps]) > 0.0).mean())}


def mean_policy(policy: PolicyState, steps: Sequence[TeamStep]) -> PolicyState:
    """The mean of the actors and critics that teams made of ``policy``, with the statistics of all they have seen.

    Raises:
        ValueError: several teams began with a fresh policy, each of which has statistics of its own.
    """
    first = steps[0].policy
    actor = _mean([step.policy.actor for step in steps])
    critic = _mean([step.policy.critic for step in steps])
    if policy.statistics.count == 0.0:
        if len(steps) > 1:
            raise ValueError("a fresh policy takes its statistics from one team")
        return PolicyState(actor, critic, first.statistics)
    statistics = policy.statistics
    for step in steps:
        statistics = merge(statistics, step.seen)
    statistics = plain_contexts(statistics, steps[0].context_size)
    return PolicyState(actor, critic, first.statistics).with_statistics(statistics)


def _mean(parameters: Sequence[Parameters]) -> Parameters:
    first = parameters[0]
    mean = np.mean(np.array([one.vector for one in parameters], np.float64), axis=0)
    return Parameters(first.network, mean.astype(first.vector.dtype))
