"""An estimate for one task with its weight in the meta-update, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from meta.estimators.estimation import Estimate
from meta.offline.diagnostics import Diagnostics, EstimateError
from meta.offline.dice_settings import DICESettings

NO_ESTIMATE = "no_estimate"
"""An entry of a task's failures: its data allowed no estimate; ``problem`` gives the reason."""


@dataclass(frozen=True, slots=True)
class Trusted:
    """``estimate`` is None if the data allowed none; ``problem`` then explains, and ``weight`` is ``failed_weight``.

    ``weight`` in [0, 1] is the step of the meta-update for this task relative to that of a fully trusted task (see
    :meth:`meta.offline.diagnostics.Diagnostics.trust`); ``failures`` names the diagnostics beyond their thresholds.
    """

    estimate: Estimate | None
    diagnostics: Diagnostics | None
    weight: float
    failures: tuple[str, ...] = ()
    problem: str = ""


def trusted(make: Callable[[], Estimate], settings: DICESettings) -> Trusted:
    """Make an estimate and judge it by its own diagnostics; one task's bad data never stop a run."""
    try:
        estimate = make()
    except EstimateError as error:
        return Trusted(None, None, settings.failed_weight, (NO_ESTIMATE,), str(error))
    diagnostics = estimate.diagnostics
    return Trusted(estimate, diagnostics, diagnostics.trust(settings), diagnostics.failures(settings))
