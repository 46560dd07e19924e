"""The figures of docs/results/paper.md."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.paper.paper_studies import Point, Studies
from distributed.jobs.comparison_cells import Comparison
from meta.judging.claims import RELATIVE_DURING, RELATIVE_GAP, REWARD, profile, seed_means
from meta.measuring.intervals import interval
from meta.measuring.statistics import linear_trend
from meta.reporting.colours import COLOURS
from tasks.contract.tabular_model import FloatArray

Array = np.ndarray[Any, Any]


def save(figure: Figure, path: Path) -> str:
    """Write a figure and return Markdown that shows it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, bbox_inches="tight")
    plt.close(figure)
    return f"![{path.stem.replace('_', ' ')}]({path.parent.name}/{path.name})"


def _finish(axis: Axes, x: str, title: str) -> None:
    axis.set_xlabel(x)
    axis.set_title(title, fontsize=10)
    axis.grid(alpha=0.3)


def _band(axis: Axes, x: Sequence[float] | Array, rows: Array, **style: Any) -> None:
    """Plot the mean over the rows [n, K] with its 95 % t-interval as a band."""
    found = [interval(column) for column in rows.T]
    axis.plot(x, [item.mean for item in found], **style)
    style.pop("label", None)
    low, high = [item.low for item in found], [item.high for item in found]
    axis.fill_between(x, low, high, color=style.get("color"), alpha=0.12, linewidth=0)


def adaptation(found: Comparison) -> Figure:
    """Reward, and every cost over its limit, after each update for every method; bands over seeds."""
    num_costs = len(found.described[0]["limits_mean"])
    figure, axes = plt.subplots(1, 1 + num_costs, figsize=(5.2 * (1 + num_costs), 3.8))
    for method, cells in found.judged.items():
        values = np.array([cell["curves"]["values"] for cell in cells])[:, :, 0]
        relative = np.array([cell["curves"]["relative_costs"] for cell in cells])
        style = {"color": COLOURS.get(method), "marker": ".", "label": method}
        _band(axes[0], np.arange(values.shape[1]), values, **style)
        for cost in range(num_costs):
            _band(axes[1 + cost], np.arange(values.shape[1]), relative[:, :, cost], **style)
    _finish(axes[0], "policy updates on a held-out task", "reward $J_0$")
    for cost in range(num_costs):
        axes[1 + cost].axhline(1.0, color="black", linestyle="--", linewidth=1, label="limit")
        _finish(axes[1 + cost], "policy updates on a held-out task", f"cost $J_{cost + 1}$ / limit")
    axes[-1].legend(fontsize=7)
    return figure


def profiles(found: Comparison) -> Figure:
    """Performance profiles of the relative gap (or reward) and of the violation during adaptation."""
    exact = all(cell["test"]["gap"] is not None for cells in found.judged.values() for cell in cells)
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6))
    for axis, measure in zip(axes, (RELATIVE_GAP if exact else REWARD, RELATIVE_DURING), strict=True):
        everything = np.concatenate(
            [np.array([c["test"][measure.key] for c in cells]).ravel() for cells in found.judged.values()]
        )
        thresholds = np.linspace(everything.min(), everything.max(), 60)
        for method in found.judged:
            shown = profile(found.judged, method, measure, thresholds)
            axis.plot(thresholds, shown.share, color=COLOURS.get(method), label=method)
            axis.fill_between(thresholds, shown.low, shown.high, color=COLOURS.get(method), alpha=0.12, linewidth=0)
        _finish(axis, measure.title, "share of (seed, task) above")
    axes[0].legend(fontsize=7)
    return figure


def running_mean(rows: Array) -> FloatArray:
    """The mean of the first t columns of each row, for every t."""
    return np.asarray(np.cumsum(rows, axis=1) / np.arange(1, rows.shape[1] + 1))


def training(found: Comparison) -> Figure:
    """TAOG and TACV over T for every method that learns while it solves tasks, with the computed bound."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.8))
    for method, cells in found.judged.items():
        if not cells[0]["training"]:
            continue
        style = {"color": COLOURS.get(method), "label": method}
        for axis, key in zip(axes, ("gap", "violation_during"), strict=True):
            if cells[0]["training"][key] is not None:
                rows = np.array([cell["training"][key] for cell in cells])
                _band(axis, np.arange(1, rows.shape[1] + 1), running_mean(rows), **style)
    bounds = np.array([cell["training"]["gap_bound"] for cell in found.judged["meta_srl"]], np.float64)
    with np.errstate(invalid="ignore"):
        known = np.nancumsum(bounds, axis=1) / np.maximum(np.cumsum(np.isfinite(bounds), axis=1), 1)
    axes[0].plot(np.arange(1, known.shape[1] + 1), known.mean(axis=0), "k--", label="computed bound, meta_srl")
    axes[0].set_yscale("symlog", linthresh=1e-2)
    _finish(axes[0], "training tasks T", "TAOG (mean gap of the first T tasks)")
    _finish(axes[1], "training tasks T", "mean violation during adaptation")
    axes[0].legend(fontsize=7)
    return figure


def tightness(found: Sequence[Comparison]) -> Figure:
    """The mean gap over N_0 against its computed bound, for every exact task of meta_srl."""
    figure, axis = plt.subplots(figsize=(5, 4.2))
    for comparison in found:
        cells = comparison.judged["meta_srl"]
        bound = np.concatenate([cell["bounds"]["gap_bound"] for cell in cells])
        gap = np.concatenate([cell["bounds"]["mean_gap"] for cell in cells])
        axis.plot(bound, gap, ".", markersize=3, alpha=0.5, label=comparison.config.name.removeprefix("paper_"))
    limits = axis.get_xlim()
    line = np.linspace(max(limits[0], 1e-3), limits[1], 50)
    axis.plot(line, line, "k--", linewidth=1, label="bound reached")
    axis.set_xscale("log")
    axis.set_ylabel("mean gap over $N_0$")
    _finish(axis, "computed bound", "every exact task of meta_srl")
    axis.legend(fontsize=7)
    return figure


def last_half(cells: Sequence[dict[str, Any]], key: str) -> FloatArray:
    """Mean [seeds] over the last half of the training tasks."""
    rows = np.array([cell["training"][key] for cell in cells], np.float64)
    return np.asarray(rows[:, rows.shape[1] // 2 :].mean(axis=1))


def pairs(points: Sequence[Point], similarity: str, key: str) -> tuple[FloatArray, FloatArray]:
    """All runs of a study: a similarity number, and the mean of a training measure of meta_srl over the last half."""
    x = np.concatenate([[cell["similarity"][similarity] for cell in point.described] for point in points])
    return x, np.concatenate([last_half(point.judged["meta_srl"], key) for point in points])


def trends(studies: Studies) -> Figure:
    """TAOG and TACV against D*^2 (dissimilar tasks) and V_psi^2 (drifting tasks), with fitted lines."""
    figure, axes = plt.subplots(2, 2, figsize=(10, 7))
    rows = (
        (studies.dissimilarity, "task_similarity", "$D^{*2}$"),
        (studies.drifting, "task_relatedness", r"$V_\psi^2$"),
    )
    for row, (points, similarity, name) in enumerate(rows):
        for column, (key, title) in enumerate(
            (("gap", "TAOG of the last half"), ("violation_during", "violation during adaptation, last half"))
        ):
            x, y = pairs(points, similarity, key)
            axis = axes[row, column]
            axis.plot(x, y, ".", alpha=0.6)
            if np.ptp(x) > 0.0 and x.size > 2:
                found = linear_trend(x, y)
                ends = np.array([x.min(), x.max()])
                axis.plot(ends, found.intercept + found.slope.mean * ends, "k--", linewidth=1)
            _finish(axis, name, title)
    figure.tight_layout()
    return figure


def inexactness(found: Comparison) -> Figure:
    """The error of the estimated loss over training and its three parts, means over seeds."""
    figure, axis = plt.subplots(figsize=(6, 3.6))
    for name in ("total", "occupancy_shift", "estimation", "suboptimality"):
        rows = np.array([cell["training"][f"inexactness_{name}"] for cell in found.judged["meta_srl"]])
        _band(axis, np.arange(1, rows.shape[1] + 1), rows, label=name.replace("_", " "))
    _finish(axis, "training task", r"$\hat f_t(\phi_t) - f_t(\phi_t)$ and its parts")
    axis.legend(fontsize=7)
    return figure


def sensitivity(studies: Studies) -> Figure:
    """TAOG and violation of the last half against the error of the corrections."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6))
    for (base, kind), points in studies.sensitivity.items():
        x = np.array([100.0 * point.x for point in points])
        for axis, key in zip(axes, ("gap", "violation_during"), strict=True):
            rows = np.stack([last_half(point.judged["meta_srl"], key) for point in points], axis=1)
            _band(axis, x, rows, label=f"{kind}, {base} similarity", marker=".")
    _finish(axes[0], "error of the corrections, %", "TAOG of the last half")
    _finish(axes[1], "error of the corrections, %", "violation during adaptation, last half")
    axes[0].legend(fontsize=7)
    return figure


def stress(studies: Studies) -> Figure:
    """Held-out results of meta_srl and random against the number of changed tiles."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6))
    x = [point.x for point in studies.dissimilarity]
    for method in ("random", "meta_srl"):
        for axis, measure in zip(axes, (RELATIVE_GAP, RELATIVE_DURING), strict=True):
            rows = np.stack([seed_means(p.judged[method], measure) for p in studies.dissimilarity], axis=1)
            _band(axis, x, rows, label=method, color=COLOURS[method], marker=".")
    for axis, measure in zip(axes, (RELATIVE_GAP, RELATIVE_DURING), strict=True):
        _finish(axis, "tiles changed between tasks (of 62)", f"held-out {measure.title}")
    axes[0].legend(fontsize=7)
    return figure
