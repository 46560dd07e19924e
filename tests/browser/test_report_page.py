"""The page of a run in a real browser: plots are drawn, tables sort, a video plays, a narrow window holds it."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from meta.reporting.html_page import Page, page_html
from meta.reporting.summary import RunSummary
from policies.filming.pictures import write_video
from tests.browser.conftest import opened
from tests.meta.reporting.test_page import rows, summary
from tests.support.few_variants import few


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with forty tasks, a video and hostile names."""
    evil = "<img src=x onerror=document.title='broken'>"
    return written(tmp_path_factory.mktemp("page"), summary(name=evil))


@pytest.fixture(scope="module")
def page_of_long_names(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page whose methods have long names, which leave the panels less room."""
    entry = summary().test["random"].model_dump()
    names = ("random", "simple_average", "maml_penalty", "meta_srl")
    return written(tmp_path_factory.mktemp("long"), summary(test=dict.fromkeys(names, entry)))


def written(folder: Path, told: RunSummary) -> Path:
    """A page of forty tasks with a video in ``folder``."""
    frames = np.random.default_rng(0).integers(256, size=(12, 64, 96, 3)).astype(np.uint8)
    write_video(folder / "test-0.mp4", _Frames(frames))
    path = folder / "report.html"
    given = Page(told, rows(40), "seed: 3\n", {"python": "3.11"}, ["make train"], [folder / "test-0.mp4"])
    path.write_text(page_html(given), encoding="utf-8")
    return path


class _Frames:
    """What ``write_video`` takes: pictures and their rate."""

    def __init__(self, frames: Any) -> None:
        self._frames, self.rate = frames, 10.0

    def __iter__(self) -> Any:
        return iter(self._frames)

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index: int) -> Any:
        return self._frames[index]


def test_every_plot_is_drawn_and_nothing_goes_wrong(browser: Any, page_file: Path) -> None:
    with opened(browser, page_file) as (page, faults):
        page.wait_for_selector("body[data-ready=true]", timeout=60_000)
        assert page.locator(".plot .main-svg").count() >= 5
        for name in ("adaptation", "held_out", "training", "learning_rates", "estimation"):
            assert page.locator(f"#{name} .main-svg").first.is_visible(), name
        assert page.locator("#adaptation .legendtext").all_text_contents() == ["random", "meta_srl"]
        assert page.title() != "broken"
        assert "<img src=x" in page.locator("h1").inner_text()
        assert faults == []


def test_a_click_sorts_a_table_both_ways_by_numbers(browser: Any, page_file: Path) -> None:
    with opened(browser, page_file) as (page, _):
        head = page.locator("#task-table th", has_text="gap").first

        def column() -> list[float]:
            cells = page.locator("#task-table tbody tr td:nth-child(3)").all_inner_texts()
            return [float(cell) for cell in cells]

        unsorted = column()
        head.click()
        assert column() == sorted(unsorted)
        assert head.get_attribute("aria-sort") == "ascending"
        head.click()
        assert column() == sorted(unsorted, reverse=True)
        assert len(unsorted) == 40


def test_a_narrow_window_holds_the_page(browser: Any, page_file: Path) -> None:
    with opened(browser, page_file, width=400) as (page, faults):
        page.wait_for_selector("body[data-ready=true]", timeout=60_000)
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
        box = page.locator("#training").bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 400
        assert faults == []


@pytest.mark.parametrize(
    ("which", "scheme", "width"),
    few(itertools.product(["page_file", "page_of_long_names"], ["light", "dark"], [1400, 420]), 0, -1),
)
def test_texts_are_readable_and_overlap_nowhere(
    browser: Any, which: str, tmp_path: Path, width: int, scheme: str, request: pytest.FixtureRequest
) -> None:
    with opened(browser, request.getfixturevalue(which), width=width, color_scheme=scheme) as (page, faults):
        page.wait_for_selector("body[data-ready=true]", timeout=60_000)
        page.screenshot(path=tmp_path / f"page-{width}-{scheme}.png", full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        boxes = page.evaluate(TEXTS)
        assert len(boxes) > 20
        overlapping = [
            (a["text"], b["text"])
            for a, b in itertools.combinations(boxes, 2)
            if a["plot"] == b["plot"]
            and min(a["right"], b["right"]) - max(a["left"], b["left"]) > 2
            and min(a["bottom"], b["bottom"]) - max(a["top"], b["top"]) > 2
        ]
        assert overlapping == []
        for name in ("body", ".quiet", ".warning", "pre", "th"):
            assert contrast(*page.evaluate(COLOURS, name)) >= 4.5, name
        assert faults == []


TEXTS = """() => [...document.querySelectorAll(".plot")].flatMap(plot =>
  [...plot.querySelectorAll(".xtitle, .ytitle, .annotation-text, .legendtext, .gtitle")].map(text => {
    const box = text.getBoundingClientRect();
    return {plot: plot.id, text: text.textContent, left: box.left, right: box.right, top: box.top, bottom: box.bottom};
  }))"""
"""The titles and legends of all plots with their places."""
COLOURS = """name => {
  const numbers = text => text.match(/[\\d.]+/g).map(Number);
  let place = document.querySelector(name);
  const front = numbers(getComputedStyle(place).color);
  let back = numbers(getComputedStyle(place).backgroundColor);
  while (back.length === 4 && back[3] === 0) {
    place = place.parentElement;
    back = numbers(getComputedStyle(place).backgroundColor);
  }
  return [front.slice(0, 3), back.slice(0, 3)];
}"""
"""Colours of an element's text and of what is behind it."""


def contrast(front: list[float], back: list[float]) -> float:
    """The contrast ratio of WCAG 2.1: (L1 + 0.05) / (L2 + 0.05) of relative luminances."""

    def luminance(colour: list[float]) -> float:
        parts = [part / 255.0 for part in colour]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(front), luminance(back)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize(("scheme", "text"), few([("light", "rgb(34, 34, 34)"), ("dark", "rgb(230, 230, 230)")], 1))
def test_black_lines_have_the_colour_of_the_text(browser: Any, page_file: Path, scheme: str, text: str) -> None:
    with opened(browser, page_file, color_scheme=scheme) as (page, _):
        page.wait_for_selector("body[data-ready=true]", timeout=60_000)
        dotted = "path => path.style.strokeDasharray && getComputedStyle(path).stroke"
        colours = page.locator("#estimation .scatterlayer path.js-line").evaluate_all(f"all => all.map({dotted})")
        assert [colour for colour in colours if colour] == [text], "the weight is the one dotted line"


def test_contrast_is_that_of_the_standard() -> None:
    assert contrast([0.0, 0.0, 0.0], [255.0, 255.0, 255.0]) == pytest.approx(21.0)
    assert contrast([119.0, 119.0, 119.0], [255.0, 255.0, 255.0]) == pytest.approx(4.48, abs=0.01)


def test_the_video_is_there(browser: Any, page_file: Path) -> None:
    """Debian's Chromium plays H.264."""
    with opened(browser, page_file) as (page, _):
        page.wait_for_function("document.querySelector('video').readyState >= 1", timeout=30_000)
        assert page.evaluate("document.querySelector('video').videoWidth") >= 96
