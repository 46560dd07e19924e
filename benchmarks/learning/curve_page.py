"""The page and the plots of the learning curves, made from the files of the finished runs."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy.stats import t as student

from benchmarks.learning.curve_tasks import TASKS, CurveTask
from benchmarks.result_page import header, table, write
from benchmarks.result_plots import save
from meta.reporting.plot_model import Dash, Figure, Level, Panel, Series
from meta.reporting.styles import numbered
from policies.steps.natural_gradient import TrustRegionSettings
from tasks.contract.tabular_model import FloatArray

Group = tuple[str, int]
Run = dict[str, Any]


def write_page(folder: Path) -> None:
    """Write docs/results/learning_curves.md and its plots from the finished runs in ``folder``.

    Raises:
        FileNotFoundError: ``folder`` holds no finished run.
    """
    groups: dict[Group, list[Run]] = defaultdict(list)
    for path in sorted(folder.glob("*.json")):
        run = json.loads(path.read_text(encoding="utf-8"))
        groups[run["task"], run["steps"]].append({**run, "curve": _curve(path.with_suffix(".csv"))})
    if not groups:
        raise FileNotFoundError(f"no finished run (*.json) in {folder}; train one first")
    order = sorted(groups, key=lambda group: (list(TASKS).index(group[0]), group[1]))
    lines = [
        *header("Learning curves of neural CRPO alone", "python -m benchmarks.learning.learning_curves --page"),
        *_INTRODUCTION,
    ]
    lines += _overview({group: groups[group] for group in order})
    for group in order:
        save(folder, figure(group, groups[group]))
        lines += _section(group, groups[group], folder)
    write("learning_curves.md", [*lines, *_settings(order)])


_INTRODUCTION = [
    "Neural CRPO from a fresh policy on one constrained MDP, without meta-learning. Reward and costs are undiscounted "
    "sums over an episode, and every figure is for the stochastic policy. `final` is CRPO's output under the rule "
    "`last` (the newest iterate whose own batch kept the limits given to CRPO), measured on fresh episodes with their "
    "own seeds. `last tenth` is the mean over the last 10 % of the iterations, each iterate on its own batch. Settings "
    "were chosen on seeds 100 to 102, which are not reported.",
    "",
    "Some reported seeds had been run before the settings were final. half_cheetah: with absolute damping, seed 0 "
    "(and the beginning of seed 1) rose to 2,944 and ended at 2,691 (cost 19.9). The cause was studied on seed 100, "
    "and every half_cheetah run below is later than decision 0021. hopper with discount 0.99: seed 0 reached 1,714 "
    "and ended at 566 with a constant trust region; with a shrinking one it reached 1,691 and ended at 188. Seed 1 "
    "held 1,595 until it was stopped at 2.6 million steps. Runs of 1.5 million steps with a constant trust region, "
    "judged by their best iterate that kept its limit, gave 1,715, 1,659 and 714 (seeds 0, 1, 2; costs 16, 18, 7). "
    "The discount was then changed on seed 101, and every hopper run below is later than decision 0022. point_goal: "
    "seed 0 ended at reward 11.5 and cost 35 after 3 million steps with a constant trust region and CRPO's limit at "
    "20; with 40 episodes an iteration and a limit of 15, it reached 3.8 after 2.4 million steps and was stopped. The "
    "seed reported below had not been run before (decision 0024).",
    "",
    "half_cheetah and hopper are Safety-Gymnasium's velocity tasks on Gymnasium's v5 models: Gymnasium's own reward, "
    "episodes of 1,000 steps, and a cost of 1 for each step faster than 3.2096 and 0.7402 m/s. The published results "
    "used that package's older models. acrobot has Gymnasium's own links and a limit of 10 on the undiscounted sum of "
    "each cost. Plots show means over ten iterations.",
    "",
]


def _curve(path: Path) -> dict[str, FloatArray]:
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    numbers = [key for key in rows[0] if key in ("steps", "reward") or key.startswith("cost_")]
    return {key: np.array([float(row[key]) for row in rows]) for key in numbers}


def interval(values: Sequence[float]) -> str:
    """Mean and Student's 95 % interval over seeds."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return f"{mean:,.1f}"
    half = float(student.ppf(0.975, len(values) - 1)) * float(np.std(values, ddof=1)) / np.sqrt(len(values))
    return f"{mean:,.1f} ± {half:,.1f}"


def _overview(groups: dict[Group, list[Run]]) -> list[str]:
    rows = []
    for (name, steps), runs in groups.items():
        objectives = range(len(runs[0]["final"]))
        cells = [[interval([run[key][i] for run in runs]) for i in objectives] for key in ("final", "last_tenth")]
        limits = ", ".join(f"{limit:g}" for limit in runs[0]["limits"])
        figures = [text for reward, *costs in cells for text in (reward, "; ".join(costs))]
        rows.append([name, f"{steps:,}", len(runs), limits, *figures])
    columns = ["task", "steps", "seeds", "limits", "final reward", "final costs", "last tenth, reward", "costs"]
    return [
        *table(columns, rows),
        "Mean over seeds ± half the width of the 95 % interval over seeds (Student's t).",
        "",
    ]


def _section(group: Group, runs: Sequence[Run], folder: Path) -> list[str]:
    name, steps = group
    rows = []
    for run in runs:
        final = [f"{v:,.1f} ± {1.96 * e:,.1f}" for v, e in zip(run["final"], run["final_standard_error"], strict=True)]
        tenth = [f"{value:,.1f}" for value in run["last_tenth"]]
        commit = str(run["commit"])[:12] + ("-dirty" if str(run["commit"]).endswith("-dirty") else "")
        rows.append([run["seed"], *final, *tenth, f"{run['cpu_seconds']:,.0f}", f"`{commit}`"])
    costs = [f"cost {i + 1}" if len(runs[0]["limits"]) > 1 else "cost" for i in range(len(runs[0]["limits"]))]
    columns = ["seed", "final reward", *(f"final {c}" for c in costs), "last tenth, reward", *costs, "CPU s", "commit"]
    seeds = " ".join(str(run["seed"]) for run in runs)
    lines = [
        f"## {name}, {steps:,} steps",
        "",
        f"`python -m benchmarks.learning.learning_curves --task {name} --steps {steps} --seeds {seeds}`. "
        f"Final: {runs[0]['final_episodes']} episodes a seed ± 1.96 standard errors.",
        "",
        *table(columns, rows),
    ]
    for level in TASKS[name].published:
        lines.append(
            f"Published at 10 million steps, {level.algorithm}: reward {level.reward:,.0f} at cost {level.cost:g}."
        )
        lines.append("")
    return [*lines, f"![Reward and costs of {name}](learning_curves/{_picture(group)}.png)", ""]


def _picture(group: Group) -> str:
    return f"{group[0]}-{group[1]}"


def figure(group: Group, runs: Sequence[Run]) -> Figure:
    """Reward and costs of an episode over the steps, one line for each seed."""
    task = TASKS[group[0]]
    panels = []
    for index, key in enumerate(["reward", *(f"cost_{i + 1}" for i in range(len(task.limits)))]):
        series = []
        for place, run in enumerate(runs):
            style, y = numbered(place), _smooth(run["curve"][key])
            x = run["curve"]["steps"] / 1e6
            series.append(Series(f"seed {run['seed']}", x, y, style.colour, "marked", marker=style.marker))
        y_label = key.replace("_", " ") + " of an episode"
        scale: Literal["linear", "fitting"] = "fitting" if index else "linear"
        panels.append(Panel("", "million steps", y_label, tuple(series), levels=_levels(task, index), scale=scale))
    return Figure(_picture(group), "", tuple(panels))


def _levels(task: CurveTask, index: int) -> tuple[Level, ...]:
    if index:
        return (Level(task.limits[index - 1], "limit"),)
    styles: tuple[Dash, ...] = ("dash", "dot")
    return tuple(
        Level(level.reward, f"{level.algorithm}, 10 million steps", dash)
        for level, dash in zip(task.published, styles, strict=False)
    )


def _smooth(values: FloatArray, window: int = 10) -> FloatArray:
    """Mean of the last ``window`` iterations, fewer at the start."""
    sums = np.cumsum(values)
    sums[window:] -= sums[:-window].copy()
    return np.asarray(sums / np.minimum(np.arange(1, len(values) + 1), window))


def _region(chosen: TrustRegionSettings) -> str:
    last = "" if chosen.delta_last is None else f" to {chosen.delta_last:g}"
    return f"{chosen.delta_max:g}{last}"


def _settings(groups: Sequence[Group]) -> list[str]:
    rows = []
    for name in dict.fromkeys(name for name, _ in groups):
        task, chosen = TASKS[name], TASKS[name].settings
        rows.append(
            [
                name,
                f"{chosen.steps_per_iteration:,} in {chosen.num_copies}",
                f"{task.discount:g}",
                _region(chosen.trust_region),
                f"{chosen.trust_region.cg_damping:g} ({chosen.trust_region.damping_unit})",
                f"{chosen.initial_log_std:g}",
                chosen.critic.epochs,
                ", ".join(f"{rate:g}" for rate in task.learning_rates),
                ", ".join(f"{limit - margin:g}" for limit, margin in zip(task.limits, task.margin, strict=True)),
            ]
        )
    columns = ["task", "steps an iteration, copies", "gamma", "delta_max", "damping", "initial log std"]
    columns += ["critic epochs", "rates"]
    return [
        "## Settings",
        "",
        "All other settings are the defaults of `NeuralSettings`; `benchmarks/learning/curve_tasks.py` lists the "
        "choices with their reasons. Runs of more than 3 million steps have larger iterations and more copies, not "
        "more iterations.",
        "",
        *table([*columns, "limits given to CRPO"], rows),
    ]
