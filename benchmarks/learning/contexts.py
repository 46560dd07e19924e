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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.learning.contexts_page import write_page
from benchmarks.learning.meta_learning import in_processes, kept
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

Changes = tuple[tuple[str, str], ...]
CELLS = RESULTS / "contexts" / "cells"
_SECTIONS = ("seed", "family", "within_task", "dice", "meta", "evaluation")
_DECIMALS = 5


@dataclass(frozen=True)
class Variant:
    """One row of a table: a ``method`` with ``changes`` to the run file and hyper-parameters ``point``.

    Without a ``point`` the method's grid is tried on the training tasks of the tuning seed, as by `metasrl compare`.
    ``hidden``: the same start is also judged with the contexts of the held-out tasks hidden.
    """

    name: str
    method: str
    changes: Changes = ()
    point: GridPoint | None = None
    hidden: bool = False


@dataclass(frozen=True)
class Setting:
    """One table: a run file with changes, its seeds and its rows."""

    name: str
    title: str
    run_file: Path
    changes: Changes
    seeds: tuple[int, ...]
    variants: tuple[Variant, ...]


WITHOUT: Changes = (("meta.context", "none"),)
TODAY: Changes = (
    *WITHOUT,
    ("meta.warm_up.rounds", "0"),
    ("family.num_tasks", "83"),
    ("meta.neural.method", "ftl"),
    ("meta.neural.forgetting", "0.8"),
    ("meta.neural.steps", "100"),
    ("meta.neural.step_size", "1e-3"),
    ("meta.learning_rates.method", "fixed"),
    ("within_task.trust_region.delta_max", "0.2"),
)
"""meta_srl without contexts, as the run file half_cheetah_velocity.yaml has it, for as many environment steps."""
RATE = GridPoint(rate=0.1)
ROBOT_VARIANTS = (
    Variant("meta_srl, context", OURS, hidden=True),
    Variant("meta_srl, learned", OURS, (("meta.context", "learned"),)),
    Variant("meta_srl, none", OURS, TODAY),
    Variant("multitask, context", "multitask", (("within_task.trust_region.delta_max", "0.2"),), RATE),
    Variant("multitask, none", "multitask", (*WITHOUT, ("within_task.trust_region.delta_max", "0.2")), RATE),
    Variant("random", "random", WITHOUT, RATE),
    Variant("reptile, context", "reptile", (), GridPoint(rate=0.1, step=0.5)),
    Variant("fal, context", "fal", (), RATE),
    Variant("pretrained", "pretrained", (*WITHOUT, ("evaluation.pretrain_iterations", "null")), RATE),
)
LAKE_VARIANTS = (
    Variant("meta_srl, context", OURS, (("meta.context", "given"),)),
    Variant("meta_srl, none", OURS),
    Variant("pretrained", "pretrained"),
    Variant("simple_average", "simple_average"),
    Variant("fal", "fal"),
    Variant("multitask", "multitask"),
    Variant("random", "random"),
)
SHORT: Changes = (
    ("meta.warm_up.tasks", "5"),
    ("meta.warm_up.rounds", "352"),
    ("meta.warm_up.delta_max", "0.1"),
    ("family.num_tasks", "2"),
    ("cluster.tasks_per_round", "2"),
)
"""Few steps in all: more and smaller steps of small teams, and few online tasks (docs/decisions/0040-contexts.md)."""
CHEETAH = Path("deploy/runs/half_cheetah_velocity_context.yaml")
LAKE = Path("deploy/runs/frozen_lake.yaml")
SETTINGS = (
    Setting(
        "half_cheetah_velocity",
        "HalfCheetah, target speeds from 0 to 2, effort limit 10, 2 million steps of training",
        CHEETAH,
        (),
        (200, 201, 202, 203, 204),
        ROBOT_VARIANTS,
    ),
    Setting(
        "half_cheetah_noisy",
        "HalfCheetah from a fresh standard deviation of 1 (initial_log_std 0)",
        CHEETAH,
        (("within_task.initial_log_std", "0.0"),),
        (200, 201, 202, 203, 204),
        (Variant("meta_srl, context", OURS), Variant("random", "random", WITHOUT, RATE)),
    ),
    Setting(
        "half_cheetah_short",
        "HalfCheetah with 400,000 steps of training",
        CHEETAH,
        SHORT,
        (200, 201, 202, 203, 204),
        (Variant("meta_srl, context", OURS),),
    ),
    Setting(
        "half_cheetah_limits",
        "HalfCheetah, limits from a quarter to twice the usual one as part of the context",
        CHEETAH,
        (("family.limit_factors", "[0.25, 2.0]"), ("meta.contexts.limits", "true")),
        (200, 201, 202, 203, 204),
        (Variant("meta_srl, context", OURS),),
    ),
    Setting(
        "half_cheetah_bodies",
        "HalfCheetah, bodies of other masses, friction, gravity and strength (the rows of meta_srl take direct steps)",
        CHEETAH,
        (("family.variant", "body"),),
        (200, 201, 202, 203, 204),
        (
            Variant("meta_srl, context", OURS),
            Variant("meta_srl, inferred", OURS, (("meta.context", "inferred"), ("meta.warm_up.rounds", "425"))),
            Variant("meta_srl, none", OURS, WITHOUT),
        ),
    ),
    Setting(
        "half_cheetah_direction",
        "HalfCheetah, forwards or backwards",
        CHEETAH,
        (("family.variant", "direction"),),
        (200, 201, 202, 203, 204),
        (Variant("meta_srl, context", OURS, hidden=True),),
    ),
    Setting(
        "hopper_velocity",
        "Hopper, target speeds, effort limit 8, 2 million steps of training",
        CHEETAH,
        (("family.name", "hopper"), ("family.limit", "8.0")),
        (200, 201, 202, 203, 204),
        (
            Variant("meta_srl, context", OURS, hidden=True),
            Variant("meta_srl, none", OURS, TODAY),
            Variant("random", "random", WITHOUT, RATE),
        ),
    ),
    Setting("lakes_high", "Lakes of high similarity", LAKE, (), tuple(range(200, 210)), LAKE_VARIANTS),
    Setting(
        "lakes_low",
        "Lakes of low similarity",
        LAKE,
        (("family.similarity", "low"),),
        tuple(range(200, 210)),
        LAKE_VARIANTS,
    ),
)


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
    """The best point of the method's grid on the training tasks of the tuning seed; meta_srl has one point."""
    if method == OURS:
        return GridPoint()
    seeded = experiment.with_seed(experiment.evaluation.tuning_seeds[0])
    return choose([tune(seeded, method)], [tune(seeded, "random")])


def cell(config: RunConfig, variant: Variant) -> dict[str, Any]:
    """Train one method on one seed and judge its start."""
    experiment = config.experiment
    point = variant.point or tuned_point(experiment, variant.method)
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
    path = path_of(setting, variant, seed)
    return kept(path, lambda: cell(configuration(setting, variant, seed), variant))


def finished_cell(setting: Setting, variant: Variant, seed: int) -> dict[str, Any] | None:
    """The cell, or None where it is not finished."""
    return found_cell(setting, variant, seed) if path_of(setting, variant, seed).exists() else None


def main(arguments: Sequence[str] | None = None) -> None:
    """Compute the missing cells with two processes, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", nargs="*", choices=[setting.name for setting in SETTINGS], help="these only")
    parser.add_argument("--seeds", type=int, help="the first so many seeds of each setting; default all")
    parser.add_argument("--rows", type=int, help="the first so many rows of each table; default all")
    parser.add_argument("--processes", type=int, default=2, help="processes; default 2")
    parser.add_argument("--page", action="store_true", help="only write the page, of the cells that are finished")
    options = parser.parse_args(arguments)
    console = Console()
    chosen = [
        dataclasses.replace(setting, seeds=setting.seeds[: options.seeds], variants=setting.variants[: options.rows])
        for setting in SETTINGS
        if options.settings is None or setting.name in options.settings
    ]
    if not options.page:
        compute(chosen, options.processes, console)
    write_page(chosen, finished_cell)


def compute(chosen: Sequence[Setting], processes: int, console: Console) -> None:
    """Compute the missing cells, seed by seed, so that tables fill up evenly."""
    jobs = [(setting, variant, seed) for setting in chosen for seed in setting.seeds for variant in setting.variants]
    for done, (setting, variant, seed), found in in_processes(found_cell, jobs, processes):
        curve = np.array(found["held_out"]["values"])[:, :, 0].mean(axis=0)
        console.say(f"{done}/{len(jobs)} {setting.name}, {variant.name}, seed {seed}: J_0 {curve.round(3).tolist()}")


if __name__ == "__main__":
    main()
