"""How much training does a start need? Rows of docs/results/contexts.md at 10 %, 30 % and all of the steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.learning.contexts_rows import CHEETAH, ROBOT_VARIANTS, SEEDS, SHORT, TODAY, Changes, Setting, Variant
from benchmarks.learning.contexts_verdict import compared, shown, told
from benchmarks.result_page import table
from benchmarks.result_plots import band, reward_and_cost
from meta.measuring.intervals import interval
from meta.methods.registry import OURS
from meta.reporting.plot_model import Dash, Figure, Series
from meta.reporting.styles import method_style
from tasks.contract.tabular_model import FloatArray

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
    """A row under one budget: the environment steps of training of its first seed, and measures by seed.

    ``rewards`` [2] are those at once and after ``UPDATES``, ``costs`` the largest mean cost over its limit of an
    iterate, ``over`` the share of task-iterations over a limit.
    """

    steps: int
    rewards: Mapping[int, FloatArray]
    costs: Mapping[int, float]
    over: Mapping[int, float]


def spent(cells: Mapping[int, dict[str, Any]]) -> Spent:
    """What the cells of one row say, by seed."""
    marks = [0, UPDATES]
    rewards, costs, over = {}, {}, {}
    for seed, cell in cells.items():
        record = cell["held_out"]
        rewards[seed] = np.array(record["episodic"])[:, :, 0].mean(axis=0)[marks]
        share = np.array(record["values"])[:, : UPDATES + 1, 1:] / np.array(record["limits"])[:, None, :]
        costs[seed], over[seed] = float(share.mean(axis=(0, 2)).max()), float((share > 1.0).mean())
    return Spent(next(iter(cells.values()))["env_steps"], rewards, costs, over)


def budgets_of(settings: Sequence[Setting], cells_of: Callable[[Setting], Finished]) -> dict[str, list[Spent]]:
    """The rows that have finished cells under every budget, fewest steps first; ours comes first."""
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
            label: {seed: float(values[1]) for seed, values in one.rewards.items()}
            for label, one in zip(labels, budgets, strict=True)
        }
        for row, budgets in found.items()
    }
    columns = ["steps", "start", "seeds", "at once", f"after {UPDATES}", "largest mean cost / limit"]
    rows = [
        [f"{one.steps:,}", row, *_row(one)]
        for same in zip(*found.values(), strict=True)
        for row, one in zip(found, same, strict=True)
    ]
    return told(compared(measured, ((ours, row) for row in found)), table([*columns, "task-iterations over"], rows))


def _row(one: Spent) -> list[object]:
    rewards = np.array(list(one.rewards.values()))
    return [
        len(rewards),
        *(shown(interval(column)) for column in rewards.T),
        shown(interval(list(one.costs.values())), 2),
        f"{np.mean(list(one.over.values())):.2%}",
    ]


def budget_figure(found: Mapping[str, Sequence[Spent]], name: str) -> Figure:
    """Reward after ``UPDATES`` and the largest mean cost, over the steps of training; means over common seeds."""
    rewards: list[Series] = []
    costs: list[Series] = []
    for row, budgets in found.items():
        seeds = sorted(set.intersection(*(set(one.rewards) for one in budgets)))
        style = method_style(row)
        dash: Dash = "solid" if style == method_style(row.split(", ")[0]) else "dash"
        steps = np.array([one.steps for one in budgets])
        after = np.array([[one.rewards[seed][1] for one in budgets] for seed in seeds])
        largest = np.array([[one.costs[seed] for one in budgets] for seed in seeds])
        rewards.append(band(row, steps, after, style, dash=dash))
        costs.append(band(row, steps, largest, style, dash=dash))
    along = "environment steps of training"
    return reward_and_cost(name, "", rewards, costs, reward=f"undiscounted reward after {UPDATES} updates", along=along)
