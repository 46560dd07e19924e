"""The natural gradients of a softmax table: their products, and steps on several objectives at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Float

from tasks.contract.tabular_model import FloatArray


class Visits(Protocol):
    """What knows the state distributions of policies."""

    def visits(self, policy: FloatArray) -> FloatArray:
        """The discounted state distribution nu [S] of ``policy`` [S, A]."""


@dataclass(frozen=True, slots=True)
class Products:
    """Products of the natural gradients D_i = A_i / (1 - gamma) of ``policy`` [S, A] with ``advantages`` [1+p, S, A].

    ``evaluator`` knows nu; it is asked only where a rule needs products.
    """

    policy: FloatArray
    advantages: FloatArray
    discount: float
    evaluator: Visits

    def matrix(self) -> Float[FloatArray, "objectives objectives"]:
        """K_ij = D_i' F D_j = E_{nu, pi}[A_i A_j] / (1 - gamma)^2, the Fisher matrix averaged over nu.

        It is also grad J_i' D_j, since grad J_i = nu pi A_i / (1 - gamma) (Agarwal et al. 2021, lemma 10).
        """
        return self._covariances() / (1.0 - self.discount) ** 2

    def spreads(self) -> Float[FloatArray, " objectives"]:
        """Root mean squares of the advantages."""
        return np.sqrt(np.diag(self._covariances()))

    def _covariances(self) -> FloatArray:
        weights = np.maximum(self.evaluator.visits(self.policy), 0.0)[:, None] * self.policy
        flat = self.advantages.reshape(len(self.advantages), -1)
        return np.asarray((flat * weights.ravel()) @ flat.T)


def combined(
    coefficients: Float[FloatArray, " objectives"], advantages: Float[FloatArray, "objectives S A"]
) -> Float[FloatArray, "S A"]:
    """sum_i c_i A_i; objectives without a coefficient add nothing, so that a single one keeps its bits."""
    total: FloatArray | None = None
    for coefficient, advantage in zip(coefficients.tolist(), advantages, strict=True):
        if coefficient != 0.0:
            part = coefficient * advantage
            total = part if total is None else total + part
    return np.zeros(advantages.shape[1:]) if total is None else total
