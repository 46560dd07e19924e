"""The documentation site builds without a warning, holds every page, loads nothing from elsewhere, and is readable."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import opened
from tests.browser.test_report_page import COLOURS, contrast
from tests.distributed.helpers import ROOT, environment

PAGES = sorted((ROOT / "docs").rglob("*.md"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "docs", str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.slow
def test_every_page_is_there_and_found_by_the_search(site: Path) -> None:
    index = (site / "searchindex.js").read_text(encoding="utf-8")
    for page in PAGES:
        name = page.relative_to(ROOT / "docs").with_suffix("")
        assert (site / f"{name}.html").is_file(), name
        assert f'"{name}"' in index


@pytest.mark.slow
def test_no_page_loads_anything_from_other_places(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(
            r'<(?:script|img|iframe)[^>]*\bsrc="([^"]+)"|<link[^>]*rel="stylesheet"[^>]*href="([^"]+)"', text
        )
        assert not [url for pair in loaded for url in pair if "://" in url], page.name


@pytest.mark.slow
def test_the_python_reference_has_signatures_and_docstrings(site: Path) -> None:
    text = (site / "reference.html").read_text(encoding="utf-8")
    for name in ("train", "load", "adapt", "Run", "Adapted", "Policy", "LearnedStart", "Family"):
        assert f'id="metasrl.{name}"' in text or f'id="tasks.contract.family.{name}"' in text, name
    assert "deterministic" in text


@pytest.mark.slow
@pytest.mark.parametrize("width", [1400, 420])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["index", "operations", "configuration", "python", "symbols", "tour", "results/paper"])
def test_a_page_is_readable_in_wide_and_narrow_windows(
    browser: Any, site: Path, tmp_path: Path, name: str, width: int, scheme: str
) -> None:
    with opened(browser, site / f"{name}.html", width=width, color_scheme=scheme) as (page, faults):
        page.screenshot(path=tmp_path / f"{name.replace('/', '-')}-{width}-{scheme}.png")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(CUT) == []
        for part in ("article p", "article code", "article h1", "article a", "article th", ".sidebar-tree a"):
            if page.locator(part).count():
                assert contrast(*page.evaluate(COLOURS, part)) >= 4.5, part
        assert faults == []


CUT = """() => [...document.querySelectorAll("article table, article pre")].filter(block => {
  let place = block;
  while (place && place.tagName !== "ARTICLE") {
    if (["auto", "scroll"].includes(getComputedStyle(place).overflowX)) return false;
    place = place.parentElement;
  }
  return block.getBoundingClientRect().right > document.querySelector("article").getBoundingClientRect().right + 1;
}).map(block => block.textContent.slice(0, 60))"""
"""Tables and listings that are wider than the article, and cannot be scrolled."""
