"""What people read of a run: the summary, and a plot for every table."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from meta.judging.held_out import HeldOut
from meta.learning.groups import GroupedState
from meta.learning.online import State
from meta.measuring.intervals import failure_signature
from meta.measuring.similarity import Similarity
from meta.training.records import Row, column, cost_columns
from tasks.contract.tabular_model import FloatArray

SCHEMA_VERSION = 1
COLOURS = {
    "random": "#888888",
    "pretrained": "#b279a2",
    "simple_average": "#e0a030",
    "fal": "#4c78a8",
    "meta_srl": "#d62728",
    "oracle": "#2ca02c",
    "reptile": "#17becf",
    "maml_penalty": "#8c564b",
    "multitask": "#bcbd22",
}


def held_out_json(held_out: HeldOut) -> dict[str, Any]:
    """A method's entry under ``test`` of ``summary.json``."""
    return {
        "gap": held_out.gap.as_json(),
        "reward": held_out.reward.as_json(),
        "violation": held_out.violation.as_json(),
        "violation_during_adaptation": held_out.violation_during.as_json(),
        "score": held_out.score,
        "env_steps": held_out.env_steps,
        "starts_used": list(held_out.starts_used),
        "learning_rates": rates_json(held_out.learning_rates),
        "reward_curve": held_out.reward_curve.tolist(),
        "cost_curve": held_out.cost_curve.tolist(),
        "episodic_curve": None if held_out.episodic_curve is None else held_out.episodic_curve.tolist(),
    }


def training_summary(rows: list[Row], state: State, tasks_per_round: int) -> dict[str, Any]:
    """TAOG, TACV, learning rates and the failure signature of the training tasks."""
    gaps, violations = column(rows, "gap"), cost_columns(rows, "violation")
    half = len(rows) // 2
    return {
        "num_tasks": len(rows),
        "mean_reward": known(column(rows, "reward").mean()),
        "taog": known(gaps.mean()),
        "tacv": violations.mean(axis=0).tolist(),
        "taog_last_half": known(gaps[half:].mean()),
        "tacv_last_half": violations[half:].mean(axis=0).tolist(),
        "learning_rates": rates_json([start.learning_rates.tolist() for start in state.starts]),
        "meta_state_sha256": state.sha256(),
        "groups": groups_json(rows, state),
        "env_steps": int(column(rows, "env_steps").sum()),
        "estimates": estimates_json(rows),
        "failure_signature": {
            "gap": _signature(gaps, tasks_per_round),
            "violation_during_adaptation": _signature(
                cost_columns(rows, "violation_during").mean(axis=1), tasks_per_round
            ),
        },
    }


def estimates_json(rows: list[Row]) -> dict[str, Any]:
    """``estimates`` of ``summary.json``: how many tasks were left out or down-weighted, and by which diagnostic."""
    weights = column(rows, "weight")
    reasons = Counter(name for row in rows for name in str(row["failed_diagnostics"]).split())
    return {
        "left_out": int((weights == 0.0).sum()),
        "down_weighted": int(((weights > 0.0) & (weights < 1.0)).sum()),
        "mean_weight": float(weights.mean()),
        "failed": sum(bool(row["failed_diagnostics"]) for row in rows),
        "reasons": dict(sorted(reasons.items())),
        "problems": sorted({str(row["estimate_problem"]) for row in rows if row["estimate_problem"]})[:10],
    }


def rates_json(rates: Sequence[Sequence[float]]) -> list[Any]:
    """The rates of the one start, a list of 1+p; of several, a list of such lists."""
    return list(rates[0]) if len(rates) == 1 else [list(one) for one in rates]


def groups_json(rows: list[Row], state: State) -> dict[str, Any] | None:
    """``groups`` of ``summary.json``: None unless several initialisations were learned."""
    if not isinstance(state, GroupedState):
        return None
    starts = np.bincount(column(rows, "start").astype(np.int64), minlength=len(state.groups))
    return {
        "num_initializations": len(state.groups),
        "tasks": [group.num_tasks for group in state.groups],
        "starts_used": starts.tolist(),
        "probe_steps": int(column(rows, "probe_steps").sum()),
    }


def similarity_json(similar: Similarity | None) -> dict[str, float] | None:
    """``similarity`` of ``summary.json``."""
    if similar is None:
        return None
    names = ("task_similarity", "task_relatedness", "path_length")
    return {name: getattr(similar, name) for name in names}


def warnings_of(summary: Mapping[str, Any]) -> list[str]:
    """What a reader must be told at the end of a run, in words."""
    told = []
    for name, signature in summary["failure_signature"].items():
        if signature is not None and not signature["improved"]:
            told.append(f"the mean {name} of the last half of the tasks is not below that of the first round")
        if signature is not None and signature["rising"]:
            told.append(f"the {name} is rising over the last half of the tasks")
    estimates = summary["estimates"]
    if estimates["left_out"] or estimates["down_weighted"]:
        reasons = ", ".join(f"{name} {count}" for name, count in estimates["reasons"].items())
        told.append(
            f"the meta-learner took smaller steps for poor estimates: of {summary['num_tasks']} tasks "
            f"{estimates['left_out']} were left out and {estimates['down_weighted']} down-weighted"
            + (f"; beyond a threshold: {reasons}" if reasons else "")
            + " (columns weight, failed_diagnostics and estimate_problem of tasks.csv)"
        )
    told += [f"no estimate of a task: {problem}" for problem in estimates["problems"]]
    return told


def known(value: Any) -> float | None:
    """A float, or None where it is NaN (JSON has none)."""
    return None if math.isnan(float(value)) else float(value)


def _signature(values: FloatArray, first_round: int) -> dict[str, Any] | None:
    found = failure_signature(values, first_round)
    return None if found is None else dataclasses.asdict(found)


def write_plots(folder: Path, rows: list[Row], test: Mapping[str, Any], limit: float) -> list[Path]:
    """Write every plot of a run. ``test`` as in ``summary.json``; ``limit`` is the mean limit of the held-out tasks."""
    folder.mkdir(parents=True, exist_ok=True)
    figures = {
        "training": plot_training(rows),
        "learning_rates": plot_learning_rates(rows),
    }
    if "dice_mean_correction" in rows[0]:
        figures["estimation"] = plot_estimation(rows)
    if test:
        figures |= {"adaptation": plot_adaptation(test, limit), "held_out": plot_held_out(test)}
    paths = []
    for name, figure in figures.items():
        paths.append(folder / f"{name}.png")
        figure.savefig(paths[-1], dpi=120, bbox_inches="tight")
        plt.close(figure)
    return paths


def plot_adaptation(test: Mapping[str, Any], limit: float | None) -> Figure:
    """Reward and cost after m = 0..M updates on held-out tasks, with the mean limit."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8))
    for name, entry in test.items():
        style = {"color": COLOURS.get(name), "marker": "o", "markersize": 3.5, "label": name}
        iterations = np.arange(len(entry["reward_curve"]))
        left.plot(iterations, entry["reward_curve"], **style)
        right.plot(iterations, np.array(entry["cost_curve"])[:, 0], **style)
    if limit is not None:
        right.axhline(limit, color="black", linestyle="--", linewidth=1, label="mean limit")
    _label(left, "policy updates on the new task", "expected discounted reward $J_0$", "Held-out tasks: reward")
    _label(right, "policy updates on the new task", "expected discounted cost $J_1$", "Held-out tasks: cost")
    right.legend(fontsize=8)
    return figure


def plot_held_out(test: Mapping[str, Any]) -> Figure:
    """Gap (reward where there is no exact model) and violations of every method, with 95 % intervals."""
    titles = {
        value_key(test): "optimality gap" if value_key(test) == "gap" else "reward $J_0$ of the output",
        "violation_during_adaptation": "violation during adaptation",
        "violation": "violation of the output",
    }
    figure, axes = plt.subplots(1, 3, figsize=(11, 0.5 * len(test) + 1.6), sharey=True)
    for axis, (key, title) in zip(axes, titles.items(), strict=True):
        for position, (name, entry) in enumerate(test.items()):
            mean, bounds = entry[key]["mean"], entry[key]["ci95"]
            if mean is None:
                continue
            axis.barh(position, mean, color=COLOURS.get(name), alpha=0.85)
            if bounds[0] is not None:
                axis.plot(bounds, [position, position], color="black", linewidth=1.5)
        axis.set_yticks(range(len(test)), list(test))
        _label(axis, title, "", "")
    axes[0].invert_yaxis()
    figure.suptitle("Held-out tasks: means and 95 % confidence intervals")
    return figure


def value_key(test: Mapping[str, Any]) -> str:
    """What a start's worth is told by: ``gap``, or ``reward`` where there is no exact model."""
    return "reward" if all(entry["gap"]["mean"] is None for entry in test.values()) and test else "gap"


def plot_training(rows: list[Row]) -> Figure:
    """Gap and violation of each training task, with TAOG, TACV and the computed bound."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8))
    index, violations = column(rows, "task_index"), cost_columns(rows, "violation")
    (_plot_rewards if np.isnan(column(rows, "gap")).all() else _plot_gaps)(left, rows)
    left.legend(fontsize=8)
    for cost in range(violations.shape[1]):
        right.plot(index, violations[:, cost], ".", markersize=4, label=f"violation {cost + 1} of a task's output")
        right.plot(index, _running_mean(violations[:, cost]), label=f"TACV {cost + 1}")
    during = cost_columns(rows, "violation_during").mean(axis=1)
    right.plot(index, _running_mean(during), "--", color="black", label="during adaptation, running mean")
    _label(right, "training task", "constraint violation", "Training: violation")
    right.legend(fontsize=8)
    return figure


def _plot_gaps(axis: Axes, rows: list[Row]) -> None:
    index, gaps = column(rows, "task_index"), column(rows, "gap")
    axis.plot(index, gaps, ".", color="#999999", markersize=4, label="gap of a task")
    axis.plot(index, _running_mean(gaps), color="#d62728", label="TAOG")
    bound = column(rows, "gap_bound")
    if np.isfinite(bound).any():
        axis.plot(index, bound, "x", color="#4c78a8", markersize=3, label="computed bound (mean over $N_0$)")
    axis.set_yscale("symlog", linthresh=1e-2)
    _label(axis, "training task", "optimality gap (linear below 0.01)", "Training: gap")


def _plot_rewards(axis: Axes, rows: list[Row]) -> None:
    index = column(rows, "task_index")
    axis.plot(index, column(rows, "reward_start"), ".", color="#4c78a8", markersize=4, label="of the start")
    axis.plot(index, column(rows, "reward"), ".", color="#d62728", markersize=4, label="of the output")
    _label(axis, "training task", "expected discounted reward $J_0$", "Training: reward")


def plot_learning_rates(rows: list[Row]) -> Figure:
    """Learning rate of each objective over the rounds."""
    figure, axis = plt.subplots(figsize=(6, 3.6))
    count = sum(name.startswith("learning_rate_") for name in rows[0])
    for objective in range(count):
        name = "reward" if objective == 0 else f"cost {objective}"
        axis.step(column(rows, "task_index"), column(rows, f"learning_rate_{objective}"), where="post", label=name)
    axis.set_yscale("log")
    _label(axis, "training task", r"learning rate $\alpha_i$", "Learned rates")
    axis.legend(fontsize=8)
    return figure


def plot_estimation(rows: list[Row]) -> Figure:
    """DICE diagnostics, and where the error of the inexact loss comes from."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8))
    index = column(rows, "task_index")
    for name in ("mean_correction", "effective_sample_size", "missing_mass", "flow_residual"):
        left.plot(index, column(rows, f"dice_{name}"), label=name.replace("_", " "))
    _label(left, "training task", "", "DualDICE diagnostics")
    left.legend(fontsize=8)
    if "inexactness_total" in rows[0]:
        for name in ("total", "occupancy_shift", "estimation", "suboptimality"):
            right.plot(index, column(rows, f"inexactness_{name}"), label=name.replace("_", " "))
        right.legend(fontsize=8)
    _label(right, "training task", r"$\hat f_t(\phi_t) - f_t(\phi_t)$", "Inexactness and its parts")
    figure.tight_layout()
    return figure


def _running_mean(values: FloatArray) -> FloatArray:
    return np.cumsum(values) / np.arange(1, values.size + 1)


def _label(axis: Axes, x: str, y: str, title: str) -> None:
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    axis.set_title(title)
    axis.grid(alpha=0.3)


def markdown_table(test: Mapping[str, Any], order: Sequence[str] | None = None) -> str:
    """The held-out results as a Markdown table."""
    key = value_key(test)
    lines = [f"| method | {key} | violation during adaptation | violation of the output |", "|---|---|---|---|"]
    for name in order or test:
        entry = test[name]
        cells = [format_interval(entry[column]) for column in (key, "violation_during_adaptation", "violation")]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def format_interval(entry: Mapping[str, Any]) -> str:
    """``mean [low, high]`` of an interval's JSON."""
    if entry["mean"] is None:
        return "–"
    bounds = entry["ci95"]
    return f"{entry['mean']:.4f}" + ("" if bounds[0] is None else f" [{bounds[0]:.4f}, {bounds[1]:.4f}]")
