"""Does the learned start help on held-out tasks? ``make results`` writes docs/results/meta_learning_*.md.

For each seed: meta-train as the run file says, then solve the held-out tasks from the learned start and from a fresh
network, and from a fresh network for 200,000 steps a task as the level to reach. Finished seeds are kept in ``runs/``
and not computed again under the same settings.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import numpy as np
from matplotlib import pyplot as plt

from benchmarks.page import RESULTS, header, table, write
from distributed.checkpoints import write_atomically
from distributed.config import RunConfig, load_config
from distributed.console import Console
from distributed.train import Workplace, workplace
from meta.baselines import Bench
from meta.evaluation import Interval, interval
from meta.experiment import Drawn, draw
from meta.loop import Position, TrainingPlan, train
from policies.neural_update import NeuralSettings
from policies.results import Start
from policies.solving import WithinTask
from tasks.base import Task, TaskFamily
from tasks.batch import make_batch
from tasks.model import FloatArray

SCRATCH_STEPS = 200_000
LEVEL_OVER = 5
"""The level that a fresh start reaches: mean over so many last iterations."""
MARKS = (0, 1, 5, 10)


def idle_reward(family: TaskFamily, task: Task) -> float:
    """Undiscounted reward of one episode without any torque: zeros, or the middle one of discrete actions."""
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


def solve_all(place: Workplace, tasks: Sequence[Task], start: Start, within: WithinTask) -> dict[str, Any]:
    """Curves of every task in task order: ``episodic`` [N, M+1, 1+p] (undiscounted) and ``values`` (discounted)."""
    solved = (item.result for item in place.pool.solve(tasks, start, within, collect=False))
    results = sorted(solved, key=lambda result: result.task.index)
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
        "train_steps": len(drawn.train) * within.steps_per_iteration * (experiment.within.num_iterations + 1),
        "meta_srl": solve_all(place, drawn.test, state.start, within),
    }


def reference_part(config: RunConfig, place: Workplace) -> dict[str, Any]:
    """What does not depend on meta-training: the tasks, no torque, a fresh start, and the level that it reaches."""
    experiment = config.experiment
    drawn: Drawn = draw(place.pool, experiment)
    within = experiment.held_out_within
    assert isinstance(within, NeuralSettings)
    bench = Bench(
        pool=place.pool,
        learner=place.learner,
        tasks=drawn.train,
        within=experiment.within,
        evaluation=experiment.evaluation,
        meta=experiment.meta,
        fresh=drawn.fresh,
        num_costs=drawn.num_costs,
    )
    longer = within.model_copy(update={"num_iterations": SCRATCH_STEPS // within.steps_per_iteration})
    family = experiment.family.make()
    return {
        "seed": config.seed,
        "limits": [task.limits for task in drawn.test],
        "parameters": [dict(task.parameters) for task in drawn.test],
        "idle": [idle_reward(family, task) for task in drawn.test],
        "random": solve_all(place, drawn.test, bench.random, within),
        "level": solve_all(place, drawn.test, bench.random, longer),
    }


def kept(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What is in ``path``, made first where it is not there."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(make()).encode())
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def reference_digest(config: RunConfig) -> str:
    """Digest of all that :func:`reference_part` depends on."""
    family = {key: value for key, value in config.family.model_dump(mode="json").items() if key != "num_tasks"}
    evaluation = config.evaluation.model_dump(mode="json", include={"num_test_tasks", "num_iterations", "rate_grid"})
    parts = [family, config.within_task.model_dump(mode="json"), evaluation, config.evaluation.grid_tasks]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def share_of_the_way(cell: dict[str, Any], name: str) -> FloatArray:
    """(R_m - R_idle) / (R_level - R_idle) [M+1] of mean episode rewards: 0 is no torque, 1 the level."""
    level = np.array(cell["level"]["episodic"])[:, -LEVEL_OVER:, 0].mean()
    idle = float(np.mean(cell["idle"]))
    return np.asarray((np.array(cell[name]["episodic"])[:, :, 0].mean(axis=0) - idle) / (level - idle))


def relative_costs(cell: dict[str, Any], name: str) -> FloatArray:
    """J_i / d_i, [N, M+1, p]."""
    return np.asarray(np.array(cell[name]["values"])[:, :, 1:] / np.array(cell["limits"])[:, None, :])


def told(found: Interval, digits: int = 1) -> str:
    """A mean with its interval."""
    return f"{found.mean:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]"


def curve_rows(cells: Sequence[dict[str, Any]], name: str) -> list[list[object]]:
    """Rows of the table of a start: reward, its share of the way, and cost after m updates, over seeds."""
    rows: list[list[object]] = []
    for mark in MARKS:
        rewards = [np.array(cell[name]["episodic"])[:, mark, 0].mean() for cell in cells]
        way = [share_of_the_way(cell, name)[mark] for cell in cells]
        costs = [relative_costs(cell, name)[:, mark].mean(axis=0).max() for cell in cells]
        broken = [(relative_costs(cell, name)[:, mark] > 1.0).any(axis=1).mean() for cell in cells]
        shown = told(interval(rewards)), told(interval(way), 2), told(interval(costs), 3), told(interval(broken), 2)
        rows.append([f"`{name}`", mark, *shown])
    return rows


def page(config: RunConfig, cells: Sequence[dict[str, Any]], command: str, stem: str) -> list[str]:
    """The whole page."""
    within = config.within_task
    assert isinstance(within, NeuralSettings)
    worst = {
        name: told(interval([relative_costs(cell, name).mean(axis=0).max() for cell in cells]), 3)
        for name in ("meta_srl", "random")
    }
    everywhere = {
        name: told(interval([(relative_costs(cell, name) > 1.0).any(axis=2).mean() for cell in cells]), 3)
        for name in ("meta_srl", "random")
    }
    level = interval([np.array(cell["level"]["episodic"])[:, -LEVEL_OVER:, 0].mean() for cell in cells])
    kept = interval([relative_costs(cell, "level")[:, -LEVEL_OVER:].mean(axis=(0, 1)).max() for cell in cells])
    start = interval([np.array(cell["meta_srl"]["episodic"])[:, 0, 0].mean() for cell in cells])
    idle = interval([float(np.mean(cell["idle"])) for cell in cells])
    return [
        *header(f"Meta-learning on {config.name}", command),
        f"Seeds {[cell['seed'] for cell in cells]}; {config.family.num_tasks} training tasks of "
        f"{within.num_iterations} updates, {np.mean([cell['train_steps'] for cell in cells]):.3g} environment steps in "
        f"{told(interval([cell['minutes'] for cell in cells]))} minutes with {config.cluster.num_workers} workers; "
        f"{config.evaluation.num_test_tasks} held-out tasks a seed, updates of {within.steps_per_iteration} steps.",
        "",
        "Rewards are undiscounted sums of an episode; costs and limits are discounted as the family says. Both are "
        "estimates from the batch of each iterate: the stochastic policy, not its mean action; continuous actions are "
        "clipped to their bounds before use. The way leads from no torque at all "
        f"({told(idle)}) to what a fresh start reaches after {SCRATCH_STEPS:,} steps on the same tasks ({told(level)}, "
        f"mean of the last {LEVEL_OVER} iterations; largest mean cost over its limit {told(kept, 3)}). CRPO keeps "
        f"{within.safety_margin:.0%} of every limit free. Means and 95 % t-intervals over seeds. The learned start "
        f"itself earns {told(start)}.",
        "",
        *table(
            ["start", "updates", "reward", "share of the way", "mean cost / limit (worst cost)", "tasks over a limit"],
            [row for name in ("meta_srl", "random") for row in curve_rows(cells, name)],
        ),
        *table(
            ["start", "largest mean cost / limit of any iteration", "tasks x iterations over a limit"],
            [[f"`{name}`", worst[name], everywhere[name]] for name in worst],
        ),
        f"![curves]({stem}/curves.png)",
        *(["", f"![by task]({stem}/by_task.png)"] if varies_in_one_number(cells) else []),
    ]


def plot(cells: Sequence[dict[str, Any]], path: Path) -> None:
    """Reward and cost over updates: one line a seed, the level and no torque as lines."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8))
    for name, colour in (("meta_srl", "#d62728"), ("random", "#888888")):
        for number, cell in enumerate(cells):
            label = name if number == 0 else None
            left.plot(np.array(cell[name]["episodic"])[:, :, 0].mean(axis=0), color=colour, label=label, marker=".")
            for cost, curve in enumerate(relative_costs(cell, name).mean(axis=0).T):
                right.plot(curve, color=colour, marker=".", linestyle="-" if cost == 0 else ":", label=label)
                label = None
    level = np.mean([np.array(cell["level"]["episodic"])[:, -LEVEL_OVER:, 0].mean() for cell in cells])
    left.axhline(level, color="#2ca02c", linestyle="--", label=f"fresh start after {SCRATCH_STEPS:,} steps")
    left.axhline(np.mean([cell["idle"] for cell in cells]), color="black", linestyle=":", label="no torque")
    right.axhline(1.0, color="black", linestyle="--", label="limit")
    for axis, title in ((left, "reward of an episode"), (right, "mean discounted cost / limit")):
        axis.set_xlabel("policy updates on a held-out task")
        axis.set_title(title)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, bbox_inches="tight")
    plt.close(figure)


def plot_by_task(cells: Sequence[dict[str, Any]], path: Path) -> None:
    """Reward of every held-out task against the number that varies, where one number does."""
    name = next(iter(cells[0]["parameters"][0]))
    varied = np.concatenate([[task[name] for task in cell["parameters"]] for cell in cells])
    figure, axis = plt.subplots(figsize=(6.5, 4))
    curves = np.concatenate([np.array(cell["meta_srl"]["episodic"])[:, :, 0] for cell in cells])
    level = np.concatenate([np.array(cell["level"]["episodic"])[:, -LEVEL_OVER:, 0].mean(axis=1) for cell in cells])
    for values, label, style in (
        (curves[:, 0], "learned start", "x"),
        (curves[:, 5], "after 5 updates", "."),
        (curves[:, 10], "after 10 updates", "o"),
        (level, f"fresh start after {SCRATCH_STEPS:,} steps", "+"),
        (np.concatenate([cell["idle"] for cell in cells]), "no torque", "_"),
    ):
        axis.plot(varied, values, style, markersize=5, label=label)
    axis.set_xlabel(name.replace("_", " "))
    axis.set_ylabel("reward of an episode")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    figure.savefig(path, dpi=120, bbox_inches="tight")
    plt.close(figure)


def varies_in_one_number(cells: Sequence[dict[str, Any]]) -> bool:
    """Whether a task's parameters are a single number."""
    parameters = cells[0]["parameters"][0]
    return len(parameters) == 1 and all(isinstance(value, float | int) for value in parameters.values())


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run_file", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    given = parser.parse_args(arguments)
    config = load_config(given.run_file, [("tracking.enabled", "false")])
    folder = Path("runs") / "meta_learning" / config.name
    console, cells = Console(), []
    with workplace(config, console.say) as place:
        for seed in given.seeds:
            own = config.model_copy(update={"seed": seed})
            reference = folder / f"reference-{reference_digest(config)[:12]}" / f"{seed}.json"
            learned = folder / f"learned-{config.digest()[:12]}" / f"{seed}.json"
            cell = kept(learned, lambda own=own: learned_part(own, place))  # type: ignore[misc]
            cell |= kept(reference, lambda own=own: reference_part(own, place))  # type: ignore[misc]
            cells.append(cell)
            shares = {
                name: share_of_the_way(cell, name)[[0, 5, 10]].round(2).tolist() for name in ("meta_srl", "random")
            }
            highest = relative_costs(cell, "meta_srl").mean(axis=0).max(axis=0).round(3).tolist()
            console.say(f"seed {seed}: {cell['minutes']:.1f} min, share of the way {shares}, cost at most {highest}")
    stem = f"meta_learning_{config.name}"
    plot(cells, RESULTS / stem / "curves.png")
    if varies_in_one_number(cells):
        plot_by_task(cells, RESULTS / stem / "by_task.png")
    seeds = " ".join(map(str, given.seeds))
    write(
        f"{stem}.md", page(config, cells, f"python -m benchmarks.meta_learning {given.run_file} --seeds {seeds}", stem)
    )


if __name__ == "__main__":
    main()
