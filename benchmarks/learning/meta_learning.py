"""Does the learned start help on held-out tasks? ``make results-neural`` writes docs/results/meta_learning_*.md.

For each seed, meta-train as the run file says, then solve the held-out tasks from the learned start and from a fresh
network. A fresh network trained for 200,000 steps on each task sets the reference level. Finished seeds are kept in
``runs/`` and reused under the same settings.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.kept_cells import kept
from benchmarks.learning.meta_page import (
    SCRATCH_STEPS,
    by_task_figure,
    curves_figure,
    page,
    relative_costs,
    share_of_the_way,
    varies_in_one_number,
)
from benchmarks.result_page import RESULTS, write
from benchmarks.result_plots import save
from distributed.cluster.workplace import Workplace, workplace
from distributed.settings.console import Console
from distributed.settings.run_config import RunConfig
from distributed.settings.run_file import load_config
from meta.methods.workbench import Workbench
from meta.training.experiment import Drawn, draw
from meta.training.loop import Position, TrainingPlan, train
from meta.training.pool import solve_in_order
from policies.common.results import Starts
from policies.neural.neural_settings import NeuralSettings
from policies.solving.algorithms import WithinTask
from tasks.contract.task import Task, TaskFamily
from tasks.stepping.batch import make_batch


def idle_reward(family: TaskFamily, task: Task) -> float:
    """Undiscounted reward of one episode without torque: action 0, or the middle one of three discrete actions."""
    batch = make_batch(family, task, 1)
    actions = np.zeros((1, batch.action_low.size), np.float32) if batch.action_low is not None else np.array([1])
    batch.reset(np.arange(1), np.array([task.seed]))
    total = 0.0
    for _ in range(batch.horizon):
        batch.step(actions)
        total += float(batch.reward[0])
        if batch.terminated[0]:
            break
    batch.close()
    return total


def solve_all(place: Workplace, tasks: Sequence[Task], start: Starts, within: WithinTask) -> dict[str, Any]:
    """Curves [N, M+1, 1+p] of all tasks in task order: ``episodic`` (undiscounted) and ``values`` (discounted)."""
    results = solve_in_order(place.pool, tasks, start, within)
    episodic = [result.episodic for result in results if result.episodic is not None]
    return {"episodic": np.array(episodic).tolist(), "values": np.array([r.values for r in results]).tolist()}


def learned_part(config: RunConfig, place: Workplace) -> dict[str, Any]:
    """Meta-train, then solve the held-out tasks from the learned start."""
    experiment = config.experiment
    drawn: Drawn = draw(place.pool, experiment)
    within = experiment.held_out_within
    assert isinstance(within, NeuralSettings)
    began = time.perf_counter()
    plan = TrainingPlan(drawn.train, experiment.tasks_per_round, experiment.within)
    state = train(plan, place.pool, place.learner, [], Position(drawn.initial_state(experiment.meta)))
    return {
        "minutes": (time.perf_counter() - began) / 60.0,
        "workers": place.pool.num_workers,
        "train_steps": len(drawn.train) * within.steps_per_iteration * (experiment.within.num_iterations + 1),
        "meta_srl": solve_all(place, drawn.test, experiment.held_out_starts(state.start), within),
    }


def reference_part(config: RunConfig, place: Workplace) -> dict[str, Any]:
    """Everything that does not depend on meta-training: tasks, idle rewards, the fresh start and its final level."""
    experiment = config.experiment
    drawn: Drawn = draw(place.pool, experiment)
    within = experiment.held_out_within
    assert isinstance(within, NeuralSettings)
    bench = Workbench(
        pool=place.pool,
        learner=place.learner,
        dice=experiment.dice,
        experiment=experiment,
        drawn=drawn,
        tasks=drawn.train,
    )
    longer = within.model_copy(update={"num_iterations": SCRATCH_STEPS // within.steps_per_iteration})
    family = experiment.family.make()
    level = solve_all(place, drawn.test, bench.random, longer)
    same_steps = within.trust_region.delta_last is None and within.num_iterations <= longer.num_iterations
    return {
        "seed": config.seed,
        "limits": [task.limits for task in drawn.test],
        "parameters": [dict(task.parameters) for task in drawn.test],
        "idle": [idle_reward(family, task) for task in drawn.test],
        "random": beginning(level, within.num_iterations)
        if same_steps
        else solve_all(place, drawn.test, bench.random, within),
        "level": level,
    }


def beginning(curves: dict[str, Any], num_iterations: int) -> dict[str, Any]:
    """The first ``num_iterations`` updates of longer curves; valid when the step length does not change over a run."""
    return {name: [rows[: num_iterations + 1] for rows in curve] for name, curve in curves.items()}


def reference_digest(config: RunConfig) -> str:
    """Digest of everything that :func:`reference_part` depends on."""
    family = {key: value for key, value in config.family.model_dump(mode="json").items() if key != "num_tasks"}
    evaluation = config.evaluation.model_dump(mode="json", include={"num_test_tasks", "num_iterations", "rate_grid"})
    parts = [family, config.within_task.model_dump(mode="json"), evaluation, config.evaluation.grid_tasks]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def main(arguments: Sequence[str] | None = None) -> None:
    """Compute the missing seeds, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run_file", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--pool", choices=["local", "ray"], help="local: one process (default: the run file's pool)")
    given = parser.parse_args(arguments)
    pool = [] if given.pool is None else [("cluster.pool", given.pool)]
    config = load_config(given.run_file, [("tracking.enabled", "false"), *pool])
    folder = Path("runs") / "meta_learning" / config.name
    learned = folder / f"learned-{config.digest()[:12]}"
    reference = folder / f"reference-{reference_digest(config)[:12]}"
    console, cells = Console(), []
    with workplace(config, console.say) as place:
        for seed in given.seeds:
            own = config.model_copy(update={"seed": seed})
            cells.append(kept(learned / f"{seed}.json", lambda own=own: learned_part(own, place)))  # type: ignore[misc]
            rewards = np.array(cells[-1]["meta_srl"]["episodic"])[:, :, 0].mean(axis=0).round(1).tolist()
            console.say(f"seed {seed}: {cells[-1]['minutes']:.1f} min, rewards {rewards}")
        for seed, cell in zip(given.seeds, cells, strict=True):
            own = config.model_copy(update={"seed": seed})
            cell |= kept(reference / f"{seed}.json", lambda own=own: reference_part(own, place))  # type: ignore[misc]
            shares = {
                name: share_of_the_way(cell, name)[[0, 5, 10]].round(2).tolist() for name in ("meta_srl", "random")
            }
            highest = relative_costs(cell, "meta_srl").mean(axis=0).max(axis=0).round(3).tolist()
            console.say(f"seed {seed}: share of the way {shares}, cost at most {highest}")
    stem = f"meta_learning_{config.name}"
    save(RESULTS / stem, curves_figure(cells))
    if varies_in_one_number(cells):
        save(RESULTS / stem, by_task_figure(cells))
    where = "" if given.pool is None else f" --pool {given.pool}"
    seeds = " ".join(map(str, given.seeds))
    command = f"python -m benchmarks.learning.meta_learning {given.run_file}{where} --seeds {seeds}"
    write(f"{stem}.md", page(config, cells, command, stem))


if __name__ == "__main__":
    main()
