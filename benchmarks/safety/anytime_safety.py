"""Anytime-safe adaptation at several confidences, beside plain CRPO: ``make anytime-safety``.

Lakes are sampled (a task is known from its episodes alone) and judged by their exact values; robots are judged by the
estimates of every deployed policy. A cell is one setting on one seed, with the commit that computed it. Finished cells
lie under docs/results/anytime_safety/cells, in the repository, so that the command can be stopped and continued on any
machine. Remove a cell where a default or an equation changes.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.kept_cells import in_processes, kept
from benchmarks.result_page import RESULTS
from benchmarks.safety.anytime_safety_page import write_page
from distributed.settings.console import Console
from distributed.settings.provenance import commit_of_results
from distributed.settings.run_config import RunConfig
from distributed.settings.run_file import load_config
from meta.judging.deployed import over_a_limit
from meta.judging.safe_starts import path_to_safety, safe_start
from meta.training.experiment import Experiment, draw
from meta.training.loop import Position, TrainingPlan, train
from meta.training.pool import LocalLearner, LocalPool, solve_in_order
from policies.common.results import Start, TaskResult
from tasks.contract.task import Task, TaskError

CELLS = RESULTS / "anytime_safety" / "cells"
Changes = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Setting:
    """One table: a run file with changes, its seeds, and the confidences that are asked for."""

    name: str
    title: str
    run_file: str
    changes: Changes
    seeds: tuple[int, ...]
    confidences: tuple[float, ...]

    def config(self, seed: int, confidence: float | None = None) -> RunConfig:
        """The run file of a seed; with a ``confidence`` for safe adaptation."""
        given = () if confidence is None else (("evaluation.safety.confidence", str(confidence)),)
        plain = tuple(change for change in self.changes if not change[0].startswith("evaluation.safety"))
        changes = (*(self.changes if given else plain), *given)
        return load_config(Path(self.run_file), [("seed", str(seed)), ("tracking.enabled", "false"), *changes])

    def path(self, seed: int) -> Path:
        """The file of a cell; its name changes with every setting."""
        key = json.dumps(dataclasses.asdict(dataclasses.replace(self, seeds=(), title="")), sort_keys=True)
        return CELLS / self.name / f"{seed}-{hashlib.sha256(key.encode()).hexdigest()[:8]}.json"


LAKE_STEPS: Changes = (
    ("family.num_tasks", "48"),
    ("within_task.episodes_per_iteration", "50"),
    ("evaluation.num_iterations", "6"),
    ("evaluation.num_test_tasks", "4"),
    ("evaluation.safety.test_episodes", "100"),
    ("evaluation.safety.margin_tasks", "0"),
)
ROBOT_STEPS: Changes = (
    ("family.num_tasks", "8"),
    ("evaluation.num_iterations", "5"),
    ("evaluation.num_test_tasks", "3"),
    ("evaluation.safety.descent_tasks", "4"),
    ("evaluation.safety.descent_iterations", "8"),
    ("evaluation.safety.tasks", "4"),
    ("evaluation.safety.margin_tasks", "2"),
)
SETTINGS = (
    Setting(
        "lakes",
        "FrozenLake, 8 x 8, exact violations",
        "deploy/runs/frozen_lake.yaml",
        LAKE_STEPS,
        tuple(range(400, 420)),
        (0.5, 0.8, 0.9, 0.95, 0.99),
    ),
    Setting(
        "half_cheetah",
        "HalfCheetah at a target speed, effort limit 2",
        "deploy/runs/half_cheetah_velocity.yaml",
        (*ROBOT_STEPS, ("family.limit", "2.0")),
        tuple(range(400, 405)),
        (0.8,),
    ),
    Setting(
        "hopper",
        "Hopper at a target speed, effort limit 0.6",
        "deploy/runs/half_cheetah_velocity.yaml",
        (*ROBOT_STEPS, ("family.name", "hopper"), ("family.limit", "0.6")),
        tuple(range(400, 405)),
        (0.8,),
    ),
)


def lake_sampled(config: RunConfig) -> Experiment:
    """The settings for new tasks: lakes are known from their episodes alone."""
    experiment = config.experiment
    if "episodes_per_iteration" not in type(experiment.within).model_fields:
        return experiment
    return dataclasses.replace(experiment, within=experiment.within.model_copy(update={"evaluation": "sampled"}))


def record(results: Sequence[TaskResult]) -> dict[str, Any]:
    """Deployed policies of every task: whether each is over a limit, rewards, costs over limits, output and steps."""
    optima = [None if result.reference is None else float(result.reference.values[0]) for result in results]
    return {
        "over": [over_a_limit(result) for result in results],
        "rewards": [np.round(result.values[:, 0], 5).tolist() for result in results],
        "costs": [np.round(result.values[:, 1] / result.task.limits[0], 5).tolist() for result in results],
        "outputs": [result.output for result in results],
        "optima": optima,
        "env_steps": [result.env_steps for result in results],
        "shares": [None if result.safety is None else result.safety.shares.round(4).tolist() for result in results],
        "margins": [None if result.safety is None else result.safety.margins.round(4).tolist() for result in results],
    }


def cell(setting: Setting, seed: int) -> dict[str, Any]:
    """A seed: a start is learned, then solves the held-out tasks plainly and at every confidence."""
    config = setting.config(seed)
    training, experiment = config.experiment, lake_sampled(config)
    pool, learner = (
        LocalPool(training.family),
        LocalLearner(training.meta, training.dice, training.within.num_iterations),
    )
    with threadpool_limits(1):
        drawn = draw(pool, training)
        plan = TrainingPlan(drawn.train, training.tasks_per_round, training.training_within)
        start = train(plan, pool, learner, [], Position(drawn.initial_state(training.meta))).start
        assert isinstance(start, Start)
        fresh = Start(drawn.fresh, start.learning_rates)
        found: dict[str, Any] = {
            "random": record(solve_in_order(pool, drawn.test, fresh, experiment.held_out_within)),
            "crpo": record(solve_in_order(pool, drawn.test, start, experiment.held_out_within)),
        }
        path = None
        for confidence in setting.confidences:
            safe = lake_sampled(setting.config(seed, confidence))
            path = path_to_safety(pool, safe, start) if path is None else path
            found[f"{confidence:g}"] = at_confidence(pool, safe, start, path, drawn.test)
    return {"commit": commit_of_results(), "seed": seed, "found": found}


def at_confidence(
    pool: LocalPool, experiment: Experiment, start: Start, path: Sequence[Any], tasks: Sequence[Task]
) -> dict[str, Any]:
    """The tasks from the start made safe, with safe steps and with plain ones; or why there is no such start."""
    began = time.perf_counter()
    try:
        made = safe_start(pool, experiment, start, path)
    except TaskError as error:
        return {"error": str(error)}
    plain = dataclasses.replace(made, safety=None)
    assert made.safety is not None
    return {
        "note": made.safety.note,
        "safe": record(solve_in_order(pool, tasks, made, experiment.held_out_within)),
        "plain": record(solve_in_order(pool, tasks, plain, experiment.held_out_within)),
        "seconds": round(time.perf_counter() - began, 1),
    }


def computed(setting: Setting, seed: int) -> dict[str, Any]:
    """The cell, from its file where it is finished."""
    return kept(setting.path(seed), lambda: cell(setting, seed))


def main(arguments: Sequence[str] | None = None) -> None:
    """Compute the missing cells, then write the page of the finished ones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [setting.name for setting in SETTINGS]
    parser.add_argument("--settings", nargs="*", choices=names, default=names, help="default: all")
    parser.add_argument("--seeds", type=int, help="the first so many seeds; default: all")
    parser.add_argument("--processes", type=int, default=2, help="default: 2")
    parser.add_argument("--page", action="store_true", help="only write the page, of the cells that are finished")
    options = parser.parse_args(arguments)
    chosen = [setting for setting in SETTINGS if setting.name in options.settings]
    jobs = [(one, seed) for one in chosen for seed in one.seeds[: options.seeds] if not one.path(seed).exists()]
    if jobs and not options.page:
        console = Console()
        for done, (setting, seed), _ in in_processes(computed, jobs, options.processes):
            console.say(f"{done}/{len(jobs)} {setting.name}, seed {seed}")
    write_page([(one, [computed(one, seed) for seed in one.seeds if one.path(seed).exists()]) for one in SETTINGS])


if __name__ == "__main__":
    main()
