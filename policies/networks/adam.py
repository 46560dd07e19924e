"""Adam on a flat parameter vector (Kingma, Ba 2015)."""

from __future__ import annotations

import numpy as np

from policies.networks.mlp import Array

_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-8


class Adam:
    """Running moments of the gradients of one minimisation."""

    def __init__(self, vector: Array, step_size: float) -> None:
        self._first, self._second = np.zeros_like(vector), np.zeros_like(vector)
        self._step_size, self._steps = step_size, 0

    def step(self, vector: Array, gradient: Array, share: float = 1.0) -> Array:
        """The next vector: x - share * beta * m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps)."""
        self._steps += 1
        self._first += (1.0 - _BETA_1) * (gradient - self._first)
        self._second += (1.0 - _BETA_2) * (gradient * gradient - self._second)
        rate = share * self._step_size / (1.0 - _BETA_1**self._steps)
        root = np.sqrt(self._second / (1.0 - _BETA_2**self._steps))
        root += _EPSILON
        return np.asarray(vector - rate * self._first / root)
