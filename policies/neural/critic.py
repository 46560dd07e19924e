"""The fit of the critic: one network with 1 + p heads on returns normalised per head."""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from policies.networks.adam import Adam
from policies.networks.mlp import Array
from policies.networks.network import AnyNetwork
from policies.neural.policy_state import TARGET_MEAN, TARGET_SCALE, Parameters

_LEAST_SCALE = 1e-6


class CriticSettings(BaseModel):
    """How the critic is fitted: the ``critic`` section."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    epochs: int = Field(default=10, gt=0)
    """Passes over the samples."""
    minibatch: int = Field(default=256, gt=0)
    """Samples of one Adam step."""
    learning_rate: float = Field(default=3e-3, gt=0.0)
    """Adam's step, falling linearly to 0 over the fit."""
    ridge: float = Field(default=1.0, gt=0.0)
    """How strongly the last layer, solved before Adam, is held at its old weights, in units of the feature variance."""


def fit_critic(
    critic: Parameters, inputs: Array, targets: Array, settings: CriticSettings, rng: np.random.Generator
) -> Parameters:
    """Least squares of the normalised heads on ``targets`` [N, h] at ``inputs`` [N, d] (normalised observations).

    Heads are put in units of the spread of their targets with the function unchanged (Pop-Art, van Hasselt et al. 2016,
    w' = w sigma / sigma'), the last layer is moved towards its exact solution, and Adam continues from there. A network
    without a linear last layer keeps its outputs, now in the new units, and Adam does everything.
    """
    network, vector = critic.network, critic.vector.copy()
    mean, spread = targets.mean(axis=0, dtype=np.float64), targets.std(axis=0, dtype=np.float64)
    scale = np.maximum(spread, _LEAST_SCALE * (1.0 + np.abs(mean)))
    last = network.last_layer(vector)
    if last is not None:
        last[0][:] *= network.part(vector, TARGET_SCALE) / scale
    network.part(vector, TARGET_MEAN)[:], network.part(vector, TARGET_SCALE)[:] = mean, scale
    wanted = ((targets - mean) / scale).astype(vector.dtype)
    solve_last_layer(network, vector, inputs, wanted, settings.ridge)
    return Parameters(network, _adam(network, vector, inputs, wanted, settings, rng))


def solve_last_layer(network: AnyNetwork, vector: Array, inputs: Array, wanted: Array, ridge: float) -> None:
    """Write the last layer of ``vector``: min_w mean |wanted - h w - b|^2 + ridge |w - w_0|^2, the bias free.

    w = w_0 + (cov(h, h) + ridge)^{-1} cov(h, wanted - h w_0) and b = mean(wanted) - mean(h) w. w_0 are the present
    weights, or 0 for a head that explains nothing of ``wanted`` (a fresh one, or after a jump of the returns). A
    network without a linear last layer stays as it is.
    """
    last = network.last_layer(vector)
    if last is None:
        return
    weights, bias = last
    features = network.features(vector, inputs).astype(np.float64)
    centre, middle = features.mean(axis=0), wanted.mean(axis=0, dtype=np.float64)
    features -= centre
    missing = wanted - middle
    useless = (missing - features @ weights).var(axis=0) >= missing.var(axis=0)
    start = np.where(useless, 0.0, weights)
    covariance = features.T @ features / len(features) + ridge * np.eye(len(start))
    solution = start + np.linalg.solve(covariance, features.T @ (missing - features @ start) / len(features))
    weights[:], bias[:] = solution, middle - centre @ solution


def _adam(
    network: AnyNetwork, vector: Array, inputs: Array, wanted: Array, settings: CriticSettings, rng: np.random.Generator
) -> Array:
    """Adam on shuffled minibatches; every step's loss is the mean over its samples."""
    adam = Adam(vector, settings.learning_rate)
    size = min(settings.minibatch, len(inputs))
    per_epoch = len(inputs) // size
    total = settings.epochs * per_epoch
    for step in range(total):
        if step % per_epoch == 0:
            order = rng.permutation(len(inputs))
            inputs_now, wanted_now = inputs[order], wanted[order]
        here = slice((step % per_epoch) * size, (step % per_epoch + 1) * size)
        linear = network.linearize(vector, inputs_now[here])
        error = linear.outputs - wanted_now[here]
        error *= 1.0 / size
        vector = adam.step(vector, linear.pullback(error), 1.0 - step / total)
    return vector
