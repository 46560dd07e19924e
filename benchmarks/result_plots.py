"""Plots of the benchmark pages, through the same drawing as those of runs: bands over seeds, and Markdown of a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from meta.measuring.intervals import interval
from meta.offline.dice_settings import ESTIMATORS
from meta.reporting.plot_model import Dash, Figure, Level, Panel, Series
from meta.reporting.render_matplotlib import save_figure
from meta.reporting.styles import QUIET, Style, styles_of

LIMIT = Level(1.0, "limit")
"""The limit of a cost that is shown as a share of it."""
_UPDATES = "policy updates on a held-out task"


def save(folder: Path, figure: Figure) -> str:
    """Write a figure to ``folder`` and return Markdown that shows it."""
    path = save_figure(folder / f"{figure.name}.png", figure)
    return f"![{figure.name.replace('_', ' ')}]({folder.name}/{path.name})"


def band(
    label: str,
    x: npt.ArrayLike,
    rows: npt.ArrayLike,
    style: Style,
    how: Literal["line", "marked"] = "marked",
    dash: Dash = "solid",
) -> Series:
    """The mean over the rows [n, K] at ``x`` [K], with its 95 % t-interval as a band if there are several."""
    found = [interval(column) for column in np.asarray(rows, np.float64).T]
    mean, low, high = (np.array([getattr(item, name) for item in found]) for name in ("mean", "low", "high"))
    ends = (low, high) if found[0].n > 1 else (None, None)
    return Series(label, np.asarray(x, np.float64), mean, style.colour, how, dash, style.marker, *ends)


def curve(label: str, y: npt.ArrayLike, style: Style, dash: Dash = "solid") -> Series:
    """A line over 0, 1, ..., K - 1."""
    values = np.asarray(y, np.float64)
    x = np.arange(values.size, dtype=np.float64)
    return Series(label, x, values, style.colour, "marked", dash, style.marker)


def dots(label: str, x: npt.ArrayLike, y: npt.ArrayLike, style: Style) -> Series:
    """Isolated points."""
    given = np.asarray(x, np.float64), np.asarray(y, np.float64)
    return Series(label, *given, style.colour, "points", marker=style.marker)


def reward_and_cost(
    name: str,
    title: str,
    rewards: Sequence[Series],
    costs: Sequence[Series],
    *,
    reward: str = "reward J₀",
    along: str = _UPDATES,
    levels: Sequence[Level] = (),
) -> Figure:
    """A reward (with ``levels`` that others reach) beside a cost over its limit."""
    left = Panel("", along, reward, tuple(rewards), levels=tuple(levels), whole_x=True)
    right = Panel("", along, "cost / limit", tuple(costs), levels=(LIMIT,), whole_x=True)
    return Figure(name, title, (left, right))


ONE_RUN = Style(QUIET, "circle")
"""A single run or task among many."""
ESTIMATOR_STYLES = styles_of((*ESTIMATORS, "dualdice_neural, as trained", "dualdice_linear, last layer"))
"""The style of every estimator of corrections, and of variants that only benchmarks know."""
