"""Fixed features psi(s, a) for the linear estimators: indicators, random Fourier features, a policy's last layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy  # scipy.spatial loads where it is first used
from numpy.typing import NDArray

from meta.offline.diagnostics import EstimateError
from meta.offline.dice_settings import LinearDICESettings
from meta.offline.offline_data import OfflineData
from meta.offline.target_policy import TargetPolicy, states_of
from policies.networks.mlp import Array, Network, apply
from tasks.contract.tabular_model import FloatArray
from tasks.stepping.batch import Float32Array

_STREAM, _PAIRS = 32, 500
_LEAST_SPREAD = 1e-6


@dataclass(frozen=True, slots=True)
class Features:
    """psi(s, a) [K, J] of observations [K, d] and actions [K] or [K, A]; ``one`` [J] has psi' one = 1."""

    of: Callable[[Float32Array, NDArray[Any]], Array]
    one: FloatArray

    @staticmethod
    def with_constant(of: Callable[[Float32Array, NDArray[Any]], Array], count: int) -> Features:
        """Features of which the first is 1."""
        return Features(of, np.eye(1, count)[0])


def make_features(data: OfflineData, settings: LinearDICESettings, seed: int) -> Features:
    """psi for the data of one task; pure in its arguments.

    Raises:
        EstimateError: the features do not exist for this kind of policy.
    """
    kind = settings.features or ("one_hot" if data.is_tabular else "random_fourier")
    if kind == "one_hot":
        return _indicators(data)
    if kind == "last_layer":
        return _last_layer(data.target)
    return _random_fourier(data, settings, seed)


def _indicators(data: OfflineData) -> Features:
    actions = data.target.num_actions
    if not data.is_tabular or actions is None:
        raise EstimateError("dice.linear.features: one_hot needs a table; use random_fourier or last_layer")
    seen = np.unique(states_of(data.sample.observations) * actions + data.sample.actions)

    def features(observations: Float32Array, chosen: NDArray[Any]) -> Array:
        pair = states_of(observations) * actions + chosen
        place = np.minimum(np.searchsorted(seen, pair), seen.size - 1)
        result = np.zeros((len(pair), seen.size))
        known = np.flatnonzero(seen[place] == pair)
        result[known, place[known]] = 1.0
        return result

    return Features(features, np.ones(seen.size))


def _random_fourier(data: OfflineData, settings: LinearDICESettings, seed: int) -> Features:
    """1 and cos(omega_j x + b_j) (Rahimi, Recht 2007), x = (s, a) normalised, omega_j ~ N(0, 1 / length^2)."""
    rng = np.random.default_rng([seed, _STREAM])
    inputs = data.inputs(data.sample.observations, data.sample.actions)
    centre, spread = inputs.mean(axis=0), np.maximum(inputs.std(axis=0), _LEAST_SPREAD)
    some = np.unique(np.linspace(0, len(inputs) - 1, _PAIRS).astype(np.int64))
    length = float(np.median(scipy.spatial.distance.pdist((inputs[some] - centre) / spread))) if some.size > 1 else 1.0
    count = settings.num_features - 1
    frequencies = rng.standard_normal((centre.size, count)) / (settings.bandwidth * max(length, _LEAST_SPREAD))
    phases = rng.uniform(0.0, 2.0 * np.pi, count).astype(np.float32)
    scaled = (frequencies / spread[:, None]).astype(np.float32)
    shifted = (phases - centre @ (frequencies / spread[:, None])).astype(np.float32)

    def features(observations: Float32Array, actions: NDArray[Any]) -> Float32Array:
        result = np.empty((len(observations), settings.num_features), dtype=np.float32)
        result[:, 0] = 1.0
        angles = data.inputs(observations, actions).astype(np.float32) @ scaled
        angles += shifted
        np.cos(angles, out=result[:, 1:])
        return result

    return Features.with_constant(features, settings.num_features)


def _last_layer(target: TargetPolicy) -> Features:
    """1 and the tanh activations h(s), once for each discrete action, or with z and z^2 of standardised actions z."""
    policy, count = target.network, target.num_actions
    network = None if policy is None else policy.actor.network
    if policy is None or not isinstance(network, Network) or len(network.sizes) < 3:
        raise EstimateError("dice.linear.features: last_layer needs a neural policy, an mlp with a hidden layer")
    hidden = Network(network.sizes[:-1])
    vector = policy.actor.vector[: hidden.num_parameters]
    width = hidden.sizes[-1]

    def features(observations: Float32Array, actions: NDArray[Any]) -> Float32Array:
        layer = np.tanh(apply(hidden, vector, policy.statistics.normalize(observations)))
        ones = np.ones((len(layer), 1), dtype=np.float32)
        if count is not None:
            chosen = np.eye(count, dtype=np.float32)[actions][:, :, None] * layer[:, None, :]
            return np.concatenate([ones, chosen.reshape(len(layer), count * width)], axis=1, dtype=np.float32)
        means, log_std = policy.act(observations)
        standard = (actions - means) * np.exp(-log_std)
        return np.concatenate([ones, layer, standard, standard * standard], axis=1, dtype=np.float32)

    outputs = network.num_outputs
    return Features.with_constant(features, 1 + (count * width if count is not None else width + 2 * outputs))


def next_features(
    features: Features, data: OfflineData, observations: Float32Array, key: tuple[int, ...], samples: int
) -> Array:
    """E_{a~pi} psi(s, a) [K, J] at ``observations`` [K, d]: exact for discrete actions, else a mean of drawn ones."""
    target = data.target
    if target.num_actions is None:
        rng = np.random.default_rng(key)
        drawn = features.of(observations, target.sample(observations, rng))
        for _ in range(samples - 1):
            drawn += features.of(observations, target.sample(observations, rng))
        return drawn / drawn.dtype.type(samples)
    chances = target.probabilities(observations)
    total: Array | None = None
    for action in range(target.num_actions):
        part = features.of(observations, np.full(len(observations), action, dtype=np.int64))
        part *= chances[:, action : action + 1].astype(part.dtype)
        total = part if total is None else total + part
    assert total is not None
    return total
