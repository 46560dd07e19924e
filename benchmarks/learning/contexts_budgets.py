"""How much training does a start need? Rows of docs/results/contexts.md at 10 %, 30 % and all of the steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.learning.contexts_curves import Curves, columns, measures, row_band
from benchmarks.learning.contexts_rows import CHEETAH, ROBOT_VARIANTS, SEEDS, SHORT, TODAY, Changes, Setting, Variant
from benchmarks.learning.contexts_verdict import compared, told
from benchmarks.result_page import table
from benchmarks.result_plots import reward_and_cost
from meta.methods.registry import OURS
from meta.reporting.plot_model import Figure, Series

Finished = Mapping[str, Mapping[int, dict[str, Any]]]
"""Finished cells by row and seed."""
UPDATES = 5
"""After which budgets are compared."""
_ROWS = ("meta_srl, context", "multitask, context", "reptile, context", "fal, context", "pretrained")


def _changes(rounds: int, tasks: int) -> Changes:
    """``SHORT`` with another number of direct steps and of online tasks, all of these in one round."""
    sizes = {"meta.warm_up.rounds": rounds, "family.num_tasks": tasks, "cluster.tasks_per_round": tasks}
    return (*SHORT, *((key, str(size)) for key, size in sizes.items()), ("evaluation.num_iterations", str(UPDATES)))


def _rows(tasks: int) -> tuple[Variant, ...]:
    """The rows of every budget; meta_srl without contexts trains on so many ``tasks``."""
    without = (*TODAY, ("family.num_tasks", str(tasks)), ("cluster.tasks_per_round", "4"))
    shared = (dataclasses.replace(one, hidden=False) for one in ROBOT_VARIANTS if one.name in _ROWS)
    return (*shared, Variant("meta_srl, none", OURS, without))


BUDGET_SETTINGS = (
    Setting(
        "half_cheetah_tenth",
        "HalfCheetah with 200,000 steps of training",
        CHEETAH,
        _changes(176, 1),
        SEEDS[:3],
        _rows(8),
    ),
    Setting(
        "half_cheetah_third",
        "HalfCheetah with 600,000 steps of training",
        CHEETAH,
        _changes(528, 3),
        SEEDS[:3],
        _rows(25),
    ),
)
BUDGETS = (*(setting.name for setting in BUDGET_SETTINGS), "half_cheetah_velocity")
"""Settings that differ in their steps of training, fewest first."""


@dataclasses.dataclass(frozen=True)
class Spent:
    """A row under one budget: the environment steps of training of its first seed, and the first updates by seed."""

    steps: int
    seeds: Mapping[int, Curves]


def spent(cells: Mapping[int, dict[str, Any]]) -> Spent:
    """What the cells of one row say."""
    seeds = {seed: Curves.of(cell["held_out"]).until(UPDATES) for seed, cell in cells.items()}
    return Spent(next(iter(cells.values()))["env_steps"], seeds)


def budgets_of(settings: Sequence[Setting], cells_of: Callable[[Setting], Finished]) -> dict[str, list[Spent]]:
    """The rows that have finished cells under every budget, fewest steps first; rows are in the settings' order."""
    by_name = {setting.name: setting for setting in settings}
    if not by_name.keys() >= {*BUDGETS}:
        return {}
    cells = [cells_of(by_name[name]) for name in BUDGETS]
    return {row: [spent(own[row]) for own in cells] for row in cells[0] if all(row in own for own in cells)}


def budget_table(found: Mapping[str, Sequence[Spent]]) -> list[str]:
    """The table of all budgets, with a verdict on the first row before it."""
    ours = next(iter(found))
    labels = [f"reward after {UPDATES} with {one.steps:,} steps more" for one in found[ours]]
    measured = {
        row: {
            label: {seed: curves.reward(UPDATES) for seed, curves in one.seeds.items()}
            for label, one in zip(labels, budgets, strict=True)
        }
        for row, budgets in found.items()
    }
    marks = (0, UPDATES)
    rows = [
        [f"{one.steps:,}", row, *measures(list(one.seeds.values()), marks)]
        for same in zip(*found.values(), strict=True)
        for row, one in zip(found, same, strict=True)
    ]
    return told(compared(measured, ((ours, row) for row in found)), table(["steps", "start", *columns(marks)], rows))


def budget_figure(found: Mapping[str, Sequence[Spent]], name: str) -> Figure:
    """Reward after ``UPDATES`` and the largest mean cost, over the steps of training; means over common seeds."""
    rewards: list[Series] = []
    costs: list[Series] = []
    for row, budgets in found.items():
        steps = np.array([one.steps for one in budgets])
        common = set.intersection(*(set(one.seeds) for one in budgets))
        by_seed = [[one.seeds[seed] for one in budgets] for seed in sorted(common)]
        rewards.append(row_band(row, steps, [[one.reward(UPDATES) for one in own] for own in by_seed]))
        costs.append(row_band(row, steps, [[one.largest_mean_cost() for one in own] for own in by_seed]))
    along = "environment steps of training"
    return reward_and_cost(name, "", rewards, costs, reward=f"undiscounted reward after {UPDATES} updates", along=along)
