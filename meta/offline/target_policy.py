"""The policy whose stationary distribution is estimated, as the estimators see it: a table or a network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from policies.networks.distributions import LOG_STD, distribution_of
from policies.neural.policy_state import PolicyState
from tasks.contract.tabular_model import FloatArray
from tasks.stepping.batch import Float32Array


@runtime_checkable
class TargetPolicy(Protocol):
    """A policy that estimators can sample and whose density they can evaluate."""

    @property
    def state_table(self) -> FloatArray | None:
        """Probabilities [S, A] where observations hold the number of a state; None for a network."""

    @property
    def network(self) -> PolicyState | None:
        """The network; None for a table."""

    @property
    def num_actions(self) -> int | None:
        """A of discrete actions; None where they are continuous."""

    def sample(self, observations: Float32Array, rng: np.random.Generator) -> NDArray[Any]:
        """One action [K] or [K, A] for every row of ``observations`` [K, d]."""

    def log_probabilities(self, observations: Float32Array, actions: NDArray[Any]) -> FloatArray:
        """log pi(a|s) [K]."""

    def probabilities(self, observations: Float32Array) -> FloatArray:
        """pi(.|s) [K, A], so that expectations over actions are exact; discrete actions only."""


@dataclass(frozen=True, slots=True)
class TableTarget:
    """A table of probabilities [S, A]; observations [K, 1] hold the number of the state."""

    table: FloatArray

    @property
    def state_table(self) -> FloatArray:
        """The table itself."""
        return self.table

    @property
    def network(self) -> None:
        """None."""
        return

    @property
    def num_actions(self) -> int | None:
        """A."""
        return int(self.table.shape[1])

    def sample(self, observations: Float32Array, rng: np.random.Generator) -> NDArray[Any]:
        """The inverse of the cumulative distribution at uniform numbers."""
        cumulative = np.cumsum(self.probabilities(observations), axis=1)[:, :-1]
        return np.asarray((rng.random((len(observations), 1)) >= cumulative).sum(axis=1))

    def log_probabilities(self, observations: Float32Array, actions: NDArray[Any]) -> FloatArray:
        """Logarithms of the table's entries; minus infinity where one is 0."""
        with np.errstate(divide="ignore"):
            return np.log(self.table[states_of(observations), actions])

    def probabilities(self, observations: Float32Array) -> FloatArray:
        """Rows of the table."""
        return self.table[states_of(observations)]


def states_of(observations: Float32Array) -> NDArray[np.int64]:
    """Numbers of the states [K] that ``observations`` [K, 1] hold."""
    return observations[:, 0].astype(np.int64)


@dataclass(frozen=True, slots=True)
class NeuralTarget:
    """A neural policy."""

    policy: PolicyState

    @property
    def state_table(self) -> None:
        """None."""
        return

    @property
    def network(self) -> PolicyState:
        """The policy itself."""
        return self.policy

    @property
    def num_actions(self) -> int | None:
        """Outputs of a categorical actor; None for a Gaussian one."""
        network = self.policy.actor.network
        return None if LOG_STD in network.places else network.num_outputs

    def sample(self, observations: Float32Array, rng: np.random.Generator) -> NDArray[Any]:
        """Actions as the policy chooses them, before scaling and clipping to the bounds."""
        outputs, extra = self.policy.act(observations)
        distribution = distribution_of(self.policy.actor.network)
        return distribution.sample(outputs, extra, distribution.noise(rng, len(outputs), outputs.shape[1]))

    def log_probabilities(self, observations: Float32Array, actions: NDArray[Any]) -> FloatArray:
        """The density of the Gaussian, or the probability of the categorical, in logarithms."""
        outputs, extra = self.policy.act(observations)
        logs = distribution_of(self.policy.actor.network).log_probability(outputs, extra, actions)
        return np.asarray(logs, np.float64)

    def probabilities(self, observations: Float32Array) -> FloatArray:
        """softmax of a categorical actor's outputs.

        Raises:
            TypeError: the actions are continuous.
        """
        if self.num_actions is None:
            raise TypeError("a Gaussian policy has a density, not probabilities of actions")
        return np.asarray(softmax(self.policy.act(observations)[0].astype(np.float64), axis=1))
