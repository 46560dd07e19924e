"""Lakes in docs/results/contexts.md."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from benchmarks.learning.contexts_rows import Changes, Setting, Variant
from meta.methods.registry import OURS

LAKE = Path("deploy/runs/frozen_lake.yaml")
LAKE_VARIANTS = (
    Variant("meta_srl, context", OURS, (("meta.context", "given"), ("meta.contexts.map", "log_linear"))),
    Variant("meta_srl, none", OURS),
    Variant("pretrained", "pretrained"),
    Variant("simple_average", "simple_average"),
    Variant("fal", "fal"),
    Variant("multitask", "multitask"),
    Variant("random", "random"),
)
CPO: Changes = (("within_task.method.name", "cpo"),)
LAKE_CPO = tuple(
    dataclasses.replace(one, name=f"{one.name}, cpo", changes=(*one.changes, *CPO))
    for one in LAKE_VARIANTS
    if one.method in (OURS, "pretrained", "multitask")
)
"""Methods with steps that end at the limit. Starts are made of what the algorithm ends with, and CRPO's own gap on a
lake after 50 updates (docs/results/within_task.md) is most of the gap of its learned start after five."""
DEEP: Changes = (("within_task.num_iterations", "15"), ("evaluation.num_iterations", "5"))
LAKE_DEEP = tuple(
    dataclasses.replace(
        one,
        name=f"{one.name}, deep",
        changes=(*one.changes, *DEEP, *((("meta.learning_rates.new_tasks", "scaled"),) if one.method == OURS else ())),
    )
    for one in LAKE_VARIANTS
    if one.method not in ("random", "pretrained")
)
"""Training tasks of 15 updates, new ones of five (docs/decisions/0050-deep-training-tasks.md). `pretrained` has one
training task, of 300 updates, and `random` none: they are the same either way."""
LAKE_DEEP_CPO = tuple(
    dataclasses.replace(one, name=f"{one.name}, cpo", changes=(*one.changes, *CPO))
    for one in LAKE_DEEP
    if one.method == OURS
)
_ALL = (*LAKE_VARIANTS, *LAKE_CPO, *LAKE_DEEP, *LAKE_DEEP_CPO)
LAKE_SETTINGS = (
    Setting(
        "lakes_high",
        "Lakes of high similarity",
        LAKE,
        (),
        tuple(range(200, 210)),
        _ALL,
    ),
    Setting(
        "lakes_low",
        "Lakes of low similarity",
        LAKE,
        (("family.similarity", "low"),),
        tuple(range(200, 210)),
        _ALL,
    ),
    Setting(
        "lakes_unlike",
        "Lakes that differ in 40 of their 62 tiles",
        LAKE,
        (("family.similarity", "40"),),
        tuple(range(200, 206)),
        tuple(one for one in LAKE_VARIANTS if one.method in (OURS, "random")),
    ),
)
