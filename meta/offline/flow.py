"""How well an estimate satisfies the Bellman-flow equation, for any kind of state (THEORY section 3)."""

from __future__ import annotations

import numpy as np

from meta.offline.offline_data import OfflineData
from meta.offline.target_policy import states_of
from tasks.contract.tabular_model import FloatArray

_TESTS = 64
_STREAM = 31
_LEAST_SPREAD = 1e-6


def flow_residual(data: OfflineData, mass: FloatArray, seed: int) -> float:
    """How far ``mass`` [N] on the rows of ``data`` is from a flow: 0 is perfect.

    For test functions g_j(s,a): | (1-gamma) E[g_j(s0, a0)] - sum_n mass_n (g_j(s,a) - gamma E_{a'~pi} g_j(s',a')) |.
    Tables take the indicators of every pair and sum (the L1 norm of the flow equation, at most 2). Other observations
    take J = 64 random Fourier features g_j = cos(omega_j x + b_j) of x, the normalised observation and action, with
    unit frequencies, and the largest of them: a lower bound of the same norm, since |g_j| <= 1.
    """
    if data.is_tabular:
        return _tabular_residual(data, mass)
    rng = np.random.default_rng([seed, _STREAM])
    sample, target = data.sample, data.target
    following = target.sample(sample.next_observations, rng)
    first = target.sample(data.initial_observations, rng)
    here = data.inputs(sample.observations, sample.actions)
    spread = np.maximum(here.std(axis=0), _LEAST_SPREAD)
    centre = here.mean(axis=0)
    frequencies = rng.standard_normal((here.shape[1], _TESTS)) / np.sqrt(here.shape[1])
    phases = rng.uniform(0.0, 2.0 * np.pi, _TESTS)

    def tests(inputs: FloatArray) -> FloatArray:
        return np.asarray(np.cos((inputs - centre) / spread @ frequencies + phases))

    going_on = mass * ~sample.terminated
    flow = mass @ tests(here) - data.discount * going_on @ tests(data.inputs(sample.next_observations, following))
    start = tests(data.inputs(data.initial_observations, first)).mean(axis=0)
    return float(np.abs((1.0 - data.discount) * start - flow).max())


def _tabular_residual(data: OfflineData, mass: FloatArray) -> float:
    sample, actions = data.sample, data.target.num_actions
    assert actions is not None
    states = int(max(o.max() for o in (sample.observations, sample.next_observations, data.initial_observations))) + 1
    flow = np.zeros((states, actions))
    np.add.at(flow, (states_of(sample.observations), sample.actions), mass)
    going_on = ~sample.terminated
    following = data.target.probabilities(sample.next_observations[going_on])
    np.add.at(flow, states_of(sample.next_observations[going_on]), -data.discount * mass[going_on, None] * following)
    first = data.target.probabilities(data.initial_observations) / len(data.initial_observations)
    np.add.at(flow, states_of(data.initial_observations), -(1.0 - data.discount) * first)
    return float(np.abs(flow).sum())
