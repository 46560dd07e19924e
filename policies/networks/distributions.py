"""Action distributions over a network's outputs, categorical or diagonal Gaussian, with what a step needs of them.

``outputs`` [N, k] come from the network, ``extra`` [e] are its parameters outside the layers: log standard deviations
of the Gaussian, nothing for the categorical.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax

from policies.networks.mlp import Array
from policies.networks.network import AnyNetwork

LOG_STD = "log_std"
"""Name of the Gaussian's extra parameters; a network that has them is a Gaussian actor."""
_LOG_2PI = math.log(2.0 * math.pi)


class Distribution(Protocol):
    """A family of action distributions."""

    def noise(self, rng: np.random.Generator, steps: int, size: int) -> Array:
        """Random numbers of ``steps`` actions for ``size`` outputs; the first ones do not depend on ``steps``."""

    def sample(self, outputs: Array, extra: Array, noise: Array) -> NDArray[Any]:
        """Actions from one row of noise per row of outputs."""

    def mode(self, outputs: Array, extra: Array) -> NDArray[Any]:
        """The most probable actions."""

    def log_probability(self, outputs: Array, extra: Array, actions: NDArray[Any]) -> Array:
        """log pi(a|s), [N]."""

    def score(self, outputs: Array, extra: Array, actions: NDArray[Any], weights: Array) -> tuple[Array, Array]:
        """Derivatives of sum_n weights_n log pi(a_n|s_n) in the outputs [N, k] and in the extras [e]."""

    def fisher(self, outputs: Array, extra: Array, moved: Array, moved_extra: Array, weights: Array) -> Any:
        """The weighted Fisher matrix in (outputs, extras) times (``moved`` [N, k], ``moved_extra`` [e]); a pair."""

    def kl(self, outputs: Array, extra: Array, new_outputs: Array, new_extra: Array) -> Array:
        """KL(old || new) for every row, [N]."""

    def kl_gradient(
        self, outputs: Array, extra: Array, new_outputs: Array, new_extra: Array, weights: Array
    ) -> tuple[Array, Array]:
        """Derivatives of sum_n weights_n KL(old || new)_n in the new outputs [N, k] and in the new extras [e]."""


@dataclass(frozen=True, slots=True)
class Categorical:
    """pi(a|s) = softmax(outputs)_a; actions are indices [N]."""

    def noise(self, rng: np.random.Generator, steps: int, size: int) -> Array:
        """Uniform numbers [steps]."""
        del size
        return rng.random(steps)

    def sample(self, outputs: Array, extra: Array, noise: Array) -> NDArray[Any]:
        """The inverse of the cumulative distribution at ``noise`` [N]."""
        del extra
        cumulative = np.cumsum(softmax(outputs, axis=1), axis=1)[:, :-1]
        return (noise[:, None] >= cumulative).sum(axis=1)

    def mode(self, outputs: Array, extra: Array) -> NDArray[Any]:
        """Indices of the largest logits, [N]."""
        del extra
        return np.asarray(outputs.argmax(axis=1))

    def log_probability(self, outputs: Array, extra: Array, actions: NDArray[Any]) -> Array:
        """log softmax at the actions taken."""
        del extra
        return np.asarray(log_softmax(outputs, axis=1)[np.arange(len(actions)), actions])

    def score(self, outputs: Array, extra: Array, actions: NDArray[Any], weights: Array) -> tuple[Array, Array]:
        """d log pi(a|s) / d outputs = e_a - pi."""
        result = -softmax(outputs, axis=1) * weights[:, None]
        result[np.arange(len(actions)), actions] += weights
        return result, np.zeros_like(extra)

    def fisher(
        self, outputs: Array, extra: Array, moved: Array, moved_extra: Array, weights: Array
    ) -> tuple[Array, Array]:
        """(diag(pi) - pi pi') v."""
        del extra
        policy = softmax(outputs, axis=1)
        product = policy * (moved - (policy * moved).sum(axis=1, keepdims=True))
        return product * weights[:, None], np.zeros_like(moved_extra)

    def kl(self, outputs: Array, extra: Array, new_outputs: Array, new_extra: Array) -> Array:
        """sum_a pi (log pi - log pi')."""
        del extra, new_extra
        log_old, log_new = log_softmax(outputs, axis=1), log_softmax(new_outputs, axis=1)
        return np.asarray((np.exp(log_old) * (log_old - log_new)).sum(axis=1))

    def kl_gradient(
        self, outputs: Array, extra: Array, new_outputs: Array, new_extra: Array, weights: Array
    ) -> tuple[Array, Array]:
        """d/d new logits = pi' - pi."""
        del extra
        difference = softmax(new_outputs, axis=1) - softmax(outputs, axis=1)
        return difference * weights[:, None], np.zeros_like(new_extra)


@dataclass(frozen=True, slots=True)
class DiagonalGaussian:
    """pi(.|s) = N(outputs, diag(exp(2 log_std))); actions are real [N, A] and not clipped."""

    def noise(self, rng: np.random.Generator, steps: int, size: int) -> Array:
        """Standard normal numbers [steps, A], float32."""
        return rng.standard_normal((steps, size), dtype=np.float32)

    def sample(self, outputs: Array, extra: Array, noise: Array) -> NDArray[Any]:
        """mean + std * noise."""
        return np.asarray(outputs + np.exp(extra) * noise)

    def mode(self, outputs: Array, extra: Array) -> NDArray[Any]:
        """The means [N, A]."""
        del extra
        return outputs

    def log_probability(self, outputs: Array, extra: Array, actions: NDArray[Any]) -> Array:
        """-|z|^2 / 2 - sum log_std - A log(2 pi) / 2 with z = (a - mean) / std."""
        standard = (actions - outputs) * np.exp(-extra)
        return np.asarray(-0.5 * (standard * standard).sum(axis=1) - extra.sum() - 0.5 * _LOG_2PI * extra.size)

    def score(self, outputs: Array, extra: Array, actions: NDArray[Any], weights: Array) -> tuple[Array, Array]:
        """d/d mean = (a - mean) / std^2; d/d log_std = z^2 - 1."""
        scale = np.exp(-extra)
        standard = (actions - outputs) * scale
        return standard * scale * weights[:, None], weights @ (standard * standard - 1.0)

    def fisher(
        self, outputs: Array, extra: Array, moved: Array, moved_extra: Array, weights: Array
    ) -> tuple[Array, Array]:
        """v / std^2 for the mean, 2 v for log_std."""
        del outputs
        return moved * np.exp(-2.0 * extra) * weights[:, None], 2.0 * weights.sum() * moved_extra

    def kl(self, outputs: Array, extra: Array, new_outputs: Array, new_extra: Array) -> Array:
        """sum_k log(std'/std) + (std^2 + (mean - mean')^2) / (2 std'^2) - 1/2."""
        precision = np.exp(-2.0 * new_extra)
        constant = (new_extra - extra + 0.5 * np.exp(2.0 * extra) * precision - 0.5).sum()
        moved = outputs - new_outputs
        return np.asarray(0.5 * (moved * moved) @ precision + constant)

    def kl_gradient(
        self, outputs: Array, extra: Array, new_outputs: Array, new_extra: Array, weights: Array
    ) -> tuple[Array, Array]:
        """d/d mean' = (mean' - mean) / std'^2; d/d log_std' = 1 - (std^2 + (mean - mean')^2) / std'^2."""
        precision = np.exp(-2.0 * new_extra)
        moved = new_outputs - outputs
        spread = (np.exp(2.0 * extra) + moved * moved) * precision
        return moved * precision * weights[:, None], weights @ (1.0 - spread)


def distribution_of(actor: AnyNetwork) -> Distribution:
    """Gaussian for an actor with log standard deviations, else categorical."""
    return DiagonalGaussian() if LOG_STD in actor.places else Categorical()


def extra_of(actor: AnyNetwork, vector: Array) -> Array:
    """The distribution's parameters outside the layers: a view, empty for a categorical actor."""
    return vector[actor.places[LOG_STD]] if LOG_STD in actor.places else vector[:0]
