"""Online steps of the meta-initialisation and of the learning rates, one pure function per equation.

docs/symbols.md has the equations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from meta.learning.settings import LearningRateSettings, MixedSchedule
from tasks.contract.tabular_model import FloatArray


def scheduled_step(step_size: float, schedule: MixedSchedule, count: int) -> float:
    """beta_t at update number ``count`` = 1, 2, ...: beta / sqrt(t) for a static comparator, else beta."""
    return step_size / math.sqrt(count) if schedule == "static" else step_size


def project_to_shrunk_simplex(points: Float[FloatArray, "*any A"], shrinkage: float) -> Float[FloatArray, "*any A"]:
    """Euclidean projection of each row [..., A] onto {phi : sum phi = 1, phi >= rho_min / A}; exact, by sorting.

    Duchi et al. 2008 (algorithm 1) after shifting by the lower bound.
    """
    actions = points.shape[-1]
    lower = shrinkage / actions
    shifted = points - lower
    mass = 1.0 - shrinkage
    descending = -np.sort(-shifted, axis=-1)
    excess = np.cumsum(descending, axis=-1) - mass
    ranks = np.arange(1, actions + 1)
    support = (descending - excess / ranks > 0.0).sum(axis=-1, keepdims=True)
    threshold = np.take_along_axis(excess, support - 1, axis=-1) / support
    return np.asarray(np.maximum(shifted - threshold, 0.0) + lower)


def initialization_gradient(
    occupancy: Float[FloatArray, " S"], policy: Float[FloatArray, "S A"], initialization: Float[FloatArray, "S A"]
) -> Float[FloatArray, "S A"]:
    """Gradient of f_hat in phi: -nu(s) pi(a|s) / phi(a|s), [S, A]."""
    return -occupancy[:, None] * policy / initialization


def leading_rates(
    loss_sum: Float[FloatArray, " objectives"],
    curvature_sum: Float[FloatArray, " objectives"],
    num_iterations: int,
    regularizer: float,
    units: Float[FloatArray, " objectives"] | float = 1.0,
) -> Float[FloatArray, " objectives"]:
    """Follow the leader on rates: a_i = sqrt((eps + sum f_hat) / (M (eps u_i^2 + sum b_i))), [1+p]."""
    return np.sqrt((regularizer + loss_sum) / (num_iterations * (regularizer * units**2 + curvature_sum)))


def log_rate_gradient(
    loss: float,
    rates: Float[FloatArray, " objectives"],
    num_iterations: int,
    curvature: Float[FloatArray, " objectives"],
) -> Float[FloatArray, " objectives"]:
    """d log U_i / d log a_i = (a b_i - f / (a M)) / (a b_i + f / (a M)), in [-1, 1], [1+p]; NaN where b_i is NaN.

    The gradient of log U: U itself varies over orders of magnitude between tasks, log U has the same minimiser.
    """
    pull, push = loss / (rates * num_iterations), rates * curvature
    return (push - pull) / np.maximum(push + pull, np.finfo(np.float64).tiny)


@runtime_checkable
class RateState(Protocol):
    """The part of a state that learning rates are learned from."""

    @property
    def num_rounds(self) -> int:
        """Updates so far."""

    @property
    def learning_rates(self) -> FloatArray:
        """alpha, [1+p]."""

    @property
    def loss_sum(self) -> FloatArray:
        """[1+p], of ftl."""

    @property
    def curvature_sum(self) -> FloatArray:
        """[1+p], of ftl."""

    @property
    def rate_units(self) -> FloatArray | None:
        """u [1+p]: rates are given in units of 1 / u_i; None for 1."""


@runtime_checkable
class RateItem(Protocol):
    """The part of a contribution that learning rates are learned from."""

    @property
    def loss(self) -> float:
        """f_hat_t(phi_t)."""

    @property
    def curvature(self) -> FloatArray:
        """b_t, [1+p]."""

    @property
    def weight(self) -> float:
        """In [0, 1]."""


def units_of(state: RateState) -> FloatArray:
    """u [1+p], the observed scale of every objective's returns; 1 where settings are absolute.

    An objective in other units, k J_i, has the curvature k^2 b_i and the rate a_i / k: with u_i -> k u_i all updates
    below are the same.
    """
    return np.ones_like(state.learning_rates) if state.rate_units is None else state.rate_units


def rate_sums(
    state: RateState, ordered: Sequence[RateItem], settings: LearningRateSettings
) -> tuple[FloatArray, FloatArray]:
    """ftl's sums of losses and curvatures with a round's tasks added; objectives that were not measured add nothing."""
    loss_sum, curvature_sum = settings.forgetting * state.loss_sum, settings.forgetting * state.curvature_sum
    for item in ordered:
        measured = np.isfinite(item.curvature)
        loss_sum = loss_sum + np.where(measured, item.weight * max(item.loss, 0.0), 0.0)
        curvature_sum = curvature_sum + np.where(measured, item.weight * item.curvature, 0.0)
    return loss_sum, curvature_sum


def next_rates(
    state: RateState, ordered: Sequence[RateItem], settings: LearningRateSettings, num_iterations: int
) -> FloatArray:
    """alpha after a round whose sums are in ``state`` already (see :func:`rate_sums`)."""
    rates, units = state.learning_rates, units_of(state)
    if settings.method == "fixed":
        return rates
    if settings.method == "ftl":
        led = leading_rates(state.loss_sum, state.curvature_sum, num_iterations, settings.regularizer, units)
        return np.clip(
            np.where(state.curvature_sum > 0.0, led, rates), settings.minimum / units, settings.maximum / units
        )
    gradient, weight = np.zeros(rates.size), np.zeros(rates.size)
    for item in ordered:
        slope = log_rate_gradient(max(item.loss, 0.0), rates, num_iterations, item.curvature)
        measured = np.isfinite(slope)
        gradient = gradient + np.where(measured, item.weight * np.nan_to_num(slope), 0.0)
        weight = weight + item.weight * measured
    step = scheduled_step(settings.step_size, settings.schedule, state.num_rounds + 1)
    mean = gradient / np.maximum(weight, 1.0)
    return np.clip(rates * np.exp(-step * mean), settings.minimum / units, settings.maximum / units)
