"""A plot as data, independent of the library that draws it.

:mod:`meta.reporting.render_matplotlib` draws the files, :mod:`meta.reporting.render_plotly` the page.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from meta.methods.workbench import Marker
from meta.reporting.styles import INK
from tasks.contract.tabular_model import FloatArray

Dash = Literal["solid", "dash", "dot"]
MOST_MARKERS, FEW_POINTS = 15, 60
"""Markers of a line, and isolated points up to which they are large."""


@dataclass(frozen=True, slots=True)
class Series:
    """Points (x, y), both [N], of one colour. Equal labels share a legend entry; NaN leaves a gap.

    ``style``: isolated points, a line, a line with some markers, or steps that keep their value until the next point.
    ``low`` and ``high`` [N] are the ends of a band around the line.
    """

    label: str
    x: FloatArray
    y: FloatArray
    colour: str
    style: Literal["points", "line", "marked", "steps"] = "line"
    dash: Dash = "solid"
    marker: Marker = "circle"
    low: FloatArray | None = None
    high: FloatArray | None = None

    def numbers(self) -> FloatArray:
        """All numbers along the y axis, with those of the band."""
        parts = [np.asarray(part, np.float64).ravel() for part in (self.y, self.low, self.high) if part is not None]
        return np.concatenate(parts)


@dataclass(frozen=True, slots=True)
class Bar:
    """A horizontal bar from 0 to ``mean`` with an interval [``low``, ``high``], None where it is unknown."""

    label: str
    mean: float
    low: float | None
    high: float | None
    colour: str


@dataclass(frozen=True, slots=True)
class Level:
    """A horizontal line across a panel: a limit, or what else is reached."""

    value: float
    label: str
    dash: Dash = "dash"
    colour: str = INK


@dataclass(frozen=True, slots=True)
class Panel:
    """One pair of axes: either series or bars.

    ``scale``: of the y axis: linear, logarithmic, or ``fitting``, which :mod:`meta.reporting.scales` chooses by the
    data. ``x_scale``: likewise. ``x_names``: names of x = 0, 1, ... instead of numbers. Panels of a figure with equal
    ``alike`` show the same quantity, on one scale.
    """

    title: str
    x_label: str
    y_label: str = ""
    series: tuple[Series, ...] = ()
    bars: tuple[Bar, ...] = ()
    levels: tuple[Level, ...] = ()
    scale: Literal["linear", "log", "fitting"] = "linear"
    x_scale: Literal["linear", "fitting"] = "linear"
    x_names: tuple[str, ...] = ()
    whole_x: bool = False
    alike: str = ""

    def numbers(self) -> FloatArray:
        """The finite numbers that its series or bars show."""
        ends = [end for bar in self.bars for end in (bar.mean, bar.low, bar.high) if end is not None]
        found = np.concatenate([*(series.numbers() for series in self.series), np.array(ends, np.float64)])
        return found[np.isfinite(found)]


@dataclass(frozen=True, slots=True)
class Figure:
    """Panels side by side, at most ``columns`` in a row; ``name`` is the file's stem and the element's id on the page.

    ``notes`` say what is left out.
    """

    name: str
    title: str
    panels: tuple[Panel, ...]
    columns: int | None = None
    notes: tuple[str, ...] = ()


def grid(figure: Figure) -> tuple[int, int]:
    """Rows and columns of the panels; one place where there are none."""
    columns = max(1, min(len(figure.panels), figure.columns or len(figure.panels)))
    return max(1, math.ceil(len(figure.panels) / columns)), columns


def shown(figure: Figure) -> Figure:
    """The figure without panels and series that are 0 everywhere or unknown, with a note for each."""
    panels: list[Panel] = []
    notes = list(figure.notes)
    for panel in figure.panels:
        known = tuple(series for series in panel.series if np.isfinite(series.y).any())
        numbers = panel.numbers()
        if numbers.any():
            panels.append(replace(panel, series=known))
            notes += [f"{name}: no values" for name in _labels(panel.series) if name not in _labels(known)]
        else:
            notes.append(f"{panel.title or panel.y_label}: {'0 everywhere' if numbers.size else 'no values'}")
    return replace(figure, panels=tuple(panels), notes=tuple(dict.fromkeys(notes)))


def _labels(series: Sequence[Series]) -> list[str]:
    return list(dict.fromkeys(one.label for one in series))


def legend_labels(figure: Figure) -> list[str]:
    """The labels of a figure's series, each once, in order of appearance."""
    return _labels([series for panel in figure.panels for series in panel.series])
