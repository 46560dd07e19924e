"""Reference numbers from rliable 1.2.0 for ``meta.measuring.statistics``; run in an environment of its own.

python -m venv /tmp/rliable && /tmp/rliable/bin/pip install rliable==1.2.0 "pandas<3"
/tmp/rliable/bin/python tests/data/statistics/reference.py > tests/data/statistics/rliable.json
"""

from __future__ import annotations

import json

import numpy as np
from rliable import library, metrics

rng = np.random.default_rng(7)
x = np.round(rng.normal(0.6, 0.3, size=(10, 4)) + np.array([0.0, 0.2, -0.1, 0.4]), 3)
y = np.round(rng.normal(0.5, 0.2, size=(8, 4)) + np.array([0.0, 0.2, -0.1, 0.1]), 3)
y[0] = x[0]
thresholds = np.linspace(0.0, 1.5, 7)
_, intervals = library.get_interval_estimates(
    {"x": x},
    lambda scores: np.array([metrics.aggregate_iqm(scores)]),
    reps=20000,
    random_state=np.random.RandomState(0),
)
_, improvement = library.get_interval_estimates(
    {"x,y": (x, y)},
    lambda a, b: np.array([metrics.probability_of_improvement(a, b)]),
    reps=20000,
    random_state=np.random.RandomState(0),
)
_, bands = library.create_performance_profile({"x": x}, thresholds, reps=20000)
print(
    json.dumps(
        {
            "x": x.tolist(),
            "y": y.tolist(),
            "thresholds": thresholds.tolist(),
            "iqm": float(metrics.aggregate_iqm(x)),
            "iqm_bounds": intervals["x"].ravel().tolist(),
            "improvement": float(metrics.probability_of_improvement(x, y)),
            "improvement_bounds": improvement["x,y"].ravel().tolist(),
            "profile": library.create_performance_profile({"x": x}, thresholds, reps=10)[0]["x"].tolist(),
            "profile_bounds": bands["x"].tolist(),
        },
        indent=1,
    )
)
