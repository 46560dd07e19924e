"""Draw figures with Plotly, for the page of a run."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from meta.reporting.plot_model import FEW_POINTS, MOST_MARKERS, Bar, Figure, Panel, Series, grid, shown
from meta.reporting.scales import Axis, value_axes, x_axis

_MODES = {"points": "markers", "line": "lines", "marked": "lines+markers", "steps": "lines"}
_MANY_UPDATES, _POINT = 15, 7
_HEIGHT, _LEGEND_BELOW = 380, -0.25
_TITLE_LETTERS, _TITLE_LINE = {1: 60, 2: 30}, 18
"""Letters of a line of a panel's title by the number of columns, and the height of a further line in pixels."""
_FEWEST_LETTERS = 16


def draw(figure: Figure) -> go.Figure:
    """Draw the panels that have something to show, with one legend below them."""
    figure = shown(figure)
    rows, columns = grid(figure)
    letters = _TITLE_LETTERS.get(columns, _FEWEST_LETTERS)
    titles = [textwrap.wrap(panel.title, letters) for panel in figure.panels]
    more_lines = max((len(lines) - 1 for lines in titles[:columns]), default=0)
    drawn = make_subplots(rows=rows, cols=columns, subplot_titles=["<br>".join(lines) for lines in titles])
    labelled: set[str] = set()
    for number, (panel, scale) in enumerate(zip(figure.panels, value_axes(figure), strict=True)):
        place = {"row": 1 + number // columns, "col": 1 + number % columns}
        for series in panel.series:
            drawn.add_traces(_scatter(series, scale, x_axis(panel), shown=series.label not in labelled), **_many(place))
            labelled.add(series.label)
        if panel.bars:
            same = number > 0 and [bar.label for bar in panel.bars] == [bar.label for bar in figure.panels[0].bars]
            drawn.add_trace(_bars(panel.bars), **place)
            drawn.update_yaxes(autorange="reversed", automargin=True, showticklabels=not same, **place)
            drawn.update_xaxes(**_range(scale), **place)
        else:
            drawn.update_yaxes(**_range(scale), **place)
        for level in panel.levels:
            drawn.add_hline(float(scale.places(level.value)), line_dash=level.dash, **place)
        drawn.update_xaxes(title_text=panel.x_label, **_along(panel), **place)
        drawn.update_yaxes(title_text=panel.y_label, **place)
    return drawn.update_layout(
        template="none",
        height=_HEIGHT * rows,
        margin={"l": 60, "r": 20, "t": 40 + _TITLE_LINE * more_lines, "b": 50},
        legend={"orientation": "h", "y": _LEGEND_BELOW},
        showlegend=len(labelled) > 1,
        paper_bgcolor="rgba(0,0,0,0)",
    )


def _many(place: Mapping[str, int]) -> dict[str, int]:
    return {"rows": place["row"], "cols": place["col"]}


def _range(scale: Axis) -> dict[str, Any]:
    """An axis in the scale's own units; its ticks have the numbers."""
    ends = scale.places([scale.low, scale.high]).tolist()
    return {"range": ends, **_ticks(scale)}


def _ticks(scale: Axis) -> dict[str, Any]:
    if not scale.ticks:
        return {}
    return {"tickvals": scale.places(scale.ticks).tolist(), "ticktext": scale.texts}


def _along(panel: Panel) -> dict[str, Any]:
    """The x axis of a panel of series."""
    scale = x_axis(panel)
    if scale is not None:
        return _range(scale)
    if panel.x_names:
        return {"tickvals": list(range(len(panel.x_names))), "ticktext": list(panel.x_names)}
    few = max((series.x.size for series in panel.series), default=0) <= _MANY_UPDATES
    return {"dtick": 1} if panel.whole_x and few else {}


def _scatter(series: Series, scale: Axis, along: Axis | None, *, shown: bool) -> list[go.Scatter]:
    """The line, after its band. Logarithmic axes are drawn in their own units; the numbers show at the pointer."""
    x = series.x if along is None else along.places(series.x)
    points = series.style == "points"
    line = go.Scatter(
        x=x,
        y=scale.places(series.y),
        name=series.label,
        legendgroup=series.label,
        showlegend=shown,
        mode=_MODES[series.style],
        line={"color": series.colour, "dash": series.dash, "shape": "hv" if series.style == "steps" else "linear"},
        marker={
            "color": series.colour,
            "symbol": series.marker if points else f"{series.marker}-open",
            "size": 8 if not points else _POINT if series.x.size <= FEW_POINTS else 4,
            **({} if points else {"maxdisplayed": MOST_MARKERS}),
        },
        opacity=0.6 if points else 1.0,
        **(_numbers(series) if along is not None or scale.scale != "linear" else {}),
    )
    return [*_band(series, scale, x), line]


def _numbers(series: Series) -> dict[str, Any]:
    """The numbers themselves, where the places of points on a logarithmic axis are others."""
    given = np.stack([series.x, series.y], axis=1)
    return {"customdata": given, "hovertemplate": "%{customdata[0]:.4g}, %{customdata[1]:.4g}"}


def _band(series: Series, scale: Axis, x: Any) -> list[go.Scatter]:
    if series.low is None or series.high is None:
        return []
    silent = {"mode": "lines", "line": {"width": 0}, "showlegend": False, "hoverinfo": "skip"}
    low, high = (scale.places(end) for end in (series.low, series.high))
    red, green, blue = (int(series.colour[at : at + 2], 16) for at in (1, 3, 5))
    filled = {"fill": "tonexty", "fillcolor": f"rgba({red},{green},{blue},0.13)"}
    group = {"legendgroup": series.label}
    return [go.Scatter(x=x, y=low, **silent, **group), go.Scatter(x=x, y=high, **silent, **group, **filled)]


def _bars(bars: tuple[Bar, ...]) -> go.Bar:
    up = [0.0 if bar.high is None else bar.high - bar.mean for bar in bars]
    down = [0.0 if bar.low is None else bar.mean - bar.low for bar in bars]
    return go.Bar(
        x=[bar.mean for bar in bars],
        y=[bar.label for bar in bars],
        orientation="h",
        error_x={"type": "data", "array": up, "arrayminus": down},
        marker={"color": [bar.colour for bar in bars]},
        showlegend=False,
    )
