"""The page of a run in a real browser: plots are drawn, tables sort, a video plays, a narrow window holds it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from meta.reporting.html_page import Page, page_html
from policies.filming.pictures import write_video
from tests.browser.conftest import opened
from tests.meta.reporting.test_page import rows, summary


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with forty tasks, a video and hostile names."""
    folder = tmp_path_factory.mktemp("page")
    frames = np.random.default_rng(0).integers(256, size=(12, 64, 96, 3)).astype(np.uint8)
    write_video(folder / "test-0.mp4", _Frames(frames))
    path = folder / "report.html"
    evil = "<img src=x onerror=document.title='broken'>"
    given = Page(summary(name=evil), rows(40), "seed: 3\n", {"python": "3.11"}, ["make train"], [folder / "test-0.mp4"])
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


def test_the_video_is_there(browser: Any, page_file: Path) -> None:
    """Debian's Chromium plays H.264."""
    with opened(browser, page_file) as (page, _):
        page.wait_for_function("document.querySelector('video').readyState >= 1", timeout=30_000)
        assert page.evaluate("document.querySelector('video').videoWidth") >= 96
