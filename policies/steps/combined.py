"""A natural-gradient step of a network on several objectives at once, as a rule decided it (policies.rules.rule)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

from policies.networks.mlp import Array
from policies.networks.network import AnyNetwork, Linear
from policies.rules.c_trpo import barrier_divergence
from policies.rules.rule import Decision
from policies.steps.natural_gradient import (
    Cap,
    Samples,
    StepReport,
    TrustRegionSettings,
    compared,
    fisher_product,
    natural_gradient_direction,
    policy_gradient,
    shortening,
)
from tasks.contract.tabular_model import FloatArray


@dataclass(frozen=True)
class NaturalGradients:
    """The natural gradients D_i = (F + damping)^{-1} g_i / (1 - gamma) of one batch, computed when they are asked for.

    ``vector`` are the actor's parameters and ``samples`` the data, as for
    :func:`policies.steps.natural_gradient.natural_gradient_step`.
    """

    network: AnyNetwork
    vector: Array
    samples: Samples
    discount: float
    settings: TrustRegionSettings

    @cached_property
    def linear(self) -> Linear:
        """The network at this vector and batch."""
        return self.network.linearize(self.vector, self.samples.inputs)

    @cached_property
    def gradients(self) -> Float[Array, "objectives parameters"]:
        """g_i / (1 - gamma) of every objective."""
        count = self.samples.advantages.shape[1]
        rows = [policy_gradient(self.network, self.linear, self.samples, column) for column in range(count)]
        return np.array(rows) / (1.0 - self.discount)

    @cached_property
    def directions(self) -> Float[Array, "objectives parameters"]:
        """D_i of every objective."""
        return np.array([self._solved(gradient)[0] for gradient in self.gradients])

    def products(self) -> Float[FloatArray, "objectives objectives"]:
        """K_ij = g_i' D_j / (1 - gamma), made symmetric: with the damping, at least D_i' F D_j."""
        found = self.gradients.astype(np.float64) @ self.directions.T.astype(np.float64)
        return np.asarray(0.5 * (found + found.T))

    def spreads(self) -> Float[FloatArray, " objectives"]:
        """Root mean squares of the advantages."""
        squares = self.samples.advantages.astype(np.float64) ** 2
        return np.asarray(np.sqrt(self.samples.weights.astype(np.float64) @ squares))

    def step(self, coefficients: FloatArray) -> tuple[Array, int, float]:
        """sum_i c_i D_i; also the Fisher-vector products used and the residual's share, 0 where the D_i were known."""
        weights = coefficients.astype(self.vector.dtype)
        if "directions" in self.__dict__:
            return weights @ self.directions, 0, 0.0
        return self._solved(weights @ self.gradients)

    def _solved(self, gradient: Array) -> tuple[Array, int, float]:
        return natural_gradient_direction(self.network, self.linear, self.samples, gradient, self.settings)


@dataclass(frozen=True, slots=True)
class Room:
    """From surrogates to returns: J_i(pi') - J_i(pi) is about ``factor`` E[(pi'/pi - 1) A_i].

    ``left`` [p] are d_i + eta_i - J_i.
    """

    factor: float
    left: FloatArray


def combined_step(natural: NaturalGradients, decision: Decision, room: Room) -> tuple[Array, StepReport]:
    """theta + sum_i c_i D_i, shortened until KL <= delta_max and what the decision asks to keep is kept.

    With one coefficient this is :func:`policies.steps.natural_gradient.natural_gradient_step`.
    """
    settings, vector = natural.settings, natural.vector
    step, used, residual = natural.step(decision.coefficients)
    curvature = fisher_product(natural.network, natural.linear, natural.samples.weights, step)
    requested = 0.5 * float(step @ curvature)
    scale = 1.0 if requested <= settings.delta_max else float(np.sqrt(settings.delta_max / requested))
    cap: Cap = "none" if scale == 1.0 else "trust_region"
    branch, rate = decision.branch, float(decision.coefficients[decision.branch])
    for backtracks in range(settings.max_backtracks + 1):
        candidate = vector + scale * step
        kl, surrogate = compared(natural.network, natural.linear, candidate, natural.samples)
        broken = _broken(kl, surrogate, settings, decision, room)
        if broken == "none":
            report = StepReport(branch, rate, scale, cap, used, residual, backtracks, requested, kl, surrogate)
            return candidate, report
        cap = broken
        over = kl > settings.delta_max or not np.isfinite(kl)
        scale *= shortening(kl, settings) if over else settings.backtracking
    nothing, most = np.zeros_like(surrogate), settings.max_backtracks
    return vector, StepReport(branch, rate, 0.0, "refused", used, residual, most, requested, 0.0, nothing)


def _broken(kl: float, surrogate: Array, settings: TrustRegionSettings, decision: Decision, room: Room) -> Cap:
    rises = room.factor * surrogate[1:].astype(np.float64)
    beyond = 0.0 if decision.barrier is None else barrier_divergence(rises, decision.barrier)
    if not kl + beyond <= settings.delta_max:
        return "trust_region"
    satisfied = tuple((1 + np.flatnonzero(room.left >= 0.0)).tolist()) if settings.keep_satisfied else ()
    if any(not rises[cost - 1] <= max(float(room.left[cost - 1]), 0.0) for cost in (*decision.kept, *satisfied)):
        return "satisfied_cost"
    return "none"
