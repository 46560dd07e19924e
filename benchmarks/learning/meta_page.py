"""The page of the meta-learning benchmark: progress towards a reference level and its cost, as tables and plots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.result_page import header, table
from benchmarks.result_plots import curve, dots, reward_and_cost
from distributed.settings.run_config import RunConfig
from meta.measuring.intervals import Interval, interval
from meta.reporting.plot_model import Dash, Figure, Level, Panel
from meta.reporting.styles import method_style, numbered
from policies.neural.neural_settings import NeuralSettings
from tasks.contract.tabular_model import FloatArray

SCRATCH_STEPS = 200_000
LEVEL_OVER = 5
"""The reference level is the fresh start's mean over this many last iterations."""
MARKS = (0, 1, 5, 10)
OTHER_SPEEDS, OTHER_REWARDS = np.array([1.0, 1.69]), np.array([-38.0, -77.0])
"""OmniSafe's CRPO from scratch after 200,000 steps at two target speeds of half_cheetah, within its cost limit."""
_FRESH = f"fresh start after {SCRATCH_STEPS:,} steps"
_STYLES = tuple(numbered(place) for place in (0, 2, 4, 3, 8))
OTHER_HORIZON = 200
"""Steps of an episode in that measurement."""


def other_share_left(speeds: FloatArray) -> FloatArray:
    """The loss of OmniSafe's CRPO as a share [N] of the loss of standing still (200 v*).

    Interpolated linearly in v* between the two measured speeds, constant outside them.
    """
    return np.interp(speeds, OTHER_SPEEDS, -OTHER_REWARDS / (OTHER_HORIZON * OTHER_SPEEDS))


def other_level(cell: dict[str, Any]) -> float | None:
    """Mean reward of OmniSafe's CRPO on a seed's held-out tasks; None if the family has a different reward."""
    if any("target_speed" not in task for task in cell["parameters"]):
        return None
    speeds = np.array([task["target_speed"] for task in cell["parameters"]])
    if not np.allclose(cell["idle"], -OTHER_HORIZON * speeds, rtol=0.05, atol=10.0):
        return None
    return float(np.mean(np.array(cell["idle"]) * other_share_left(speeds)))


def own_level(cell: dict[str, Any]) -> float:
    """Mean reward of the fresh start on a seed's held-out tasks after SCRATCH_STEPS."""
    return float(np.array(cell["level"]["episodic"])[:, -LEVEL_OVER:, 0].mean())


def share_of_the_way(cell: dict[str, Any], name: str, level: float | None = None) -> FloatArray:
    """(R_m - R_idle) / (R_level - R_idle) [M+1] of mean episode rewards: 0 is no torque, 1 the reference level."""
    level = own_level(cell) if level is None else level
    idle = float(np.mean(cell["idle"]))
    return np.asarray((np.array(cell[name]["episodic"])[:, :, 0].mean(axis=0) - idle) / (level - idle))


def relative_costs(cell: dict[str, Any], name: str) -> FloatArray:
    """J_i / d_i, [N, M+1, p]."""
    return np.asarray(np.array(cell[name]["values"])[:, :, 1:] / np.array(cell["limits"])[:, None, :])


def formatted(found: Interval, digits: int = 1) -> str:
    """A mean with its interval."""
    return f"{found.mean:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]"


def curve_rows(cells: Sequence[dict[str, Any]], name: str) -> list[list[object]]:
    """Table rows of one start: reward, share of the way, and cost after m updates, over seeds."""
    rows: list[list[object]] = []
    for mark in MARKS:
        rewards = [np.array(cell[name]["episodic"])[:, mark, 0].mean() for cell in cells]
        way = [share_of_the_way(cell, name)[mark] for cell in cells]
        costs = [relative_costs(cell, name)[:, mark].mean(axis=0).max() for cell in cells]
        broken = [(relative_costs(cell, name)[:, mark] > 1.0).any(axis=1).mean() for cell in cells]
        shown = (
            formatted(interval(rewards)),
            formatted(interval(way), 2),
            formatted(interval(costs), 3),
            formatted(interval(broken), 2),
        )
        rows.append([f"`{name}`", mark, *shown])
    return rows


def other_reference(cells: Sequence[dict[str, Any]]) -> list[str]:
    """Progress towards OmniSafe's level; empty if tasks have no target speed."""
    levels = [other_level(cell) for cell in cells]
    known = [level for level in levels if level is not None]
    if len(known) < len(cells):
        return []
    rows: list[list[object]] = []
    for name in ("meta_srl", "random"):
        shares = [share_of_the_way(cell, name, level) for cell, level in zip(cells, known, strict=True)]
        rows += [[f"`{name}`", mark, formatted(interval([share[mark] for share in shares]), 2)] for mark in MARKS]
    points = " and ".join(
        f"{reward:.0f} at v* = {speed:g} (a share of {share:.3f} of {OTHER_HORIZON} v*, the loss of standing still)"
        for speed, reward, share in zip(OTHER_SPEEDS, OTHER_REWARDS, other_share_left(OTHER_SPEEDS), strict=True)
    )
    return [
        "A second reference is OmniSafe's CRPO from scratch, measured at two target speeds only: after 200,000 steps "
        f"it reached {points}. With that share interpolated linearly in v*, and constant outside the two speeds, the "
        f"level of the held-out tasks is {formatted(interval(known))}.",
        "",
        *table(["start", "updates", "share of the way to OmniSafe's level"], rows),
    ]


def introduction(config: RunConfig, within: NeuralSettings, cells: Sequence[dict[str, Any]]) -> list[str]:
    """The setting of the page, and what its numbers mean."""
    level = interval([own_level(cell) for cell in cells])
    kept = interval([relative_costs(cell, "level")[:, -LEVEL_OVER:].mean(axis=(0, 1)).max() for cell in cells])
    start = interval([np.array(cell["meta_srl"]["episodic"])[:, 0, 0].mean() for cell in cells])
    idle = interval([float(np.mean(cell["idle"])) for cell in cells])
    minutes, steps = interval([cell["minutes"] for cell in cells]), np.mean([cell["train_steps"] for cell in cells])
    return [
        f"Seeds {[cell['seed'] for cell in cells]}; {config.family.num_tasks} training tasks of "
        f"{within.num_iterations} updates, {steps:.3g} environment steps in {formatted(minutes)} minutes with "
        f"{cells[0]['workers']} worker(s); {config.evaluation.num_test_tasks} held-out tasks a seed, updates of "
        f"{within.steps_per_iteration} steps.",
        "",
        "Rewards are undiscounted sums over an episode; costs and limits are discounted as the family specifies. Both "
        "are estimates from the batch of each iterate, for the stochastic policy and not its mean action; continuous "
        f"actions are clipped to their bounds. The way leads from no torque ({formatted(idle)}) to the reward of a "
        f"fresh start after {SCRATCH_STEPS:,} steps on the same tasks ({formatted(level)}, mean of the last "
        f"{LEVEL_OVER} iterations; largest mean cost over its limit {formatted(kept, 3)}). CRPO keeps "
        f"{within.safety_margin:.0%} of every limit free. Means and 95 % t-intervals over seeds. The learned start "
        f"itself earns {formatted(start)}.",
        "",
    ]


def page(config: RunConfig, cells: Sequence[dict[str, Any]], command: str, stem: str) -> list[str]:
    """The complete page."""
    within, names = config.within_task, ("meta_srl", "random")
    assert isinstance(within, NeuralSettings)
    relative = {name: [relative_costs(cell, name) for cell in cells] for name in names}
    worst = {
        name: formatted(interval([costs.mean(axis=0).max() for costs in found]), 3) for name, found in relative.items()
    }
    everywhere = {
        name: formatted(interval([(costs > 1.0).any(axis=2).mean() for costs in found]), 3)
        for name, found in relative.items()
    }
    return [
        *header(f"Meta-learning on {config.name}", command),
        *introduction(config, within, cells),
        *table(
            ["start", "updates", "reward", "share of the way", "mean cost / limit (worst cost)", "tasks over a limit"],
            [row for name in names for row in curve_rows(cells, name)],
        ),
        *table(
            ["start", "largest mean cost / limit of any iteration", "tasks x iterations over a limit"],
            [[f"`{name}`", worst[name], everywhere[name]] for name in worst],
        ),
        *other_reference(cells),
        f"![curves]({stem}/curves.png)",
        *(["", f"![by task]({stem}/by_task.png)"] if varies_in_one_number(cells) else []),
    ]


def curves_figure(cells: Sequence[dict[str, Any]]) -> Figure:
    """Reward and cost over updates: one curve for each seed, with levels of the fresh start and of no torque."""
    rewards, costs = [], []
    for name in ("meta_srl", "random"):
        for cell in cells:
            rewards.append(curve(name, np.array(cell[name]["episodic"])[:, :, 0].mean(axis=0), method_style(name)))
            for number, cost in enumerate(relative_costs(cell, name).mean(axis=0).T):
                dash: Dash = "dash" if number else "solid"
                costs.append(curve(name if not number else f"{name}, other costs", cost, method_style(name), dash))
    level = float(np.mean([own_level(cell) for cell in cells]))
    levels = [Level(level, _FRESH, "dash", numbered(3).colour)]
    known = [found for cell in cells if (found := other_level(cell)) is not None]
    if len(known) == len(cells):
        other = "OmniSafe's CRPO after 200,000 steps"
        levels.append(Level(float(np.mean(known)), other, "dash", numbered(1).colour))
    levels.append(Level(float(np.mean([cell["idle"] for cell in cells])), "no torque", "dot"))
    return reward_and_cost("curves", "", rewards, costs, reward="reward of an episode", levels=levels)


def by_task_figure(cells: Sequence[dict[str, Any]]) -> Figure:
    """The reward of every held-out task against the one parameter that varies."""
    name = next(iter(cells[0]["parameters"][0]))
    varied = np.concatenate([[task[name] for task in cell["parameters"]] for cell in cells])
    curves = np.concatenate([np.array(cell["meta_srl"]["episodic"])[:, :, 0] for cell in cells])
    level = np.concatenate([np.array(cell["level"]["episodic"])[:, -LEVEL_OVER:, 0].mean(axis=1) for cell in cells])
    rows = {
        "learned start": curves[:, 0],
        "after 5 updates": curves[:, 5],
        "after 10 updates": curves[:, 10],
        _FRESH: level,
        "no torque": np.concatenate([cell["idle"] for cell in cells]),
    }
    series = [dots(label, varied, values, style) for (label, values), style in zip(rows.items(), _STYLES, strict=True)]
    panel = Panel("", name.replace("_", " "), "reward of an episode", tuple(series))
    return Figure("by_task", "", (panel,))


def varies_in_one_number(cells: Sequence[dict[str, Any]]) -> bool:
    """Whether a task's parameters are a single number."""
    parameters = cells[0]["parameters"][0]
    return len(parameters) == 1 and all(isinstance(value, float | int) for value in parameters.values())
