"""Neural policies as a kind: an actor, a critic and observation statistics."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from policies.common.policy import Policy
from policies.common.policy_kind import PlayedStep, Settled, Spaces
from policies.common.results import Start, TaskResult
from policies.networks.distributions import distribution_of
from policies.neural.context_probe import probe_context
from policies.neural.crpo import fresh_policy, require_whole_episodes
from policies.neural.neural_settings import NeuralSettings
from policies.neural.policy_state import PolicyState, policy_from_arrays
from policies.neural.rollouts import NeuralRollouts, to_bounds
from policies.neural.solving import NeuralDataset, solve_neural_task, state_of
from policies.neural.update import Problem, estimate_returns
from policies.rules.outside import solver_of
from tasks.contract.contextual_family import ContextualFamily, with_any_context
from tasks.contract.tabular_model import FloatArray
from tasks.contract.task import Task, TaskError, TaskFamily
from tasks.contract.timeout import step_seconds
from tasks.stepping.batch import BatchEnvironment, GymnasiumBatch, make_batch
from tasks.stepping.context_batch import with_context

PROBE = 2**20
"""The iteration number behind the random numbers of probing rollouts: equal for every start, none of CRPO's."""
ACTION_STREAM = 41
"""Key of the random actions of an episode that is played."""


class NeuralKind:
    """See :class:`policies.common.policy_kind.PolicyKind`; a policy is a :class:`PolicyState`."""

    name = "neural"

    def owns(self, policy: Policy) -> bool:
        """Whether ``policy`` is a :class:`PolicyState`."""
        return type(policy) is PolicyState

    def fresh(self, family: TaskFamily, task: Task, settings: NeuralSettings, seed: int) -> PolicyState:
        """A network with random weights.

        Raises:
            TaskError: a copy has no room for an episode.
        """
        batch = make_batch(with_any_context(family), task, 1)
        try:
            require_whole_episodes(settings, batch.horizon, task.label)
            return fresh_policy(batch, settings, seed)
        finally:
            batch.close()

    def settle(self, family: TaskFamily, task: Task, start: Start, settings: NeuralSettings) -> Settled:
        """Probe where the context is hidden (:mod:`policies.neural.context_probe`); the start is the same network."""
        if not isinstance(family, ContextualFamily):
            return Settled(family, start)
        if start.contexts is not None:
            family = family.with_contexts(start.contexts)
        if not family.must_find(task):
            return Settled(family, start, family.context_of(task))
        found = probe_context(family, task, start, settings)
        return Settled(family.with_context(found.context), start, found.context, found.steps)

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
        """CRPO with a network, another rule, or a solver outside of this room."""
        solve = solver_of(settings.method.name).solve if settings.method.outside else solve_neural_task
        return solve(family, task, start, settings, collect=collect, on_iteration=on_iteration)

    def values(
        self,
        family: TaskFamily,
        task: Task,
        policies: Sequence[Policy],
        settings: NeuralSettings,
        episodes: int | None,
    ) -> tuple[FloatArray, int]:
        """J [K, 1+p] from ``episodes`` episodes of each policy (of a batch as CRPO's where None)."""
        copies = episodes or settings.num_copies
        batch = make_batch(family, task, copies)
        try:
            steps = batch.horizon if episodes else settings.steps_per_iteration // copies
            rollouts = NeuralRollouts(batch, steps, task.seed, task.label)
            limits = np.array(task.limits)
            problem = Problem(np.ones(1 + limits.size), limits, np.zeros(limits.size), family.discount, batch.horizon)
            values = [
                estimate_returns(rollouts.collect(state_of(policy, task.label), PROBE), problem, settings)
                for policy in policies
            ]
        finally:
            batch.close()
        return np.array(values, np.float64), len(policies) * copies * steps

    def act(self, policy: PolicyState, observations: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        """Actions drawn at ``observations`` [n, d]: indices [n], or vectors in units of half the action range."""
        distribution = distribution_of(policy.actor.network)
        outputs, extra = policy.act(observations)
        return distribution.sample(outputs, extra, distribution.noise(rng, len(outputs), outputs.shape[1]))

    def most_probable(self, policy: PolicyState, observations: NDArray[Any]) -> NDArray[Any]:
        """Indices [n] of the largest logits, or the means [n, k]."""
        outputs, extra = policy.act(observations)
        return distribution_of(policy.actor.network).mode(outputs, extra)

    def play(
        self, env: gymnasium.Env[Any, Any], family: TaskFamily, task: Task, policy: PolicyState, seed: int
    ) -> Iterator[PlayedStep]:
        """One episode in a batch of one copy."""
        rng, num_costs, last = np.random.default_rng([seed, ACTION_STREAM]), len(family.cost_names), False
        plain = GymnasiumBatch(lambda: env, 1, num_costs, family.horizon, task.label, step_seconds(family))
        batch = with_context(family, task, plain)
        inputs = policy.actor.network.num_inputs
        if inputs != batch.observation_size:
            raise TaskError(
                f"{task.label}: the policy takes {inputs} numbers, an observation has {batch.observation_size}; "
                "film the tasks of the family that it was learned on"
            )
        bounded = to_bounds(batch)
        batch.reset(np.array([0]), np.array([seed]))
        yield 0.0, np.zeros(num_costs), False
        while not last:
            batch.step(bounded(self.act(policy, batch.observations, rng)))
            last = bool(batch.terminated[0] or batch.truncated[0])
            yield float(batch.reward[0]), batch.costs[0].copy(), last

    def spaces(self, family: TaskFamily, task: Task) -> Spaces:
        """Numbers in an observation, and the actions with their bounds."""
        batch = make_batch(with_any_context(family), task, 1)
        try:
            return spaces_of(batch)
        finally:
            batch.close()

    def to_arrays(self, policy: PolicyState) -> dict[str, NDArray[Any]]:
        """Actor, critic and statistics."""
        return policy.to_arrays()

    def from_arrays(self, arrays: Mapping[str, NDArray[Any]], spaces: Spaces) -> PolicyState:
        """The policy, checked against ``spaces``."""
        policy = policy_from_arrays(arrays)
        outputs = spaces.actions or len(spaces.low)
        if (policy.actor.network.num_inputs, policy.actor.network.num_outputs) != (spaces.observation, outputs):
            raise ValueError(f"actor does not map {spaces.observation} numbers to {outputs}")
        return policy


def spaces_of(batch: BatchEnvironment) -> Spaces:
    """The spaces of a batch's environment."""
    if batch.num_actions is not None:
        return Spaces(tabular=False, observation=batch.observation_size, actions=batch.num_actions)
    assert batch.action_low is not None
    assert batch.action_high is not None
    low, high = (
        tuple(float(value) if np.isfinite(value) else None for value in bound)
        for bound in (batch.action_low, batch.action_high)
    )
    return Spaces(tabular=False, observation=batch.observation_size, actions=0, low=low, high=high)


NEURAL = NeuralKind()
