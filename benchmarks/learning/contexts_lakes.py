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
SEEDS = tuple(range(200, 210))
"""Of lakes; no setting was chosen on them."""
CPO: Changes = (("within_task.method.name", "cpo"),)
DEEP: Changes = (("within_task.num_iterations", "15"), ("evaluation.num_iterations", "5"))
SCALED: Changes = (("meta.learning_rates.new_tasks", "scaled"),)


def _with(name: str, one: Variant, changes: Changes) -> Variant:
    return dataclasses.replace(one, name=f"{one.name}, {name}", changes=(*one.changes, *changes))


LAKE_CPO = tuple(_with("cpo", one, CPO) for one in LAKE_VARIANTS if one.method in (OURS, "pretrained", "multitask"))
"""Methods with steps that end at the limit. Starts are made of what the algorithm ends with, and CRPO's own gap on a
lake after 50 updates (docs/results/within_task.md) is most of the gap of its learned start after five."""
LAKE_DEEP = tuple(
    _with("deep", one, (*DEEP, *SCALED) if one.method == OURS else DEEP)
    for one in LAKE_VARIANTS
    if one.method not in ("random", "pretrained")
)
"""Training tasks of 15 updates, new ones of five (docs/decisions/0050-deep-training-tasks.md). `pretrained` has one
training task, of 300 updates, and `random` none: they are the same either way."""
LAKE_DEEP_CPO = tuple(_with("cpo", one, CPO) for one in LAKE_DEEP if one.method == OURS)
_ALL = (*LAKE_VARIANTS, *LAKE_CPO, *LAKE_DEEP, *LAKE_DEEP_CPO)
_FEW = tuple(one for one in LAKE_VARIANTS if one.method in (OURS, "random"))
LAKE_SETTINGS = tuple(
    Setting(f"lakes_{name}", title, LAKE, changes, seeds, variants)
    for name, title, changes, seeds, variants in (
        ("high", "Lakes of high similarity", (), SEEDS, _ALL),
        ("low", "Lakes of low similarity", (("family.similarity", "low"),), SEEDS, _ALL),
        ("unlike", "Lakes that differ in 40 of their 62 tiles", (("family.similarity", "40"),), SEEDS[:6], _FEW),
    )
)
