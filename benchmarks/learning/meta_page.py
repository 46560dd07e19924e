"""The page of the meta-learning benchmark: how far along the way to a level, at what cost; its tables and plots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import numpy as np
from matplotlib import pyplot as plt

from benchmarks.page import header, table
from distributed.settings.run_config import RunConfig
from meta.measuring.measures import Interval, interval
from policies.neural.update import NeuralSettings
from tasks.contract.tabular_model import FloatArray

SCRATCH_STEPS = 200_000
LEVEL_OVER = 5
"""The level that a fresh start reaches: mean over so many last iterations."""
MARKS = (0, 1, 5, 10)
OTHER_SPEEDS, OTHER_REWARDS = np.array([1.0, 1.69]), np.array([-38.0, -77.0])
"""OmniSafe's CRPO from scratch after 200,000 steps at two target speeds of half_cheetah, its cost limit kept."""
OTHER_HORIZON = 200
"""Steps of an episode in which that was measured."""


def other_share_left(speeds: FloatArray) -> FloatArray:
    """What OmniSafe's CRPO leaves of the loss of standing still (200 v*), [N].

    Linear in v* between the two speeds measured and constant beyond them.
    """
    return np.interp(speeds, OTHER_SPEEDS, -OTHER_REWARDS / (OTHER_HORIZON * OTHER_SPEEDS))


def other_level(cell: dict[str, Any]) -> float | None:
    """Mean reward over a seed's held-out tasks that OmniSafe's CRPO would reach; None where that loss is another."""
    if any("target_speed" not in task for task in cell["parameters"]):
        return None
    speeds = np.array([task["target_speed"] for task in cell["parameters"]])
    if not np.allclose(cell["idle"], -OTHER_HORIZON * speeds, rtol=0.05, atol=10.0):
        return None
    return float(np.mean(np.array(cell["idle"]) * other_share_left(speeds)))


def own_level(cell: dict[str, Any]) -> float:
    """Mean reward over a seed's held-out tasks that a fresh start reaches after SCRATCH_STEPS."""
    return float(np.array(cell["level"]["episodic"])[:, -LEVEL_OVER:, 0].mean())


def share_of_the_way(cell: dict[str, Any], name: str, level: float | None = None) -> FloatArray:
    """(R_m - R_idle) / (R_level - R_idle) [M+1] of mean episode rewards: 0 is no torque, 1 the (own) level."""
    level = own_level(cell) if level is None else level
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


def other_reference(cells: Sequence[dict[str, Any]]) -> list[str]:
    """How far along the way to OmniSafe's level, where tasks have a target speed."""
    levels = [other_level(cell) for cell in cells]
    known = [level for level in levels if level is not None]
    if len(known) < len(cells):
        return []
    rows: list[list[object]] = []
    for name in ("meta_srl", "random"):
        shares = [share_of_the_way(cell, name, level) for cell, level in zip(cells, known, strict=True)]
        rows += [[f"`{name}`", mark, told(interval([share[mark] for share in shares]), 2)] for mark in MARKS]
    points = " and ".join(
        f"{reward:.0f} at v* = {speed:g} (a share {share:.3f} of standing still's loss of {OTHER_HORIZON} v*)"
        for speed, reward, share in zip(OTHER_SPEEDS, OTHER_REWARDS, other_share_left(OTHER_SPEEDS), strict=True)
    )
    return [
        "A second level, for orientation: OmniSafe's CRPO from scratch, measured at two target speeds only, was after "
        f"200,000 steps at {points}. With that share linear in v* between the two and constant beyond them, "
        f"the held-out tasks' level is {told(interval(known))}.",
        "",
        *table(["start", "updates", "share of the way to OmniSafe's level"], rows),
    ]


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
    level = interval([own_level(cell) for cell in cells])
    kept = interval([relative_costs(cell, "level")[:, -LEVEL_OVER:].mean(axis=(0, 1)).max() for cell in cells])
    start = interval([np.array(cell["meta_srl"]["episodic"])[:, 0, 0].mean() for cell in cells])
    idle = interval([float(np.mean(cell["idle"])) for cell in cells])
    return [
        *header(f"Meta-learning on {config.name}", command),
        f"Seeds {[cell['seed'] for cell in cells]}; {config.family.num_tasks} training tasks of "
        f"{within.num_iterations} updates, {np.mean([cell['train_steps'] for cell in cells]):.3g} environment steps in "
        f"{told(interval([cell['minutes'] for cell in cells]))} minutes with {cells[0]['workers']} worker(s); "
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
        *other_reference(cells),
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
    level = np.mean([own_level(cell) for cell in cells])
    left.axhline(level, color="#2ca02c", linestyle="--", label=f"fresh start after {SCRATCH_STEPS:,} steps")
    others = [other_level(cell) for cell in cells]
    if None not in others:
        left.axhline(np.mean(others), color="#1f77b4", linestyle="--", label="OmniSafe's CRPO after 200,000 steps")
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
