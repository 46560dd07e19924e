"""One description of every plot, and two libraries that draw the same numbers from it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from meta.reporting import render_matplotlib, render_plotly
from meta.reporting.figures import run_figures
from meta.reporting.plot_model import Figure, legend_labels
from meta.reporting.scales import value_axes
from tests.distributed.helpers import ROOT
from tests.meta.reporting.test_page import INTERVAL, rows, summary
from tests.support.pictures_checked import check_canvas


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
        given = [np.array([line.x, line.y]).T if line.customdata is None else line.customdata for line in lines]
        assert [(finite(numbers[:, 0]), finite(numbers[:, 1])) for numbers in given] == described
        for axis, panel in zip(canvas.axes, figure.panels, strict=True):
            drawn = [(finite(line.get_xdata()), finite(line.get_ydata())) for line in axis.get_lines()]
            assert drawn[: len(panel.series)] == [(finite(s.x), finite(s.y)) for s in panel.series]
            assert [float(bar.get_width()) for bar in axis.patches] == [bar.mean for bar in panel.bars]
        assert [list(bar.x) for bar in page.data if bar.type == "bar"] == [
            [bar.mean for bar in panel.bars] for panel in figure.panels if panel.bars
        ]


def test_both_libraries_show_the_same_part_of_every_axis(figures: list[Figure]) -> None:
    for figure in figures:
        canvas, page = render_matplotlib.draw(figure), render_plotly.draw(figure)
        for number, (axis, panel, scale) in enumerate(zip(canvas.axes, figure.panels, value_axes(figure), strict=True)):
            suffix = "" if number == 0 else str(number + 1)
            ends = axis.get_xlim() if panel.bars else axis.get_ylim()
            assert ends == pytest.approx((scale.low, scale.high))
            shown = page.layout["xaxis" + suffix if panel.bars else "yaxis" + suffix]
            assert tuple(shown.range) == pytest.approx(tuple(scale.places([scale.low, scale.high])))


def test_a_legend_names_every_series_once(figures: list[Figure]) -> None:
    for figure in figures:
        labels = legend_labels(figure)
        page = render_plotly.draw(figure)
        assert [trace.name for trace in page.data if trace.showlegend and trace.type == "scatter"] == labels
        canvas = render_matplotlib.draw(figure)
        for legend in canvas.legends:
            texts = [text.get_text() for text in legend.get_texts()]
            assert [text for text in texts if text != "mean limit"] == labels
            assert len(set(texts)) == len(texts)


def test_nothing_covers_anything(figures: list[Figure]) -> None:
    for figure in figures:
        canvas = render_matplotlib.draw(figure)
        check_canvas(canvas)


def test_every_cost_has_a_panel_with_its_limit_in_view() -> None:
    adaptation = run_figures(summary(limits_mean=[4.5, 0.3]), rows(8))[0]
    assert [panel.title for panel in adaptation.panels] == ["reward", "cost 1", "cost 2"]
    assert [[level.value for level in panel.levels] for panel in adaptation.panels] == [[], [4.5], [0.3]]
    for panel, axis in zip(adaptation.panels, value_axes(adaptation), strict=True):
        assert all(axis.low < level.value < axis.high for level in panel.levels)


def test_a_panel_of_zeros_is_left_out_and_a_note_says_so() -> None:
    zero = {"mean": 0.0, "ci95": [0.0, 0.0], "n": 20}
    test = {name: entry.model_dump() | {"violation": zero} for name, entry in summary().test.items()}
    figures = {figure.name: figure for figure in run_figures(summary(test=test), rows(8, violation_1=0.0))}
    assert figures["held_out"].notes == ("violation of the output: 0 everywhere",)
    assert [panel.title for panel in figures["held_out"].panels] == ["optimality gap", "violation during adaptation"]
    canvas = render_matplotlib.draw(figures["held_out"])
    assert "left out: violation of the output: 0 everywhere" in canvas._suptitle.get_text()  # type: ignore[attr-defined]


def test_a_figure_without_anything_to_show_has_notes_and_no_axes() -> None:
    zero = INTERVAL | {"mean": 0.0, "ci95": [0.0, 0.0]}
    names = ("gap", "reward", "violation", "violation_during_adaptation")
    test = {name: entry.model_dump() | dict.fromkeys(names, zero) for name, entry in summary().test.items()}
    found = next(figure for figure in run_figures(summary(test=test), rows(8)) if figure.name == "held_out")
    assert found.panels == ()
    assert len(found.notes) == 3
    canvas = render_matplotlib.draw(found)
    assert canvas.axes == []


def test_equal_quantities_have_equal_scales() -> None:
    figures = {
        figure.name: figure for figure in run_figures(summary(), rows(8, violation_1=0.1, violation_during_1=5.0))
    }
    for name in ("held_out", "training"):
        _, output, during = value_axes(figures[name])
        assert output == during
        assert output.high > 0.0


def test_files_are_named_after_their_figures(tmp_path: Path, figures: list[Figure]) -> None:
    told: list[tuple[str, float]] = []
    paths = render_matplotlib.save_figures(tmp_path / "plots", figures, lambda *given: told.append(given))
    assert told == [
        *((f"plot {figure.name.replace('_', ' ')}", number / len(figures)) for number, figure in enumerate(figures)),
        ("done", 1.0),
    ]
    assert [path.stem for path in paths] == [figure.name for figure in figures]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)


def test_a_notebook_shows_a_figure_and_pyplot_is_not_imported() -> None:
    """Its import looks for IPython, which another thread may be importing just then."""
    code = (
        "import sys\n"
        "from meta.reporting.plot_model import Figure, Panel\n"
        "from meta.reporting.render_matplotlib import draw\n"
        "print(draw(Figure('a', 'A', ()))._repr_png_()[:4])\n"
        "print('matplotlib.pyplot' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(b"\x89PNG"), "False"]
