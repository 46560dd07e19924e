"""One description of every plot, and two libraries that draw the same numbers from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import pyplot as plt

from meta.reporting import render_matplotlib, render_plotly
from meta.reporting.colours import COLOURS, MARKERS
from meta.reporting.figures import Figure, legend_labels, run_figures
from tests.meta.reporting.test_page import rows, summary


def finite(values: Any) -> list[float]:
    return [float(value) for value in values if np.isfinite(value)]


@pytest.fixture(params=["exact", "no model"])
def figures(request: pytest.FixtureRequest) -> list[Figure]:
    if request.param == "exact":
        return run_figures(summary(), rows(8))
    return run_figures(summary(), rows(8, gap=float("nan"), reward_start=0.25))


def test_every_panel_has_something_to_show(figures: list[Figure]) -> None:
    for figure in figures:
        for panel in figure.panels:
            assert panel.bars or any(np.isfinite(series.y).any() for series in panel.series), (figure.name, panel.title)


def test_both_libraries_draw_the_same_numbers(figures: list[Figure]) -> None:
    for figure in figures:
        canvas, page = render_matplotlib.draw(figure), render_plotly.draw(figure)
        described = [(finite(s.x), finite(s.y)) for panel in figure.panels for s in panel.series]
        lines = [trace for trace in page.data if trace.type == "scatter"]
        assert [(finite(line.x), finite(line.y)) for line in lines] == described
        for axis, panel in zip(canvas.axes, figure.panels, strict=True):
            drawn = [(finite(line.get_xdata()), finite(line.get_ydata())) for line in axis.get_lines()]
            assert drawn[: len(panel.series)] == [(finite(s.x), finite(s.y)) for s in panel.series]
            assert [float(bar.get_width()) for bar in axis.patches] == [bar.mean for bar in panel.bars]
        assert [list(bar.x) for bar in page.data if bar.type == "bar"] == [
            [bar.mean for bar in panel.bars] for panel in figure.panels if panel.bars
        ]
        plt.close(canvas)


def test_a_legend_names_every_series_once_and_covers_no_data(figures: list[Figure]) -> None:
    for figure in figures:
        labels = legend_labels(figure)
        page = render_plotly.draw(figure)
        assert [trace.name for trace in page.data if trace.showlegend and trace.type == "scatter"] == labels
        canvas = render_matplotlib.draw(figure)
        assert all(axis.get_legend() is None for axis in canvas.axes)
        for legend in canvas.legends:
            texts = [text.get_text() for text in legend.get_texts()]
            assert [text for text in texts if text != "mean limit"] == labels
            assert len(set(texts)) == len(texts)
            canvas.draw_without_rendering()
            box = legend.get_window_extent()
            assert not any(box.overlaps(axis.get_window_extent()) for axis in canvas.axes)
        plt.close(canvas)


def test_every_cost_has_a_panel() -> None:
    adaptation = run_figures(summary(), rows(8))[0]
    assert [panel.title for panel in adaptation.panels] == ["reward", "cost 1", "cost 2"]
    assert [panel.limit for panel in adaptation.panels] == [None, 0.45, 0.3]


def test_methods_differ_in_colour_and_in_marker() -> None:
    assert len(set(COLOURS.values())) == len(COLOURS)
    assert len(set(MARKERS)) == len(MARKERS) >= len(COLOURS)


def test_files_are_named_after_their_figures(tmp_path: Path, figures: list[Figure]) -> None:
    paths = render_matplotlib.save_figures(tmp_path / "plots", figures)
    assert [path.stem for path in paths] == [figure.name for figure in figures]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
