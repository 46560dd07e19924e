"""What tells whether an estimate of a stationary distribution is to be trusted (THEORY section 3)."""

from __future__ import annotations

from dataclasses import dataclass

from meta.dice_settings import DICESettings


@dataclass(frozen=True, slots=True)
class Diagnostics:
    """What tells whether an estimate is to be trusted.

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
        failed = {
            "missing_mass": self.missing_mass > settings.max_missing_mass,
            "effective_sample_size": self.effective_sample_size < settings.min_effective_sample_size,
            "negative_share": self.negative_share > settings.max_negative_share,
            "flow_residual": not self.flow_residual <= settings.max_flow_residual,
        }
        return tuple(name for name, wrong in failed.items() if wrong)
