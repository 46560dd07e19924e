"""Navigation in docs/results/contexts.md: the circle of Safety-Gymnasium."""

from __future__ import annotations

from pathlib import Path

from benchmarks.learning.contexts_rows import (
    KNOWING,
    PRETRAINED,
    RANDOM,
    RATE,
    SEEDS,
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
        SEEDS[:3],
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
steps, ten new tasks). The margin was chosen there at limits of about 12.5: with half of every limit kept free the start
earns 6.0 and no update is over a limit; with 30 % kept free it earns 5.0, and 20 % of task-iterations are over.
"""
