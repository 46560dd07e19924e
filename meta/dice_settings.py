"""How stationary distributions are estimated: the ``dice`` section of a run file."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Estimator = Literal["dualdice_tabular", "importance", "none"]


class DICESettings(BaseModel):
    """How stationary distributions are estimated: the ``dice`` section of a run file."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    estimator: Estimator | None = None
    """none: all samples weigh alike; empty: dualdice_tabular, or none for neural policies."""
    drop_iterations: int = Field(default=0, ge=0)
    """CRPO's first iterations that are left out of the data."""
    iteration_weight: float = Field(default=1.0, gt=0.0, le=1.0)
    """Weight of an iteration's transitions relative to the next one's: below 1 early iterations fade."""
    ridge: float = Field(default=1e-12, ge=0.0)
    """Ridge on nu where the policy reaches pairs without data; never used where the data covers the policy."""
    max_missing_mass: float = Field(default=0.2, ge=0.0, le=1.0)
    """An estimate that misses more than this share of the policy's mass fails its diagnostics."""
    min_effective_sample_size: float = Field(default=0.001, ge=0.0, le=1.0)
    """An estimate whose effective sample size is a smaller share of the data fails."""
    max_negative_share: float = Field(default=0.05, ge=0.0, le=1.0)
    """An estimate with a larger share of negative corrections fails."""
    max_flow_residual: float = Field(default=1.0, gt=0.0)
    """An estimate with a larger Bellman-flow residual on held-out episodes fails (0 is perfect, 2 the worst)."""
    failed_weight: float = Field(default=0.0, ge=0.0, le=1.0)
    """Weight in the meta-update of a task whose estimate failed its diagnostics; 0 leaves it out."""
