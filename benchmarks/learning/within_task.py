"""Every within-task algorithm on single tasks and under the meta-learner: ``make within-task``.

Four parts write docs/results/within_task.md: single lakes with exact values, lakes with a learned start, robots with a
learned start, and single robots under a limit of 25. A cell is one algorithm on one seed, with the commit that computed
it. Finished cells lie under docs/results/within_task/cells, in the repository, so that the command can be stopped and
continued on any machine; unfinished robots lie under runs/within_task and go on at the commit that began them. Remove a
cell where a default or an equation changes.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.kept_cells import in_processes, kept
from benchmarks.learning import contexts, contexts_rows
from benchmarks.learning.robot_starts import RUN_FILES, starts_cell, starts_settings
from benchmarks.learning.single_robots import QUIETER, ROBOTS, clipped_steps, of_first_order, robot_cell, robot_task
from benchmarks.learning.within_task_page import write_page
from benchmarks.result_page import RESULTS
from distributed.settings.console import Console
from distributed.settings.provenance import commit_of_results
from distributed.settings.run_config import RunConfig
from distributed.settings.run_file import load_config
from meta.methods.registry import OURS
from meta.training.evaluation_settings import GridPoint
from meta.training.experiment import draw
from meta.training.pool import LocalPool
from policies.common.results import Start
from policies.rules.rule_registry import MethodSettings

CELLS, STATES = RESULTS / "within_task" / "cells", Path("runs") / "within_task"
LAKE = Path("deploy/runs/frozen_lake.yaml")
SEEDS = (300, 301, 302, 303, 304)
"""No setting was chosen on them."""
LATER_SEEDS = (305, 306, 307, 308, 309)
"""For settings that were changed after the others had been seen."""
LATEST_SEEDS, QUIETER_ALGORITHMS = (312, 313, 314, 315, 316), ("p3o",)
"""Of robots whose noise is lowered: that was chosen after the seeds before had been seen."""
TUNING_SEED, RATES = 0, (0.3, 1.0, 3.0)
LAKE_UPDATES, ROBOT_STEPS = 50, 3_000_000


@dataclass(frozen=True)
class Algorithm:
    """One row: a rule with its settings on tables and on networks, defaults where none are given."""

    name: str
    table: tuple[tuple[str, Any], ...] = ()
    network: tuple[tuple[str, Any], ...] = ()

    def method(self, *, table: bool, part: str = "") -> MethodSettings:
        """The ``within_task.method`` section, with the clipped steps of ``part`` where the algorithm takes them."""
        own = {"name": self.name, **dict(self.table if table else self.network)}
        clipped = clipped_steps(part, self.name)
        return MethodSettings.model_validate({**own, "clipped": clipped} if clipped else own)


ALGORITHMS = (
    Algorithm("crpo"),
    Algorithm("npg_primal_dual", network=(("units", "relative"),)),
    Algorithm("cpo"),
    Algorithm("ppo_lagrangian"),
    Algorithm("p3o"),
    Algorithm("c_trpo"),
    Algorithm("pcrpo"),
)


@dataclass(frozen=True)
class Job:
    """One cell: ``part`` is lakes, meta_srl, random, a robot's starts, or a robot; ``steps`` are those of a robot."""

    part: str
    algorithm: Algorithm
    seed: int
    steps: int = 0

    @property
    def path(self) -> Path:
        """Its file; the name changes with every setting of the algorithm, and of the robot's task."""
        parts = [dataclasses.asdict(self.algorithm), self.steps]
        if self.part in RUN_FILES:
            parts.append(starts_settings(self.part, self.algorithm.method(table=False)))
        if self.part in ROBOTS:
            task = robot_task(self.part, self.algorithm.name)
            clipped = clipped_steps(self.part, self.algorithm.name)
            parts += [task.settings.model_dump(mode="json", exclude_defaults=True), task.margin, task.discount]
            parts += [clipped] if clipped else []
        key = json.dumps(parts, sort_keys=True)
        digest = hashlib.sha256(key.encode()).hexdigest()[:8]
        steps = f"-{self.steps}" if self.steps else ""
        return CELLS / self.part / self.algorithm.name / f"{self.seed}{steps}-{digest}.json"

    @property
    def state(self) -> Path:
        """Where a long cell is kept before it is finished."""
        return (STATES / self.path.relative_to(CELLS)).with_suffix(".safetensors")

    @property
    def tuning(self) -> Job:
        """The cell that chooses the rate of an algorithm on lakes."""
        return Job("tuning", self.algorithm, TUNING_SEED)


def lake_config(algorithm: Algorithm, seed: int, *changes: tuple[str, str]) -> RunConfig:
    """The settings of alike lakes with the algorithm."""
    own = contexts_rows.method_changes(algorithm.method(table=True))
    return load_config(LAKE, [("seed", str(seed)), ("tracking.enabled", "false"), *own, *changes])


def solved_lakes(algorithm: Algorithm, seed: int, rate: float) -> dict[str, Any]:
    """The held-out lakes of a seed solved from the uniform policy, with ``LAKE_UPDATES`` updates."""
    updates = ("within_task.num_iterations", str(LAKE_UPDATES))
    experiment = lake_config(algorithm, seed, updates, ("family.num_tasks", "1")).experiment
    pool = LocalPool(experiment.family)
    drawn = draw(pool, experiment)
    start = Start(drawn.fresh, np.full(1 + drawn.num_costs, rate))
    results = [done.result for done in pool.solve(drawn.test, start, experiment.held_out_within, collect=False)]
    return contexts.records(sorted(results, key=lambda result: result.task.index))


def tuning_cell(algorithm: Algorithm) -> dict[str, Any]:
    """The rate of best score on the tuning seed's lakes."""
    scores = {rate: float(np.mean(solved_lakes(algorithm, TUNING_SEED, rate)["score"])) for rate in RATES}
    return {
        "commit": commit_of_results(),
        "rate": min(scores, key=lambda one: scores[one]),
        "scores": list(scores.items()),
    }


def lake_cell(job: Job) -> dict[str, Any]:
    """A seed's lakes at the rate of best score on the tuning seed."""
    rate = float(kept(job.tuning.path, lambda: tuning_cell(job.algorithm))["rate"])
    found = solved_lakes(job.algorithm, job.seed, rate)
    return {"rate": rate, **{key: found[key] for key in ("values", "limits", "gap", "violation", "during", "score")}}


def meta_cell(job: Job) -> dict[str, Any]:
    """The held-out lakes of a seed from the start that ``job.part`` learned with the algorithm, five updates each."""
    config, point = lake_config(job.algorithm, job.seed), GridPoint()
    if job.part != OURS:
        path = dataclasses.replace(job.tuning, part=f"tuning_{job.part}").path
        point = contexts.kept_point(path, config.experiment, job.part)
    found = contexts.cell(config, contexts_rows.Variant(job.part, job.part, point=point))
    held_out = {key: found["held_out"][key] for key in ("gap", "violation", "during", "score")}
    return {"point": found["point"], "learning_rates": found["learning_rates"], **held_out}


def robot_meta_cell(job: Job) -> dict[str, Any]:
    """The held-out tasks of a robot from the start learned with the algorithm, and from a fresh policy."""
    return starts_cell(job.part, job.algorithm.method(table=False), job.seed)


def lone_cell(job: Job) -> dict[str, Any]:
    """A robot trained from a fresh policy, or from where it was stopped."""
    method = job.algorithm.method(table=False, part=job.part)
    return robot_cell(job.part, method, job.seed, job.steps, job.state, Console().say)


PARTS: dict[str, Callable[[Job], dict[str, Any]]] = {
    "lakes": lake_cell,
    OURS: meta_cell,
    "random": meta_cell,
    **dict.fromkeys(RUN_FILES, robot_meta_cell),
    **dict.fromkeys(ROBOTS, lone_cell),
}


def computed(job: Job) -> dict[str, Any]:
    """The cell, from its file where it is finished."""
    found = kept(job.path, lambda: {"commit": commit_of_results(), **PARTS[job.part](job)})
    job.state.unlink(missing_ok=True)
    return found


def seeds_of(part: str, algorithm: Algorithm) -> tuple[int, ...]:
    """The seeds on which no setting of this part and algorithm was chosen."""
    if part in QUIETER:
        return LATEST_SEEDS
    return LATER_SEEDS if part == "hopper" or of_first_order(part, algorithm.name) else SEEDS


def jobs_of(parts: Sequence[str], algorithms: Sequence[str], steps: int, seeds: int = len(SEEDS)) -> list[Job]:
    """The cells of the first ``seeds`` seeds, seed by seed, so that tables fill up evenly."""
    return [
        Job(part, algorithm, seeds_of(part, algorithm)[place], steps if part in ROBOTS else 0)
        for place in range(seeds)
        for algorithm in ALGORITHMS
        for part in parts
        if algorithm.name in algorithms and (part not in QUIETER or algorithm.name in QUIETER_ALGORITHMS)
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Compute the missing cells, then write the page of the finished ones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="*", choices=list(PARTS), default=list(PARTS), help="default: all")
    names = [algorithm.name for algorithm in ALGORITHMS]
    parser.add_argument("--algorithms", nargs="*", choices=names, default=names, help="default: all")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="the first so many seeds; default: all")
    parser.add_argument("--steps", type=int, default=ROBOT_STEPS, help="environment steps of a robot")
    parser.add_argument("--processes", type=int, default=2, help="default: 2")
    parser.add_argument("--page", action="store_true", help="only write the page, of the cells that are finished")
    options = parser.parse_args(arguments)
    if not options.page:
        jobs = jobs_of(options.parts, options.algorithms, options.steps, options.seeds)
        compute([job for job in jobs if not job.path.exists()], options.processes, Console())
    found = {
        part: [(job, computed(job)) for job in jobs_of([part], names, options.steps) if job.path.exists()]
        for part in PARTS
    }
    write_page(found, options.steps, ROBOTS)


def compute(jobs: Sequence[Job], processes: int, console: Console) -> None:
    """Compute cells, each in one process."""
    for done, (job,), _ in in_processes(computed, [(job,) for job in jobs], processes):
        console.say(f"{done}/{len(jobs)} {job.part}, {job.algorithm.name}, seed {job.seed}")


if __name__ == "__main__":
    main()
