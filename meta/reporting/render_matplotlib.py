"""Draw figures with Matplotlib, for files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator

from meta.reporting.figures import Figure, Panel, Series

_DASHES = {"solid": "-", "dash": "--", "dot": ":"}
_MARKERS = {
    "circle": "o",
    "square": "s",
    "diamond": "D",
    "triangle-up": "^",
    "triangle-down": "v",
    "cross": "P",
    "x": "x",
    "star": "*",
    "pentagon": "p",
}
_WIDTH, _HEIGHT, _BAR_HEIGHT = 4.8, 3.8, 0.45
_LEGEND_COLUMNS = 2


def save_figures(folder: Path, figures: Sequence[Figure]) -> list[Path]:
    """Write ``<name>.png`` for every figure; return the paths."""
    return [save_figure(folder / f"{figure.name}.png", figure) for figure in figures]


def save_figure(path: Path, figure: Figure) -> Path:
    """Write one figure; return ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas = draw(figure)
    canvas.savefig(path, dpi=120, bbox_inches="tight")
    plt.close(canvas)
    return path


def draw(figure: Figure) -> Canvas:
    """Draw the panels side by side, with one legend below them. The caller closes the result."""
    bars = max((len(panel.bars) for panel in figure.panels), default=0)
    height = 1.6 + _BAR_HEIGHT * bars if bars else _HEIGHT
    canvas, grid = plt.subplots(
        1, len(figure.panels), figsize=(_WIDTH * len(figure.panels), height), squeeze=False, layout="constrained"
    )
    legend: dict[str, Artist] = {}
    for axis, panel in zip(grid[0], figure.panels, strict=True):
        _draw_panel(axis, panel, legend, first=axis is grid[0, 0])
    canvas.suptitle(figure.title, fontsize="medium")
    if len(legend) > 1:
        columns = _LEGEND_COLUMNS * len(figure.panels)
        canvas.legend(list(legend.values()), list(legend), loc="outside lower center", ncols=columns, fontsize=8)
    return canvas


def _draw_panel(axis: Axes, panel: Panel, legend: dict[str, Artist], *, first: bool) -> None:
    for series in panel.series:
        legend.setdefault(series.label, _draw_series(axis, series))
    if panel.bars:
        _draw_bars(axis, panel, labels=first)
    if panel.limit is not None:
        legend[panel.limit_label] = axis.axhline(panel.limit, color="black", linestyle="--", linewidth=1)
    if panel.scale == "symlog":
        axis.set_yscale("symlog", linthresh=panel.linear_below)
    elif panel.scale == "log":
        axis.set_yscale("log")
    if panel.whole_x:
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    linear = f" (linear below {panel.linear_below:g})" if panel.scale == "symlog" else ""
    axis.set(xlabel=panel.x_label, ylabel=f"{panel.y_label}{linear}", title=panel.title)
    axis.grid(alpha=0.3)


def _draw_series(axis: Axes, series: Series) -> Artist:
    marker = _MARKERS[series.marker] if series.style in ("points", "marked") else ""
    (line,) = axis.plot(
        series.x,
        series.y,
        color=series.colour,
        linestyle="" if series.style == "points" else _DASHES[series.dash],
        marker=marker,
        markersize=3.0 if series.style == "points" else 4.0,
        alpha=0.6 if series.style == "points" else 1.0,
        drawstyle="steps-post" if series.style == "steps" else "default",
    )
    return line


def _draw_bars(axis: Axes, panel: Panel, *, labels: bool) -> None:
    for position, bar in enumerate(panel.bars):
        axis.barh(position, bar.mean, color=bar.colour, alpha=0.85)
        if bar.low is not None and bar.high is not None:
            axis.plot([bar.low, bar.high], [position, position], color="black", linewidth=1.5)
    axis.set_yticks(range(len(panel.bars)), [bar.label for bar in panel.bars] if labels else [""] * len(panel.bars))
    axis.invert_yaxis()
