"""Saddle points of two networks nu and zeta over a task's transitions, by minibatch Adam (for the neural estimators).

Networks have a head for each discrete action on the state, or one head on the pair (s, a) of a continuous one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meta.estimators.encoder import Encoder
from meta.offline.diagnostics import EstimateError
from meta.offline.dice_settings import NeuralDICESettings
from meta.offline.flow import flow_residual
from meta.offline.offline_data import OfflineData
from policies.networks.adam import Adam
from policies.networks.mlp import Array, Network, apply, initialize, linearize
from tasks.contract.tabular_model import FloatArray
from tasks.stepping.batch import Float32Array

_BATCHES, _NETWORKS = 35, 36


@dataclass(frozen=True, slots=True)
class Values:
    """A minibatch of B transitions and B starts: ``nu`` at (s,a), ``following`` E_{a'~pi} nu(s',a') (0 after the end),
    ``first`` E_{a0~pi} nu(s0,a0), ``zeta`` at (s,a), all [B]; ``absorbs`` [B] is gamma / (1 - gamma) where the episode
    ended, else 0; ``multiplier`` is the scalar dual variable.
    """

    nu: FloatArray
    following: FloatArray
    first: FloatArray
    zeta: FloatArray
    absorbs: FloatArray
    multiplier: float


@dataclass(frozen=True, slots=True)
class Gradients:
    """Derivatives [B] of a loss in the parts of :class:`Values`: what nu, zeta and the multiplier each *minimise*."""

    nu: FloatArray
    following: FloatArray
    first: FloatArray
    zeta: FloatArray
    multiplier: float = 0.0


Objective = Callable[[Values, float], Gradients]
"""(values, gamma) -> gradients, per sample: their means over the minibatch are followed."""


@dataclass(frozen=True, slots=True)
class Trained:
    """Averages of both networks' parameters over the last steps, the multiplier, and how long it took."""

    encoder: Encoder
    network: Network
    nu: Array
    zeta: Array
    multiplier: float
    steps: int

    def outputs(self, vector: Array, observations: Float32Array, actions: NDArray[Any]) -> FloatArray:
        """One of the two networks at pairs (s, a), [K]."""
        heads = apply(self.network, vector, self.encoder.encode(observations, actions))
        return np.asarray((heads * self.encoder.head_weights(observations, actions)).sum(axis=1), np.float64)


def train_saddle_point(
    data: OfflineData,
    objective: Objective,
    link: Link,
    settings: NeuralDICESettings,
    seed: int,
    *,
    nu_is_inner: bool = False,
) -> Trained:
    """Adam on minibatches of the training episodes; stops when the held-out episodes stop improving.

    ``link`` turns zeta's outputs into ratios. ``seed`` determines the networks and the minibatches. With
    ``nu_is_inner``, nu takes the larger steps instead of zeta.

    Raises:
        EstimateError: a parameter is not finite (the rates are too large).
    """
    fit = data.part(~data.held_out) if data.has_held_out else data
    encoder = Encoder.of(data)
    network = Network((encoder.size, *settings.hidden, encoder.heads))
    (nu, zeta), multiplier = _fresh_networks(network, link, seed), 0.0
    state = _Averages(nu.copy(), zeta.copy(), 0.0)
    batches = _Batches(fit, encoder, settings.minibatch, np.random.default_rng([seed, _BATCHES]))
    rates = settings.outer_rate, settings.inner_rate
    nu_rate, zeta_rate = rates[::-1] if nu_is_inner else rates
    adams = Adam(nu, nu_rate), Adam(zeta, zeta_rate)
    first = Trained(encoder, network, state.nu, state.zeta, state.multiplier, 0)
    best = _Best(first, data.part(data.held_out) if data.has_held_out else None, link, seed)
    for step in range(settings.steps):
        share = 1.0 - step / settings.steps
        slopes = _gradients(batches.draw(), network, nu, zeta, multiplier, objective, link, data)
        nu, zeta = adams[0].step(nu, slopes[0], share), adams[1].step(zeta, slopes[1], share)
        multiplier -= nu_rate * share * slopes[2]
        state = state.towards(nu, zeta, multiplier, min(settings.averaging, step / (step + 1.0)))
        if (step + 1) % settings.check_every == 0 or step + 1 == settings.steps:
            _require_finite(nu, zeta, step + 1)
            trained = Trained(encoder, network, state.nu, state.zeta, state.multiplier, step + 1)
            if best.checks_since(trained) >= settings.patience:
                break
    return replace(best.trained, steps=step + 1)


@dataclass(slots=True)
class _Best:
    """The networks with the least residual on the held-out episodes ``rest``; without any, the latest networks."""

    trained: Trained
    rest: OfflineData | None
    link: Link
    seed: int
    residual: float = np.inf
    waited: int = 0

    def checks_since(self, trained: Trained) -> int:
        """Keep ``trained`` if it is better; return the number of checks since the last improvement."""
        residual = 0.0 if self.rest is None else _residual(trained, self.rest, self.link, self.seed)
        self.waited = 0 if residual < self.residual else self.waited + 1
        if self.waited == 0 or self.rest is None:
            self.trained, self.residual = trained, residual
        return self.waited


def _fresh_networks(network: Network, link: Link, seed: int) -> tuple[Array, Array]:
    """nu, and a zeta whose ratio is about 1 everywhere."""
    nu, zeta = (initialize(network, _seed(seed, part), 1.0) for part in (0, 1))
    network.part(zeta, f"weights_{network.num_layers - 1}")[:] *= 0.1
    network.part(zeta, f"bias_{network.num_layers - 1}")[:] = link.inverse_of_one
    return nu, zeta


def _require_finite(nu: Array, zeta: Array, step: int) -> None:
    if not (np.isfinite(nu).all() and np.isfinite(zeta).all()):
        raise EstimateError(f"training diverged before step {step}; lower dice.neural.inner_rate and outer_rate")


@dataclass(frozen=True, slots=True)
class Link:
    """What makes the ratio of zeta's output: the identity, or softplus, log(1 + exp x), which is positive."""

    positive: bool

    @property
    def inverse_of_one(self) -> float:
        """The output whose ratio is 1."""
        return float(np.log(np.e - 1.0)) if self.positive else 1.0

    def value(self, outputs: FloatArray) -> FloatArray:
        """The ratio."""
        return np.logaddexp(0.0, outputs) if self.positive else outputs

    def slope(self, outputs: FloatArray) -> FloatArray:
        """Its derivative."""
        return np.asarray(1.0 / (1.0 + np.exp(-outputs)) if self.positive else np.ones_like(outputs))


@dataclass(frozen=True, slots=True)
class _Averages:
    nu: Array
    zeta: Array
    multiplier: float

    def towards(self, nu: Array, zeta: Array, multiplier: float, kept: float) -> _Averages:
        share = np.float32(1.0 - kept)
        return _Averages(
            self.nu + share * (nu - self.nu),
            self.zeta + share * (zeta - self.zeta),
            self.multiplier + float(share) * (multiplier - self.multiplier),
        )


@dataclass(frozen=True, slots=True)
class _Batch:
    """Inputs of B transitions, of where they lead and of B starts, and which heads count at each."""

    inputs: Float32Array
    heads: Float32Array
    absorbs: FloatArray

    @property
    def size(self) -> int:
        return self.absorbs.size


class _Batches:
    """Draws minibatches: rows by their shares of d^D; next and first actions anew where they are continuous."""

    def __init__(self, data: OfflineData, encoder: Encoder, size: int, rng: np.random.Generator) -> None:
        self._data, self._encoder, self._size, self._rng = data, encoder, size, rng
        self._shares = np.cumsum(data.weights)

    def draw(self) -> _Batch:
        data, encoder, rng, sample = self._data, self._encoder, self._rng, self._data.sample
        rows = np.minimum(np.searchsorted(self._shares, rng.random(self._size)), len(sample) - 1)
        first = data.initial_observations[rng.integers(len(data.initial_observations), size=self._size)]
        observations, after = sample.observations[rows], sample.next_observations[rows]
        acting, discrete = data.target, data.target.num_actions is not None
        actions = [sample.actions[rows]] + [
            np.zeros(self._size, np.int64) if discrete else acting.sample(states, rng) for states in (after, first)
        ]
        places = (observations, after, first)
        inputs = np.concatenate([encoder.encode(s, a) for s, a in zip(places, actions, strict=True)])
        heads = np.concatenate(
            [
                encoder.head_weights(observations, actions[0]),
                encoder.head_weights(after, None) * ~sample.terminated[rows, None],
                encoder.head_weights(first, None),
            ]
        )
        ended = sample.terminated[rows]
        return _Batch(inputs, heads, np.where(ended, data.discount / (1.0 - data.discount), 0.0))


def _gradients(
    batch: _Batch,
    network: Network,
    nu: Array,
    zeta: Array,
    multiplier: float,
    objective: Objective,
    link: Link,
    data: OfflineData,
) -> tuple[Array, Array, float]:
    """Means over the minibatch of the gradients in nu, in zeta and in the multiplier."""
    size = batch.size
    everywhere = linearize(network, nu, batch.inputs)
    found = (everywhere.outputs * batch.heads).sum(axis=1).astype(np.float64)
    here = linearize(network, zeta, batch.inputs[:size])
    outputs = (here.outputs * batch.heads[:size]).sum(axis=1).astype(np.float64)
    values = Values(
        found[:size], found[size : 2 * size], found[2 * size :], link.value(outputs), batch.absorbs, multiplier
    )
    slopes = objective(values, data.discount)
    of_nu = np.concatenate([slopes.nu, slopes.following, slopes.first]) / size
    of_zeta = slopes.zeta * link.slope(outputs) / size
    return (
        everywhere.pullback((batch.heads * of_nu[:, None]).astype(np.float32)),
        here.pullback((batch.heads[:size] * of_zeta[:, None]).astype(np.float32)),
        slopes.multiplier,
    )


def _residual(trained: Trained, rest: OfflineData, link: Link, seed: int) -> float:
    """Flow residual and error of E_D[w] = 1 together: alone the first is only 1 - gamma for w = 0."""
    mass = rest.weights * link.value(trained.outputs(trained.zeta, rest.sample.observations, rest.sample.actions))
    return flow_residual(rest, mass, seed) + abs(float(mass.sum()) + rest.absorbed_mass(mass) - 1.0)


def _seed(seed: int, part: int) -> int:
    return int(np.random.SeedSequence([seed, _NETWORKS, part]).generate_state(1)[0])
