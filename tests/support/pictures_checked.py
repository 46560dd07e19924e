"""What every drawn figure must hold: nothing covers data, no texts overlap, no axes are empty."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

_TOUCHING = 1.0
"""Pixels by which the boxes of two texts may overlap: boxes have a margin around their letters."""


def texts_of(canvas: Figure) -> list[tuple[str, Bbox]]:
    """All visible texts with their boxes in pixels, after drawing."""
    renderer: Any = canvas.canvas.get_renderer()  # type: ignore[attr-defined]
    found, beyond = [], _beyond_the_axes(canvas)
    for text in canvas.findobj(Text):
        assert isinstance(text, Text)
        if text.get_visible() and text.get_text().strip() and text not in beyond:
            found.append((text.get_text(), text.get_window_extent(renderer)))
    return found


def _beyond_the_axes(canvas: Figure) -> set[Text]:
    """Texts of ticks that Matplotlib keeps beyond the ends of an axis and does not draw."""
    beyond: set[Text] = set()
    for axis in canvas.axes:
        for part in (axis.xaxis, axis.yaxis):
            low, high = sorted(part.get_view_interval())
            for tick in (*part.get_major_ticks(), *part.get_minor_ticks()):
                if not low <= tick.get_loc() <= high:
                    beyond |= {tick.label1, tick.label2}
    return beyond


def data_points(axis: Axes) -> np.ndarray[Any, Any]:
    """The finite points of all lines of an axis in pixels, [N, 2]; lines across the axis (limits) are none."""
    lines = [line for line in axis.get_lines() if line.get_transform() == axis.transData]
    found = [axis.transData.transform(np.column_stack([line.get_xdata(), line.get_ydata()])) for line in lines]
    points = np.concatenate([np.zeros((0, 2)), *found])
    return points[np.isfinite(points).all(axis=1)]


def check_canvas(canvas: Figure) -> None:
    """Fail if something covers data or text, if axes show nothing, or if a text is cut."""
    canvas.canvas.draw()
    assert all(axis.get_legend() is None for axis in canvas.axes), "legends stand below the axes"
    for axis in canvas.axes:
        points = data_points(axis)
        assert len(points) or axis.patches or axis.collections, axis.get_title()
        values = [line.get_ydata() for line in axis.get_lines()]
        widths = [bar.get_width() for bar in axis.patches]  # type: ignore[attr-defined]
        assert any(np.nan_to_num(np.asarray(value, float)).any() for value in (*values, widths)), axis.get_title()
        for legend in canvas.legends:
            box = legend.get_window_extent()
            assert not box.overlaps(axis.get_window_extent()), "the legend lies on axes"
            assert not box.count_contains(points), "the legend covers data"
    texts = texts_of(canvas)
    for (one, a), (other, b) in itertools.combinations(texts, 2):
        wide = min(a.x1, b.x1) - max(a.x0, b.x0)
        high = min(a.y1, b.y1) - max(a.y0, b.y0)
        assert wide <= _TOUCHING or high <= _TOUCHING, f"{one!r} lies on {other!r}"
    for text, box in texts:
        assert -_TOUCHING <= box.x0 < box.x1 <= canvas.bbox.x1 + _TOUCHING, f"{text!r} is cut"
