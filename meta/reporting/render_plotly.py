"""Draw figures with Plotly, for the page of a run."""

from __future__ import annotations

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from meta.reporting.figures import Bar, Figure, Panel, Series

_MODES = {"points": "markers", "line": "lines", "marked": "lines+markers", "steps": "lines"}
_MANY_UPDATES = 15
_HEIGHT, _LEGEND_BELOW = 380, -0.25


def draw(figure: Figure) -> go.Figure:
    """Draw the panels side by side, with one legend below them."""
    drawn = make_subplots(rows=1, cols=len(figure.panels), subplot_titles=[panel.title for panel in figure.panels])
    labelled: set[str] = set()
    for number, panel in enumerate(figure.panels, start=1):
        place = {"row": 1, "col": number}
        for series in panel.series:
            drawn.add_trace(_scatter(series, shown=series.label not in labelled), **place)
            labelled.add(series.label)
        if panel.bars:
            drawn.add_trace(_bars(panel.bars), **place)
            drawn.update_yaxes(autorange="reversed", automargin=True, showticklabels=number == 1, **place)
        if panel.limit is not None:
            drawn.add_hline(panel.limit, line_dash="dash", **place)
        drawn.update_xaxes(title_text=panel.x_label, dtick=1 if _counts(panel) else None, **place)
        drawn.update_yaxes(title_text=panel.y_label, type="log" if panel.scale == "log" else None, **place)
    return drawn.update_layout(
        template="none",
        height=_HEIGHT,
        margin={"l": 60, "r": 20, "t": 40, "b": 50},
        legend={"orientation": "h", "y": _LEGEND_BELOW},
        showlegend=len(labelled) > 1,
        paper_bgcolor="rgba(0,0,0,0)",
    )


def _counts(panel: Panel) -> bool:
    """Whether every integer on the x axis gets a tick."""
    return panel.whole_x and max((series.x.size for series in panel.series), default=0) <= _MANY_UPDATES


def _scatter(series: Series, *, shown: bool) -> go.Scatter:
    return go.Scatter(
        x=series.x,
        y=series.y,
        name=series.label,
        legendgroup=series.label,
        showlegend=shown,
        mode=_MODES[series.style],
        line={"color": series.colour, "dash": series.dash, "shape": "hv" if series.style == "steps" else "linear"},
        marker={"color": series.colour, "symbol": series.marker, "size": 4 if series.style == "points" else 6},
        opacity=0.6 if series.style == "points" else 1.0,
    )


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
