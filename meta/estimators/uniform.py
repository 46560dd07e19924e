"""No correction: the samples of the behaviour policies are used unchanged."""

from __future__ import annotations

import numpy as np

from meta.offline.dice_settings import DICESettings
from meta.offline.offline_data import Fitted, OfflineData


def uniform(data: OfflineData, settings: DICESettings, seed: int) -> Fitted:
    """All weights 1."""
    del settings, seed
    return Fitted(np.ones(len(data)), np.ones(int(data.held_out.sum())) if data.has_held_out else None)
