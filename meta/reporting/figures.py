"""Plots as data: what each panel shows, independent of the library that draws it.

:mod:`meta.reporting.render_matplotlib` draws the files, :mod:`meta.reporting.render_plotly` the page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np

from meta.reporting.colours import method_colour, method_marker, objective_colour
from meta.reporting.summary import IntervalSummary, RunSummary
from meta.reporting.tables import HeldOutResult, has_gap, held_out_columns
from meta.training.records import Row, column, cost_columns
from tasks.contract.tabular_model import FloatArray

_TASK, _BOUND = "#999999", "#4c78a8"
_LINEAR_BELOW = 1e-2
_MOST_MARKERS = 60
"""Points of a line up to which each has a marker."""
_DIAGNOSTICS = {
    "mean_correction": "circle",
    "effective_sample_size": "square",
    "missing_mass": "diamond",
    "flow_residual": "triangle-up",
}
_INEXACTNESS = {
    "total": "circle",
    "occupancy_shift": "square",
    "estimation": "diamond",
    "suboptimality": "triangle-up",
}


@dataclass(frozen=True, slots=True)
class Series:
    """Points (x, y), both [N], of one colour. Equal labels share a legend entry; NaN leaves a gap.

    ``style``: isolated points, a line, a line with markers, or steps that keep their value until the next point.
    """

    label: str
    x: FloatArray
    y: FloatArray
    colour: str
    style: Literal["points", "line", "marked", "steps"] = "line"
    dash: Literal["solid", "dash", "dot"] = "solid"
    marker: str = "circle"


@dataclass(frozen=True, slots=True)
class Bar:
    """A horizontal bar from 0 to ``mean`` with an interval [``low``, ``high``], None where it is unknown."""

    label: str
    mean: float
    low: float | None
    high: float | None
    colour: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One pair of axes: either series or bars.

    ``limit`` draws a horizontal dashed line. ``scale``: linear, logarithmic, or logarithmic above ``linear_below``.
    """

    title: str
    x_label: str
    y_label: str = ""
    series: tuple[Series, ...] = ()
    bars: tuple[Bar, ...] = ()
    limit: float | None = None
    limit_label: str = "mean limit"
    scale: Literal["linear", "log", "symlog"] = "linear"
    linear_below: float = _LINEAR_BELOW
    whole_x: bool = False


@dataclass(frozen=True, slots=True)
class Figure:
    """Panels side by side; ``name`` is the file's stem and the element's id on the page."""

    name: str
    title: str
    panels: tuple[Panel, ...]


class Adapted(Protocol):
    """The curves of a method over the policy updates on a task."""

    @property
    def reward_curve(self) -> Sequence[float]:
        """J_0 after 0..M updates."""

    @property
    def cost_curve(self) -> Sequence[Sequence[float]]:
        """J_1..J_p after 0..M updates, [M+1, p]."""


def run_figures(summary: RunSummary, rows: list[Row]) -> list[Figure]:
    """All figures of a run that have something to show."""
    figures = []
    if summary.test:
        figures += [adaptation(summary.test, summary.limits_mean), held_out(summary.test)]
    figures += [training(rows), learning_rates(rows)]
    if not np.isnan(column(rows, "dice_effective_sample_size")).all():
        figures.append(estimation(rows))
    return figures


def adaptation(
    curves: Mapping[str, Adapted],
    limits: Sequence[float],
    title: str = "Held-out tasks: means after each policy update; dashed: the mean limit",
    limit_label: str = "mean limit",
) -> Figure:
    """Reward and every cost after 0..M updates, one line a method.

    Args:
        curves: Curves by method.
        limits: Limit of each cost, [p]; drawn dashed.
        title: Title of the figure.
        limit_label: Name of the limits in the legend.
    """
    rewards = {name: np.array(entry.reward_curve, np.float64) for name, entry in curves.items()}
    costs = {name: np.array(entry.cost_curve, np.float64) for name, entry in curves.items()}
    panels = [_updates("reward", "expected discounted reward J₀", rewards, None)]
    for number, limit in enumerate(limits):
        chosen = {name: values[:, number] for name, values in costs.items()}
        panel = _updates(
            _cost_name(number, len(limits)), f"expected discounted cost J{_low(number + 1)}", chosen, limit
        )
        panels.append(replace(panel, limit_label=limit_label))
    return Figure("adaptation", title, tuple(panels))


def _updates(title: str, y_label: str, curves: Mapping[str, FloatArray], limit: float | None) -> Panel:
    series = tuple(
        Series(
            label=name,
            x=np.arange(values.size, dtype=np.float64),
            y=values,
            colour=method_colour(name),
            style="marked",
            marker=method_marker(name),
        )
        for name, values in curves.items()
    )
    return Panel(title, "policy updates on the new task", y_label, series, limit=limit, whole_x=True)


def held_out(test: Mapping[str, HeldOutResult]) -> Figure:
    """Gap (reward without an exact model) and violations of every method, with 95 % intervals."""
    titles = {"gap": "optimality gap", "reward": "reward J₀ of the output"}
    panels = tuple(
        Panel(titles.get(title, title), "", bars=_bars(entries))
        for title, entries in held_out_columns(test).items()
        if any(entry.mean for entry in entries.values())  # the table says that all are 0 or unknown
    )
    what = "gap" if has_gap(test) else "reward"
    return Figure("held_out", f"Held-out tasks: {what} and violations, means with 95 % confidence intervals", panels)


def _bars(entries: Mapping[str, IntervalSummary]) -> tuple[Bar, ...]:
    return tuple(
        Bar(name, entry.mean, *entry.ci95, method_colour(name))
        for name, entry in entries.items()
        if entry.mean is not None
    )


def training(rows: list[Row]) -> Figure:
    """Gap (or reward) and violations of every training task, with their running means."""
    exact = not np.isnan(column(rows, "gap")).all()
    return Figure(
        "training",
        "Training tasks: each task, and the mean so far",
        (
            _gaps(rows) if exact else _rewards(rows),
            _violations(rows, "violation", "violation of the output"),
            _violations(rows, "violation_during", "violation during adaptation"),
        ),
    )


def _gaps(rows: list[Row]) -> Panel:
    index, gaps, bound = (column(rows, name) for name in ("task_index", "gap", "gap_bound"))
    series = [
        Series("gap of a task", index, gaps, _TASK, "points"),
        Series("TAOG", index, running_mean(gaps), objective_colour(0)),
    ]
    if np.isfinite(bound).any():
        series.append(Series("computed bound (mean over N₀)", index, bound, _BOUND, "points", marker="x"))
    return Panel("gap", "training task", "optimality gap", tuple(series), scale="symlog")


def _rewards(rows: list[Row]) -> Panel:
    index, reward = column(rows, "task_index"), column(rows, "reward")
    series = [
        Series("reward of the output", index, reward, _TASK, "points"),
        Series("mean reward so far", index, running_mean(reward), objective_colour(0)),
    ]
    if "reward_start" in rows[0]:
        start = column(rows, "reward_start")
        series.append(Series("reward of the start", index, start, _BOUND, "points", marker="x"))
    return Panel("reward", "training task", "expected discounted reward J₀", tuple(series))


def _violations(rows: list[Row], name: str, title: str) -> Panel:
    index, values = column(rows, "task_index"), cost_columns(rows, name)
    series: list[Series] = []
    for number in range(values.shape[1]):
        cost, colour = _cost_name(number, values.shape[1]), objective_colour(number + 1)
        series += [
            Series(f"{cost}: one task", index, values[:, number], colour, "points"),
            Series(f"{cost}: mean so far", index, running_mean(values[:, number]), colour),
        ]
    return Panel(title, "training task", "constraint violation", tuple(series))


def learning_rates(rows: list[Row]) -> Figure:
    """The learned rate of each objective over the training tasks."""
    index = column(rows, "task_index")
    count = sum(name.startswith("learning_rate_") for name in rows[0])
    series = tuple(
        Series(
            "reward" if number == 0 else f"cost {number}",
            index,
            column(rows, f"learning_rate_{number}"),
            objective_colour(number),
            "steps",
            dash="solid" if number == 0 else "dash",
        )
        for number in range(count)
    )
    panel = Panel("learned rates", "training task", "learning rate α", series, scale="log")
    return Figure("learning_rates", "Learning rates over the training tasks", (panel,))


def estimation(rows: list[Row]) -> Figure:
    """Diagnostics of the estimated corrections and, with an exact model, the parts of the loss's error."""
    index = column(rows, "task_index")
    weight = Series("weight", index, column(rows, "weight"), "#000000", "line", dash="dot")
    diagnostics = _labelled(rows, "dice_", _DIAGNOSTICS)
    panels = [Panel("diagnostics", "training task", "", (*diagnostics, weight))]
    parts = _labelled(rows, "inexactness_", _INEXACTNESS)
    if any(np.isfinite(part.y).any() for part in parts):
        panels.append(Panel("inexactness and its parts", "training task", "estimated minus exact loss", parts))
    return Figure("estimation", "Estimated corrections", tuple(panels))


def _labelled(rows: list[Row], prefix: str, names: Mapping[str, str]) -> tuple[Series, ...]:
    index = column(rows, "task_index")
    return tuple(
        Series(
            name.replace("_", " "),
            index,
            column(rows, f"{prefix}{name}"),
            objective_colour(position),
            "marked" if len(rows) <= _MOST_MARKERS else "line",
            marker=marker,
        )
        for position, (name, marker) in enumerate(names.items())
        if f"{prefix}{name}" in rows[0]
    )


def running_mean(values: FloatArray) -> FloatArray:
    """Mean of the first 1, 2, ..., T values, [T]."""
    return np.cumsum(values) / np.arange(1, values.size + 1)


def legend_labels(figure: Figure) -> list[str]:
    """The labels of a figure's series, each once, in order of appearance."""
    return list(dict.fromkeys(series.label for panel in figure.panels for series in panel.series))


def _cost_name(number: int, count: int) -> str:
    return f"cost {number + 1}" if count > 1 else "cost"


def _low(number: int) -> str:
    """A number in subscript digits."""
    return "".join(chr(ord("₀") + int(digit)) for digit in str(number))
