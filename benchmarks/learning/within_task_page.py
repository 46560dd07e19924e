"""docs/results/within_task.md: tables and plots of the cells of ``benchmarks.learning.within_task``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.learning.contexts_page import commits
from benchmarks.learning.contexts_verdict import shown
from benchmarks.learning.curve_tasks import PACKAGE, CurveTask
from benchmarks.learning.robot_starts import RUN_FILES, mean_curves, starts_section
from benchmarks.learning.single_robots import CLIPPED, FIRST_ORDER, QUIETER
from benchmarks.learning.within_task_verdict import PUBLISHED, Achieved, robot_verdict, starts_verdict
from benchmarks.result_page import RESULTS, header, table, write
from benchmarks.result_plots import curve, reward_and_cost, save
from meta.measuring.intervals import Interval, interval
from meta.reporting.plot_model import Figure
from meta.reporting.styles import styles_of
from policies.rules.rule_registry import RULES
from tasks.contract.tabular_model import FloatArray

COMMAND = "make within-task"
_STYLES = styles_of(tuple(RULES))
Found = Sequence[tuple[Any, dict[str, Any]]]
"""Jobs with their cells."""
Cells = dict[str, dict[int, dict[str, Any]]]
"""Cells by algorithm and seed."""


def write_page(found: Mapping[str, Found], steps: int, tasks: Mapping[str, CurveTask]) -> None:
    """Write the page of the cells that are finished; ``tasks`` are those of the robots alone."""
    lines = [
        *header("Within-task algorithms", COMMAND),
        "[algorithms.md](../algorithms.md) has the algorithms, at their default settings (npg_primal_dual on robots "
        "with relative units). Means with 95 % t-intervals over seeds; no setting was chosen on these seeds. Rows that "
        "are missing were not "
        "computed.",
        "",
        *commits([cell for cells in found.values() for _, cell in cells]),
    ]
    if found["lakes"]:
        lines += lake_section(by_algorithm(found["lakes"]))
    if found["meta_srl"] and found["random"]:
        lines += meta_section(by_algorithm(found["meta_srl"]), by_algorithm(found["random"]))
    for part in RUN_FILES:
        if found[part]:
            cells = by_algorithm(found[part])
            lines += starts_section(part, cells)
            save(RESULTS / "within_task", figure(mean_curves(cells), part, "policy updates", "undiscounted reward"))
    for part, task in tasks.items():
        if found[part]:
            lines += robot_section(part, by_algorithm(found[part]), steps, task)
    write("within_task.md", lines)


def by_algorithm(found: Found) -> Cells:
    """Cells by algorithm and seed."""
    cells: Cells = {}
    for job, cell in found:
        cells.setdefault(job.algorithm.name, {})[job.seed] = cell
    return cells


def over_seeds(cells: Mapping[int, dict[str, Any]], key: str) -> Interval:
    """The mean over tasks of ``key``, over seeds."""
    return interval([float(np.mean(cell[key])) for cell in cells.values()])


def lake_section(cells: Cells) -> list[str]:
    """Single lakes from the uniform policy."""
    rows: list[list[object]] = []
    curves: dict[str, tuple[FloatArray, FloatArray]] = {}
    for name, seeds in cells.items():
        excess, last, rewards, costs = [], [], [], []
        for cell in seeds.values():
            values, limits = np.array(cell["values"]), np.array(cell["limits"])
            relative = values[:, :, 1:] / limits[:, None, :]
            excess.append(float(np.maximum(relative - 1.0, 0.0).mean()))
            last.append(float(relative[:, -10:].mean()))
            rewards.append(values[:, :, 0].mean(axis=0))
            costs.append(relative.mean(axis=(0, 2)))
        curves[name] = np.array(rewards), np.array(costs)
        (rate,) = {cell["rate"] for cell in seeds.values()}
        row: list[object] = [name, len(seeds), rate]
        row += [shown(over_seeds(seeds, "gap"), 4), shown(over_seeds(seeds, "violation"), 4)]
        row += [shown(interval(excess), 4), shown(interval(last), 3)]
        rows.append(row)
    columns = ["algorithm", "seeds", "rate", "gap of the output", "its violation", "mean excess / limit"]
    save(RESULTS / "within_task", figure(curves, "lakes", "policy updates", "reward J₀"))
    return [
        "## Single lakes, exact values",
        "",
        "The held-out lakes of each seed from the uniform policy, 50 updates, at the rate of best score on the tuning "
        "seed. The gap is to the linear programme's optimum; mean excess is that of (J_1 - d)_+ / d over all iterates.",
        "",
        *table([*columns, "cost / limit of the last ten"], rows),
        "![Lakes](within_task/lakes.png)",
        "",
    ]


def meta_section(ours: Cells, random: Cells) -> list[str]:
    """Lakes from a learned start beside the random start of the same algorithm."""
    rows: list[list[object]] = []
    labels = {"gap": "gap", "violation": "violation of the output", "during": "during adaptation", "score": "score"}
    differences: dict[str, dict[str, Interval]] = {label: {} for label in labels.values()}
    for name, seeds in ours.items():
        own = random.get(name, {})
        both = [seed for seed in seeds if seed in own]
        for label, cells in (("meta_srl", seeds), ("random", own)):
            row: list[object] = [name, label, len(cells)]
            rows.append([*row, *(shown(over_seeds(cells, key), 4) for key in labels)])
        if len(both) > 1:
            less = {
                label: interval([float(np.mean(own[seed][key]) - np.mean(seeds[seed][key])) for seed in both])
                for key, label in labels.items()
            }
            for label, one in less.items():
                differences[label][f"`{name}`"] = one
            rows.append(["", "random less meta_srl", len(both), *(shown(one, 4) for one in less.values())])
    columns = ["algorithm", "start", "seeds", *labels.values()]
    return [
        "## Lakes with a learned start",
        "",
        "Five updates on each held-out lake after training on 96 (`deploy/runs/frozen_lake.yaml`). The "
        "random start has the best rate of its grid on the tuning seed. Differences are paired by seed; above 0 the "
        "learned start is better.",
        "",
        *starts_verdict(differences),
        *table(columns, rows),
    ]


def robot_section(part: str, cells: Cells, steps: int, task: CurveTask) -> list[str]:
    """A robot from a fresh policy; the algorithms' limits are lower than the task's by its margin."""
    robot, whose = QUIETER.get(part, part), ""
    if task.family == PACKAGE:
        whose = f" {robot.capitalize()} is Safety-Gymnasium's own version, as in the published results."
    rows: list[list[object]] = []
    curves: dict[str, tuple[FloatArray, FloatArray]] = {}
    achieved: dict[str, Achieved] = {}
    for name, seeds in cells.items():
        values = [np.array(cell["values"]) for cell in seeds.values()]
        (limit,) = {tuple(cell["limits"]) for cell in seeds.values()}
        final = np.array([cell["final"] for cell in seeds.values()])
        tenth = [one[-max(1, len(one) // 10) :].mean(axis=0) for one in values]
        excess = [float(np.maximum(one[:, 1:] - limit, 0.0).mean()) for one in values]
        curves[name] = np.array([one[:, 0] for one in values]), np.array([one[:, 1] / limit[0] for one in values])
        achieved[name] = Achieved(interval(final[:, 0]), interval(excess))
        spent = [cell["update_seconds"] / len(cell["values"]) for cell in seeds.values()]
        rows.append(
            [
                name,
                len(seeds),
                *(shown(interval(final[:, head])) for head in range(2)),
                *(shown(interval([one[head] for one in tenth])) for head in range(2)),
                shown(achieved[name].excess, 2),
                f"{np.mean(spent):.3f}",
            ]
        )
    columns = ["algorithm", "seeds", "reward", "cost", "reward, last tenth", "cost, last tenth"]
    quieter = ", the noise lowered at the end" if part in QUIETER else ""
    given = "" if part in QUIETER else f"Settings: {settings_line(task, {})} "  # those are of clipped steps alone
    first_order = FIRST_ORDER.get(part)
    own = f"Clipped steps: {settings_line(first_order, CLIPPED.get(part, {}))} " if first_order is not None else ""
    save(RESULTS / "within_task", figure(curves, part, "iteration", "undiscounted reward"))
    return [
        f"## {robot}, {steps / 1e6:.1f} million steps, limit 25{quieter}",
        "",
        "Reward and cost of the output in 100 new episodes, and of the iterates of the last tenth; mean excess of the "
        "cost over 25 across all iterations; seconds of an update. Limits within the algorithms are lower by "
        f"{task.margin[0]:g}, and policies keep their function where statistics change (decision 0048). "
        f"{given}{own}Published at 10 million steps (reward / cost / mean excess): "
        f"{', '.join(map(str, PUBLISHED[robot]))}.{whose}",
        "",
        robot_verdict(robot, achieved),
        "",
        *table([*columns, "mean excess", "update, s"], rows),
        f"![{robot}](within_task/{part}.png)",
        "",
    ]


def settings_line(task: CurveTask, clipped: Mapping[str, Any]) -> str:
    """A robot's settings in words; ``clipped`` are those of first-order algorithms, where they are not the default."""
    settings = task.settings
    region = settings.trust_region
    step = f"{region.delta_max:g}" + ("" if region.delta_last is None else f" to {region.delta_last:g}")
    words = [
        f"{settings.num_copies} copies of {settings.steps_per_iteration // settings.num_copies:,} steps an iteration",
        f"KL of a step {step}",
        f"{' and '.join(map(str, settings.critic_hidden))} units of the critic",
        f"traces {settings.reward_trace:g} and {settings.cost_trace:g}",
        f"discount {task.discount:g}",
        *(f"{name} of clipped steps {value}" for name, value in clipped.items()),
    ]
    if settings.final_log_std is not None:
        share, last = settings.final_noise_share, settings.final_log_std
        words.append(f"over the last {share:g} of the updates the standard deviation goes to e^{last:g}")
    return f"{', '.join(words)}."


def figure(curves: Mapping[str, tuple[FloatArray, FloatArray]], name: str, along: str, reward: str) -> Figure:
    """Reward and cost over its limit by iteration [seeds, iterations], means over seeds."""
    drawn = [
        [curve(label, parts[place].mean(axis=0), _STYLES[label]) for label, parts in curves.items()]
        for place in range(2)
    ]
    return reward_and_cost(name, "", *drawn, reward=reward, along=along)
