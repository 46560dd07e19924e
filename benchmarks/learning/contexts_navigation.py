"""Navigation in docs/results/contexts.md: the circle of Safety-Gymnasium."""

from __future__ import annotations

from pathlib import Path

from benchmarks.learning.contexts_rows import (
    KNOWING,
    NEW_SEEDS,
    PRETRAINED,
    RANDOM,
    RATE,
    WIDE_STEPS,
    WITHOUT,
    Setting,
    Variant,
)
from meta.methods.registry import OURS
from meta.training.evaluation_settings import GridPoint

CIRCLE = Path("deploy/runs/circle_context.yaml")
NAVIGATION_SETTINGS = (
    Setting(
        "circle",
        "Safety-Gymnasium's circle, other radii, boundaries and limits, 1.2 million steps of training",
        CIRCLE,
        (),
        NEW_SEEDS,
        (
            *KNOWING,
            Variant("meta_srl, none", OURS, WITHOUT),
            Variant("multitask, context", "multitask", WIDE_STEPS, RATE),
            Variant("reptile, context", "reptile", (), GridPoint(rate=0.1, step=0.5)),
            PRETRAINED,
            RANDOM,
        ),
    ),
)
"""The limits are the family's own, about 2.5 discounted steps beyond the boundary, as 25 of 1,000 steps usually are.

They bind: without limits a start earns a discounted reward of 7.3 and spends 28 (tuning seed 100, 50 rounds of direct
steps, ten new tasks). With half of every limit kept free, traces of 0.95 and advantages centred for each task, 29 % of
the task-iterations of the seeds 200 to 202 were over their limit, so that these seeds are spent. What holds now was
chosen on the tuning seeds 100 and 101, ten new tasks each: share of iterates (start, one update) over, reward.

| kept free | cost_trace | centring | seed 100 | seed 101 |
|---|---|---|---|---|
| 0.5 | 0.95 | task | 35 %, 41.0 | |
| 0.65 | 0.95 | task | 40 %, 40.5 | |
| 0.75 | 0.95 | task | 0 %, 38.8 | 40 %, 38.8 |
| 0.75 | 0.95 | batch | | 25 %, 42.3 |
| 0.75 | 1 | task | | 80 %, 41.2 |
| 0.75 | 0.8 | batch | 5 %, 38.0 | 5 %, 38.9 |
| 0.75 | 0.5 | batch | | 20 %, 19.8 |
| 0.75, 50 rounds of 40 tasks | 0.9 | batch | | 65 %, 42.0 |
"""
