"""Safe steps of a network: the costs of a candidate, to first order, from test episodes of the policy before it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from policies.common.confidence import Estimate, estimate_of
from policies.common.safety import LEAST_EPISODES, Guard
from policies.networks.distributions import distribution_of
from policies.networks.mlp import Array
from policies.neural.advantages import episode_ages
from policies.neural.neural_settings import NeuralSettings
from policies.neural.policy_state import Parameters, PolicyState
from policies.neural.rollouts import NeuralRollouts, NeuralTransitions
from policies.neural.update import UpdateReport, estimate_advantages
from tasks.contract.tabular_model import FloatArray
from tasks.contract.task import TaskError
from tasks.stepping.batch import BatchEnvironment

TEST = 2**21
"""Added to the iteration in the keys of random numbers: test episodes are none of those that made the step."""
_MOST_BATCHES = 2**10


@dataclass
class SafeSteps:
    """Shortens the steps of :func:`policies.neural.crpo.iterate_neural` to what the ``guard`` allows.

    The first episodes of all copies of ``rollouts`` are a batch of test episodes. Those of a policy that stays for the
    next iteration are used again with the new ones.
    """

    guard: Guard
    rollouts: NeuralRollouts
    batches: int
    settings: NeuralSettings
    discount: float
    _seen: list[NeuralTransitions] = field(default_factory=list)

    def taken(self, iteration: int, policy: PolicyState, improved: PolicyState, report: UpdateReport) -> PolicyState:
        """The policy after the share of the step from ``policy`` to ``improved`` that may be taken.

        A shorter step moves the actor's parameters by a share. With none the actor and its statistics stay, and only
        the critic learns.
        """
        for batch in range(self.batches):
            data = self.rollouts.collect(policy, (TEST + iteration) * _MOST_BATCHES + batch)
            self._seen.append(data.copy())
            self.guard.test_steps += data.ended.size
        critic = dataclasses.replace(policy, critic=improved.critic)
        advantages = [self._cost_advantages(critic, data) for data in self._seen]
        now = self._costs(policy, policy, advantages)

        def tested(share: float) -> Estimate:
            then = now if share == 0.0 else self._costs(policy, moved_by(policy, improved, share), advantages)
            return estimate_of(then, now, self.guard.safety.settings.confidence)

        share = self.guard.share(report.branch, report.values, tested)
        if share == 0.0:
            return critic
        self._seen.clear()
        return moved_by(policy, improved, share)

    def _cost_advantages(self, policy: PolicyState, data: NeuralTransitions) -> Array:
        trace = np.full(policy.num_objectives, self.settings.cost_trace)
        return estimate_advantages(policy, data, self.discount, trace).advantages[:, 1:]

    def _costs(
        self, policy: PolicyState, candidate: PolicyState, advantages: list[Array]
    ) -> Float[FloatArray, "episodes p"]:
        discount = self.discount if self.settings.returns == "discounted" else 1.0
        parts = [
            costs_of_episodes(data, ratios(policy, candidate, data), part, discount)
            for data, part in zip(self._seen, advantages, strict=True)
        ]
        return np.concatenate(parts)


def safe_steps(
    guard: Guard | None, batch: BatchEnvironment, settings: NeuralSettings, task: tuple[int, str], discount: float
) -> SafeSteps | None:
    """What shortens the steps of a ``task`` (its seed and label); None without a ``guard``.

    Raises:
        TaskError: there are too few copies for a bound.
    """
    if guard is None:
        return None
    seed, label = task
    episodes = guard.safety.settings.test_episodes or batch.num_copies
    batches = -(-episodes // batch.num_copies)
    if batches * batch.num_copies < LEAST_EPISODES:
        raise TaskError(
            f"task {label}: {batch.num_copies} test episodes are too few for a bound on the costs; set "
            f"evaluation.safety.test_episodes or within_task.num_copies to at least {LEAST_EPISODES}"
        )
    return SafeSteps(guard, NeuralRollouts(batch, batch.horizon, seed, label), batches, settings, discount)


def moved_by(policy: PolicyState, improved: PolicyState, share: float) -> PolicyState:
    """``improved``, with the actor's parameters after a ``share`` of the way from those of ``policy``."""
    if share == 1.0:
        return improved
    actor = policy.actor
    vector = actor.vector + np.float32(share) * (improved.actor.vector - actor.vector)
    return dataclasses.replace(improved, actor=Parameters(actor.network, vector.astype(actor.vector.dtype)))


def ratios(policy: PolicyState, candidate: PolicyState, data: NeuralTransitions) -> Float[FloatArray, "T n"]:
    """pi'(a|s) / pi(a|s) of every action of ``policy`` in ``data``."""
    observations, actions = data.flat(data.observations), data.flat(data.actions)
    distribution = distribution_of(policy.actor.network)
    (old, extra), (new, new_extra) = policy.act(observations), candidate.act(observations)
    with np.errstate(over="ignore"):
        found = np.exp(
            distribution.log_probability(new, new_extra, actions).astype(np.float64)
            - distribution.log_probability(old, extra, actions)
        )
    return np.asarray(found).reshape(data.ended.shape)


def costs_of_episodes(
    data: NeuralTransitions,
    ratio: Float[FloatArray, "T n"],
    advantages: Float[Array, "N p"],
    discount: float,
) -> Float[FloatArray, "n p"]:
    """Costs of a candidate in the first episode of every copy, to first order in the policy's change.

        X = sum_t gamma^t [ c_t + (pi'/pi - 1) A(s_t, a_t) ]

    With exact advantages its mean is J(pi) plus the surrogate of a trust region; what is missing is of second order
    (Schulman et al. 2015, theorem 1). Every copy must have room for an episode.
    """
    steps, copies = data.ended.shape
    ages = episode_ages(data.ended)
    first: NDArray[np.bool_] = np.cumsum(data.ended, axis=0) == data.ended
    weights = np.where(first, np.power(discount, ages), 0.0)[..., None]
    change = (ratio - 1.0)[..., None] * advantages.reshape(steps, copies, -1)
    return np.asarray((weights * (data.costs.astype(np.float64) + change)).sum(axis=0))
