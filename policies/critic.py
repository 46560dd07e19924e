"""The fit of the critic: one network with 1 + p heads on returns normalised per head."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from policies.networks import Array, Network, linearize
from policies.neural_policy import TARGET_MEAN, TARGET_SCALE, Parameters

_LEAST_SCALE = 1e-6
_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-8


class CriticSettings(BaseModel):
    """How the critic is fitted: the ``critic`` section."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    epochs: int = Field(default=10, gt=0)
    """Passes over the samples."""
    minibatch: int = Field(default=128, gt=0)
    """Samples of one Adam step."""
    learning_rate: float = Field(default=1e-3, gt=0.0)
    """Adam's step, falling linearly to 0 over the fit."""


def renormalized(critic: Parameters, targets: Array) -> Parameters:
    """The same function with heads in units of the spread of ``targets`` [N, h] (van Hasselt et al. 2016, Pop-Art).

    w' = w sigma / sigma', b' = (sigma b + mu - mu') / sigma'.
    """
    network, vector = critic.network, critic.vector.copy()
    last = network.num_layers - 1
    weights, bias = network.part(vector, f"weights_{last}"), network.part(vector, f"bias_{last}")
    mean, scale = network.part(vector, TARGET_MEAN), network.part(vector, TARGET_SCALE)
    new_mean, spread = targets.mean(axis=0, dtype=np.float64), targets.std(axis=0, dtype=np.float64)
    new_scale = np.maximum(spread, _LEAST_SCALE + 1e-6 * np.abs(new_mean))
    weights *= scale / new_scale
    bias[:] = (scale * bias + mean - new_mean) / new_scale
    mean[:], scale[:] = new_mean, new_scale
    return Parameters(network, vector)


def fit_critic(
    critic: Parameters, inputs: Array, targets: Array, settings: CriticSettings, rng: np.random.Generator
) -> Parameters:
    """Least squares of the normalised heads on ``targets`` [N, h] at ``inputs`` [N, d] (normalised observations)."""
    critic = renormalized(critic, targets)
    network, vector = critic.network, critic.vector
    wanted = (targets - network.part(vector, TARGET_MEAN)) / network.part(vector, TARGET_SCALE)
    return Parameters(network, _adam(network, vector, inputs, wanted.astype(vector.dtype), settings, rng))


def _adam(
    network: Network, vector: Array, inputs: Array, wanted: Array, settings: CriticSettings, rng: np.random.Generator
) -> Array:
    """Adam (Kingma, Ba 2015) on shuffled minibatches; every step's loss is the mean over its samples."""
    first, second = np.zeros_like(vector), np.zeros_like(vector)
    size = min(settings.minibatch, len(inputs))
    per_epoch = len(inputs) // size
    total = settings.epochs * per_epoch
    for step in range(total):
        if step % per_epoch == 0:
            order = rng.permutation(len(inputs))
            inputs_now, wanted_now = inputs[order], wanted[order]
        here = slice((step % per_epoch) * size, (step % per_epoch + 1) * size)
        linear = linearize(network, vector, inputs_now[here])
        error = linear.outputs - wanted_now[here]
        error *= 1.0 / size
        gradient = linear.pullback(error)
        first += (1.0 - _BETA_1) * (gradient - first)
        second += (1.0 - _BETA_2) * (gradient * gradient - second)
        rate = settings.learning_rate * (1.0 - step / total) / (1.0 - _BETA_1 ** (step + 1))
        root = np.sqrt(second / (1.0 - _BETA_2 ** (step + 1)))
        root += _EPSILON
        vector = vector - rate * first / root
    return vector
