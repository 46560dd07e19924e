"""docs/results/contexts.md: tables and plots of the cells of ``benchmarks.learning.contexts``."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.learning.contexts_budgets import budget_figure, budget_table, budgets_of
from benchmarks.learning.contexts_curves import Curves, columns, measures, row_band
from benchmarks.learning.contexts_verdict import compared, shown, told, verdict
from benchmarks.result_page import RESULTS, header, table, write
from benchmarks.result_plots import reward_and_cost, save
from meta.measuring.intervals import interval
from meta.reporting.plot_model import Figure, Panel, Series
from tasks.contract.tabular_model import FloatArray

COMMAND = "make contexts"
HIDDEN = "meta_srl, context hidden"
OURS = "meta_srl, context"
OURS_CPO, OURS_DEEP = "meta_srl, context, cpo", "meta_srl, context, deep"
_PARTS = {
    "deep, cpo": "15 updates of a training task, CPO",
    "deep": "15 updates of a training task",
    "cpo": "CPO",
}
"""Titles of the panels of these variants, by the ends of their rows' names: the first that fits."""
INFERRED, NONE = "meta_srl, inferred", "meta_srl, none"
Cells = Mapping[str, Mapping[int, dict[str, Any]]]
"""Records by row and seed."""


def write_page(settings: Sequence[Any], cell: Callable[[Any, Any, int], dict[str, Any] | None]) -> None:
    """Write the page of the cells that are finished."""
    lines = [
        *header("Starts that know their task", COMMAND),
        "Every method of a table trains with the same number of environment steps and solves the same held-out tasks. "
        "Means over held-out tasks, with 95 % t-intervals over seeds, paired by seed for differences; no setting was "
        "chosen on these seeds. `hidden`: the same start, where a new task does not show its context and its first "
        "batch finds it. A task falls where the 95 % interval of its reward's slope over the updates is below 0 (of "
        "100 steady tasks 2.5 do by chance). Rows that are missing were not computed.",
        "",
    ]
    lines += commits([found for setting in settings for found in finished(setting, cell)])
    for setting in settings:
        cells = held_out(setting, cell)
        if not cells:
            continue
        robot = next(iter(next(iter(cells.values())).values()))["episodic"][0] is not None
        lines += [f"## {setting.title}", ""]
        lines += robot_table(cells) if robot else lake_table(cells)
        save(RESULTS / "contexts", figure(cells, setting.name, robot=robot))
        lines += [f"![{setting.title}](contexts/{setting.name}.png)", ""]
    budgets = budgets_of(settings, lambda setting: by_row(setting, cell))
    if budgets:
        name = "half_cheetah_budgets"
        save(RESULTS / "contexts", budget_figure(budgets, name))
        title = "HalfCheetah at every budget of training"
        lines += [f"## {title}", "", *budget_table(budgets), "", f"![{title}](contexts/{name}.png)", ""]
    write("contexts.md", lines)


def finished(setting: Any, cell: Callable[[Any, Any, int], dict[str, Any] | None]) -> list[dict[str, Any]]:
    """The finished cells of a setting."""
    found = (cell(setting, variant, seed) for variant in setting.variants for seed in setting.seeds)
    return [one for one in found if one is not None]


def commits(cells: Sequence[dict[str, Any]]) -> list[str]:
    """How many cells were computed at which commit."""
    counted = Counter(f"`{cell['commit']}`" if "commit" in cell else "a commit not recorded" for cell in cells)
    return [f"Cells: {', '.join(f'{count} at {commit}' for commit, count in counted.items())}.", ""]


def by_row(
    setting: Any, cell: Callable[[Any, Any, int], dict[str, Any] | None]
) -> dict[str, dict[int, dict[str, Any]]]:
    """The finished cells of every row that has one."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for variant in setting.variants:
        for seed in setting.seeds:
            one = cell(setting, variant, seed)
            if one is not None:
                found.setdefault(variant.name, {})[seed] = one
    return found


def held_out(setting: Any, cell: Callable[[Any, Any, int], dict[str, Any] | None]) -> Cells:
    """The records of every row with a finished cell; the hidden ones as a row of their own."""
    hidden = {variant.name for variant in setting.variants if variant.hidden}
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for row, cells in by_row(setting, cell).items():
        found[row] = {seed: one["held_out"] for seed, one in cells.items()}
        if row in hidden:
            found[HIDDEN] = {seed: one["hidden"] for seed, one in cells.items()}
    return found


def robot_table(cells: Cells) -> list[str]:
    """Rewards at marks, the largest cost, and how often a limit was broken or a task ended worse than it began."""
    by_seed = {name: {seed: Curves.of(record) for seed, record in records.items()} for name, records in cells.items()}
    curves = {name: list(found.values()) for name, found in by_seed.items()}
    last = min(found[0].rewards.shape[1] for found in curves.values()) - 1
    marks = [mark for mark in (0, 1, 5, 10) if mark <= last]
    rows = [[name, *measures(seeds, marks), _worse(seeds), falling(seeds)] for name, seeds in curves.items()]
    lines = table(["start", *columns(marks), "tasks ending worse", "tasks falling"], rows)
    lines += by_limit(list(cells[next(iter(cells))].values()))
    first = next(iter(curves))
    pairs = [(first, other) for other in curves if other not in (first, HIDDEN)] + [(INFERRED, NONE)]
    mark = min(5, last)
    measured = {
        name: {
            "reward at once more": {seed: one.reward(0) for seed, one in seeds.items()},
            f"reward after {mark} more": {seed: one.reward(mark) for seed, one in seeds.items()},
            "violation during adaptation less": {seed: one.excess() for seed, one in seeds.items()},
        }
        for name, seeds in by_seed.items()
    }
    return [*told(compared(measured, dict.fromkeys(pairs)), lines), ""]


def by_limit(records: Sequence[dict[str, Any]]) -> list[str]:
    """Reward and cost of the first row by the tasks' limits, where these differ.

    Where every record has the same parameters under each of its limits, a row is one limit, and the slope of the reward
    over log2 of the limit is shown with its interval over seeds; elsewhere a row is a third of all tasks.
    """
    limits = np.array([np.array(record["limits"])[:, 0] for record in records])
    if np.ptp(limits) == 0.0:
        return []
    curves = [Curves.of(record) for record in records]
    if _each_under_all(records, limits):
        return _by_each_limit(curves, limits[0])
    limits = limits.ravel()
    rewards, costs = (np.concatenate([getattr(one, name) for one in curves]) for name in ("rewards", "costs"))
    rows: list[list[object]] = []
    edges = np.quantile(limits, [0.0, 1.0 / 3.0, 2.0 / 3.0, 1.0])
    for low, high in itertools.pairwise(edges):
        own = (limits >= low) & (limits <= high)
        last = shown(interval(rewards[own, -1]))
        rows.append([f"{low:.1f} to {high:.1f}", shown(interval(rewards[own, 0])), last, f"{costs[own].max():.2f}"])
    return ["By the tasks' limits:", "", *table(["limit", "at once", "at the end", "largest cost / limit"], rows)]


def _each_under_all(records: Sequence[dict[str, Any]], limits: FloatArray) -> bool:
    """Whether each record has the same parameters under each of several limits."""
    if (limits != limits[0]).any():
        return False
    others = [[{k: v for k, v in one.items() if k != "limit_factor"} for one in own["parameters"]] for own in records]
    own = [[told[i] for i in np.flatnonzero(limits[0] == one)] for told in others for one in limits[0]]
    return all(parameters == own[0] for parameters in own)


def _by_each_limit(curves: Sequence[Curves], limits: FloatArray) -> list[str]:
    """A row for each limit, means over its tasks, and what doubling a limit gains."""
    distinct = np.unique(limits)
    means = np.array([[one.rewards[limits == limit].mean(axis=0) for limit in distinct] for one in curves])
    rows: list[list[object]] = []
    for place, limit in enumerate(distinct):
        costs = np.array([one.costs[limits == limit] for one in curves])
        rows.append(
            [
                f"{limit:g}",
                shown(interval(means[:, place, 0])),
                shown(interval(means[:, place, -1])),
                shown(interval((costs * limit).mean(axis=(1, 2, 3)))),
                f"{costs.max():.2f}",
            ]
        )
    columns = ["limit", "at once", "at the end", "mean cost", "largest cost / limit"]
    first, last = (interval(np.polyfit(np.log2(distinct), means[:, :, mark].T, 1)[0]) for mark in (0, -1))
    whole = interval(means[:, -1, 0] - means[:, 0, 0])
    return [
        "The same tasks under each limit:",
        "",
        *table(columns, rows),
        f"- Reward gained by a limit twice as large: {shown(first)} at once ({verdict(first)}), {shown(last)} "
        f"at the end ({verdict(last)}). The largest limit less the smallest: {shown(whole)} at once.",
    ]


def _worse(seeds: Sequence[Curves]) -> str:
    """Tasks whose reward fell over all updates, and the largest fall relative to the mean reward at once."""
    change = np.concatenate([one.rewards[:, -1] - one.rewards[:, 0] for one in seeds])
    return f"{int((change < 0.0).sum())} of {change.size} (at most by {max(0.0, -float(change.min())):.1f})"


def falling(seeds: Sequence[Curves]) -> str:
    """Tasks whose reward falls by more than its noise: the 95 % interval of the slope over the updates is below 0."""
    curves = np.concatenate([one.rewards for one in seeds])
    updates = np.arange(curves.shape[1])
    fits = [stats.linregress(updates, curve) for curve in curves]
    wide = float(stats.t.ppf(0.975, len(updates) - 2))
    return f"{sum(fit.slope + wide * fit.stderr < 0.0 for fit in fits)} of {len(fits)}"


def lake_table(cells: Cells) -> list[str]:
    """Gap, violation and score of every row, and the paired differences to ours."""
    labels = {"gap": "gap", "violation": "violation of the output", "during": "during adaptation", "score": "score"}
    measured = {
        name: {
            f"{label} less": {seed: float(np.mean(record[key])) for seed, record in records.items()}
            for key, label in labels.items()
        }
        for name, records in cells.items()
    }
    rows: list[list[object]] = [
        [name, len(cells[name]), *(shown(interval(list(values.values())), 4) for values in found.values())]
        for name, found in measured.items()
    ]
    lines = table(["start", "seeds", *labels.values()], rows)
    return [*told(compared(measured, itertools.product((OURS, OURS_CPO, OURS_DEEP), measured)), lines), ""]


def figure(cells: Cells, name: str, *, robot: bool) -> Figure:
    """Reward and cost over its limit after every update, means over seeds. Variants of a method are dashed.

    Rows that others repeat with another algorithm or deeper training tasks have panels of their own.
    """
    parts: dict[str, tuple[list[Series], list[Series]]] = {}
    for row, records in cells.items():
        part, label = _part_of(row)
        rewards, costs = parts.setdefault(part, ([], []))
        curves = [Curves.of(record) for record in records.values()]
        x = np.arange(curves[0].rewards.shape[1])
        rewards.append(row_band(label, x, [one.rewards.mean(axis=0) for one in curves]))
        costs.append(row_band(label, x, [one.costs.mean(axis=(0, 2)) for one in curves]))
    unit, panels = "undiscounted reward" if robot else "reward J₀", list[Panel]()
    for part, (rewards, costs) in parts.items():
        made = reward_and_cost(name, "", rewards, costs, reward=unit).panels
        panels += [dataclasses.replace(panel, title=part, alike=panel.y_label) for panel in made]
    return Figure(name, "", tuple(panels), columns=2)


def _part_of(row: str) -> tuple[str, str]:
    """The title of the panels that a row belongs to, and its name there."""
    for suffix, title in _PARTS.items():
        if row.endswith(f", {suffix}"):
            return title, row.removesuffix(f", {suffix}")
    return "", row
