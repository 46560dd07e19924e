"""Draw figures with Matplotlib, for files.

Without pyplot, whose one global state would be shared with whatever an environment draws, and whose import looks for
IPython, which another thread may be importing just then.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as PlainCanvas
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from meta.methods.workbench import Marker
from meta.reporting.plot_model import FEW_POINTS, MOST_MARKERS, Figure, Panel, Series, grid, shown
from meta.reporting.scales import Axis, value_axes, x_axis

_DASHES = {"solid": "-", "dash": "--", "dot": ":"}
_MARKERS: dict[Marker, str] = {
    "circle": "o",
    "square": "s",
    "diamond": "D",
    "triangle-up": "^",
    "triangle-down": "v",
    "triangle-left": "<",
    "triangle-right": ">",
    "cross": "P",
    "x": "X",
    "star": "*",
    "pentagon": "p",
    "hexagram": "H",
}
_WIDTH, _HEIGHT, _BAR_HEIGHT, _DOTS = 4.8, 3.8, 0.45, 120
_LEGEND_COLUMNS = 2
_TITLE_LETTERS = 60
"""Letters of a title for each panel of a row, before it takes another line."""


class Canvas(PlainCanvas):
    """A figure in pixels, which notebooks show as the value of a cell whatever backend they have chosen."""

    def __init__(self, size: tuple[float, float]) -> None:
        super().__init__(figsize=size, layout="constrained")
        FigureCanvasAgg(self)

    def write(self, target: Path | io.BytesIO) -> None:
        """Write the picture as PNG."""
        self.savefig(target, format="png", dpi=_DOTS, bbox_inches="tight")

    def _repr_png_(self) -> bytes:
        content = io.BytesIO()
        self.write(content)
        return content.getvalue()


def save_figures(
    folder: Path, figures: Sequence[Figure], report: Callable[[str, float], None] = lambda name, share: None
) -> list[Path]:
    """Write ``<name>.png`` for every figure; return the paths.

    ``report`` is told, before each figure and at the end, what is drawn next and which share is done.
    """
    paths = []
    for number, figure in enumerate(figures):
        report(f"plot {figure.name.replace('_', ' ')}", number / len(figures))
        paths.append(save_figure(folder / f"{figure.name}.png", figure))
    report("done", 1.0)
    return paths


def save_figure(path: Path, figure: Figure) -> Path:
    """Write one figure; return ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draw(figure).write(path)
    return path


def draw(figure: Figure) -> Canvas:
    """Draw the panels that have something to show, with one legend below them."""
    figure = shown(figure)
    rows, columns = grid(figure)
    bars = max((len(panel.bars) for panel in figure.panels), default=0)
    height = 1.6 + _BAR_HEIGHT * bars if bars else _HEIGHT
    size = (_WIDTH * columns, height * rows if figure.panels else 1.0)
    canvas = Canvas(size)
    legend: dict[str, Artist] = {}
    drawn: list[Axes] = []
    for panel, scale in zip(figure.panels, value_axes(figure), strict=True):
        axis = canvas.add_subplot(rows, columns, len(drawn) + 1)
        same = bool(drawn) and panel.bars and _names(panel) == _names(figure.panels[0])
        _draw_panel(axis, panel, scale, legend, labels=not same)
        drawn.append(axis)
    lines = [figure.title, *(f"left out: {note}" for note in figure.notes)]
    wrapped = "\n".join(textwrap.fill(line, _TITLE_LETTERS * columns) for line in lines if line)
    canvas.suptitle(wrapped, fontsize="medium")
    if len(legend) > 1:
        ncols = min(len(legend), _LEGEND_COLUMNS * columns)
        canvas.legend(list(legend.values()), list(legend), loc="outside lower center", ncols=ncols, fontsize=8)
    return canvas


def _names(panel: Panel) -> list[str]:
    return [bar.label for bar in panel.bars]


def _draw_panel(axis: Axes, panel: Panel, scale: Axis, legend: dict[str, Artist], *, labels: bool) -> None:
    for series in panel.series:
        line = _draw_series(axis, series)
        legend.setdefault(series.label, line)
    for level in panel.levels:
        dash = _DASHES[level.dash]
        legend[level.label] = axis.axhline(level.value, color=level.colour, linestyle=dash, linewidth=1.0)
    if panel.bars:
        _draw_bars(axis, panel, scale, labels=labels)
    else:
        _scale_axis(axis, "y", scale)
    along = x_axis(panel)
    if along is not None:
        _scale_axis(axis, "x", along)
    elif panel.x_names:
        axis.set_xticks(range(len(panel.x_names)), list(panel.x_names), rotation=20)
        axis.set_xlim(-0.5, len(panel.x_names) - 0.5)
    elif panel.whole_x:
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    else:
        axis.xaxis.set_major_locator(MaxNLocator(6))
    linear = f"\n(linear below {scale.linear_below:g})" if scale.scale == "symlog" and panel.y_label else ""
    axis.set(xlabel=panel.x_label, ylabel=f"{panel.y_label}{linear}", title=panel.title)
    axis.grid(alpha=0.3)


def _scale_axis(axis: Axes, which: str, scale: Axis) -> None:
    part = axis.yaxis if which == "y" else axis.xaxis
    change, limit = (axis.set_yscale, axis.set_ylim) if which == "y" else (axis.set_xscale, axis.set_xlim)
    if scale.scale == "symlog":
        change("symlog", linthresh=scale.linear_below)
    else:
        change(scale.scale)
    limit(scale.low, scale.high)
    if scale.ticks:
        part.set_major_locator(FixedLocator(list(scale.ticks)))
        part.set_minor_locator(NullLocator())
        part.set_ticklabels(scale.texts)


def _draw_series(axis: Axes, series: Series) -> Line2D:
    points = series.style == "points"
    (line,) = axis.plot(
        series.x,
        series.y,
        color=series.colour,
        linestyle="" if points else _DASHES[series.dash],
        marker=_MARKERS[series.marker] if series.style in ("points", "marked") else "",
        markersize=_size(series),
        markerfacecolor=series.colour if points else "none",
        markevery=None if points else max(1, math.ceil(series.x.size / MOST_MARKERS)),
        alpha=0.6 if points else 1.0,
        drawstyle="steps-post" if series.style == "steps" else "default",
    )
    if series.low is not None and series.high is not None:
        axis.fill_between(series.x, series.low, series.high, color=series.colour, alpha=0.13, linewidth=0)
    return line


def _size(series: Series) -> float:
    if series.style != "points":
        return 6.0
    return 5.5 if series.x.size <= FEW_POINTS else 3.0


def _draw_bars(axis: Axes, panel: Panel, scale: Axis, *, labels: bool) -> None:
    for position, bar in enumerate(panel.bars):
        axis.barh(position, bar.mean, color=bar.colour, alpha=0.85)
        if bar.low is not None and bar.high is not None:
            axis.plot([bar.low, bar.high], [position, position], color="black", linewidth=1.5)
    axis.set_yticks(range(len(panel.bars)), _names(panel) if labels else [""] * len(panel.bars))
    axis.set_xlim(scale.low, scale.high)
    axis.invert_yaxis()
