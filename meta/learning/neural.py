"""The meta-learner of neural policies: the same online steps, on samples (THEORY section 4)."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from meta.learning.distillation import Reservoir, Targets, distill, hardly_any, joined, offer, targets_of, towards_mean
from meta.learning.experts import Experts, alike, heaviest, next_weights, step_size_grid
from meta.learning.settings import MetaSettings, NeuralInitializationSettings
from meta.learning.updates import next_rates, rate_sums
from meta.offline.diagnostics import Diagnostics
from policies.common.codec import Nested, Record
from policies.common.context_regression import FEWEST_TASKS, ContextRegression, Moments, fit_regression, no_moments
from policies.common.results import Start
from policies.mixtures.latent import latent_space, moved
from policies.mixtures.team import TeamStep, mean_policy
from policies.networks.distributions import distribution_of
from policies.neural.policy_state import ObservationStatistics, Parameters, PolicyState, merge, policy_from_arrays
from policies.neural.transition_moments import moment_sizes
from tasks.contract.contextual_family import Contexts
from tasks.contract.tabular_model import FloatArray
from tasks.stepping.batch import Float32Array


@dataclass(frozen=True, slots=True)
class Observed(Record):
    """What contexts are inferred from: the ``contexts`` [T, k] and ``moments`` of the training tasks.

    ``regression`` is fitted to them, and trusted where its error is at most ``largest_error``.
    """

    contexts: FloatArray
    moments: Moments
    largest_error: float
    regression: ContextRegression | None = None

    NESTED: ClassVar[Mapping[str, Nested]] = {
        "moments": Nested(Moments.from_arrays, "moments."),
        "regression": Nested(ContextRegression.from_arrays, "regression."),
    }

    def with_steps(self, steps: Sequence[TeamStep]) -> Observed:
        """With the transitions that teams have observed."""
        moments = self.moments
        for one in steps:
            if one.moments is not None:
                moments = moments.added(one.tasks, one.moments)
        if (moments.count > 0).sum() < FEWEST_TASKS:
            return dataclasses.replace(self, moments=moments)
        return dataclasses.replace(
            self, moments=moments, regression=fit_regression(moments, self.contexts, self.largest_error)
        )


@dataclass(frozen=True, slots=True)
class NeuralMetaState(Record):
    """Everything the meta-learner knows after ``num_rounds`` updates from ``num_tasks`` tasks.

    ``initialization`` phi with its critic and statistics; ``reservoir`` what ftl remembers of all tasks; the points of
    ``experts`` are parameters of actors; ``warm_up_rounds`` counts the rounds of direct steps; ``latents`` [T, k] are
    learned contexts of the training tasks; ``observed`` is what contexts are inferred from; the others as in
    :class:`meta.learning.tabular.MetaState`.
    """

    num_rounds: int
    num_tasks: int
    initialization: PolicyState
    learning_rates: FloatArray
    loss_sum: FloatArray
    curvature_sum: FloatArray
    reservoir: Reservoir | None = None
    experts: Experts | None = None
    warm_up_rounds: int = 0
    latents: FloatArray | None = None
    observed: Observed | None = None
    rate_units: FloatArray | None = None

    KIND: ClassVar[str] = "neural"
    NESTED: ClassVar[Mapping[str, Nested]] = {
        "initialization": Nested(policy_from_arrays, "initialization."),
        "reservoir": Nested(Reservoir.from_arrays, "reservoir."),
        "experts": Nested(Experts.from_arrays, "experts."),
        "observed": Nested(Observed.from_arrays, "observed."),
    }
    assigned: ClassVar[None] = None
    """One start for all tasks: none is assigned to a group."""

    @property
    def start(self) -> Start:
        """What the next tasks start from."""
        if self.latents is None:
            regression = None if self.observed is None else self.observed.regression
            return Start(self.initialization, self.learning_rates, regression=regression)
        contexts = Contexts(latent_space(self.latents.shape[1]), self.latents, hidden=True, latent=True)
        return Start(self.initialization, self.learning_rates, contexts=contexts)

    @property
    def starts(self) -> tuple[Start, ...]:
        """The one start, as a tuple."""
        return (self.start,)

    def sha256(self) -> str:
        """Digest of every bit of the state."""
        digest = hashlib.sha256()
        parts = self.to_arrays()
        for name in ("warm_up_rounds", "latents", "rate_units"):
            if not np.any(parts[name]):  # a state without such a part keeps the digest that it had before there was one
                del parts[name]
        for name, part in sorted(parts.items()):
            value = np.ascontiguousarray(part)
            digest.update(f"{name}{value.dtype}{value.shape}".encode())
            digest.update(value.tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class NeuralContribution(Record):
    """What one task solved with a neural policy contributes to the meta-update.

    ``observations`` [K, d] drawn from the estimated distribution of pi_hat, with ``statistics`` of all that the task
    saw; ``policy`` pi_hat; ``loss`` f_hat_t(phi_t); ``curvature`` [1+p] b_t, NaN where not measured; ``weight`` in
    [0, 1], ``diagnostics`` (None where no correction was estimated), ``failures`` and ``problem`` as in
    :class:`meta.estimators.trusted_estimate.Trusted`.
    """

    task_index: int
    observations: Float32Array
    statistics: ObservationStatistics
    policy: PolicyState
    loss: float
    curvature: FloatArray
    weight: float = 1.0
    diagnostics: Diagnostics | None = None
    failures: tuple[str, ...] = ()
    problem: str = ""

    KIND: ClassVar[str] = "neural"
    NESTED: ClassVar[Mapping[str, Nested]] = {
        "statistics": Nested(lambda parts: ObservationStatistics(**parts), "seen."),
        "policy": Nested(policy_from_arrays, "policy."),
        "diagnostics": Nested(lambda parts: Diagnostics(**parts)),
    }


def initial_neural_state(
    settings: MetaSettings, fresh: PolicyState, contexts: Contexts | None = None
) -> NeuralMetaState:
    """A fresh policy and the initial rates, with the random contexts where these are to be learned."""
    rates = settings.learning_rates.initial_rates(fresh.num_objectives - 1)
    latents = contexts.known if contexts is not None and contexts.latent else None
    observed = None
    if contexts is not None and settings.context == "inferred":
        count, size = contexts.known.shape
        observed = Observed(
            contexts.known, no_moments(count, *moment_sizes(fresh, size)), settings.contexts.largest_error
        )
    return NeuralMetaState(
        0, 0, fresh, rates, np.zeros(rates.size), np.zeros(rates.size), latents=latents, observed=observed
    )


def policy_divergence(first: PolicyState, second: PolicyState, observations: Float32Array) -> FloatArray:
    """KL(first(.|s) || second(.|s)) [K] for ``observations`` [K, d]; each normalises them with its own statistics."""
    outputs, extra = first.act(observations)
    new_outputs, new_extra = second.act(observations)
    divergence = distribution_of(first.actor.network).kl(outputs, extra, new_outputs, new_extra)
    return np.asarray(divergence, np.float64)


def loss_for(item: NeuralContribution, start: PolicyState) -> float:
    """f_hat of the task for any start: the mean KL(pi_hat || phi) over its observations."""
    return float(policy_divergence(item.policy, start, item.observations).mean())


def neural_update(
    state: NeuralMetaState, contributions: Sequence[NeuralContribution], settings: MetaSettings, num_iterations: int
) -> NeuralMetaState:
    """One online step on the summed losses of a round, taken in task order whatever order they arrived in."""
    ordered = sorted(contributions, key=lambda item: item.task_index)
    loss_sum, curvature_sum = rate_sums(state, ordered, settings.learning_rates)
    reservoir = _remember(state.reservoir, ordered, settings.neural)
    state = dataclasses.replace(state, loss_sum=loss_sum, curvature_sum=curvature_sum, reservoir=reservoir)
    if settings.neural.schedule == "mixture":
        state = _mixed(state, ordered, settings.neural)
    else:
        policy = next_policy(state.initialization, ordered, settings.neural, state.num_rounds, reservoir)
        state = dataclasses.replace(state, initialization=policy)
    return dataclasses.replace(
        state,
        num_rounds=state.num_rounds + 1,
        num_tasks=state.num_tasks + len(ordered),
        learning_rates=next_rates(state, ordered, settings.learning_rates, num_iterations),
    )


def warm_up_update(state: NeuralMetaState, steps: Sequence[TeamStep]) -> NeuralMetaState:
    """A round of direct steps: phi becomes the mean of what the teams made of it, and latent contexts take theirs.

    A round of observing tasks leaves phi as it is.
    """
    if state.observed is not None and steps[0].moments is not None:
        observed = state.observed.with_steps(steps)
        return dataclasses.replace(state, warm_up_rounds=state.warm_up_rounds + 1, observed=observed)
    policy, latents = mean_policy(state.initialization, steps), state.latents
    if latents is not None:
        latents = moved(latents, [(one.tasks, one.moves) for one in steps if one.moves is not None])
    return dataclasses.replace(state, initialization=policy, warm_up_rounds=state.warm_up_rounds + 1, latents=latents)


def _mixed(
    state: NeuralMetaState, ordered: Sequence[NeuralContribution], settings: NeuralInitializationSettings
) -> NeuralMetaState:
    """Every expert takes the round's steps with its own step size; phi is the expert with the greatest weight."""
    policy = state.initialization
    experts = state.experts or alike(policy.actor.vector, settings.num_experts)
    sizes = step_size_grid(settings.step_size, settings.num_experts).tolist()
    now = [dataclasses.replace(policy, actor=Parameters(policy.actor.network, point)) for point in experts.points]
    losses = np.array([sum(item.weight * loss_for(item, one) for item in ordered) for one in now])
    own = [settings.model_copy(update={"step_size": size, "schedule": "dynamic"}) for size in sizes]
    new = [
        next_policy(one, ordered, choice, state.num_rounds, state.reservoir)
        for one, choice in zip(now, own, strict=True)
    ]
    weights = next_weights(experts.weights, losses, sum(item.weight for item in ordered), settings.switching)
    experts = Experts(np.array([one.actor.vector for one in new]), weights)
    return dataclasses.replace(state, initialization=new[heaviest(experts)], experts=experts)


def _remember(
    reservoir: Reservoir | None, ordered: Sequence[NeuralContribution], settings: NeuralInitializationSettings
) -> Reservoir | None:
    """ftl's memory after a round's tasks were offered to it; the other methods have none."""
    if settings.method != "ftl":
        return reservoir
    if reservoir is not None:
        reservoir = reservoir.forget(settings.forgetting)
    for item in ordered:
        if item.weight > 0.0:
            reservoir = offer(reservoir, task_targets(item), settings.reservoir, item.task_index)
    return reservoir


def next_policy(
    policy: PolicyState,
    ordered: Sequence[NeuralContribution],
    settings: NeuralInitializationSettings,
    num_rounds: int,
    reservoir: Reservoir | None = None,
) -> PolicyState:
    """phi after a round: statistics merged with the tasks', the actor by Adam on f_hat, the critic moved by a share.

    The actor imitates the round's tasks, or what is in the ``reservoir`` where there is one. A task of weight 0 has no
    effect. Parts that are not ``learned`` stay as they are.
    """
    ordered = [item for item in ordered if item.weight > 0.0]
    if settings.method == "fixed" or not ordered:
        return policy
    statistics = policy.statistics
    for item in ordered:
        statistics = merge(statistics, item.statistics)
    if "statistics" not in settings.learned:
        statistics = hardly_any(policy.statistics.mean.size)
    policy = policy.with_statistics(statistics)
    actor, critic = policy.actor, policy.critic
    if "critic" in settings.learned:
        weights = [item.weight for item in ordered]
        critic = towards_mean(critic, [item.policy for item in ordered], weights, statistics, settings.critic_share)
    if "actor" in settings.learned:
        targets = joined([task_targets(item) for item in ordered]) if reservoir is None else reservoir.targets()
        actor = distill(policy, targets, settings, num_rounds)
    return PolicyState(actor, critic, statistics)


def task_targets(item: NeuralContribution) -> Targets:
    """pi_hat at the task's observations; their weights sum to the task's."""
    count = len(item.observations)
    return targets_of(item.policy, item.observations, np.full(count, item.weight / count))
