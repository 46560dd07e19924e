"""Do starts that know their task help? ``make contexts`` writes docs/results/contexts.md.

Every method trains with the same number of environment steps, with the context of its tasks and without it, and solves
the same held-out tasks. A cell is one method on one seed, with the commit that computed it. Finished cells are kept
under docs/results/contexts/cells, in the repository, so that the command can be stopped and continued on any machine.
A cell belongs to the settings that differ from their defaults: remove it where a default or an equation changes.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.kept_cells import in_processes, kept
from benchmarks.learning import contexts_rows
from benchmarks.learning.contexts_budgets import BUDGET_SETTINGS
from benchmarks.learning.contexts_lakes import LAKE_SETTINGS
from benchmarks.learning.contexts_navigation import NAVIGATION_SETTINGS
from benchmarks.learning.contexts_page import write_page
from benchmarks.learning.contexts_rows import Setting, Variant
from benchmarks.result_page import RESULTS
from distributed.settings.console import Console
from distributed.settings.provenance import commit_of_results
from distributed.settings.run_config import RunConfig
from distributed.settings.run_file import load_config
from meta.judging.protocol import choose, drawn_tasks, tune
from meta.measuring.measures import measure
from meta.methods.registry import OURS, learn
from meta.methods.workbench import averaging_bench
from meta.training.evaluation_settings import GridPoint, MethodName
from meta.training.experiment import Experiment
from meta.training.pool import LocalPool, solve_in_order
from policies.common.results import Starts, TaskResult
from tasks.contract.family_registry import FamilySpec
from tasks.contract.task import Task

CELLS = RESULTS / "contexts" / "cells"
_SECTIONS = ("seed", "family", "within_task", "dice", "meta", "evaluation")
_DECIMALS = 5
SETTINGS = (*contexts_rows.SETTINGS, *LAKE_SETTINGS, *NAVIGATION_SETTINGS, *BUDGET_SETTINGS)
"""All tables of the page."""


def configuration(setting: Setting, variant: Variant, seed: int) -> RunConfig:
    """The settings of a cell."""
    changes = [*setting.changes, *variant.changes, ("seed", str(seed)), ("tracking.enabled", "false")]
    return load_config(setting.run_file, changes)


def records(results: Sequence[TaskResult]) -> dict[str, Any]:
    """What the page needs of solved tasks, in task order; values to five decimals."""
    found = [measure(result) for result in results]
    return {
        "limits": [result.task.limits for result in results],
        "parameters": [dict(result.task.parameters) for result in results],
        "values": [result.values.round(_DECIMALS).tolist() for result in results],
        "episodic": [None if one.episodic is None else one.episodic.round(_DECIMALS).tolist() for one in results],
        "gap": [item.gap for item in found],
        "violation": [float(item.violation.mean()) for item in found],
        "during": [float(item.violation_during.mean()) for item in found],
        "score": [item.score for item in found],
        "context": [None if result.context is None else result.context.tolist() for result in results],
    }


def judged(config: RunConfig, spec: FamilySpec, tasks: Sequence[Task], start: Starts) -> dict[str, Any]:
    """The held-out tasks solved from ``start``."""
    return records(solve_in_order(LocalPool(spec), tasks, start, config.experiment.held_out_within))


def tuned_point(experiment: Experiment, method: MethodName) -> GridPoint:
    """The best point of the method's grid on the training tasks of the tuning seed."""
    seeded = experiment.with_seed(experiment.evaluation.tuning_seeds[0])
    return choose([tune(seeded, method)], [tune(seeded, "random")])


def kept_point(path: Path, experiment: Experiment, method: MethodName) -> GridPoint:
    """:func:`tuned_point`, from its file where it was found before: it is the same for all seeds of a row."""
    made = kept(path, lambda: tuned_point(experiment, method).model_dump(exclude_none=True))
    return GridPoint.model_validate(made)


def cell(config: RunConfig, variant: Variant) -> dict[str, Any]:
    """Train one method on one seed and judge its start."""
    experiment = config.experiment
    point = variant.point
    assert point is not None, f"{variant.name}: a cell needs a point, see with_point"
    pool, drawn = drawn_tasks(experiment)
    tasks = drawn.train if variant.method == OURS else drawn.for_baselines
    learned = learn(variant.method, point, averaging_bench(pool, experiment, drawn, tasks))
    content = {
        "commit": commit_of_results(),
        "point": point.model_dump(exclude_none=True),
        "env_steps": learned.env_steps,
        "learning_rates": learned.start.learning_rates.tolist(),
        "held_out": judged(config, drawn.family, drawn.test, learned.start),
    }
    if learned.rows:
        content["f_hat"] = [round(float(row["f_hat"]), _DECIMALS) for row in learned.rows]
    if variant.hidden:
        assert drawn.family.contexts is not None
        hidden = dataclasses.replace(drawn.family, contexts=dataclasses.replace(drawn.family.contexts, hidden=True))
        content["hidden"] = judged(config, hidden, drawn.test, learned.start)
    return content


def path_of(setting: Setting, variant: Variant, seed: int) -> Path:
    """The file of a cell; its name changes with every setting that is not the default."""
    config = configuration(setting, variant, seed)
    changed = config.model_dump(mode="json", exclude_defaults=True)
    parts = {name: value for name, value in changed.items() if name in _SECTIONS}
    key = json.dumps([parts, config.cluster.tasks_per_round, dataclasses.asdict(variant)], sort_keys=True, default=str)
    digest = hashlib.sha256(key.encode()).hexdigest()[:12]
    return CELLS / setting.name / variant.name.replace(", ", "-") / f"{seed}-{digest}.json"


def found_cell(setting: Setting, variant: Variant, seed: int) -> dict[str, Any]:
    """The cell, from its file where it is finished."""
    config = configuration(setting, variant, seed)
    return kept(path_of(setting, variant, seed), lambda: cell(config, with_point(setting, variant, config.experiment)))


def with_point(setting: Setting, variant: Variant, experiment: Experiment) -> Variant:
    """The row with its method's tuned point, where it has none of its own; meta_srl has nothing to tune."""
    if variant.point is not None:
        return variant
    if variant.method == OURS:
        return dataclasses.replace(variant, point=GridPoint())
    found = path_of(setting, variant, experiment.evaluation.tuning_seeds[0])
    path = found.with_name(f"point-{found.name}")
    return dataclasses.replace(variant, point=kept_point(path, experiment, variant.method))


def finished_cell(setting: Setting, variant: Variant, seed: int) -> dict[str, Any] | None:
    """The cell, or None where it is not finished."""
    return found_cell(setting, variant, seed) if path_of(setting, variant, seed).exists() else None


def main(arguments: Sequence[str] | None = None) -> None:
    """Compute the missing cells with two processes, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", nargs="*", choices=[setting.name for setting in SETTINGS], help="these only")
    parser.add_argument("--seeds", type=int, help="the first so many seeds of each setting; default all")
    names = sorted({variant.name for setting in SETTINGS for variant in setting.variants})
    parser.add_argument("--rows", nargs="*", choices=names, metavar="NAME", help="these rows only; default all")
    parser.add_argument("--processes", type=int, default=2, help="processes; default 2")
    parser.add_argument("--page", action="store_true", help="only write the page, of the cells that are finished")
    options = parser.parse_args(arguments)
    console = Console()
    chosen = [
        dataclasses.replace(setting, seeds=setting.seeds[: options.seeds], variants=_rows(setting, options.rows))
        for setting in SETTINGS
        if options.settings is None or setting.name in options.settings
    ]
    if not options.page:
        compute(chosen, options.processes, console)
    write_page(chosen, finished_cell)


def _rows(setting: Setting, names: Sequence[str] | None) -> tuple[Variant, ...]:
    return tuple(variant for variant in setting.variants if names is None or variant.name in names)


def compute(chosen: Sequence[Setting], processes: int, console: Console) -> None:
    """Compute the missing cells, seed by seed, so that tables fill up evenly."""
    jobs = [(setting, variant, seed) for setting in chosen for seed in setting.seeds for variant in setting.variants]
    for done, (setting, variant, seed), found in in_processes(found_cell, jobs, processes):
        curve = np.array(found["held_out"]["values"])[:, :, 0].mean(axis=0)
        console.say(f"{done}/{len(jobs)} {setting.name}, {variant.name}, seed {seed}: J_0 {curve.round(3).tolist()}")


if __name__ == "__main__":
    main()
