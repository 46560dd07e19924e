"""The plots of a run as data (:mod:`meta.reporting.plot_model`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from meta.reporting.plot_model import Bar, Figure, Level, Panel, Series, shown
from meta.reporting.styles import INK, QUIET, method_style, numbered
from meta.reporting.summary import IntervalSummary, RunSummary
from meta.reporting.tables import HeldOutResult, has_gap, held_out_columns
from meta.training.records import Row, column, cost_columns
from tasks.contract.tabular_model import FloatArray

_DIAGNOSTICS = ("mean_correction", "effective_sample_size", "missing_mass", "flow_residual")
_BOUND = numbered(1)
_INEXACTNESS = ("total", "occupancy_shift", "estimation", "suboptimality")


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
    return [shown(figure) for figure in figures]


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
    panels = [_updates("reward", "expected discounted reward J₀", rewards)]
    for number, limit in enumerate(limits):
        chosen = {name: values[:, number] for name, values in costs.items()}
        y_label = f"expected discounted cost J{_low(number + 1)}"
        panels.append(_updates(_cost_name(number, len(limits)), y_label, chosen, Level(limit, limit_label)))
    return Figure("adaptation", title, tuple(panels))


def _updates(title: str, y_label: str, curves: Mapping[str, FloatArray], *levels: Level) -> Panel:
    series = tuple(
        Series(
            label=name,
            x=np.arange(values.size, dtype=np.float64),
            y=values,
            colour=method_style(name).colour,
            style="marked",
            marker=method_style(name).marker,
        )
        for name, values in curves.items()
    )
    return Panel(title, "policy updates on the new task", y_label, series, levels=levels, whole_x=True)


def held_out(test: Mapping[str, HeldOutResult]) -> Figure:
    """Gap (reward without an exact model) and violations of every method, with 95 % intervals."""
    titles = {"gap": "optimality gap", "reward": "reward J₀ of the output"}
    panels = tuple(
        Panel(titles.get(title, title), "", bars=_bars(entries), alike=title.split(maxsplit=1)[0])
        for title, entries in held_out_columns(test).items()
    )
    what = "gap" if has_gap(test) else "reward"
    return Figure("held_out", f"Held-out tasks: {what} and violations, means with 95 % confidence intervals", panels)


def _bars(entries: Mapping[str, IntervalSummary]) -> tuple[Bar, ...]:
    return tuple(
        Bar(name, entry.mean, *entry.ci95, method_style(name).colour)
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
        Series("gap of a task", index, gaps, QUIET, "points"),
        Series("TAOG", index, running_mean(gaps), numbered(0).colour),
    ]
    if np.isfinite(bound).any():
        series.append(Series("computed bound (mean over N₀)", index, bound, _BOUND.colour, "points", marker="x"))
    return Panel("gap", "training task", "optimality gap", tuple(series), scale="fitting")


def _rewards(rows: list[Row]) -> Panel:
    index, reward = column(rows, "task_index"), column(rows, "reward")
    series = [
        Series("reward of the output", index, reward, QUIET, "points"),
        Series("mean reward so far", index, running_mean(reward), numbered(0).colour),
    ]
    if "reward_start" in rows[0]:
        start = column(rows, "reward_start")
        series.append(Series("reward of the start", index, start, _BOUND.colour, "points", marker="x"))
    return Panel("reward", "training task", "expected discounted reward J₀", tuple(series))


def _violations(rows: list[Row], name: str, title: str) -> Panel:
    index, values = column(rows, "task_index"), cost_columns(rows, name)
    series: list[Series] = []
    for number in range(values.shape[1]):
        cost, colour = _cost_name(number, values.shape[1]), numbered(number + 1).colour
        marker = numbered(number + 1).marker
        series += [
            Series(f"{cost}: one task", index, values[:, number], colour, "points", marker=marker),
            Series(f"{cost}: mean so far", index, running_mean(values[:, number]), colour),
        ]
    label = "constraint violation"
    return Panel(title, "training task", label, tuple(series), scale="fitting", alike=label)


def learning_rates(rows: list[Row]) -> Figure:
    """The learned rate of each objective over the training tasks."""
    index = column(rows, "task_index")
    count = sum(name.startswith("learning_rate_") for name in rows[0])
    series = tuple(
        Series(
            "reward" if number == 0 else f"cost {number}",
            index,
            column(rows, f"learning_rate_{number}"),
            numbered(number).colour,
            "steps",
            dash="solid" if number == 0 else "dash",
        )
        for number in range(count)
    )
    panel = Panel("learned rates", "training task", "learning rate α", series, scale="fitting")
    return Figure("learning_rates", "Learning rates over the training tasks", (panel,))


def estimation(rows: list[Row]) -> Figure:
    """Diagnostics of the estimated corrections and, with an exact model, the parts of the loss's error."""
    index = column(rows, "task_index")
    weight = Series("weight", index, column(rows, "weight"), INK, "line", dash="dot")
    diagnostics = _labelled(rows, "dice_", _DIAGNOSTICS)
    panels = [Panel("diagnostics", "training task", "", (*diagnostics, weight), scale="fitting")]
    parts = _labelled(rows, "inexactness_", _INEXACTNESS)
    if any(np.isfinite(part.y).any() for part in parts):
        panels.append(Panel("inexactness and its parts", "training task", "estimated minus exact loss", parts))
    return Figure("estimation", "Estimated corrections", tuple(panels))


def _labelled(rows: list[Row], prefix: str, names: Sequence[str]) -> tuple[Series, ...]:
    index = column(rows, "task_index")
    return tuple(
        Series(
            name.replace("_", " "),
            index,
            column(rows, f"{prefix}{name}"),
            numbered(place).colour,
            "marked",
            marker=numbered(place).marker,
        )
        for place, name in enumerate(names)
        if f"{prefix}{name}" in rows[0]
    )


def running_mean(values: FloatArray) -> FloatArray:
    """Mean of the first 1, 2, ..., T values, [T]."""
    return np.cumsum(values) / np.arange(1, values.size + 1)


def _cost_name(number: int, count: int) -> str:
    return f"cost {number + 1}" if count > 1 else "cost"


def _low(number: int) -> str:
    """A number in subscript digits."""
    return "".join(chr(ord("₀") + int(digit)) for digit in str(number))
