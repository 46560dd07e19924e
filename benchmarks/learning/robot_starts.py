"""Robots whose start was learned under each within-task algorithm: cells and their section of within_task.md."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.learning import contexts
from benchmarks.learning.contexts_curves import Curves
from benchmarks.learning.contexts_rows import KNOWING, RANDOM, Changes, method_changes
from benchmarks.learning.contexts_verdict import shown
from benchmarks.learning.within_task_verdict import starts_verdict
from benchmarks.result_page import table
from distributed.settings.run_config import RunConfig
from distributed.settings.run_file import load_config
from meta.measuring.intervals import Interval, interval
from meta.methods.registry import OURS
from meta.training.evaluation_settings import GridPoint
from policies.rules.rule_registry import MethodSettings
from tasks.contract.tabular_model import FloatArray

RUN_FILES = {
    "half_cheetah_velocity": Path("deploy/runs/half_cheetah_velocity_context.yaml"),
    "hopper_velocity": Path("deploy/runs/hopper_velocity_context.yaml"),
}
"""What a start is learned on, by the name of its part."""
SHORTER: Changes = (
    ("meta.warm_up.rounds", "100"),
    ("evaluation.num_test_tasks", "10"),
    ("evaluation.num_iterations", "5"),
    ("tracking.enabled", "false"),
)
"""400,000 environment steps in direct steps and 192,000 in eight online tasks; then five updates on ten new tasks."""
OF_PART: dict[str, Changes] = {"half_cheetah_velocity": (("within_task.initial_log_std", "0.0"),)}
"""A fresh HalfCheetah begins with a standard deviation of 1, as its peers do: then the limit binds at once."""
STARTS = (dataclasses.replace(KNOWING[0], name=OURS, point=GridPoint()), RANDOM)
Cells = Mapping[str, Mapping[int, dict[str, Any]]]
"""Cells by algorithm and seed."""


def configuration(part: str, method: MethodSettings, seed: int, changes: Changes = ()) -> RunConfig:
    """The run file of a part with an algorithm."""
    own = (*SHORTER, *OF_PART.get(part, ()), *method_changes(method))
    return load_config(RUN_FILES[part], [*own, ("seed", str(seed)), *changes])


def starts_settings(part: str, method: MethodSettings) -> dict[str, Any]:
    """The settings of a cell that differ from their defaults, without its seed."""
    changed = configuration(part, method, 0).model_dump(mode="json", exclude_defaults=True)
    return {name: changed.get(name) for name in ("family", "within_task", "meta", "evaluation", "cluster")}


def starts_cell(part: str, method: MethodSettings, seed: int) -> dict[str, Any]:
    """The held-out tasks of a seed from the learned start, and from a fresh policy of the same algorithm."""
    found: dict[str, Any] = {}
    for start in STARTS:
        cell = contexts.cell(configuration(part, method, seed, start.changes), start)
        held_out = cell["held_out"]
        found[start.name] = {key: held_out[key] for key in ("values", "episodic", "limits", "violation", "during")}
        found[start.name]["env_steps"] = cell["env_steps"]
        if start.method == OURS:
            found |= {"learning_rates": cell["learning_rates"], "f_hat": cell["f_hat"]}
    return found


def measures(held_out: dict[str, Any]) -> list[float]:
    """Means over a seed's tasks: reward at once, after all updates, violations, and the share of cost over the limit.

    Rewards are undiscounted. The last is the largest cost of any task and iterate over its limit.
    """
    curves = Curves.of(held_out)
    rewards = curves.rewards.mean(axis=0)
    violations = [float(np.mean(held_out[key])) for key in ("violation", "during")]
    return [float(rewards[0]), float(rewards[-1]), *violations, float(curves.costs.max())]


def starts_section(part: str, cells: Cells) -> list[str]:
    """The table of one robot: the learned start, the fresh one, and their difference paired by seed."""
    rows: list[list[object]] = []
    columns = ["reward at once", "after five updates"]
    columns += ["violation of the output", "during adaptation", "largest cost / limit"]
    differences: dict[str, dict[str, Interval]] = {label: {} for label in columns}
    for name, seeds in cells.items():
        by_start = {start.name: [measures(cell[start.name]) for cell in seeds.values()] for start in STARTS}
        for label, found in by_start.items():
            rows.append([name, label, len(found), *_shown(found)])
        if len(seeds) > 1:
            ours, fresh = np.array(by_start[OURS]), np.array(by_start[RANDOM.name])
            signs = np.array([1.0, 1.0, -1.0, -1.0, -1.0])
            better = (signs * (ours - fresh)).tolist()
            rows.append(["", f"{OURS} better by", len(seeds), *_shown(better)])
            for place, label in enumerate(columns):
                differences[label][f"`{name}`"] = interval([one[place] for one in better])
    (spent,) = {cell[OURS]["env_steps"] for seeds in cells.values() for cell in seeds.values()}
    return [
        f"## {part} with a learned start",
        "",
        f"Five updates on each of ten new target speeds, after {spent:,} steps of training (`{RUN_FILES[part]}` with "
        "100 direct steps in the place of 450) or from a fresh policy. The direct steps are the same for every "
        "algorithm, the eight online tasks and the updates are its own. Rewards are undiscounted; violations and the "
        "largest cost of a task are of the discounted effort under its limit. Differences are paired by seed.",
        "",
        *starts_verdict(differences),
        *table(["algorithm", "start", "seeds", *columns], rows),
        *_facts(cells),
        f"![{part}: updates from the learned start](within_task/{part}.png)",
        "",
    ]


def mean_curves(cells: Cells) -> dict[str, tuple[FloatArray, FloatArray]]:
    """Of each learned start: undiscounted reward and cost over its limit of every iterate, means over tasks.

    Arrays are [seeds, iterates].
    """
    found: dict[str, tuple[FloatArray, FloatArray]] = {}
    for name, seeds in cells.items():
        ours = [Curves.of(cell[OURS]) for cell in seeds.values()]
        rewards, costs = [one.rewards.mean(axis=0) for one in ours], [one.costs[:, :, 0].mean(axis=0) for one in ours]
        found[name] = np.array(rewards), np.array(costs)
    return found


def _shown(found: list[list[float]]) -> list[str]:
    digits = (1, 1, 3, 3, 2)
    return [shown(interval([one[place] for one in found]), digits[place]) for place in range(len(digits))]


def _facts(cells: Cells) -> list[str]:
    """What the framework's bound is made of: f_hat of the online tasks and the rates that were learned."""
    rows: list[list[object]] = []
    for name, seeds in cells.items():
        losses = [float(np.mean(cell["f_hat"])) for cell in seeds.values()]
        rates = np.array([cell["learning_rates"] for cell in seeds.values()])
        rows.append(
            [name, shown(interval(losses), 4), *(shown(interval(rates[:, head].tolist()), 3) for head in (0, 1))]
        )
    return table(["algorithm", "f_hat of the online tasks", "learned rate, reward", "learned rate, cost"], rows)
