"""Diagnostics that decide whether an estimate of a stationary distribution can be trusted (THEORY section 3)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from meta.offline.dice_settings import DICESettings


class EstimateError(ValueError):
    """Data that no estimate can be made from; the message names what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Diagnostics:
    """Measures that decide whether an estimate can be trusted.

    ``mean_correction``: E_D[w], 1 when nothing is missing. ``effective_sample_size``: (sum w)^2 / sum w^2 / N.
    ``negative_share``: samples with w < -1e-6 (beyond rounding). ``flow_residual``: how far the Bellman-flow equation
    is from holding on held-out episodes, of an estimate made without them (0 is perfect; NaN with fewer than five
    episodes). ``missing_mass``: the policy's discounted mass on pairs without data (an estimator that has no notion of
    a pair reports what E_D[w] lacks to 1). ``regularized``: the answer is a ridge-regularised least-squares one.
    """

    mean_correction: float
    effective_sample_size: float
    negative_share: float
    flow_residual: float
    missing_mass: float
    regularized: bool

    def failures(self, settings: DICESettings) -> tuple[str, ...]:
        """Names of the diagnostics beyond their thresholds."""
        return tuple(name for name, share in self._shares(settings).items() if not share <= 1.0)

    def trust(self, settings: DICESettings) -> float:
        """Weight of the estimate in the meta-update, in [0, 1]: how far it is from its thresholds.

        With s the largest diagnostic in units of its threshold (the effective sample size: the threshold in units of
        it): 1 where s <= 1/2, 2 (1 - s) up to s = 1, but never less than ``failed_weight``.
        """
        worst = max(self._shares(settings).values(), key=lambda share: np.inf if np.isnan(share) else share)
        if np.isnan(worst):
            return settings.failed_weight
        return max(settings.failed_weight, min(1.0, 2.0 * (1.0 - worst)))

    def _shares(self, settings: DICESettings) -> dict[str, float]:
        """Every diagnostic in units of its threshold; above 1 it fails."""
        least, found = settings.min_effective_sample_size, self.effective_sample_size
        return {
            "missing_mass": _share(self.missing_mass, settings.max_missing_mass),
            "effective_sample_size": _share(least, found),
            "negative_share": _share(self.negative_share, settings.negative_share_limit),
            "flow_residual": _share(self.flow_residual, settings.flow_residual_limit),
        }


def _share(value: float, threshold: float) -> float:
    if threshold == 0.0:
        return 0.0 if value <= 0.0 else np.inf
    return value / threshold


UNKNOWN = Diagnostics(np.nan, np.nan, np.nan, np.nan, np.nan, regularized=False)
"""Diagnostics of a task without an estimate, for tables."""
