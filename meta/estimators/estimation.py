"""The one protocol of all estimators of stationary distributions, and the diagnostics that each estimate carries."""

from __future__ import annotations

import functools
import importlib
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from meta.offline.diagnostics import Diagnostics, EstimateError
from meta.offline.dice_settings import ESTIMATORS, DICESettings
from meta.offline.flow import flow_residual
from meta.offline.offline_data import Fit, Fitted, OfflineData, prepare
from meta.offline.target_policy import TargetPolicy
from policies.common.transition_sample import TransitionSample
from tasks.contract.tabular_model import FloatArray

_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class Estimate:
    """A stationary-distribution estimate on a sample of N rows.

    ``mass`` [N] is the estimated d^pi of each row: expectations under d^pi are ``mass @ values``; its sum is 1 minus
    the absorbed and the missing mass. ``correction`` [N] is w = d^pi / d^D, 0 on dropped rows. ``iteration_sizes`` [M]
    is the effective number of samples, (sum w)^2 / sum w^2, among the rows of each of CRPO's iterations.
    """

    mass: Float[FloatArray, " N"]
    correction: Float[FloatArray, " N"]
    iteration_sizes: Float[FloatArray, " M"]
    diagnostics: Diagnostics


@functools.cache
def estimator_named(name: str) -> Fit:
    """The estimator ``name`` of :data:`meta.offline.dice_settings.ESTIMATORS`."""
    module, _, function = ESTIMATORS[name].partition(":")
    found: Fit = getattr(importlib.import_module(module), function)
    return found


def estimate_corrections(
    sample: TransitionSample,
    target: TargetPolicy,
    discount: float,
    horizon: int,
    settings: DICESettings,
    seed: int,
) -> Estimate:
    """Estimate d^pi of ``target`` from transitions that CRPO's iterates made; pure in its arguments.

    Raises:
        EstimateError: the data are invalid, or the estimator has no finite answer on them.
    """
    assert settings.estimator is not None
    data, keep = prepare(sample, target, discount, horizon, settings)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # non-finite values are reported below
        fitted = estimator_named(settings.estimator)(data, settings, seed)
    ratio = _finite(fitted.ratio, settings.estimator)
    mass = data.weights * ratio
    absorbed = data.absorbed_mass(mass)
    full, correction = np.zeros(len(sample)), np.zeros(len(sample))
    full[keep], correction[keep] = mass, ratio * (1.0 + data.absorbed_share)
    present = float(mass.sum()) + absorbed
    return Estimate(
        mass=full,
        correction=correction,
        iteration_sizes=_sizes_by_iteration(sample, full),
        diagnostics=Diagnostics(
            mean_correction=present,
            effective_sample_size=_effective_sample_size(data, mass, absorbed),
            negative_share=float((ratio < -_ROUNDING).mean()),
            flow_residual=_held_out_residual(data, fitted, settings.estimator, seed),
            missing_mass=max(0.0, 1.0 - present),
            regularized=fitted.regularized,
        ),
    )


def _finite(ratio: FloatArray, name: str) -> FloatArray:
    wrong = np.flatnonzero(~np.isfinite(ratio))
    if wrong.size:
        raise EstimateError(f"{name}: the correction of transition {int(wrong[0])} is not finite")
    return ratio


def _held_out_residual(data: OfflineData, fitted: Fitted, name: str, seed: int) -> float:
    """The Bellman-flow residual on the held-out episodes, of an estimate made from the others."""
    if fitted.held_out_ratio is None:
        return float("nan")
    rest = data.part(data.held_out)
    return flow_residual(rest, rest.weights * _finite(fitted.held_out_ratio, f"{name}, held-out episodes"), seed)


def _effective_sample_size(data: OfflineData, mass: FloatArray, absorbed: float) -> float:
    """(sum w)^2 / sum w^2 / N with the absorbing state's steps as samples of one weight."""
    total, share = 1.0 + data.absorbed_share, data.absorbed_share
    squares = float((mass**2 / data.weights).sum()) + (absorbed**2 / share if share > 0.0 else 0.0)
    return (float(mass.sum()) + absorbed) ** 2 / squares / total if squares > 0.0 else 0.0


def _sizes_by_iteration(sample: TransitionSample, mass: FloatArray) -> FloatArray:
    count = int(sample.iterations.max()) + 1
    sums = np.bincount(sample.iterations, weights=mass, minlength=count)
    squares = np.bincount(sample.iterations, weights=mass**2, minlength=count)
    return np.where(squares > 0.0, sums**2 / np.where(squares > 0.0, squares, 1.0), 0.0)
