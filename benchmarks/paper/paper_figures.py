"""The figures of docs/results/paper.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.paper.paper_studies import Point, Studies
from benchmarks.result_plots import LIMIT, ONE_RUN, band, dots
from distributed.jobs.comparison_cells import Comparison
from meta.judging.claims import RELATIVE_DURING, RELATIVE_GAP, profile, seed_means
from meta.measuring.statistics import linear_trend
from meta.reporting.plot_model import Figure, Panel, Series
from meta.reporting.styles import INK, method_style, numbered, styles_of
from tasks.contract.tabular_model import FloatArray

Array = np.ndarray[Any, Any]
_UPDATES = "policy updates on a held-out task"
_PARTS = ("total", "occupancy_shift", "estimation", "suboptimality")


def adaptation(found: Comparison, name: str = "adaptation") -> Figure:
    """Reward, and every cost over its limit, after each update for every method; bands over seeds."""
    rewards: list[Series] = []
    costs: list[list[Series]] = [[] for _ in found.described[0]["limits_mean"]]
    for method, cells in found.judged.items():
        values = np.array([cell["curves"]["values"] for cell in cells])[:, :, 0]
        relative = np.array([cell["curves"]["relative_costs"] for cell in cells])
        x = np.arange(values.shape[1])
        rewards.append(band(method, x, values, method_style(method)))
        for number, series in enumerate(costs):
            series.append(band(method, x, relative[:, :, number], method_style(method)))
    panels = [Panel("", _UPDATES, "reward J₀", tuple(rewards), whole_x=True)]
    for number, series in enumerate(costs, start=1):
        y_label = f"cost J{chr(0x2080 + number)} / limit"
        panels.append(Panel("", _UPDATES, y_label, tuple(series), levels=(LIMIT,), whole_x=True, alike="cost"))
    return Figure(name, "", tuple(panels))


def profiles(found: Comparison, name: str = "profiles") -> Figure:
    """Performance profiles of the relative gap and of the violation during adaptation."""
    panels = []
    for measure in (RELATIVE_GAP, RELATIVE_DURING):
        everything = np.concatenate(
            [np.array([c["test"][measure.key] for c in cells]).ravel() for cells in found.judged.values()]
        )
        thresholds = np.linspace(everything.min(), everything.max(), 60)
        series = []
        for method in found.judged:
            shown, style = profile(found.judged, method, measure, thresholds), method_style(method)
            share, low, high = (np.asarray(part, np.float64) for part in (shown.share, shown.low, shown.high))
            line = Series(method, thresholds, share, style.colour, "marked", "solid", style.marker, low, high)
            series.append(line)
        panels.append(Panel("", measure.title, "share of (seed, task) above", tuple(series), alike="share"))
    return Figure(name, "", tuple(panels))


def running_mean(rows: Array) -> FloatArray:
    """The mean of the first t columns of each row, for every t."""
    return np.asarray(np.cumsum(rows, axis=1) / np.arange(1, rows.shape[1] + 1))


def training(found: Comparison, name: str = "training") -> Figure:
    """TAOG and TACV over T for every method that learns while it solves tasks, with the computed bound."""
    series: dict[str, list[Series]] = {"gap": [], "violation_during": []}
    for method, cells in found.judged.items():
        for key, lines in series.items():
            if cells[0]["training"] and cells[0]["training"][key] is not None:
                rows = np.array([cell["training"][key] for cell in cells])
                x = np.arange(1, rows.shape[1] + 1)
                lines.append(band(method, x, running_mean(rows), method_style(method)))
    bounds = np.array([cell["training"]["gap_bound"] for cell in found.judged["meta_srl"]], np.float64)
    with np.errstate(invalid="ignore"):
        known = np.nancumsum(bounds, axis=1) / np.maximum(np.cumsum(np.isfinite(bounds), axis=1), 1)
    x = np.arange(1.0, known.shape[1] + 1.0)
    series["gap"].append(Series("computed bound, meta_srl", x, known.mean(axis=0), INK, dash="dash"))
    gap, during = (tuple(lines) for lines in series.values())
    panels = (
        Panel("", "training tasks T", "TAOG (mean gap of the first T tasks)", gap, scale="fitting", whole_x=True),
        Panel("", "training tasks T", "mean violation during adaptation", during, scale="fitting", whole_x=True),
    )
    return Figure(name, "", panels)


def tightness(found: Sequence[Comparison]) -> Figure:
    """The mean gap over N_0 against its computed bound, for every exact task of meta_srl."""
    series = []
    for place, comparison in enumerate(found):
        cells = comparison.judged["meta_srl"]
        bound = np.concatenate([cell["bounds"]["gap_bound"] for cell in cells])
        gap = np.concatenate([cell["bounds"]["mean_gap"] for cell in cells])
        series.append(dots(comparison.config.name.removeprefix("paper_"), bound, gap, numbered(place)))
    bounds = np.concatenate([one.x for one in series])
    line = np.geomspace(max(bounds.min(), 1e-3), bounds.max(), 50)
    series.append(Series("bound reached", line, line, INK, dash="dash"))
    x, y = "computed bound", "mean gap over N₀"
    panel = Panel("every exact task of meta_srl", x, y, tuple(series), scale="fitting", x_scale="fitting")
    return Figure("tightness", "", (panel,))


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
    rows = ((studies.dissimilarity, "task_similarity", "D*²"), (studies.drifting, "task_relatedness", "V_ψ²"))
    columns = (("gap", "TAOG of the last half"), ("violation_during", "violation during adaptation, last half"))
    panels = []
    for points, similarity, name in rows:
        for key, title in columns:
            x, y = pairs(points, similarity, key)
            series = [dots("a run", x, y, ONE_RUN)]
            if np.ptp(x) > 0.0 and x.size > 2:
                found, ends = linear_trend(x, y), np.array([x.min(), x.max()])
                series.append(Series("fitted line", ends, found.intercept + found.slope.mean * ends, INK, dash="dash"))
            panels.append(Panel("", name, title, tuple(series), alike=key))
    return Figure("trends", "", tuple(panels), columns=2)


def inexactness(found: Comparison, name: str = "inexactness") -> Figure:
    """The error of the estimated loss over training and its three parts, means over seeds."""
    series = []
    for part, style in styles_of(_PARTS).items():
        rows = np.array([cell["training"][f"inexactness_{part}"] for cell in found.judged["meta_srl"]])
        series.append(band(part.replace("_", " "), np.arange(1, rows.shape[1] + 1), rows, style))
    panel = Panel(
        "error of the loss and its parts", "training task", "estimated minus exact loss", tuple(series), whole_x=True
    )
    return Figure(name, "", (panel,))


def sensitivity(studies: Studies) -> Figure:
    """TAOG and violation of the last half against the error of the corrections."""
    series: dict[str, list[Series]] = {"gap": [], "violation_during": []}
    for place, ((base, kind), points) in enumerate(studies.sensitivity.items()):
        x = np.array([100.0 * point.x for point in points])
        for key, lines in series.items():
            rows = np.stack([last_half(point.judged["meta_srl"], key) for point in points], axis=1)
            lines.append(band(f"{kind}, {base} similarity", x, rows, numbered(place)))
    gap, during = (tuple(lines) for lines in series.values())
    along = "error of the corrections, %"
    panels = (
        Panel("", along, "TAOG of the last half", gap),
        Panel("", along, "violation during adaptation, last half", during),
    )
    return Figure("sensitivity", "", panels)


def stress(studies: Studies) -> Figure:
    """Held-out results of meta_srl and random against the number of changed tiles."""
    x = [point.x for point in studies.dissimilarity]
    panels = []
    for measure in (RELATIVE_GAP, RELATIVE_DURING):
        series = []
        for method in ("random", "meta_srl"):
            rows = np.stack([seed_means(p.judged[method], measure) for p in studies.dissimilarity], axis=1)
            series.append(band(method, x, rows, method_style(method)))
        panels.append(Panel("", "tiles changed between tasks (of 62)", f"held-out {measure.title}", tuple(series)))
    return Figure("stress", "", tuple(panels))
