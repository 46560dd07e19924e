"""The step of the learning rates that tabular and neural meta-learners share (THEORY section 4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from meta.learning.updates import LearningRateSettings, leading_rates, log_rate_gradient, scheduled_step
from tasks.contract.tabular_model import FloatArray


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
    rates = state.learning_rates
    if settings.method == "fixed":
        return rates
    if settings.method == "ftl":
        led = leading_rates(state.loss_sum, state.curvature_sum, num_iterations, settings.regularizer)
        return np.clip(np.where(state.curvature_sum > 0.0, led, rates), settings.minimum, settings.maximum)
    gradient, weight = np.zeros(rates.size), np.zeros(rates.size)
    for item in ordered:
        slope = log_rate_gradient(max(item.loss, 0.0), rates, num_iterations, item.curvature)
        measured = np.isfinite(slope)
        gradient = gradient + np.where(measured, item.weight * np.nan_to_num(slope), 0.0)
        weight = weight + item.weight * measured
    step = scheduled_step(settings.step_size, settings.schedule, state.num_rounds + 1)
    mean = gradient / np.maximum(weight, 1.0)
    return np.clip(rates * np.exp(-step * mean), settings.minimum, settings.maximum)
