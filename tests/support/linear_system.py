"""A two-dimensional linear system with Gaussian noise and a linear policy: its discounted moments in closed form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.common.transition_sample import TransitionSample
from tasks.contract.tabular_model import FloatArray
from tasks.stepping.batch import Float32Array

HORIZON = 50


@dataclass(frozen=True)
class LinearPolicy:
    """a ~ N(gain x + offset, std^2), one action."""

    gain: FloatArray
    offset: float
    std: float

    state_table = None
    network = None

    @property
    def num_actions(self) -> int | None:
        """None: actions are continuous."""
        return None

    def sample(self, observations: Float32Array, rng: np.random.Generator) -> NDArray[Any]:
        """One action for every row, [K, 1]."""
        mean = observations @ self.gain + self.offset
        return (mean + self.std * rng.standard_normal(len(mean)))[:, None].astype(np.float32)

    def log_probabilities(self, observations: Float32Array, actions: NDArray[Any]) -> FloatArray:
        """Log-density of the actions taken."""
        z = (actions[:, 0] - observations @ self.gain - self.offset) / self.std
        return np.asarray(-0.5 * z * z - np.log(self.std) - 0.5 * np.log(2.0 * np.pi))

    def probabilities(self, observations: Float32Array) -> FloatArray:
        """There are none."""
        raise TypeError(f"{len(observations)} continuous actions")


@dataclass(frozen=True)
class LinearSystem:
    """x' = drift x + push a + noise N(0, std^2 I), x0 ~ N(0, I)."""

    drift: FloatArray
    push: FloatArray
    std: float
    discount: float
    target: LinearPolicy
    behaviours: tuple[LinearPolicy, ...]

    @staticmethod
    def make() -> LinearSystem:
        """The one that tests and benchmarks use."""
        drift = np.array([[0.9, 0.2], [-0.2, 0.8]])
        behaviours = tuple(LinearPolicy(np.array([0.1 * k, -0.1]), 0.25 * k, 1.0) for k in range(3))
        target = LinearPolicy(np.array([-0.1, -0.4]), 0.8, 0.7)
        return LinearSystem(drift, np.array([0.3, 0.6]), 0.3, 0.95, target, behaviours)

    def sample(self, seed: int, num_episodes: int) -> TransitionSample:
        """Whole episodes of HORIZON steps, a third by each behaviour policy; ``iterations`` tell which."""
        rng = np.random.default_rng(seed)
        parts = []
        per = num_episodes // len(self.behaviours)
        for number, policy in enumerate(self.behaviours):
            x = rng.standard_normal((per, 2)).astype(np.float32)
            path, acts, after = [], [], []
            for _ in range(HORIZON):
                a = policy.sample(x, rng)
                path.append(x)
                acts.append(a)
                x = (x @ self.drift.T + a * self.push + self.std * rng.standard_normal(x.shape)).astype(np.float32)
                after.append(x)
            observations, actions, following = (
                np.stack(values, axis=1).reshape(per * HORIZON, -1) for values in (path, acts, after)
            )
            ages = np.tile(np.arange(HORIZON), per).astype(np.int32)
            parts.append(
                TransitionSample(
                    observations=observations,
                    actions=actions,
                    next_observations=following,
                    terminated=np.zeros(len(ages), dtype=np.bool_),
                    truncated=ages == HORIZON - 1,
                    iterations=np.full(len(ages), number, np.int32),
                    episodes=(np.repeat(np.arange(per), HORIZON) + number * per).astype(np.int32),
                    ages=ages,
                    log_probabilities=policy.log_probabilities(observations, actions),
                )
            )
        names = TransitionSample.__slots__
        return TransitionSample(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    def discounted_moments(self, policy: LinearPolicy) -> FloatArray:
        """E[x], E[x x'] (1 - gamma) sum_k gamma^k, one vector: linear equations in both, solved exactly.

        m = (1-g) m0 + g (F m + c); S = (1-g) S0 + g (F S F' + F m c' + c m' F' + c c' + Q), F = drift + push gain'.
        """
        g, closed = self.discount, self.drift + np.outer(self.push, policy.gain)
        constant = self.push * policy.offset
        noise = self.std**2 * np.eye(2) + policy.std**2 * np.outer(self.push, self.push)
        mean = np.linalg.solve(np.eye(2) - g * closed, g * constant)
        cross = np.outer(closed @ mean, constant)
        known = (1.0 - g) * np.eye(2) + g * (cross + cross.T + np.outer(constant, constant) + noise)
        second = np.linalg.solve(np.eye(4) - g * np.kron(closed, closed), known.ravel())
        return np.concatenate([mean, second])
